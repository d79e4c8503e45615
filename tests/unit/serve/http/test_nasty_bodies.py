"""Whatever a client sends, the gateway knows what to say: an answer or a refusal by name, and no 500."""

import itertools
import json
from collections.abc import Iterator

import httpx
import pytest

from tests.gateway_server import ASK, BASIC, Server
from tests.samples import RUN_CONFIG

HALF = "\ud800"
DEEP = "[" * 100_000
NASTY = (
    HALF, "\x00", "", "9" * 5_000, 10**30, -(10**30), 10**400, 1e308, -1e308, 1e-300, float("nan"), float("inf"), True,
    None, [], {}, [[]], [HALF], {HALF: HALF}, [10**30], [-1], [float("nan")], {"9" * 5_000: 1.0}, {"1": float("inf")},
    {"-1": 1.0}, {str(10**30): 1.0}, [{"type": HALF}], [None],
)  # fmt: skip

SAMPLED = ("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty",
           "seed", "logit_bias")  # fmt: skip
CHAT = (*SAMPLED, "messages", "n", "stop", "max_tokens", "max_completion_tokens", "reasoning_effort",
        "response_format", "tools", "tool_choice", "logprobs", "top_logprobs", "stream_options", "model", "metadata",
        "user", HALF)  # fmt: skip
RESPONSES = (*SAMPLED, "input", "instructions", "max_output_tokens", "reasoning", "text", "tools", "tool_choice",
             "include", "top_logprobs", "metadata", "user", "store", "model", "prompt", "previous_response_id",
             "conversation", "background", "truncation", "max_tool_calls", "context_management",
             "prompt_cache_key")  # fmt: skip
COMPLETIONS = (*SAMPLED, "prompt", "n", "stop", "stop_token_ids", "max_tokens", "echo", "logprobs", "prompt_logprobs",
               "stream_options", "model", "suffix")  # fmt: skip
RUN = {"run_id": "tiny-1", "config": RUN_CONFIG}
EXPORT = {"run_id": "export-1", "config": {"adapter": "a", "to": "peft", "out": "/tmp/x"}}

ROUTES = {
    "/v1/chat/completions": (BASIC, CHAT),
    "/v1/responses": ({"model": "prod", "input": "Hi"}, RESPONSES),
    "/v1/responses/input_tokens": ({"model": "prod", "input": "Hi"}, RESPONSES),
    "/v1/conversations": ({}, ("items", "metadata", HALF)),
    "/v1/conversations/x/items": ({"items": []}, ("items",)),
    "/v1/completions": ({"model": "prod", "prompt": "Hi"}, COMPLETIONS),
    "/v1/load_lora_adapter": ({"lora_name": "x"}, ("lora_name", "lora_path")),
    "/v1/unload_lora_adapter": ({"lora_name": "x"}, ("lora_name",)),
    "/api/aliases/prod": ({}, ("adapter", "back", HALF)),
    "/api/adapters/x/load": ({"seconds": 1}, ("seconds", "hold")),
    "/api/adapters/x/unload": ({"hold": "x"}, ("hold",)),
    "/api/slots/0/quarantine": ({"reason": "x"}, ("reason", HALF)),
    "/api/runs": (RUN, ("run_id", "config", "priority", "slot_wanted", "parent")),
    "/api/exports": (EXPORT, ("run_id", "config", "priority", "slot_wanted")),
}


@pytest.fixture(scope="module")
def server(one_for_all: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=one_for_all.url, timeout=10) as client:
        yield client


def told(server: httpx.Client, path: str, body: object) -> tuple[int, str]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = server.post(path, content=content, headers={"content-type": "application/json"})
    return response.status_code, response.text


@pytest.mark.parametrize("path", ROUTES)
def test_no_value_of_any_field_is_an_error_of_the_server(server, path):
    whole, fields = ROUTES[path]
    streams = path.removeprefix("/v1/") in ("chat/completions", "responses", "completions")
    for number, (field, value) in enumerate(itertools.product(fields, NASTY)):
        more = {"stream": True} if streams and number % 2 else {}
        more |= {"run_id": f"tiny-{number}"} if "run_id" in whole else {}
        status, text = told(server, path, whole | more | {field: value})
        assert status < 500 and "internal error" not in text, (field, value, text)


@pytest.mark.parametrize("path", ROUTES)
def test_no_body_is_an_error_of_the_server(server, path):
    bodies = (
        b"", b"{", b"[]", b"1", b"null", b'"x"', b"\xff\xfe", b"\xed\xa0\x80", b'{"model": "\xed\xa0\x80"}',
        DEEP.encode(), b'{"a":' * 900 + b"1" + b"}" * 900, b'{"model":' + b"9" * 5_000 + b"}",
    )  # fmt: skip
    for body in bodies:
        status, text = told(server, path, body)
        assert 400 <= status < 500, (body[:20], text)


@pytest.mark.parametrize("depth", [100, 400, 900, 5_000, 100_000])
def test_arguments_and_schemas_nested_too_deep_are_refused_by_name(server, depth):
    def asked(path: str, body: dict) -> None:
        status, text = told(server, path, body)
        assert status in (200, 400), text
        assert status == 200 or json.loads(text)["error"]["param"] is not None

    nested = "[" * depth + "]" * depth
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": nested}}
    turns = [*ASK, {"role": "assistant", "tool_calls": [call]}]
    asked("/v1/chat/completions", BASIC | {"messages": turns})
    item = {"type": "function_call", "call_id": "c", "name": "f", "arguments": nested}
    asked("/v1/responses", {"model": "prod", "input": [{"role": "user", "content": "Hi"}, item]})


def test_unclosed_arguments_are_text_like_any_other(server):
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": DEEP}}
    result = {"role": "tool", "tool_call_id": "c", "content": "no JSON"}
    body = BASIC | {"messages": [*ASK, {"role": "assistant", "tool_calls": [call]}, result]}
    status, text = told(server, "/v1/chat/completions", body)
    assert status == 200, text


def test_numbers_that_the_ledger_cannot_hold_are_refused_by_name(server):
    steps = RUN_CONFIG | {"training": RUN_CONFIG["training"] | {"max_steps": 2**63}}
    for body, named in ((RUN | {"priority": 2**63}, "priority"), (RUN | {"config": steps}, "max_steps")):
        status, text = told(server, "/api/runs", body | {"run_id": f"big-{named.replace('_', '-')}"})
        assert status == 400 and named in json.loads(text)["error"]["param"], text


def test_half_a_character_comes_back_as_the_sign_for_one(server):
    body = {"model": "prod", "input": "Hi", "metadata": {"k" + HALF: "v" + HALF + "w"}}
    status, text = told(server, "/v1/responses", body)
    assert status == 200 and json.loads(text)["metadata"] == {"k\ufffd": "v\ufffdw"}
    status, text = told(server, "/v1/responses", body | {"stream": True})
    assert status == 200 and "response.completed" in text
    status, text = told(server, "/api/aliases/prod", {"adapter": "a" + HALF})
    assert status == 404 and "a\ufffd" in json.loads(text)["error"]["message"]
    status, text = told(
        server, "/v1/chat/completions", BASIC | {"metadata": {"pair": "\U0001f642"}, "user": "\U0001f642"}
    )
    assert status == 200


def test_a_token_id_of_thousands_of_digits_is_refused_by_name(server):
    status, text = told(server, "/v1/completions", {"model": "prod", "prompt": "Hi", "logit_bias": {"9" * 5_000: 1}})
    assert status == 400 and json.loads(text)["error"]["param"] == "logit_bias"
