"""Which process: real ones, in this pid namespace and in others, as every start of a container makes one."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import psutil
import pytest

from actors.home.process_id import ProcessId
from configs.paths import SOURCE
from tests.containers import contained


def sleeper() -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])


def test_a_process_lives_until_it_ends_and_not_as_a_zombie():
    program = sleeper()
    known = ProcessId.of(program.pid)
    assert known.lives and known == ProcessId.of(program.pid)
    program.kill()
    os.waitid(os.P_PID, program.pid, os.WEXITED | os.WNOWAIT)
    assert psutil.pid_exists(program.pid) and not known.lives
    program.wait()
    assert not known.lives
    with pytest.raises(psutil.NoSuchProcess):
        ProcessId.of(program.pid)


def test_it_is_kept_as_json_and_is_the_same_in_every_process():
    program = (
        "import json, sys; from actors.home.process_id import ProcessId; print(ProcessId(**json.load(sys.stdin)).lives)"
    )
    for known, word in ((ProcessId.own(), "True"), (replace(ProcessId.own(), started=1), "False")):
        said = subprocess.run(
            [sys.executable, "-c", program], input=json.dumps(vars(known)), capture_output=True, text=True, cwd=SOURCE
        )
        assert said.stdout == f"{word}\n"


@pytest.mark.parametrize("change", [{"started": 1}, {"boot": "another"}, {"namespace": 1}])
def test_another_with_the_same_number_does_not_live_and_is_not_ended(change):
    program = sleeper()
    other = replace(ProcessId.of(program.pid), **change)
    assert not other.lives
    other.end(grace_s=10**6)  # is not waited for either
    assert program.poll() is None
    ProcessId.of(program.pid).end(grace_s=0)
    assert not psutil.pid_exists(program.pid)


def test_one_that_exits_within_its_grace_is_not_killed_and_nobody_ends_himself(tmp_path):
    goodbye = tmp_path / "goodbye"
    program = f"import time; time.sleep(0.2); open({str(goodbye)!r}, 'w')"
    ProcessId.of(subprocess.Popen([sys.executable, "-S", "-c", program]).pid).end(grace_s=60)
    assert goodbye.exists()
    ProcessId.own().end(grace_s=0)


def test_the_same_number_in_two_containers_is_two_processes():
    program = "import json; from actors.home.process_id import ProcessId; "
    program += "print(json.dumps(vars(ProcessId.own())), flush=True)"
    first, second = (
        ProcessId(**json.loads(subprocess.run(contained(program), capture_output=True, text=True, cwd=SOURCE).stdout))
        for _ in range(2)
    )
    assert first.pid == second.pid and first.boot == second.boot
    assert first != second
    assert not first.lives and not second.lives


def test_a_process_of_a_container_that_runs_does_not_live_out_here():
    program = "import json, time; from actors.home.process_id import ProcessId\n"
    program += "print(json.dumps(vars(ProcessId.own()) | {'lives': ProcessId.own().lives}), flush=True); time.sleep(60)"
    with subprocess.Popen(contained(program), stdout=subprocess.PIPE, text=True, cwd=SOURCE) as container:
        said = json.loads(container.stdout.readline())
        assert said.pop("lives")
        assert not ProcessId(**said).lives
        container.kill()
