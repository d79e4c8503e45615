"""`tandem tensorboard`: TensorBoard of all runs, fed from their `metrics.jsonl`, until Ctrl-C."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import webbrowser
from pathlib import Path

import click

from actors.hardware.placement import die_with_parent
from cli import output
from cli.signals import terminated_as_interrupted
from configs import environment
from configs.errors import ClusterError, NotFoundError
from configs.paths import Home, home

LOOPBACK = "127.0.0.1"
REFRESH_S = 5
"""Between two looks for new lines, and two of TensorBoard's for new events."""
START_S = 60
END_S = 5


@click.command()
@click.argument("run_ids", metavar="[RUN]...", nargs=-1)
@click.option("--port", type=click.IntRange(1, 65535), default=6006, show_default=True, help="Port on loopback.")
@click.option("--open", "open_", is_flag=True, help="Open the page in the browser.")
def tensorboard(run_ids: tuple[str, ...], port: int, open_: bool) -> None:
    """Show runs in TensorBoard until Ctrl-C: all of them, or those that are named, `latest` too. Running ones grow.

    Losses, learning rate, gradient norm, tokens and energy, also of runs that did not report to TensorBoard.

    \b
    Examples:
      tandem tensorboard --open
      tandem tensorboard --port 6007 tiny-20260101-120000-ab12 tiny-20260101-130000-cd34
    """
    from cli.training.runs import resolve

    run_ids = tuple(dict.fromkeys(map(resolve, run_ids)))
    runs = _known(home(), run_ids)
    _require_free(port)
    with terminated_as_interrupted(), tempfile.TemporaryDirectory(prefix="tandem-tensorboard-") as made:
        folder = Path(made)  # links to event files, so that copies of deleted runs are not shown
        shown = _copy(home(), run_ids, folder)
        if not shown:
            output.say("no runs with curves yet; they appear here once they train -> tandem train")
        output.say("starting TensorBoard")
        server = _start(folder, port)
        try:
            _await(server, port)
            click.echo(f"http://{LOOPBACK}:{port}/")
            output.say(f"{shown} of {len(runs)} runs have curves; Ctrl-C ends it" if runs else "Ctrl-C ends it")
            if open_:
                webbrowser.open(f"http://{LOOPBACK}:{port}/")
            while server.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    server.wait(REFRESH_S)
                _copy(home(), run_ids, folder)
            raise ClusterError(f"TensorBoard ended with exit code {server.returncode}", hint="start it again")
        except KeyboardInterrupt:
            pass
        finally:
            _end(server)


def _known(home: Home, run_ids: tuple[str, ...]) -> list[str]:
    """The named runs, or all that have a folder. Raises NotFoundError for one that has none."""
    for run_id in run_ids:
        if not home.run(run_id).is_dir():
            raise NotFoundError(f"no run {run_id} has begun", hint="see `tandem runs list`")
    return list(run_ids) or [path.name for path in _folders(home)]


def _folders(home: Home) -> list[Path]:
    return [path for path in home.runs.iterdir() if path.is_dir()] if home.runs.is_dir() else []


def _copy(home: Home, run_ids: tuple[str, ...], shown: Path) -> int:
    """Bring the event files up to date and show those of the chosen runs; how many have any."""
    from actors.runs import event_files

    count = 0
    for run_id in _known(home, run_ids):
        copy = home.event_files / run_id
        event_files.copy(home.run(run_id) / "metrics.jsonl", copy)
        if copy.is_dir():
            count += 1
            link = shown / run_id
            if not link.is_symlink():
                link.symlink_to(copy, target_is_directory=True)
    return count


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            raise ClusterError(f"port {port} is in use", hint="tandem tensorboard --port <another>") from None


def _start(folder: Path, port: int) -> subprocess.Popen:
    """TensorBoard in a session of its own, so that Ctrl-C reaches it through us alone; its talk goes to a file."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--host", LOOPBACK]
    command += ["--port", str(port), "--reload_interval", str(REFRESH_S), "--window_title", "Tandem"]
    with (folder / "log.txt").open("wb") as log:
        return subprocess.Popen(
            command,
            env=environment.for_children(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent,  # our own kill -9 leaves nothing behind
        )


def _await(server: subprocess.Popen, port: int) -> None:
    """Wait until it answers. Raises ClusterError if it does not."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=1):
            return
        time.sleep(0.2)
    words = f"ended with exit code {server.returncode}" if server.poll() is not None else "does not answer"
    raise ClusterError(f"TensorBoard {words}", hint=f"is port {port} free? tandem tensorboard --port <another>")


def _end(server: subprocess.Popen) -> None:
    """It and whatever it started."""
    for wanted in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, wanted)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(END_S)
