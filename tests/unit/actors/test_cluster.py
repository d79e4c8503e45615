"""Which cluster a home has, who belongs to it and who may start one, with real processes and no Ray."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from actors import cluster
from actors.cluster import MARKER, Cluster
from actors.home import locks
from actors.home.process_id import ProcessId
from configs.errors import ClusterError
from configs.paths import SOURCE, Home
from configs.schema import ClusterConfig, Slot
from tests.containers import contained
from tests.unit.actors.conftest import marked_process

SLOTS = (Slot(name="0", roles=("train",)), Slot(name="1", roles=("serve",)))
CLAIM = """
import sys, time
from pathlib import Path
from actors.home import locks
from configs.paths import Home
with locks.claim(Home(Path(sys.argv[1]))):
    print("here", flush=True)
    time.sleep(60)
"""


@contextmanager
def in_another_container(home: Home) -> Iterator[subprocess.Popen]:
    """A process like a head's, with this home's mark and claim, that counts its processes from 1."""
    command = contained(CLAIM, str(home.root), **{MARKER: str(home.root)})
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=SOURCE) as container:
        assert container.stdout.readline() == "here\n"
        yield container
        container.kill()


def note(home: Home, head: ProcessId) -> None:
    cluster._write(home.cluster, Cluster(head, 5.0, "127.0.0.1:1", 1, 2, SLOTS, ClusterConfig()))


def test_what_up_wrote_is_found_again(home):
    note(home, ProcessId.own())
    found = cluster.find(home)
    assert (found.head, found.started_at, found.slots, found.is_alive) == (ProcessId.own(), 5.0, SLOTS, True)
    assert cluster.require(home) == found


@pytest.mark.parametrize(("shift", "alive"), [(0, True), (5, False)])
def test_a_head_that_an_older_version_noted_is_known_by_its_time(shift, alive, home):
    note(home, ProcessId.own())
    values = json.loads(home.cluster.read_text())
    del values["head"], values["started_at"]
    began = psutil.Process().create_time() + shift
    home.cluster.write_text(json.dumps(values | {"head_pid": os.getpid(), "head_started": began}))
    found = cluster.find(home)
    assert (found.is_alive, found.started_at, found.head.pid) == (alive, began, os.getpid())


@pytest.mark.parametrize("text", ["{", "[]", '"head"', "{}", '{"head": 1}', '{"head": {"pid": 1}}'])
def test_a_damaged_file_is_a_cluster_error_that_names_it(text, home):
    home.cluster.write_text(text)
    with pytest.raises(ClusterError, match=r"cluster\.json is damaged"):
        cluster.find(home)


def test_only_processes_with_this_homes_mark_belong_to_its_cluster_and_are_ended(home, tmp_path):
    ours, theirs = marked_process(home), marked_process(Home(tmp_path))
    try:
        deadline = time.monotonic() + 30
        while not cluster.processes(home) and time.monotonic() < deadline:  # between fork and exec it has no mark
            time.sleep(0.01)
        assert [process.pid for process in cluster.processes(home)] == [ours.pid]
        assert cluster.end_processes(home) == 1
        assert not psutil.pid_exists(ours.pid) and theirs.poll() is None
    finally:
        for process in (ours, theirs):
            process.kill()
            process.wait()


def test_a_process_of_another_container_is_not_ours_to_end_whatever_its_mark_says(home):
    with in_another_container(home) as container:
        inside = psutil.Process(container.pid).children()[0]
        assert inside.environ()[MARKER] == str(home.root)
        assert (cluster.processes(home), cluster.end_processes(home)) == ([], 0)
        assert inside.is_running()


def test_a_home_at_work_in_another_container_is_refused_and_left_as_it_is(home, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE_S", 0.1)
    note(home, ProcessId(7, started=1, boot=ProcessId.own().boot, namespace=1))
    before = home.cluster.read_text()
    with in_another_container(home) as container:
        words = "a cluster of another container, pid namespace or user is running in"
        for call in (lambda home: cluster.start(home, ClusterConfig()), cluster.stop, cluster.require):
            with pytest.raises(ClusterError, match=words):
                call(home)
        assert container.poll() is None and home.cluster.read_text() == before
    with pytest.raises(ClusterError, match="cluster died"):
        cluster.require(home)
    with locks.claim(home):
        pass


def test_a_claim_lasts_as_long_as_somebody_has_inherited_it(home, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE_S", 0.1)
    with locks.claim(home) as descriptor:
        heir = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"], pass_fds=(descriptor,))
    with pytest.raises(ClusterError, match="is running in"):
        locks.require_unclaimed(home)
    heir.kill()
    heir.wait()
    locks.require_unclaimed(home)


def test_only_one_up_or_down_is_at_work_at_a_time(home):
    with locks.at_work(home), pytest.raises(ClusterError, match="another `tandem up` or `tandem down` is running"):
        cluster.stop(home)


def test_ending_the_processes_is_seen_by_others_for_as_long_as_it_lasts(home):
    assert not locks.is_ending(home)
    with locks.ending(home):
        assert locks.is_ending(home)
    assert not locks.is_ending(home)
    assert (home.root / "ending.lock").stat().st_mode & 0o777 == 0o600
    seen = []
    process = marked_process(home)
    reaper = threading.Thread(target=process.wait)
    reaper.start()
    watcher = threading.Thread(target=lambda: seen.append(_eventually(lambda: locks.is_ending(home))))
    watcher.start()
    assert cluster.end_processes(home) == 1
    watcher.join()
    reaper.join()
    assert seen == [True]


def _eventually(holds) -> bool:
    deadline = time.monotonic() + 10
    while not holds():
        if time.monotonic() > deadline:
            return False
    return True
