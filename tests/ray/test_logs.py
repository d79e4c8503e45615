"""One request and one run through the logs of a real cluster."""

import json
import time

from tests.loopback import http
from tests.ray.conftest import Tandem


def test_a_request_and_a_run_are_found_in_the_lines_of_every_process_that_had_them(tandem, trained):
    body = {"model": "prod", "messages": [{"role": "user", "content": "What is my diary?"}], "max_tokens": 5}
    response = http.post(
        f"{tandem.http}/v1/chat/completions", json=body, headers={"x-request-id": "from-me"}, timeout=60
    )
    assert response.headers.get_list("x-request-id") == ["from-me"]
    assert response.json()["id"] == "chatcmpl-from-me"
    made = http.post(f"{tandem.http}/v1/chat/completions", json=body, timeout=60)
    assert made.json()["id"] == f"chatcmpl-{made.headers['x-request-id']}"

    insane = http.post(f"{tandem.http}/v1/completions", headers={"x-request-id": "two words"}, timeout=60)
    assert insane.headers.get_list("x-request-id") == [insane.json()["error"]["request_id"]] != ["two words"]

    found = request_lines(tandem, "from-me", 2)
    assert {line["actor"] for line in found} == {"gateway", "engine_1"}
    gateway = next(line for line in found if line["actor"] == "gateway")
    assert (gateway["route"], gateway["status"], gateway["model"]) == ("/v1/chat/completions", 200, "prod")
    assert gateway["output_tokens"] == 5 == next(line for line in found if line is not gateway)["output_tokens"]
    assert len(request_lines(tandem, made.json()["id"], 2)) == 2
    assert not any("diary" in path.read_text() for path in tandem.home.logs.glob("*.jsonl*"))

    lines = [
        json.loads(line) for line in tandem.run("logs", "--run", trained.id, "-n", "1000", "--json").stdout.splitlines()
    ]
    assert {line["actor"] for line in lines} >= {"control", "driver", "trainer"}
    assert {line["run"] for line in lines} == {trained.id}
    told = [line["message"] for line in lines]
    steps = [index for index, text in enumerate(told) if f"step {trained.max_steps}/{trained.max_steps} loss" in text]
    assert len(steps) == 1
    events = {line["event"]: index for index, line in enumerate(lines) if "event" in line}
    assert events["queued"] < events["starting"] < events["running"] < steps[0] < events["succeeded"]


def request_lines(tandem: Tandem, request: str, count: int) -> list[dict]:
    """The lines of a request, once there are `count`."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        done = tandem.run("logs", "--request", request, "--json", check=False)
        found = [json.loads(line) for line in done.stdout.splitlines()]
        if len(found) >= count:
            return found
        time.sleep(0.2)
    raise AssertionError(f"{len(found)} lines of {request}: {done.stderr}")
