"""`POST /v1/messages` over real HTTP: Anthropic's blocks and events, whole and streamed, its errors, and counting."""

import json
import time

import pytest

from configs.errors import ClusterError, OverloadError, PromptTooLongError
from serve.anthropic import answer as anthropic_answer
from serve.http.routes import generating
from tests.gateway_server import HELLO, MAX_CONTEXT, TOKENIZER, Server, tokens
from tests.loopback import http
from tests.samples import publish

anthropic = pytest.importorskip("anthropic", reason="comes with the dev extra")

PATH, COUNT = "/v1/messages", "/v1/messages/count_tokens"
HI = [{"role": "user", "content": "Hi"}]
ASK = {"model": "prod", "max_tokens": 100, "messages": HI}
THINK = {"thinking": {"type": "adaptive"}}
TOOL = {"name": "get_weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}
CALL = '<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "Rome"}<|call|>'
THOUGHT = "<|channel|>analysis<|message|>Ask the tool.<|end|><|start|>assistant"
NOTE = "<|channel|>commentary<|message|>Let me see.<|end|><|start|>assistant"


def client(server: Server) -> "anthropic.Anthropic":
    return anthropic.Anthropic(
        base_url=server.url, api_key="none", max_retries=0, timeout=10,
        http_client=anthropic.DefaultHttpxClient(verify=False, trust_env=False),
    )  # fmt: skip


def events(server: Server, **body) -> list[dict]:
    """What a stream says, each event's name being its type."""
    response = server.post(PATH, ASK | body | {"stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    found = []
    for event in response.text.strip().split("\n\n"):
        name, data = event.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def refusal(server: Server, status: int, body: dict | None = None, path: str = PATH, **how) -> dict:
    """The error of a refused request, in Anthropic's shape."""
    response = server.post(path, body, **how)
    assert response.status_code == status, response.text
    said = response.json()
    assert (set(said), said["type"]) == ({"type", "error", "request_id"}, "error")
    assert said["request_id"] == response.headers["request-id"] == response.headers["x-request-id"]
    assert set(said["error"]) == {"type", "message", "details"}
    return said["error"]


# Whole answers


def test_an_answer_is_a_text_block_with_what_it_took(server):
    done = client(server).messages.create(**ASK)
    assert [(block.type, block.text) for block in done.content] == [("text", "Hello there.")]
    assert (done.role, done.model, done.stop_reason, done.stop_sequence) == ("assistant", "prod", "end_turn", None)
    assert done.id == f"msg_{done._request_id}"
    assert done.usage.input_tokens == len(server.engine.requests[0].prompt_ids)
    assert done.usage.output_tokens == len(tokens(HELLO))
    assert done.usage.output_tokens_details.thinking_tokens == len(tokens("Greet them."))
    assert (done.usage.cache_read_input_tokens, done.usage.cache_creation_input_tokens) == (0, 0)


def test_reasoning_is_a_block_before_the_answer_if_it_is_asked_for(server):
    thinking, text = client(server).messages.create(**ASK, **THINK).content
    assert (thinking.type, thinking.thinking, text.text) == ("thinking", "Greet them.", "Hello there.")
    assert thinking.signature
    hidden, _ = client(server).messages.create(**ASK, thinking={"type": "adaptive", "display": "omitted"}).content
    assert (hidden.type, hidden.thinking) == ("thinking", "")
    said = {"role": "assistant", "content": [hidden]}
    client(server).messages.create(**ASK | {"messages": [*HI, said, *HI]})
    whole = {"role": "assistant", "content": [thinking]}
    client(server).messages.create(**ASK | {"messages": [*HI, whole, *HI]})
    assert server.engine.requests[-1].prompt_ids == server.engine.requests[-2].prompt_ids


def test_a_call_is_a_tool_use_block_and_its_result_goes_back(server):
    server.engine.script = tokens(THOUGHT + CALL)
    done = client(server).messages.create(**ASK, **THINK, tools=[TOOL])
    _, call = done.content
    assert (call.type, call.name, call.input, done.stop_reason) == (
        "tool_use", "get_weather", {"city": "Rome"}, "tool_use",
    )  # fmt: skip
    assert call.id.startswith("toolu_")
    server.engine.script = tokens(HELLO)
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
    more = [*HI, {"role": "assistant", "content": done.content}, {"role": "user", "content": [result]}]
    assert client(server).messages.create(**ASK | {"messages": more}, tools=[TOOL]).content[0].text == "Hello there."


def test_a_call_that_is_cut_off_has_the_input_that_came(server):
    server.engine.script = tokens(CALL)
    done = client(server).messages.create(**ASK | {"max_tokens": len(tokens(CALL)) - 3}, tools=[TOOL])
    assert done.stop_reason == "max_tokens"
    assert done.content[0].input.get("city", "") in "Rome"


@pytest.mark.parametrize("arguments", ["[1]", "Rome", '"Rome"', ""])
def test_arguments_that_are_no_object_are_an_empty_one(server, arguments):
    server.engine.script = tokens(CALL.replace('{"city": "Rome"}', arguments))
    assert client(server).messages.create(**ASK, tools=[TOOL]).content[0].input == {}


def test_an_answer_says_which_stop_sequence_ended_it(server):
    done = client(server).messages.create(**ASK, stop_sequences=["there", "Madrid"])
    assert (done.content[0].text, done.stop_reason, done.stop_sequence) == ("Hello ", "stop_sequence", "there")


def test_an_answer_ends_at_its_limit_or_where_the_context_does(server):
    assert client(server).messages.create(**ASK | {"max_tokens": 3}).stop_reason == "max_tokens"
    server.engine.script = tokens(HELLO)[:-1]
    assert client(server).messages.create(**ASK).stop_reason == "model_context_window_exceeded"


def test_an_answer_that_is_begun_goes_on_where_it_stands(server):
    server.engine.script = tokens(" is Rome.<|return|>")
    begun = [*HI, {"role": "assistant", "content": "The capital"}]
    done = client(server).messages.create(**ASK | {"messages": begun})
    assert (done.content[0].text, done.stop_reason) == (" is Rome.", "end_turn")
    assert TOKENIZER.decode(server.engine.requests[0].prompt_ids).endswith("final<|message|>The capital")
    counted = client(server).messages.count_tokens(model="prod", messages=begun).input_tokens
    assert counted == done.usage.input_tokens


def test_an_answer_starts_again_when_its_engine_dies(server):
    server.remote.dies_after = 12
    assert client(server).messages.create(**ASK).content[0].text == "Hello there."


def test_parameters_without_effect_are_named_in_a_header(server):
    response = server.post(PATH, ASK | {"metadata": {"user_id": "a"}, "output_config": {"effort": "max"}})
    assert response.headers["x-tandem-ignored"] == "metadata"
    assert response.headers["x-tandem-mapped"] == "output_config.effort=max->high"


def test_anthropics_tool_runner_goes_on_without_a_conversation_kept_by_the_server(server):
    @anthropic.beta_tool
    def get_weather(city: str) -> str:
        """Weather of a city."""
        server.engine.script = tokens(HELLO)
        return f"sunny in {city}"

    server.engine.script = tokens(CALL)
    runner = client(server).beta.messages.tool_runner(**ASK, tools=[get_weather])
    assert [message.content[0].type for message in runner] == ["tool_use", "text"]
    assert "sunny in Rome" in TOKENIZER.decode(server.engine.requests[-1].prompt_ids)


# Streams


def test_a_stream_has_anthropics_events_in_their_order(server):
    server.engine.script = tokens(THOUGHT + NOTE + CALL)
    found = events(server, tools=[TOOL], **THINK)
    kinds = [event["type"] for event in found]
    assert [kind for at, kind in enumerate(kinds) if at == 0 or kind != kinds[at - 1]] == [
        "message_start", "ping",
        *["content_block_start", "content_block_delta", "content_block_stop"] * 3,
        "message_delta", "message_stop",
    ]  # fmt: skip
    start = found[0]["message"]
    assert (start["content"], start["stop_reason"], start["role"]) == ([], None, "assistant")
    assert start["usage"]["input_tokens"] == len(server.engine.requests[0].prompt_ids)
    said = {}
    for event in found:
        if event["type"] == "content_block_start":
            assert event["index"] == len(said)
            said[event["index"]] = [event["content_block"]["type"], ""]
        if event["type"] == "content_block_delta":
            delta = event["delta"]
            said[event["index"]][1] += delta.get("text") or delta.get("thinking") or delta.get("partial_json") or ""
    assert said == {
        0: ["thinking", "Ask the tool."], 1: ["text", "Let me see."], 2: ["tool_use", '{"city": "Rome"}'],
    }  # fmt: skip
    signatures = [event for event in found if event.get("delta", {}).get("type") == "signature_delta"]
    assert len(signatures) == 1 and signatures[0]["delta"]["signature"]
    end = found[-2]
    assert end["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert end["usage"]["output_tokens"] == len(server.engine.script)


@pytest.mark.parametrize("script", [HELLO, THOUGHT + NOTE + CALL, NOTE + THOUGHT + HELLO])
@pytest.mark.parametrize("fields", [{}, THINK, {"thinking": {"type": "adaptive", "display": "omitted"}}])
def test_a_stream_folds_into_the_whole_answer(server, script, fields):
    server.engine.script = tokens(script)
    whole = client(server).messages.create(**ASK, tools=[TOOL], **fields).model_dump(exclude={"id"})
    with client(server).messages.stream(**ASK, tools=[TOOL], **fields) as stream:
        streamed = stream.get_final_message().model_dump(exclude={"id"})
    for block in (*whole["content"], *streamed["content"]):
        block.pop("id", None)
        block.pop("parsed_output", None)
    assert streamed == whole


def test_while_reasoning_is_not_shown_the_connection_is_kept_alive(server, monkeypatch):
    assert [event["type"] for event in events(server)].count("ping") == 1
    monkeypatch.setattr(anthropic_answer, "PING_EVERY_S", 0)
    assert [event["type"] for event in events(server)].count("ping") > 3


def test_a_stream_that_breaks_off_ends_in_an_error_event(server):
    server.remote.dies_after = 18
    last = events(server)[-1]
    assert (last["type"], last["error"]["type"]) == ("error", "api_error") and last["request_id"]
    server.remote.dies_after = 18
    with pytest.raises(anthropic.APIStatusError), client(server).messages.stream(**ASK) as stream:
        stream.until_done()


# Counting


def test_a_count_is_exactly_what_a_message_takes(server):
    tools = {"tools": [TOOL], "system": "Be brief.", "output_config": {"effort": "low"}}
    for fields in ({}, tools, tools | {"tool_choice": {"type": "none"}}):
        counted = client(server).messages.count_tokens(model="prod", messages=HI, **fields).input_tokens
        assert counted == client(server).messages.create(**ASK, **fields).usage.input_tokens
    assert server.metrics()[("tandem_requests_total", "200", "prod")] == 3


def test_a_prompt_that_is_far_too_long_is_counted_too(server):
    long = [{"role": "user", "content": "word " * 400_000}]
    assert server.post(COUNT, {"model": "prod", "messages": long}).json()["input_tokens"] > 400_000
    error = refusal(server, 400, ASK | {"messages": long})
    assert error["type"] == "invalid_request_error"
    assert error["message"].startswith("prompt is too long: ") and error["message"].endswith(" > 100000 maximum")


# Models


def test_models_are_listed_in_anthropics_shape(server):
    version = publish(server.registry, run_id="a").version
    server.post("/api/aliases/prod", {"adapter": version})
    listed = client(server).models.list()
    assert [model.id for model in listed] == ["tiny", "base", "prod", version]
    assert (listed.has_more, listed.first_id, listed.last_id) == (False, "tiny", version)
    prod = client(server).models.retrieve("prod")
    assert prod == listed.data[2]
    assert (prod.type, prod.display_name, prod.lifecycle) == ("model", f"prod ({version})", "active")
    assert prod.max_input_tokens == prod.max_tokens == MAX_CONTEXT and prod.created_at.year >= 2020
    assert [model.id for model in client(server).models.list(limit=1)] == ["tiny", "base", "prod", version]
    assert [model.id for model in client(server).models.list(before_id="prod")] == ["tiny", "base"]
    assert [model.id for model in client(server).models.list(after_id="base", limit=1).data] == ["prod"]


def test_a_part_of_the_list_that_is_not_there_is_refused_in_anthropics_shape(refusing):
    versioned = {"anthropic-version": "2023-06-01"}
    for query, status in (("limit=0", 400), ("limit=x", 400), ("after_id=nope", 404), ("lifecycle=active", 200)):
        answer = http.get(f"{refusing.url}/v1/models?{query}", headers=versioned)
        assert (answer.status_code, "error" in answer.json()) == (status, status != 200)
        assert answer.json().get("type", "error") == "error"


# Errors


def test_an_unknown_model_is_a_404_of_anthropics(refusing):
    for path in (PATH, COUNT):
        error = refusal(refusing, 404, ASK | {"model": "claude-sonnet"}, path)
        assert error == {
            "type": "not_found_error",
            "message": "model: the model 'claude-sonnet' does not exist -> models: tiny, base, prod",
            "details": None,
        }
    with pytest.raises(anthropic.NotFoundError):
        client(refusing).messages.create(**ASK | {"model": "claude-sonnet"})


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"content": b"{"}, "the body is not JSON: "),
        ({"content": b""}, "the body is not JSON: "),
        ({"content": b"[]"}, "the body is a JSON list, not an object"),
        ({"json": {}}, "model: Field required"),
        ({"json": ASK | {"messages": []}}, "messages: Input should not be empty"),
    ],
)
def test_a_body_that_cannot_be_read_is_a_400_of_anthropics(refusing, how, why):
    error = refusal(refusing, 400, **how)
    assert error["type"] == "invalid_request_error" and error["message"].startswith(why)


def test_a_body_that_is_too_large_is_a_413(refusing, monkeypatch):
    monkeypatch.setattr(generating, "MOST_BODY_BYTES", 1000)
    assert refusal(refusing, 413, content=b" " * 1001)["type"] == "request_too_large"


@pytest.mark.parametrize(
    ("error", "status", "kind", "message", "retry"),
    [
        (OverloadError("64 requests wait already"), 529, "overloaded_error", "64 requests wait already", "2"),
        (ClusterError("no engine"), 503, "api_error", "no engine", "2"),
        (PromptTooLongError.of(9, 8), 400, "invalid_request_error", "prompt is too long: 10 tokens > 8 maximum", None),
        (ZeroDivisionError("secret"), 500, "api_error", "internal error -> see the server's log", None),
    ],
)  # fmt: skip
def test_an_engines_error_has_anthropics_status_and_type(server, error, status, kind, message, retry):
    async def failing(request):
        raise error
        yield

    server.engine.generate = failing
    for stream in (False, True):
        found = refusal(server, status, ASK | {"stream": stream})
        assert found["type"] == kind and found["message"].startswith(message)
    assert server.post(PATH, ASK).headers.get("retry-after") == retry
    if status == 529:
        assert server.metrics()[("tandem_requests_total", "529", "prod")] == 3


def test_routes_and_methods_that_are_not_there_and_foreign_pages_are_refused_in_the_same_shape(refusing):
    assert refusing.get(PATH).status_code == 405
    assert refusing.get(PATH).json()["error"]["type"] == "invalid_request_error"
    assert refusing.get(PATH).headers["allow"] == "POST"
    assert refusal(refusing, 404, {}, f"{PATH}/batches")["type"] == "not_found_error"
    assert refusal(refusing, 403, json=ASK, headers={"origin": "http://evil.example"})["type"] == "permission_error"


def test_a_client_that_goes_away_ends_its_generation(server):
    server.engine.delay, server.engine.script = 0.02, tokens("word " * 500)
    with client(server).messages.stream(**ASK | {"max_tokens": 400}) as stream:
        next(iter(stream))
    deadline = time.monotonic() + 5
    while server.engine.stats().running and time.monotonic() < deadline:
        time.sleep(0.02)
    assert server.engine.stats().running == 0
