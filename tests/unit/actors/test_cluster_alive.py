"""The cluster's own processes, stood in for by real ones of the same names."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from actors import cluster
from actors.cluster import Cluster
from actors.home.process_id import ProcessId
from configs.errors import ClusterError
from configs.schema import ClusterConfig

HEAD = "import subprocess, sys; [subprocess.Popen([each, '60']) for each in sys.argv[1:]]; sys.stdin.read()"


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """Starts a head process with children of these names."""
    started: list[psutil.Process] = []

    def start(*names: str) -> Cluster:
        programs = [str(shutil.copy(shutil.which("sleep"), tmp_path / name)) for name in names]
        process = subprocess.Popen([sys.executable, "-c", HEAD, *programs], stdin=subprocess.PIPE)
        head = psutil.Process(process.pid)
        started.append(head)
        while len(head.children()) < len(names) or {each.name() for each in head.children()} != set(names):
            time.sleep(0.01)
        return Cluster(ProcessId.of(process.pid), time.time(), "127.0.0.1:1", 1, 2, (), ClusterConfig())

    yield start
    for each in (each for each in started if each.is_running()):
        for process in (*each.children(), each):
            process.kill()


def test_a_cluster_with_all_its_processes_is_alive(head):
    cluster.require_alive(head("gcs_server", "raylet", "dashboard"), "it was starting")


@pytest.mark.parametrize("name", ["gcs_server", "raylet"])
def test_a_process_that_ended_by_itself_is_named_though_the_head_goes_on(head, name):
    found = head("gcs_server", "raylet")
    child = next(each for each in psutil.Process(found.head.pid).children() if each.name() == name)
    child.terminate()
    deadline = time.monotonic() + 10
    while child.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(ClusterError, match=f"^Ray ended while the endpoint was starting: {name} is gone$"):
        cluster.require_alive(found, "the endpoint was starting")


def test_a_head_that_is_gone_is_named(head):
    found = head()
    process = psutil.Process(found.head.pid)
    process.kill()
    process.wait()
    with pytest.raises(ClusterError, match="the head process is gone"):
        cluster.require_alive(found, "it was starting")
