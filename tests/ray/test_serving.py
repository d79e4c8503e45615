"""The endpoint over real HTTP: OpenAI's client, errors, many clients at once, metrics, and who may listen."""

import asyncio
import contextlib
import json
import stat
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import psutil
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from actors import cluster
from configs import paths
from tests.loopback import http
from tests.ray.conftest import TANDEM


def test_the_openai_client_works_unchanged(tandem):
    with tandem.client() as client:
        whole = client.chat.completions.create(
            model="prod", messages=[{"role": "user", "content": "What is the capital of Italy?"}], temperature=0
        )
        assert whole.choices[0].message.content == "The capital of Italy is Rome."
        assert whole.choices[0].finish_reason == "stop"
        assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens > 0
        assert {model.id for model in client.models.list()} >= {"tiny", "prod"}
        assert client.models.retrieve("prod").id == "prod"


def test_a_streamed_answer_comes_in_pieces_and_is_the_whole_one(tandem):
    messages = [{"role": "user", "content": "Count from 1 to 20."}]
    with tandem.client() as client:
        whole = client.chat.completions.create(model="prod", messages=messages, temperature=0)
        stream = client.chat.completions.create(
            model="prod", messages=messages, temperature=0, stream=True, stream_options={"include_usage": True}
        )
        text, thought, finish, usage, pieces = "", "", None, None, 0
        for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                text += choice.delta.content or ""
                thought += getattr(choice.delta, "reasoning_content", None) or ""
                pieces += bool(choice.delta.content)
                finish = choice.finish_reason or finish
    message = whole.choices[0].message
    assert (text, thought, finish) == (message.content, message.reasoning_content, "stop")
    assert text.startswith("1") and pieces > 5
    assert usage == whole.usage


def test_a_seeded_request_repeats_itself_among_many_others(tandem):
    def ask(number: int) -> str:
        return tandem.ask("Tell me a story about a fox.", temperature=1.2, seed=7 if number % 2 else number)

    with ThreadPoolExecutor(12) as clients:
        answers = list(clients.map(ask, range(24)))
    assert len(set(answers[1::2])) == 1


def test_a_client_that_leaves_frees_its_place(tandem):
    with tandem.long_answer() as stream:
        stream.close()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        engine = http.get(f"{tandem.http}/api/status").json()["engines"]["engine_1"]
        if engine["running"] == 0:
            break
        time.sleep(0.05)
    assert engine["running"] == 0 and engine["kv_tokens"] == 0


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"model": "no-such-model", "messages": [{"role": "user", "content": "hi"}]}, 404, "model"),
        ({"model": "prod", "messages": []}, 400, "messages"),
        ({"model": "prod"}, 400, "messages"),
        ({"model": "prod", "messages": [{"role": "user", "content": "hi"}], "temperature": 9}, 400, "temperature"),
        ({"model": "prod", "messages": [{"role": "user", "content": "hi"}], "n": 9}, 400, "n"),
        ({"model": "prod", "messages": [{"role": "user", "content": "long " * 4000}]}, 400, "messages"),
        ({"model": "prod", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 0}, 400, "max_tokens"),
    ],
)
def test_bad_requests_have_openais_error_shape(tandem, body, status, param):
    answer = http.post(f"{tandem.http}/v1/chat/completions", json=body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["param"] == param and error["message"] and error["type"] == "invalid_request_error"


def test_what_is_not_json_and_what_is_no_route_say_so(tandem):
    answer = http.post(f"{tandem.http}/v1/chat/completions", content=b"{not json")
    assert answer.status_code == 400 and "not JSON" in answer.json()["error"]["message"]
    assert http.get(f"{tandem.http}/v1/nothing").status_code == 404
    with tandem.client() as client, pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-4", messages=[{"role": "user", "content": "hi"}])
    assert caught.value.param == "model" and "prod" in caught.value.message


def test_overload_is_429_with_a_time_to_come_back(tandem):
    capacity = 24 + 64  # max_batch + max_waiting of serve.yaml
    body = {"model": "prod", "temperature": 2, "max_tokens": 300, "stream": True}
    body["messages"] = [{"role": "user", "content": "Tell me a story about a fox."}]

    async def ask(client: httpx.AsyncClient) -> tuple[int, str | None, str]:
        answer = await client.post("/v1/chat/completions", json=body)
        return answer.status_code, answer.headers.get("retry-after"), answer.text

    async def ask_all(number: int) -> list[tuple[int, str | None, str]]:
        limits = httpx.Limits(max_connections=number)
        async with httpx.AsyncClient(base_url=tandem.http, timeout=120, limits=limits) as client:
            return await asyncio.gather(*(ask(client) for _ in range(number)))

    answers = asyncio.run(ask_all(3 * capacity))
    refused = [answer for answer in answers if answer[0] != 200]
    assert refused and {status for status, _, _ in refused} == {429}
    assert all(int(retry) >= 1 for _, retry, _ in refused)
    assert json.loads(refused[0][2])["error"]["type"] == "rate_limit_error"
    served = [text for status, _, text in answers if status == 200]
    assert len(served) >= capacity and all(text.rstrip().endswith("data: [DONE]") for text in served)


def test_health_and_metrics_are_scraped_over_http(tandem, trained):
    tandem.ask()
    assert http.get(f"{tandem.http}/healthz").json() == {"ok": True}
    assert http.get(f"{tandem.http}/readyz").json()["ready"] is True
    values = _scrape(f"{tandem.http}/metrics")
    assert values["tandem_up", ()] == 1
    assert values["tandem_slot_held", (("role", "serve"), ("slot", "1"))] == 1
    assert values["tandem_slot_held", (("role", "train"), ("slot", "0"))] == 0
    assert values["tandem_runs", (("state", "SUCCEEDED"),)] >= 1
    assert values["tandem_adapters", ()] >= 1
    assert values["tandem_engine_up", (("engine", "engine_1"),)] == 1
    assert sum(value for (name, _), value in values.items() if name == "tandem_requests_total") >= 1
    assert sum(value for (name, _), value in values.items() if name == "tandem_output_tokens_total") >= 5
    assert sum(value for (name, _), value in values.items() if name == "tandem_time_to_first_token_seconds_count") >= 1


def test_the_exporter_has_it_all_on_a_port_of_its_own(tandem):
    (port,) = cluster.free_ports(1)
    exporter = subprocess.Popen([*TANDEM, "metrics", "--port", str(port)], env=tandem.environment, cwd=paths.SOURCE)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                values = _scrape(f"http://127.0.0.1:{port}/metrics")
                break
            except httpx.HTTPError:
                assert time.monotonic() < deadline
                time.sleep(0.2)
        assert values["tandem_up", ()] == 1 and values["tandem_engine_up", (("engine", "engine_1"),)] == 1
        assert tandem.run("metrics", "--port", str(port), check=False).stderr.startswith(
            f"error: port {port} is in use"
        )
    finally:
        exporter.terminate()
        exporter.wait(10)


def _scrape(url: str) -> dict[tuple[str, tuple], float]:
    text = http.get(url, timeout=20).raise_for_status().text
    families = text_string_to_metric_families(text)
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def test_every_port_of_ours_listens_on_loopback_only(tandem):
    listening = []
    for process in cluster.processes(tandem.home):
        with contextlib.suppress(psutil.NoSuchProcess):  # ended meanwhile, so it listens to nothing
            listening += [each for each in process.net_connections("tcp") if each.status == psutil.CONN_LISTEN]
    ports = {connection.laddr.port for connection in listening}
    assert {tandem.http_port, tandem.dashboard_port} <= ports and len(ports) > 5
    elsewhere = [c.laddr for c in listening if c.laddr.ip not in ("127.0.0.1", "::1", "::ffff:127.0.0.1")]
    assert elsewhere == []


def test_ray_refuses_who_has_no_token_and_the_token_is_ours_alone(tandem):
    assert stat.S_IMODE(tandem.home.token.stat().st_mode) == 0o600
    jobs = f"http://127.0.0.1:{tandem.dashboard_port}/api/jobs/"
    assert http.get(jobs).status_code == 401
    body = {"entrypoint": "id"}
    assert http.post(jobs, json=body).status_code == 401
    assert http.get(jobs, headers={"Authorization": "Bearer wrong"}).status_code in (401, 403)
    token = tandem.home.token.read_text()
    assert http.get(jobs, headers={"Authorization": f"Bearer {token}"}).status_code == 200


def test_serve_deploy_takes_the_shipped_file(tandem, tmp_path):
    config = yaml.safe_load(paths.SERVE_CONFIG.read_text())
    config["http_options"]["port"] = tandem.http_port
    file = tmp_path / "serve.yaml"
    file.write_text(yaml.safe_dump(config))
    done = subprocess.run(
        ["serve", "deploy", str(file)], env=tandem.ray_environment, cwd=paths.SOURCE, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    deadline = time.monotonic() + 120
    while _serving(tandem) != {("gateway", "RUNNING"), ("engine_1", "RUNNING")}:  # Serve deploys after it has answered
        assert time.monotonic() < deadline, _serving(tandem)
        time.sleep(0.5)
    tandem.wait_ready()
    assert tandem.ask("What is the capital of Italy?") == "The capital of Italy is Rome."


def _serving(tandem) -> set[tuple[str, str]]:
    """Serve's replicas, each with its state."""
    processes = tandem.json("status")["processes"]
    return {(process["name"], process["state"]) for process in processes if process["kind"] in ("gateway", "engine")}


def test_a_second_up_changes_nothing_and_a_taken_port_is_named(tandem, new_tandem):
    again = tandem.up(check=False)
    assert again.returncode == 1 and "running already" in again.stderr
    tandem.wait_ready()
    other = new_tandem()
    other.http_port = tandem.http_port
    refused = other.up(check=False)
    assert refused.returncode == 1 and f"http_port {tandem.http_port} is in use" in refused.stderr
    assert cluster.processes(other.home) == [] and not other.home.cluster.exists()


def test_status_says_who_holds_what(tandem):
    report = tandem.json("status")
    assert report["up"] and report["engines"]["engine_1"]["device"] == "cpu"
    serving = next(slot for slot in report["slots"] if slot["role"] == "serve")
    assert serving["holder"] == "engine_1" and psutil.pid_exists(serving["pid"])
    assert "engine_1" in tandem.run("status").stdout
    assert (report["control"], report["problems"]) == (True, [])
    processes = {process["name"]: process for process in report["processes"]}
    assert {"head", "control", "gateway", "engine_1", "front", "controller"} <= set(processes)
    assert processes["engine_1"]["pid"] == serving["pid"], "Serve, the ledger and the process table agree"
    assert {process["state"] for process in processes.values()} <= {"ALIVE", "RUNNING"}
    assert all(psutil.pid_exists(process["pid"]) for process in processes.values())
    assert report["requests"]["answered"] == sum(report["requests"]["by_status"].values())
