"""What is wrong with a body is said in plain words, at its place in the body, without pydantic's names."""

import json

import pytest

from configs.errors import RequestError
from serve.anthropic import request as anthropic
from serve.openai import models
from serve.openai.chat import request as chat
from serve.openai.completions import request as completions
from serve.openai.responses import request as responses
from tests.gateway_server import BASIC, Server
from tests.samples import RUN_CONFIG

COMPLETION = {"model": "prod", "prompt": "Hi"}
MESSAGE = {"model": "prod", "max_tokens": 1}
RESPONSE = {"model": "prod", "input": "Hi"}
ALLOWED = {"type": "allowed_tools"}
MODES = "'auto', 'none' or 'required'"
FORMAT = "json_schema goes with the type json_schema, and only with it"


@pytest.mark.parametrize(
    ("parse", "body", "sentence", "param"),
    [
        (chat, BASIC | {"tool_choice": {"type": "function"}}, "tool_choice.function: Field required", "tool_choice"),
        (
            chat,
            BASIC | {"tool_choice": {"type": "function", "function": {"name": 5}}},
            "tool_choice.function.name: Input should be a text, not 5",
            "tool_choice",
        ),
        (
            chat,
            BASIC | {"tool_choice": {"type": "function", "function": {"name": "f"}, "function2": 1}},
            "tool_choice.function2 is not supported",
            "tool_choice",
        ),
        (chat, BASIC | {"tool_choice": ALLOWED}, "tool_choice.allowed_tools: Field required", "tool_choice"),
        (
            chat,
            BASIC | {"tool_choice": ALLOWED | {"allowed_tools": {"mode": "auto", "tools": []}}},
            "tool_choice.allowed_tools.tools: Input should not be empty, not []",
            "tool_choice",
        ),
        (
            chat,
            BASIC | {"tool_choice": {"type": "custom"}},
            "tool_choice.type: Input should be 'function' or 'allowed_tools', not \"custom\"",
            "tool_choice",
        ),
        (chat, BASIC | {"tool_choice": "any"}, f'tool_choice: Input should be {MODES}, not "any"', "tool_choice"),
        (
            chat,
            BASIC | {"tool_choice": 5},
            f"tool_choice: Input should be {MODES} or an object, not 5",
            "tool_choice",
        ),
        (
            anthropic,
            MESSAGE | {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi", "name": "a"}]}]},
            "messages[0].content[0].name is not supported",
            "messages",
        ),
        (
            anthropic,
            MESSAGE | {"messages": [{"role": "user", "content": [{"type": "search_result", "source": "a"}]}]},
            "messages[0].content[0].title: Field required",
            "messages",
        ),
        (chat, BASIC | {"stop": 5}, "stop: Input should be a text or a list, not 5", "stop"),
        (chat, BASIC | {"stop": ["a", 5]}, "stop[1]: Input should be a text, not 5", "stop"),
        (chat, BASIC | {"messages": []}, "messages: Input should not be empty, not []", "messages"),
        (chat, BASIC | {"messages": ["Hi"]}, 'messages[0]: Input should be an object, not "Hi"', "messages"),
        (chat, BASIC | {"response_format": 5}, "response_format: Input should be an object, not 5", "response_format"),
        (chat, BASIC | {"response_format": {"type": "json_schema"}}, f"response_format: {FORMAT}", "response_format"),
        (
            completions,
            COMPLETION | {"prompt": [1, -2]},
            "prompt[1]: Input should be greater than or equal to 0, not -2",
            "prompt",
        ),
        (
            completions,
            COMPLETION | {"prompt": 5},
            "prompt: is neither a text, nor a list of token ids, nor a list of one of the two",
            "prompt",
        ),
        (completions, COMPLETION | {"max_tokens": 0}, "max_tokens is 0, so ask for echo or prompt_logprobs", None),
        (
            responses,
            RESPONSE | {"tool_choice": {"type": "function"}},
            "tool_choice.name: Field required",
            "tool_choice",
        ),
        (models, {"lora_name": "x", "lora_pth": "y"}, "lora_pth is not supported", "lora_pth"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_told_at_its_place(parse, body, sentence, param):
    with pytest.raises(RequestError) as caught:
        getattr(parse, "parse_request", models.parse_load)(body)
    assert (caught.value.message, caught.value.param) == (sentence, param)


DEEP = b'{"a":' + b"[" * 2_000 + b"]" * 2_000 + b"}"


@pytest.mark.parametrize(
    ("path", "body", "message", "param"),
    [
        ("/v1/chat/completions", b"null", "the body is a JSON null, not an object", None),
        ("/v1/chat/completions", b"[" * 100_000 + b"]" * 100_000, "the body is nested too deep -> send it with", None),
        ("/v1/chat/completions", b"{", "the body is not JSON: Expecting property name", None),
        ("/api/aliases/prod", b"{}", "name an adapter or back, one of the two", None),
        ("/api/aliases/prod", b'{"adpater": "base"}', "adpater is not supported", "adpater"),
        ("/api/aliases/prod", b'{"adapter": 5}', "adapter: Input should be a text, not 5", "adapter"),
        ("/api/aliases/prod", b"[]", "the body: Input should be an object, not []", None),
        ("/api/aliases/prod", b"", "the body is missing", None),
        ("/api/aliases/prod", b"{", "the body is not JSON: Expecting property name", None),
        ("/api/aliases/prod", DEEP, "the body is nested too deep", None),
        ("/api/aliases/prod", b'{"a": "' + b"\xff" + b'"}', "the body is not JSON in UTF-8", None),
        ("/api/slots/0/quarantine", b"{}", "reason: Field required", "reason"),
    ],
)
def test_every_route_tells_in_plain_words_what_is_wrong(path, body, message, param, refusing: Server):
    form = {"content-type": "application/x-www-form-urlencoded"}  # as curl -d has it
    for headers in ({"content-type": "application/json"}, {}, form, {"content-type": "multipart/form-data"}):
        response = refusing.post(path, content=body, headers=headers)
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (400, param), headers
        assert error["message"].startswith(message)


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", "application/xml", "nonsense"])
def test_a_body_of_json_is_taken_whatever_its_content_type_says(kind, server: Server):
    for path, body in (("/v1/chat/completions", BASIC), ("/api/slots/1/quarantine", {"reason": "the GPU is needed"})):
        response = server.post(path, content=json.dumps(body), headers={"content-type": kind})
        assert response.status_code == 200, response.text


def test_thousands_of_wrong_items_are_one_complaint():
    with pytest.raises(RequestError) as caught:
        chat.parse_request(BASIC | {"stop": ["a"] + [5] * 20_000})
    assert caught.value.message == "stop[1]: Input should be a text, not 5"


def test_a_field_of_a_configuration_is_named_whole(refusing: Server):
    config = RUN_CONFIG | {"lora": {"rank": 4}}
    error = refusing.post("/api/runs", {"run_id": "a", "config": config}).json()["error"]
    assert (error["message"], error["param"]) == ("config.lora.rank is not supported", "config.lora.rank")
