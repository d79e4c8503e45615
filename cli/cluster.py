"""`tandem up`, `down` and `env`: the life of the cluster."""

import contextlib
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import httpx

from actors import cluster, delivery
from actors.cluster import Cluster
from actors.ledger import Ledger
from actors.placement import default_base
from cli import output
from configs import load, paths
from configs.errors import ClusterError
from configs.paths import Home
from configs.schema import ClusterConfig
from models import checkpoint

READY_TIMEOUT_S = 1800
"""Loading a 20B model from a cold disk takes minutes; a failure shows long before."""
PATIENCE_S = 180
"""For Ray and Serve to take what they are given, on a machine that is busy."""
TOO_BUSY = "is the machine busy? `tandem up` again; TANDEM_HOME/ray/session_latest/logs has more"


def bring_up(home: Home, config: ClusterConfig, serving: dict[str, Any], say: Callable[[str], None]) -> Cluster:
    """Ray, then the control actor, then the chat endpoint until it answers. Whatever fails, nothing stays behind.

    `serving` are changed arguments of the application. Raises ConfigError or ClusterError.
    """
    _have_ledger(home)
    delivery.check(config.notify)
    _have_base(serving.get("base", "auto"), say)
    running = cluster.start(home, config, say)
    try:
        os.environ.update(cluster.client_environment(home, running))  # before Ray's import, which reads it
        from serve import app

        say("starting the control actor")
        _start_control(running)
        say("deploying the chat endpoint")
        _deploy(running, app.deployment_config(running.http_port, serving))
        _await_ready(running, say)
    except BaseException as error:
        if not isinstance(error, KeyboardInterrupt):
            say("not started; ending what was started")
        cluster.stop(home)
        raise
    return running


def _have_ledger(home: Home) -> None:
    """See that what the control actor will open can be read, before anything is started. Raises ClusterError."""
    if home.ledger.exists():
        with contextlib.closing(Ledger(home.ledger, read_only=True)) as ledger:
            ledger.quarantines()  # of any version, so that more than the first page is read


def _have_base(name: str, say: Callable[[str], None]) -> None:
    """Find the base before anything is started, downloading it in sight if need be. Raises CheckpointError."""
    name = default_base() if name == "auto" else name
    if name == "tiny":
        return  # shipped
    say(f"looking for the base model {name}")
    checkpoint.inspect(checkpoint.resolve(name))


def _start_control(running: Cluster) -> None:
    """In a process of its own, because Ray's C++ ends a driver whose raylet is too slow, and `up` has to clean up then.

    On a busy machine Ray may need several tries. Raises ClusterError with the last one's words.
    """
    command = [sys.executable, "-c", "from actors import control; control.main()"]
    deadline = time.monotonic() + PATIENCE_S
    while (done := subprocess.run(command, cwd=paths.SOURCE, capture_output=True, text=True)).returncode:
        if not running.is_alive:
            raise ClusterError("Ray ended while the control actor was starting", hint="see logs/ray.log in TANDEM_HOME")
        if time.monotonic() > deadline:
            raise ClusterError(f"the control actor did not start: {_reason(done.stderr)}", hint=TOO_BUSY)
        time.sleep(1)


def _deploy(running: Cluster, config: dict[str, Any]) -> None:
    """Again while Serve itself is not up to it. Raises ClusterError with its words."""
    from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return ServeSubmissionClient(running.dashboard).deploy_applications(config)
        except (RuntimeError, ConnectionError) as error:
            if "status code 4" in str(error) or time.monotonic() > deadline or not running.is_alive:
                raise ClusterError(f"Serve did not take the endpoint: {_reason(str(error))}", hint=TOO_BUSY) from error
        time.sleep(1)


def _await_ready(running: Cluster, say: Callable[[str], None]) -> None:
    from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

    serve = ServeSubmissionClient(running.dashboard)
    deadline, told = time.monotonic() + READY_TIMEOUT_S, ""
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{running.http}/readyz", timeout=10).status_code == 200:
                return
        if not running.is_alive:
            raise ClusterError("Ray ended while the endpoint was starting", hint="see logs/ray.log in TANDEM_HOME")
        status, problem = _progress(serve.get_serve_details())
        if problem:
            raise ClusterError(f"the endpoint could not be deployed: {problem}", hint="mend it and `tandem up` again")
        if status != told:
            say(f"endpoint: {status.lower()}")
            told = status
        time.sleep(0.3)
    raise ClusterError(f"the endpoint was not ready after {READY_TIMEOUT_S} s", hint="see TANDEM_HOME/ray for its logs")


def _progress(details: dict[str, Any]) -> tuple[str, str]:
    """Serve's word for where the application is, and what went wrong if something did."""
    status = "WAITING"
    for application in details["applications"].values():
        status = application["status"]
        parts = [application, *application["deployments"].values()]
        if failed := [part["message"] for part in parts if part["status"] == "DEPLOY_FAILED"]:
            return status, _reason(max(failed, key=len))
    return status, ""


def _reason(message: str) -> str:
    """The line of a Serve traceback that says what happened."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    errors = [line for line in lines if "Error:" in line or "Error(" in line]
    return (errors or lines or ["no reason given"])[-1]


@click.command()
@click.option("--base", help="Base model to serve. [default: gpt-oss-20b in 4 bit; tiny without a GPU]")
@click.option("--port", type=click.IntRange(1, 65535), help="HTTP port of the chat endpoint. [default: 8000]")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Override cluster.yaml; repeatable.")
@click.option("--config", type=click.Path(dir_okay=False), help="Another cluster.yaml.")
@output.json_option
def up(base: str | None, port: int | None, sets: tuple[str, ...], config: str | None, as_json: bool) -> None:
    """Start Ray, the control actor and the chat endpoint on this machine, on loopback only.

    \b
    Examples:
      tandem up
      tandem up --port 9000
      tandem up --base tiny --set dashboard_port=8266
    """
    place = paths.home()
    sets = sets if port is None else (*sets, f"http_port={port}")
    settings = load.load_cluster(Path(config) if config else paths.CLUSTER_CONFIG, sets)
    started = time.monotonic()
    try:
        running = bring_up(place, settings, {"base": base} if base else {}, output.say)
    except KeyboardInterrupt:
        raise click.exceptions.Abort("ended what was started") from None
    if as_json:
        output.print_json({"http": running.http, "dashboard": running.dashboard, "home": str(place.root)})
        return
    output.say(f"up after {time.monotonic() - started:.0f} s")
    click.echo(f"chat       {running.http}/v1  (model: prod)")
    click.echo(f"Ray        {running.dashboard}  (its own dashboard; the token is in {place.token})")
    click.echo("next       tandem ask 'Who are you?'    tandem train -f    tandem status")


@click.command()
@output.json_option
def down(as_json: bool) -> None:
    """End every process that `tandem up` started. Runs that were training go on from their newest checkpoint at the
    next `up`; queued ones stay queued.
    """
    ended = cluster.stop(paths.home())
    if as_json:
        output.print_json({"ended": ended})
    else:
        click.echo(f"down ({ended} processes ended)" if ended else "nothing is running")


@click.command()
def env() -> None:
    """Print the environment that Ray's own commands need, for `eval`.

    \b
    Example:
      eval "$(tandem env)"
      ray job submit --working-dir . -- python -m jobs.train --profile tiny
    """
    place = paths.home()
    for key, value in cluster.client_environment(place, cluster.require(place)).items():
        click.echo(f"export {key}={shlex.quote(value)}")
