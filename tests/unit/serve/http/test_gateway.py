"""The gateway over real HTTP: a real server on a free port, the openai client, and engines that echo or recite."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version

import openai
import pytest

from actors.hardware import gpus
from actors.runs.run import RunState
from configs.errors import OverloadError
from serve.engine.protocol import GenerationRequest
from serve.generation import engines as engines_module
from serve.http.routes.generating import MOST_BODY_BYTES
from tests.gateway_server import ASK, BASIC, HELLO, TOKENIZER, tokens
from tests.loopback import http
from tests.samples import RUN_CONFIG, publish

TOOL = {"type": "function", "function": {"name": "f"}}


def until(condition, seconds: float = 3) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


# Answers


def test_the_openai_client_gets_an_answer_with_its_reasoning_apart(server):
    done = server.client().chat.completions.create(**BASIC)
    (choice,) = done.choices
    assert (choice.message.content, choice.message.role) == ("Hello there.", "assistant")
    assert choice.message.reasoning_content == "Greet them."
    assert (choice.finish_reason, done.model, done.system_fingerprint) == ("stop", "prod", "base")
    assert done.usage.completion_tokens == len(tokens(HELLO))
    assert done.usage.prompt_tokens == len(server.engine.requests[0].prompt_ids)


def test_the_openai_client_streams_the_same_answer(server):
    options = {"include_usage": True}
    chunks = list(server.client().chat.completions.create(**BASIC, stream=True, stream_options=options))
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == "Hello there."
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == "Greet them."
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason] == ["stop"]
    assert chunks[-1].usage.completion_tokens == len(tokens(HELLO))
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_is_server_sent_events_ended_by_done(server):
    response = server.post(body=BASIC | {"stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    events = response.text.split("\n\n")
    assert (events[-2], events[-1]) == ("data: [DONE]", "")
    bodies = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    assert {body["object"] for body in bodies} == {"chat.completion.chunk"}
    assert bodies[0]["id"] == f"chatcmpl-{response.headers['x-request-id']}"


def test_tokens_arrive_while_the_answer_is_still_being_generated(server):
    server.engine.delay = 0.02
    began, arrivals = time.monotonic(), []
    for _ in server.client().chat.completions.create(**BASIC, stream=True):
        arrivals.append(time.monotonic() - began)
    assert arrivals[-1] - arrivals[0] > 5 * 0.02
    assert len(arrivals) > 5


def test_a_tool_call_reaches_the_client_as_one(server):
    call = '<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "Rome"}<|call|>'
    server.engine.script = tokens(call)
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
    (choice,) = server.client().chat.completions.create(**BASIC, tools=[tool]).choices
    (called,) = choice.message.tool_calls
    assert (called.function.name, json.loads(called.function.arguments)) == ("get_weather", {"city": "Rome"})
    assert choice.finish_reason == "tool_calls"


def test_sampling_reaches_the_engine_and_the_token_limit_is_told(server):
    how = {"temperature": 0.3, "top_p": 0.8, "seed": 7, "max_tokens": 3}
    (choice,) = server.client().chat.completions.create(**BASIC, **how).choices
    assert choice.finish_reason == "length"
    sampling = server.engine.requests[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.seed, sampling.max_tokens) == (0.3, 0.8, 7, 3)
    assert set(TOKENIZER.convert_ids_to_tokens(sampling.stop_token_ids)) == {"<|return|>", "<|call|>"}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses"])
def test_what_a_request_leaves_open_is_the_models_own_and_what_it_says_wins(server, path):
    asked = {"model": "prod"} | {
        "/v1/chat/completions": {"messages": ASK},
        "/v1/completions": {"prompt": "Hi"},
        "/v1/responses": {"input": "Hi"},
    }[path]
    for said, temperature in (({}, 0.3), ({"temperature": None}, 0.3), ({"temperature": 1.0}, 1.0)):
        assert server.post(path, asked | said).status_code == 200
        assert server.engine.requests[-1].sampling.temperature == temperature
    assert {request.sampling.top_p for request in server.engine.requests} == {1.0}


def test_a_response_tells_the_temperature_that_it_was_sampled_at(server):
    assert server.post("/v1/responses", {"model": "prod", "input": "Hi"}).json()["temperature"] == 0.3


def test_a_stop_string_ends_the_answer_and_the_engines_work(server):
    server.engine.script = tokens("<|channel|>final<|message|>one STOP" + " and on" * 200)
    server.engine.delay = 0.001
    (choice,) = server.client().chat.completions.create(**BASIC, stop="STOP").choices
    assert (choice.message.content, choice.finish_reason) == ("one ", "stop")
    assert until(lambda: server.engine.stats().running == 0)


# Adapters


def test_prod_answers_with_the_adapter_that_was_swapped_in_and_says_so(server):
    version = publish(server.registry).version
    swapped = server.post("/api/aliases/prod", {"adapter": "latest"})
    assert (swapped.status_code, swapped.json()["old"], swapped.json()["new"]) == (200, "base", version)
    done = server.client().chat.completions.create(**BASIC)
    assert (done.model, done.system_fingerprint) == ("prod", version)
    assert server.engine.requests[-1].adapter == version
    server.client().chat.completions.create(model="tiny", messages=ASK)
    assert server.engine.requests[-1].adapter is None, "the base stays reachable by its name"


def test_the_models_are_the_base_the_alias_and_what_is_live(server):
    manifest = publish(server.registry)
    before = {model.id for model in server.client().models.list()}
    assert before == {"tiny", "base", "prod"}
    server.post("/api/aliases/prod", {"adapter": manifest.version})
    models = {model.id: model for model in server.client().models.list()}
    assert set(models) == {"tiny", "base", "prod", manifest.version}
    behind = {name: (model.root, model.parent) for name, model in models.items()}
    adapter = (manifest.version, "tiny")
    assert behind == {"tiny": ("tiny", None), "base": ("tiny", None), "prod": adapter, manifest.version: adapter}
    assert models[manifest.version].created == models["prod"].created == int(manifest.created_at)
    assert server.client().models.retrieve("prod").id == "prod"
    with pytest.raises(openai.NotFoundError):
        server.client().models.retrieve("nope")


def test_an_adapter_that_an_alias_points_to_but_no_engine_has_is_a_503_that_says_so(server):
    version = publish(server.registry).version
    server.post("/api/aliases/prod", {"adapter": version})
    server.engine.remove_adapter(version)
    error = server.refusal(503)
    assert f"'prod' is {version}, which the engine has not loaded" in error["message"]


@pytest.mark.parametrize("body", [{}, {"adapter": "latest", "back": True}, {"adapter": ""}])
def test_a_swap_names_an_adapter_or_the_way_back_and_not_both(body, server):
    publish(server.registry)
    assert server.post("/api/aliases/prod", body).status_code in (400, 404)
    assert server.get("/api/status").json()["aliases"] == {}


@pytest.mark.parametrize("name", ["nope", "latest", "../x"])
def test_a_swap_to_no_adapter_names_the_field(name, refusing):
    error = refusing.post("/api/aliases/prod", {"adapter": name}).json()["error"]
    assert (error["param"], error["code"]) == ("adapter", "model_not_found")


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/api/aliases/prod", {"adapter": "nope"}, 404, "no adapter 'nope'"),
        ("/api/aliases/canary", {"adapter": "base"}, 404, "no alias 'canary'"),
        ("/api/aliases/prod", {"adapter": "base"}, 409, "answers with the base already"),
        ("/api/aliases/prod", {"back": True}, 409, "nothing was swapped yet"),
        ("/api/aliases/prod", {"adpater": "base"}, 400, "adpater"),
        ("/api/aliases/prod", {"adapter": 5}, 400, "adapter"),
        ("/api/runs", {"run_id": "a", "config": RUN_CONFIG | {"lora": {"r": 0}}}, 400, "config.lora.r"),
        ("/api/runs", {"run_id": "a", "config": RUN_CONFIG, "slot_wanted": "9"}, 409, "slot 9 does not train"),
        ("/api/runs", {"run_id": "a;b", "config": RUN_CONFIG}, 404, "is not a run id"),
        ("/api/runs/nope/stop", {}, 404, "no run nope"),
        ("/api/slots/9/quarantine", {"reason": "x"}, 404, "no slot 9"),
        ("/api/slots/0/quarantine", {}, 400, "reason"),
        ("/api/slots/0/quarantine", {"reason": ""}, 400, "reason"),
        ("/api/slots/0/release", {}, 409, "slot 0 is not in quarantine"),
    ],
)
def test_the_admin_routes_refuse_in_openais_shape_too(path, body, status, words, refusing):
    response = refusing.post(path, body)
    assert response.status_code == status, response.text
    assert words in response.json()["error"]["message"]


def test_a_run_can_be_queued_and_stopped_over_http(server):
    made = server.post("/api/runs", {"run_id": "tiny-1", "config": RUN_CONFIG, "priority": 3})
    assert (made.status_code, made.json()["state"], made.json()["priority"]) == (201, "QUEUED", 3)
    assert made.json()["config"] == RUN_CONFIG
    stopped = server.post("/api/runs/tiny-1/stop", {})
    assert stopped.json()["state"] == "STOPPED"
    assert server.control._ledger.run("tiny-1").state is RunState.STOPPED
    assert server.post("/api/runs/tiny-1/stop", {}).status_code == 409


def test_a_slot_is_put_into_quarantine_and_released_over_http(server):
    made = server.post("/api/slots/0/quarantine", {"reason": "noise"}).json()
    assert (made["slot"], made["reason"], made["by"]) == ("0", "noise", "a person")
    assert [slot["quarantine"] for slot in server.get("/api/status").json()["slots"]] == [made, None]
    assert server.post("/api/slots/0/release", {}).json() == {"slot": "0", "accepted": None}
    assert server.get("/api/status").json()["slots"][0]["quarantine"] is None


def test_status_shows_slots_engines_and_aliases(refusing):
    status = refusing.get("/api/status").json()
    assert status["base"] == "tiny"
    assert [slot["slot"]["name"] for slot in status["slots"]] == ["0", "1"]
    assert status["engines"]["engine_1"]["device"] == "cpu"
    assert status["host"]["cpu_count"] >= 1


def test_a_driver_that_takes_its_time_holds_up_no_other_request(refusing, monkeypatch):
    asked, answered = threading.Event(), threading.Event()

    def slow() -> list:
        asked.set()
        assert answered.wait(5), "the other request waits for the driver"
        return []

    monkeypatch.setattr(gpus, "readings", slow)
    with ThreadPoolExecutor(1) as pool:
        status = pool.submit(refusing.get, "/api/status")
        assert asked.wait(5)
        assert refusing.get("/healthz").status_code == 200
        answered.set()
        assert status.result().json()["gpus"] == []


# Refusals


def test_an_unknown_model_is_a_404_that_names_the_field_and_the_models(refusing):
    error = refusing.refusal(404, BASIC | {"model": "gpt-4"})
    assert (error["param"], error["code"], error["type"]) == ("model", "model_not_found", "invalid_request_error")
    assert "'gpt-4' does not exist" in error["message"]
    assert "tiny, base, prod" in error["message"]


def test_the_openai_client_raises_its_own_not_found_error(refusing):
    with pytest.raises(openai.NotFoundError) as caught:
        refusing.client().chat.completions.create(**BASIC | {"model": "gpt-4"})
    assert caught.value.param == "model"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
        ({"messages": [*ASK, {"role": "assistant", "tool_calls": ["x"]}]}, "messages"),
        ({"messages": [*ASK, {"role": "assistant", "tool_calls": 5}]}, "messages"),
        ({"n": 9}, "n"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"nonsense": 1}, "nonsense"),
        ({"model": ""}, "model"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_bad_field_is_a_400_that_names_it_streamed_or_not(change, param, stream, refusing):
    error = refusing.refusal(400, BASIC | {"stream": stream} | change)
    assert (error["param"], error["type"]) == (param, "invalid_request_error")


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'"text"', b"\xff\xfe", b"null"])
def test_a_body_that_is_no_json_object_is_a_400(content, refusing):
    assert "the body is" in refusing.refusal(400, content=content)["message"]


def test_a_missing_model_is_a_400(refusing):
    assert refusing.refusal(400, {"messages": ASK})["param"] == "model"


def test_a_body_that_is_too_large_is_refused_before_it_is_read_whole(refusing):
    error = refusing.refusal(400, content=b" " * (MOST_BODY_BYTES + 1))
    assert "larger than 8 MiB" in error["message"]


@pytest.mark.parametrize("path", ["/v1/nope", "/nope", "/v1/embeddings"])
def test_an_unknown_route_is_a_404_in_openais_shape(path, refusing):
    response = refusing.post(path, {})
    assert response.status_code == 404
    assert f"no route POST {path}" in response.json()["error"]["message"]


def test_a_wrong_method_is_refused_in_openais_shape(refusing):
    response = refusing.get("/v1/chat/completions")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert "GET" in response.json()["error"]["message"]


def test_every_method_of_a_path_is_allowed_by_name(refusing):
    taken = {"/healthz": "GET, HEAD", "/v1/conversations/x": "DELETE, GET, POST", "/v1/responses/x": "DELETE, GET"}
    taken |= {"/v1/responses/input_tokens": "POST", "/openapi.json": "GET, HEAD"}
    for path, methods in taken.items():
        response = http.request("PUT", refusing.url + path)
        assert (response.status_code, response.headers["allow"]) == (405, methods)


def test_overload_is_a_429_with_retry_after(server):
    async def full(request: GenerationRequest):
        raise OverloadError("64 requests wait already", hint="try again in a moment")
        yield

    server.engine.generate = full
    response = server.post()
    assert (response.status_code, response.headers["retry-after"]) == (429, "2")
    assert response.json()["error"]["type"] == "rate_limit_error"
    assert "64 requests wait already -> try again in a moment" in response.json()["error"]["message"]
    with pytest.raises(openai.RateLimitError):
        server.client().chat.completions.create(**BASIC, stream=True)


def test_an_engine_that_stays_away_is_a_503_with_retry_after(server, monkeypatch):
    monkeypatch.setattr(engines_module, "ENGINE_RETURN_S", 0)
    server.remote.dead = True
    response = server.post()
    assert (response.status_code, response.headers["retry-after"]) == (503, "2")
    assert "engine engine_1 died" in response.json()["error"]["message"]


def test_a_bug_of_ours_is_a_500_that_tells_nothing_of_itself(server):
    async def broken(request: GenerationRequest):
        raise ZeroDivisionError("/secret/path")
        yield

    server.engine.generate = broken
    error = server.refusal(500)
    assert "internal error" in error["message"]
    assert "secret" not in json.dumps(error)


# Engines that die, clients that leave


def test_an_engine_that_dies_mid_stream_ends_it_with_an_error_event_and_no_done(server):
    server.remote.dies_after = 12
    response = server.post(body=BASIC | {"stream": True})
    events = response.text.strip().split("\n\n")
    assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "unavailable"
    assert "[DONE]" not in response.text
    assert "Greet them." in "".join(
        json.loads(event.removeprefix("data: "))["choices"][0]["delta"].get("reasoning_content", "")
        for event in events[:-1]
    ), "what came before stays"


def test_the_openai_client_raises_on_that_error_event(server):
    server.remote.dies_after = 12
    with pytest.raises(openai.APIError, match="died while answering"):
        list(server.client().chat.completions.create(**BASIC, stream=True))


def test_an_answer_that_is_not_streamed_starts_again_when_its_engine_dies(server):
    server.remote.dies_after = 12
    (choice,) = server.client().chat.completions.create(**BASIC).choices
    assert choice.message.content == "Hello there."
    assert len(server.engine.requests) == 2


def test_a_client_that_leaves_ends_its_request_in_the_engine(server):
    server.engine.script = tokens("<|channel|>final<|message|>" + "on and on " * 300)
    server.engine.delay = 0.005
    stream = server.client().chat.completions.create(**BASIC, stream=True)
    next(iter(stream))
    assert server.engine.stats().running == 1
    stream.close()
    assert until(lambda: server.engine.stats().running == 0)
    values = server.metrics()
    assert values[("tandem_requests_abandoned_total",)] == 1
    assert values[("tandem_requests_active",)] == 0
    assert 0 < values[("tandem_output_tokens_total", "prod")] < 100, "only what was generated until then"


# Health and metrics


def test_the_gateway_lives_even_without_an_engine_but_is_ready_only_with_one(server):
    assert server.get("/healthz").json() == {"ok": True}
    ready = server.get("/readyz")
    assert (ready.status_code, ready.json()["ready"], ready.json()["base"]) == (200, True, "tiny")
    server.remote.dead = True
    away = server.get("/readyz")
    assert (away.status_code, away.json()["ready"]) == (503, False)
    assert away.json()["engines"]["engine_1"] == {"error": "engine engine_1 died"}
    assert server.get("/healthz").status_code == 200


def test_health_is_a_bare_status_as_in_vllm(server):
    for dead, status in ((False, 200), (True, 503)):
        server.remote.dead = dead
        for method, path in (("GET", "/health"), ("HEAD", "/health"), ("GET", "/ping"), ("POST", "/ping")):
            answer = http.request(method, server.url + path)
            assert (answer.status_code, answer.content) == (status, b"")


def test_the_version_is_the_packages(refusing):
    assert refusing.get("/version").json() == {"version": version("tandem")}


def test_the_front_page_says_what_is_here(refusing):
    assert refusing.get("/").json()["api"] == "/v1/chat/completions"


def test_requests_tokens_and_latencies_are_counted(server):
    server.post()
    server.post(body=BASIC | {"model": "tiny", "stream": True})
    server.post(body=BASIC | {"model": "gpt-4"})
    server.post(body=BASIC | {"temperature": -1})
    values = server.metrics()
    assert values[("tandem_requests_total", "200", "prod")] == 1
    assert values[("tandem_requests_total", "200", "base")] == 1
    assert values[("tandem_requests_total", "404", "none")] == 1
    assert values[("tandem_requests_total", "400", "prod")] == 1
    prompt = len(server.engine.requests[0].prompt_ids)
    for target in ("prod", "base"):
        assert values[("tandem_prompt_tokens_total", target)] == prompt
        assert values[("tandem_output_tokens_total", target)] == len(tokens(HELLO))
        assert values[("tandem_time_to_first_token_seconds_count", target)] == 1
        assert values[("tandem_inter_token_latency_seconds_count", target)] == len(tokens(HELLO)) - 1
        assert values[("tandem_request_duration_seconds_count", target)] == 1
    assert values[("tandem_requests_active",)] == 0
    assert values[("tandem_requests_abandoned_total",)] == 0


def test_metrics_show_engines_swaps_and_the_ledger(server):
    version = publish(server.registry).version
    server.post("/api/aliases/prod", {"adapter": version})
    server.post("/api/runs", {"run_id": "tiny-1", "config": RUN_CONFIG})
    values = server.metrics()
    assert values[("tandem_engine_up", "engine_1")] == 1
    assert values[("tandem_engine_adapters_loaded", "engine_1")] == 1
    assert values[("tandem_swap_duration_seconds_count", "done")] == 1
    assert values[("tandem_swaps_total", "done")] == 1
    assert values[("tandem_alias_info", "prod", version)] == 1
    assert values[("tandem_queue_length",)] == 1
    server.remote.dead = True
    assert server.metrics()[("tandem_engine_up", "engine_1")] == 0


def test_the_first_tokens_time_is_split_and_the_parts_add_up(server):
    server.engine.delay = 0.02
    for stream in (True, False, False):
        server.post(body=BASIC | {"stream": stream})
    values = server.metrics()
    parts = {p: values[("tandem_time_to_first_token_part_seconds_sum", p)] for p in ("gateway", "queue", "prefill")}
    assert sum(parts.values()) == pytest.approx(values[("tandem_time_to_first_token_seconds_sum", "prod")])
    assert (parts["prefill"], parts["queue"]) == (pytest.approx(3 * 0.02), 0)
    assert parts["gateway"] > 0
    assert values[("tandem_time_to_first_token_part_seconds_count", "gateway")] == 3


def test_an_answer_that_an_engine_breaks_off_is_not_a_client_that_left(server):
    server.remote.dies_after = 3
    assert '"error"' in server.post(body=BASIC | {"stream": True}).text
    values = server.metrics()
    assert values[("tandem_requests_broken_total",)] == 1
    assert values[("tandem_requests_abandoned_total",)] == 0
    assert values[("tandem_requests_active",)] == 0


def test_no_client_makes_series(server):
    names = ["prod", "tiny", "none", "nope"]
    routes = ["/v1/chat/completions", "/v1/completions", "/v1/responses"]

    def everything(word: str) -> None:
        for route in routes:
            for body in ({"model": word}, {"model": word, "messages": ASK, "prompt": "x", "input": "x", word: 1}, word):
                server.post(route, json=body, headers={"x-request-id": word, "user-agent": word})
        server.get(f"/v1/models/{word}")
        server.post(f"/api/aliases/{word}", json={"adapter": word})
        server.post(f"/api/runs/{word}/stop")

    for word in names:
        everything(word)
    before = server.metrics().keys()
    for index in range(20):
        everything(f"hostile-{index}")
    assert server.metrics().keys() == before
    assert "hostile" not in server.get("/metrics").text


def test_a_clients_own_words_never_become_a_label(refusing):
    for name in ("x" * 50, "gpt-4"):
        refusing.post(body=BASIC | {"model": name})
    assert "gpt-4" not in refusing.get("/metrics").text
