"""`tandem tensorboard` as a process of its own, with a real TensorBoard in it."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import psutil
import pytest

from actors.cluster import free_ports
from actors.runs.ledger import Ledger
from tests.loopback import http
from tests.samples import TRAIN

PATIENCE_S = 120


@contextlib.contextmanager
def tensorboard(port: int, *arguments: str) -> Iterator[subprocess.Popen]:
    """The command, running; ended by Ctrl-C."""
    command = [sys.executable, "-c", "from cli.main import main; main()", "tensorboard", "--port", str(port)]
    with subprocess.Popen(
        [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def scalars(port: int, path: str, wanted) -> dict | list:
    """What TensorBoard answers, once it is what is wanted."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with contextlib.suppress(httpx.HTTPError, ValueError):
            answer = http.get(f"http://127.0.0.1:{port}/data/plugin/scalars/{path}").json()
            if wanted(answer):
                return answer
        assert time.monotonic() < deadline, path
        time.sleep(0.2)


def add(home, run_id: str, *steps: int) -> None:
    home.run(run_id).mkdir(parents=True, exist_ok=True)
    with (home.run(run_id) / "metrics.jsonl").open("a") as handle:
        for step in steps:
            line = {"step": step, "loss": 1 / step, "learning_rate": 0.1, "tokens_per_s": 9.0, "energy_joules": 5.0}
            handle.write(json.dumps(line | {"at": 1000.0 + step}) + "\n")


def test_every_run_shows_grows_and_ctrl_c_ends_all_processes(home):
    (port,) = free_ports(1)
    add(home, "a-1", 1, 2)
    (home.run("queued-1")).mkdir()
    with tensorboard(port) as process:
        assert process.stdout.readline() == f"http://127.0.0.1:{port}/\n"
        tags = scalars(port, "tags", lambda answer: "a-1" in answer)
        assert list(tags) == ["a-1"]
        assert set(tags["a-1"]) == {
            "train/loss", "train/learning_rate", "train/tokens_per_s", "train/energy_joules",
        }  # fmt: skip
        add(home, "a-1", 3)
        add(home, "b-1", 1)
        points = scalars(port, "scalars?run=a-1&tag=train/loss", lambda answer: len(answer) == 3)
        assert [(point[1], round(point[2], 3)) for point in points] == [(1, 1.0), (2, 0.5), (3, 0.333)]
        scalars(port, "tags", lambda answer: set(answer) == {"a-1", "b-1"})
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 0
        assert "1 of 2 runs have curves; Ctrl-C ends it" in process.stderr.read()
        _, alive = psutil.wait_procs(children, timeout=PATIENCE_S)
        assert not alive


def test_a_busy_port_is_one_line_and_an_exit_code(home, invoke):
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        line = invoke("tensorboard", "--port", str(port)).one_error_line()
    assert line == f"error: port {port} is in use -> tandem tensorboard --port <another>"


@pytest.mark.parametrize("run_id", ["tiny-1", "../x"])
def test_a_run_that_does_not_exist_is_named(home, invoke, run_id):
    assert run_id in invoke("tensorboard", run_id).one_error_line()


def test_latest_is_the_newest_run(home, invoke):
    ledger = Ledger(home.ledger)
    ledger.submit("tiny-1", **TRAIN)
    ledger.close()
    line = invoke("tensorboard", "latest").one_error_line()
    assert line == "error: no run tiny-1 has begun -> see `tandem runs list`"


def test_without_runs_it_says_so_and_waits_for_them(home):
    (port,) = free_ports(1)
    with tensorboard(port) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
        assert "no runs with curves yet" in process.stderr.read()
