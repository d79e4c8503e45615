"""The body of a chat request: what comes in is honoured or refused by name."""

import json

import pytest

from configs.errors import RequestError
from serve.engine.sampling import SamplingParams
from serve.openai.chat.request import ChatRequest, parse_request

BASIC = {"model": "prod", "messages": [{"role": "user", "content": "Hi"}]}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}
NESTED: list = []
for _ in range(2000):
    NESTED = [NESTED]


def test_a_request_carries_every_supported_parameter():
    request = parse_request(
        BASIC
        | {
            "stream": True, "stream_options": {"include_usage": True}, "temperature": 0, "top_p": 0.9, "top_k": 5,
            "min_p": 0.1, "presence_penalty": 1, "frequency_penalty": -1, "repetition_penalty": 1.1, "seed": 3,
            "stop": "END", "max_tokens": 9, "reasoning_effort": "high", "tools": [TOOL], "tool_choice": "auto",
            "logprobs": True, "top_logprobs": 2, "logit_bias": {"5": -1.5}, "n": 1, "return_token_ids": True,
        }
    )  # fmt: skip
    assert request.stream
    assert request.stream_options.include_usage
    assert request.reasoning_effort == "high"
    assert request.offered_tools == [TOOL]
    assert (request.scored, request.return_token_ids) == (2, True)
    assert request.samplings([7, 8]) == [
        SamplingParams(
            temperature=0, top_p=0.9, top_k=5, min_p=0.1, presence_penalty=1, frequency_penalty=-1, seed=3,
            repetition_penalty=1.1, stop=("END",), max_tokens=9, stop_token_ids=(7, 8), logit_bias=((5, -1.5),),
        )
    ]  # fmt: skip


def test_defaults_are_openais_and_null_means_default():
    nulls = dict.fromkeys(["temperature", "stop", "tools", "stream_options", "n", "response_format", "seed"])
    assert parse_request(json.dumps(BASIC | nulls)) == ChatRequest(**BASIC)
    assert ChatRequest(**BASIC).samplings(()) == [SamplingParams()]
    assert (ChatRequest(**BASIC).constraint(), ChatRequest(**BASIC).scored) == (None, None)


def test_max_completion_tokens_is_the_newer_name_and_wins():
    assert parse_request(BASIC | {"max_completion_tokens": 5, "max_tokens": 9}).samplings(())[0].max_tokens == 5


def test_tool_choice_none_offers_no_tools():
    assert parse_request(BASIC | {"tools": [TOOL], "tool_choice": "none"}).offered_tools == []


def test_metadata_and_neutral_values_are_accepted():
    parse_request(
        BASIC
        | {
            "user": "u", "metadata": {"a": "b"}, "store": True, "service_tier": "auto", "parallel_tool_calls": True,
            "n": 1, "logprobs": False, "response_format": {"type": "text"}, "logit_bias": {}, "modalities": ["text"],
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 9),
        ("n", 0),
        ("response_format", {"type": "xml"}),
        ("response_format", {"type": "json_schema"}),
        ("response_format", {"type": "json_schema", "json_schema": {"name": "a"}}),
        ("response_format", {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}),
        ("response_format", {"type": "json_schema", "json_schema": {"name": "a", "schema": True}}),
        ("response_format", {"type": "text", "json_schema": {"name": "a", "schema": {}}}),
        ("logprobs", 1),
        ("top_logprobs", 3),
        ("logit_bias", {"five": 1}),
        ("logit_bias", {"5": "much"}),
        ("audio", {"voice": "alloy", "format": "wav"}),
        ("modalities", ["text", "audio"]),
        ("functions", [{"name": "f"}]),
        ("web_search_options", {}),
        ("verbosity", "loud"),
        ("tool_choice", "any"),
        ("tool_choice", {"type": "function", "function": {}}),
        ("tool_choice", {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}),
        ("reasoning_effort", "hard"),
        ("temperature", "warm"),
        ("max_tokens", 0),
        ("max_completion_tokens", 0),
        ("messages", []),
        ("messages", "Hi"),
        ("temperature", NESTED),
        ("temprature", 0.5),
        ("stop", 5),
    ],
)
def test_what_would_change_the_answer_is_refused_by_name(field, value):
    with pytest.raises(RequestError, match=f"^{field}") as caught:
        parse_request(BASIC | {field: value})
    assert caught.value.param == field


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"{", "not JSON"),
        (b"[]", "a JSON list"),
        (b"\xff", "not JSON"),
        (b"[" * 10**5, "nested too deep"),
        (b"null", "a JSON null, not an object"),
    ],
)
def test_a_body_that_is_no_object_is_refused(body, complaint):
    with pytest.raises(RequestError, match=complaint):
        parse_request(body)


def test_a_missing_field_is_named():
    with pytest.raises(RequestError, match="model: Field required") as caught:
        parse_request({"messages": BASIC["messages"]})
    assert caught.value.param == "model"


def test_a_value_out_of_bounds_is_refused_by_name():
    with pytest.raises(RequestError) as caught:
        parse_request(BASIC | {"top_p": 2.0}).samplings(())
    assert caught.value.param == "top_p"
    with pytest.raises(RequestError) as caught:
        parse_request(BASIC | {"logit_bias": {"5": 101}}).samplings(())
    assert caught.value.param == "logit_bias"


def test_top_logprobs_go_up_to_twenty_and_with_logprobs():
    assert parse_request(BASIC | {"logprobs": True, "top_logprobs": 20}).scored == 20
    assert parse_request(BASIC | {"logprobs": True}).scored == 0
    with pytest.raises(RequestError) as caught:
        parse_request(BASIC | {"logprobs": True, "top_logprobs": 21})
    assert caught.value.param == "top_logprobs"


def test_choices_have_different_seeds_that_the_requests_seed_decides():
    seeds = [sampling.seed for sampling in parse_request(BASIC | {"n": 4, "seed": 7}).samplings(())]
    assert seeds[0] == 7
    assert len(set(seeds)) == 4
    assert seeds == [sampling.seed for sampling in parse_request(BASIC | {"n": 4, "seed": 7}).samplings(())]
    assert [sampling.seed for sampling in parse_request(BASIC | {"n": 2}).samplings(())] == [None, None]


@pytest.mark.parametrize(
    ("tools", "choice", "complaint"),
    [
        ([], "required", "tools is empty"),
        ([TOOL], {"type": "function", "function": {"name": "get_time"}}, "'get_time', which is not one of the tools"),
    ],
)
def test_a_call_that_cannot_be_made_cannot_be_required(tools, choice, complaint):
    with pytest.raises(RequestError, match=complaint) as caught:
        parse_request(BASIC | {"tools": tools, "tool_choice": choice}).constraint()
    assert caught.value.param == "tool_choice"


def test_only_what_has_to_be_held_to_something_gets_a_grammar():
    strict = {"type": "function", "function": TOOL["function"] | {"strict": True}}
    held = [
        {"response_format": {"type": "json_object"}},
        {"tools": [TOOL], "tool_choice": "required"},
        {"tools": [TOOL]},
        {"tools": [strict]},
        {"tools": [TOOL], "tool_choice": "none"},
    ]
    for fields in held:
        assert parse_request(BASIC | fields).constraint().grammar
    for fields in (
        {"tools": [TOOL], "min_tokens": 2},
        {"response_format": {"type": "text"}},
    ):
        assert parse_request(BASIC | fields).constraint() is None
