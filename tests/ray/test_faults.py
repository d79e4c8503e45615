"""What dies comes back, and nothing that was asked for is lost. Each test leaves the session's cluster up again."""

import contextlib
import json
import signal
import socket
import subprocess
import time

import openai
import psutil
import pytest

from actors import cluster
from actors.runs.run import RunState
from configs import paths
from tests.loopback import http
from tests.ray.conftest import TANDEM

pytestmark = pytest.mark.usefixtures("on_base")


def _processes(tandem, words: str) -> list[psutil.Process]:
    found = []
    for process in cluster.processes(tandem.home):
        with contextlib.suppress(psutil.NoSuchProcess):
            if words in " ".join(process.cmdline()):
                found.append(process)
    return found


def test_a_dead_engine_ends_its_streams_with_an_error_and_comes_back(tandem):
    serving = tandem.json("status")["slots"][1]["pid"]
    with tandem.long_answer() as stream:
        psutil.Process(serving).kill()
        with pytest.raises(Exception, match="engine engine_1 died"):
            for _ in stream:
                pass
    answer = tandem.client().with_options(timeout=120)
    text = answer.chat.completions.create(
        model="prod", messages=[{"role": "user", "content": "What is the capital of Italy?"}], temperature=0
    ).choices[0].message.content  # fmt: skip
    assert text == "The capital of Italy is Rome.", "a request that got no token yet waits for the engine"
    assert tandem.json("status")["slots"][1]["pid"] != serving


@pytest.mark.parametrize("words", ["/bin/haproxy", "ServeReplica:tandem:gateway"])
def test_a_dead_front_or_gateway_cuts_its_streams_and_comes_back(tandem, words):
    (victim,) = _processes(tandem, words)
    with tandem.long_answer() as stream:
        victim.kill()
        with pytest.raises(openai.APIConnectionError):
            for _ in stream:
                pass
    tandem.wait_ready()
    assert tandem.ask("What is the capital of Italy?") == "The capital of Italy is Rome."
    (successor,) = _processes(tandem, words)
    assert successor.pid != victim.pid


def test_what_a_killed_gateway_had_asked_for_does_not_run_on_in_the_engine(tandem):
    def engine() -> dict:
        return http.get(f"{tandem.http}/readyz", timeout=30).json()["engines"]["engine_1"]

    (victim,) = _processes(tandem, "ServeReplica:tandem:gateway")
    before, requests, tokens = engine()["generated_tokens"], 9 * 8, 1900
    body = {"model": "prod", "messages": [{"role": "user", "content": "Hi"}], "stream": True, "n": 8}
    body = json.dumps(body | {"max_tokens": tokens, "min_tokens": tokens, "ignore_eos": True}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    with contextlib.ExitStack() as clients:
        for _ in range(9):
            client = clients.enter_context(socket.create_connection(("127.0.0.1", tandem.http_port)))
            client.sendall(head + body)
        deadline = time.monotonic() + 60
        while (now := engine())["running"] + now["waiting"] < requests and time.monotonic() < deadline:
            time.sleep(0.05)
        assert now["running"] > 0 and now["running"] + now["waiting"] == requests
        victim.kill()
    tandem.wait_ready()
    deadline = time.monotonic() + 60
    while engine()["running"] and time.monotonic() < deadline:
        time.sleep(0.1)
    ended = engine()
    assert (ended["running"], ended["waiting"]) == (0, 0)
    assert 0 < ended["generated_tokens"] - before < requests * tokens / 2
    assert tandem.ask("What is the capital of Italy?") == "The capital of Italy is Rome."


def test_the_client_whose_request_came_first_may_leave_and_the_others_stay(tandem):
    (victim,) = _processes(tandem, "ServeReplica:tandem:gateway")
    victim.kill()
    tandem.wait_ready()
    ask = {"model": "prod", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    with tandem.client() as client:
        first = client.chat.completions.create(**ask, max_tokens=1900, extra_body={"min_tokens": 1900})
        next(iter(first))
        second = iter(client.chat.completions.create(**ask, max_tokens=600, extra_body={"min_tokens": 600}))
        next(second)
        first.close()
        assert [chunk.choices[0].finish_reason for chunk in second][-1] == "length"


def test_training_outlives_the_control_actor_and_a_killed_trainer_goes_on_from_its_checkpoint(tandem):
    run_id = tandem.train("--max-steps", "100", "--set", "training.save_steps=5")
    tandem.reached(run_id, 2)
    (control,) = _processes(tandem, "ray::Control")
    control.kill()
    running = tandem.reached(run_id, 12)
    assert running.state is RunState.RUNNING and running.attempt == 1, "the new one hears the same process"
    (lease,) = [lease for lease in tandem.ledger().leases() if lease.role == "train"]
    psutil.Process(lease.pid).kill()
    ended = tandem.ended(run_id)
    assert ended.state is RunState.SUCCEEDED and ended.attempt == 2
    kinds = [event.kind for event in tandem.ledger().events(run_id=run_id)]
    assert kinds.count("interrupted") == 1 and kinds.count("starting") == 2
    assert [step for step, _ in tandem.losses(run_id)] == list(range(1, 101)), "every step once"
    assert "going on after step" in (tandem.home.run(run_id) / "log.txt").read_text()


def test_after_a_kill_of_every_process_up_again_finishes_what_ran_and_what_waited(tandem):
    with tandem.nothing_starts():
        running = tandem.train("--max-steps", "60", "--set", "training.save_steps=5")
        waiting = tandem.train("--max-steps", "3")
    tandem.reached(running, 7)
    cluster.end_processes(tandem.home, grace_s=0)  # a worker that the raylet starts meanwhile is in no first list
    down = tandem.run("status", check=False)
    assert down.returncode == 1 and "not running" in down.stdout
    assert tandem.find_run(waiting).state is RunState.QUEUED, "the ledger can be read while nothing runs"
    refused = tandem.run("train", "--profile", "tiny", check=False)
    assert refused.returncode == 1 and "tandem up" in refused.stderr
    tandem.up()
    first, second = tandem.ended(running), tandem.ended(waiting)
    assert (first.state, second.state) == (RunState.SUCCEEDED, RunState.SUCCEEDED)
    assert first.attempt == 2 and second.attempt == 1
    assert first.lost == 0, "a restart is not a fault of the run"
    assert [step for step, _ in tandem.losses(running)] == list(range(1, 61))
    assert not [lease for lease in tandem.ledger().leases() if lease.role == "train"]


def test_the_served_adapter_is_served_again_after_a_restart(tandem):
    newest = tandem.json("adapters", "list")[0]["version"]
    tandem.json("swap", newest)
    answer = tandem.ask()
    tandem.run("down")
    tandem.up()
    assert tandem.json("status")["aliases"]["prod"] == newest
    assert tandem.ask() == answer


def test_interrupting_up_leaves_nothing_running(new_tandem):
    made = new_tandem()
    ports = ["--port", str(made.http_port), "--set", f"dashboard_port={made.dashboard_port}"]
    starting = subprocess.Popen(
        [*TANDEM, "up", *ports], env=made.environment, cwd=paths.SOURCE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not _processes(made, "raylet") and time.monotonic() < deadline:
        time.sleep(0.1)
    starting.send_signal(signal.SIGINT)
    _, words = starting.communicate(timeout=60)
    assert starting.returncode == 130 and "Traceback" not in words
    assert cluster.processes(made.home) == [] and not made.home.cluster.exists()


def test_a_base_that_is_not_there_while_offline_is_named_and_nothing_is_left(new_tandem):
    made = new_tandem()
    refused = made.up("--base", "nobody/no-such-model", check=False)
    assert refused.returncode == 1
    error = refused.stderr.splitlines()[-1]
    assert error.startswith("error: ") and "nobody/no-such-model" in error and "HF_HUB_OFFLINE" in error
    assert cluster.processes(made.home) == [] and not made.home.cluster.exists()


def test_down_when_nothing_runs_says_so(new_tandem):
    refused = new_tandem().run("down", check=False)
    assert refused.returncode == 1 and "not running" in refused.stderr and "tandem up" in refused.stderr
