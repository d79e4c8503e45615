"""Other servers' ways to say what the routes know, and what becomes of them; formats only."""

import pytest

from configs.errors import RequestError
from serve import request_log
from serve.openai.chat import request as chat
from serve.openai.completions import request as completions

USER = {"role": "user", "content": "Hi"}
BASIC = {"model": "prod", "messages": [USER]}
COMPLETION = {"model": "prod", "prompt": "Hi"}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.fixture
def exchange():
    """The request whose headers name what was asked for in vain."""
    current = request_log.Exchange("x")
    token = request_log._EXCHANGE.set(current)
    yield current
    request_log._EXCHANGE.reset(token)


@pytest.mark.parametrize(
    ("asked", "field", "value"),
    [
        ({"repeat_penalty": 1.1}, "repetition_penalty", 1.1),
        ({"num_predict": 7}, "most_tokens", 7),
        ({"num_predict": -1}, "most_tokens", None),
        ({"think": "high"}, "reasoning_effort", "high"),
        ({"think": True}, "reasoning_effort", "medium"),
        ({"reasoning": {"effort": "low", "exclude": True}}, "include_reasoning", False),
        ({"reasoning": {"effort": "low", "enabled": True}}, "reasoning_effort", "low"),
        ({"chat_template_kwargs": {"reasoning_effort": "high"}}, "reasoning_effort", "high"),
        ({"chat_template_kwargs": {"enable_thinking": True}}, "reasoning_effort", "medium"),
        ({"chat_template_kwargs": {"add_generation_prompt": False}}, "add_generation_prompt", False),
        ({"verbosity": "medium"}, "reasoning_effort", "medium"),
    ],
)
def test_what_means_something_here_is_done(asked, field, value, exchange):
    assert getattr(chat.parse_request(BASIC | asked), field) == value
    assert (exchange.ignored, exchange.mapped) == ([], {})


@pytest.mark.parametrize(
    ("asked", "effort", "mapped"),
    [
        ({"reasoning_effort": "none"}, "low", {"reasoning_effort": "none->low"}),
        ({"reasoning_effort": "minimal"}, "low", {"reasoning_effort": "minimal->low"}),
        ({"reasoning_effort": "xhigh"}, "high", {"reasoning_effort": "xhigh->high"}),
        ({"think": False}, "low", {"think": "false->low"}),
        ({"reasoning": {"enabled": False}}, "low", {"reasoning.enabled": "false->low"}),
        (
            {"chat_template_kwargs": {"enable_thinking": False}},
            "low",
            {"chat_template_kwargs.enable_thinking": "false->low"},
        ),
        ({"verbosity": "low"}, "medium", {"verbosity": "low->medium"}),
    ],
)
def test_what_the_model_cannot_do_is_mapped_to_the_nearest_and_named(asked, effort, mapped, exchange):
    assert chat.parse_request(BASIC | asked).reasoning_effort == effort
    assert (exchange.ignored, exchange.mapped) == ([], mapped)


@pytest.mark.parametrize(
    ("asked", "ignored"),
    [
        ({"chat_template_kwargs": {"tone": "kind", "reasoning_effort": "low"}}, ["chat_template_kwargs.tone"]),
        ({"reasoning": {"max_tokens": 5}}, ["reasoning.max_tokens"]),
        ({"think": "high", "reasoning_effort": "low"}, ["think"]),
        ({"think": False, "reasoning_effort": "low"}, ["think"]),
        ({"num_predict": 5, "max_tokens": 9}, ["num_predict"]),
        ({"repeat_penalty": 1.5, "repetition_penalty": 1.0}, ["repeat_penalty"]),
        ({"guided_choice": ["a"], "structured_outputs": {"regex": "b"}}, ["guided_choice"]),
        ({"structured_outputs": {"regex": "b", "whitespace_pattern": " "}}, ["structured_outputs.whitespace_pattern"]),
    ],
)
def test_what_has_no_effect_is_named(asked, ignored, exchange):
    request = chat.parse_request(BASIC | asked)
    assert (request.reasoning_effort, request.most_tokens) in (("low", None), ("medium", None), ("medium", 9))
    assert exchange.ignored == ignored


@pytest.mark.parametrize(
    ("asked", "param", "message"),
    [
        ({"think": "hard"}, "reasoning_effort", "'low', 'medium' or 'high'"),
        ({"think": 1}, "reasoning_effort", "'low', 'medium' or 'high'"),
        ({"reasoning": "low"}, "reasoning", "Input should be an object"),
        ({"reasoning": {"efort": "low"}}, "reasoning", "reasoning.efort is not supported"),
        ({"chat_template_kwargs": []}, "chat_template_kwargs", "Input should be an object"),
        ({"chat_template_kwarg": {}}, "chat_template_kwarg", "did you mean 'chat_template_kwargs'?"),
        ({"guided_regx": "a"}, "guided_regx", "did you mean 'guided_regex'?"),
        ({"format": "yaml"}, "format", 'neither "json" nor a JSON Schema'),
        (
            {"guided_json": {"type": "object"}, "guided_regex": "a"},
            "structured_outputs",
            "json and regex are both given",
        ),
        ({"guided_json": "{"}, "structured_outputs", "is not JSON"),
        ({"guided_choice": []}, "structured_outputs", "structured_outputs.choice: Input should not be empty"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs", "structural_tag is not supported"),
        ({"guided_grammar": 'root ::= "a" b'}, "structured_outputs", "Rule 'b' not found"),
        (
            {"guided_regex": "a", "response_format": {"type": "json_object"}},
            "structured_outputs",
            "response_format and structured_outputs are both given",
        ),
        ({"guided_regex": "a", "ignore_eos": True}, "ignore_eos", "ignore_eos does not go with structured_outputs"),
        ({"guided_regex": "a", "allowed_token_ids": [5]}, "allowed_token_ids", "does not go with structured_outputs"),
        ({"chat_template": "{{ messages }}" * 50}, "chat_template", "is not supported"),
        ({"use_beam_search": True}, "use_beam_search", "is not supported"),
        ({"continue_final_message": True}, None, "needs a last message of the assistant's"),
        ({"continue_final_message": True, "add_generation_prompt": True}, None, "does not go with"),
    ],
)
def test_what_means_nothing_is_refused_by_name(asked, param, message):
    with pytest.raises(RequestError) as caught:
        chat.parse_request(BASIC | asked).constraint()
    assert message in caught.value.sentence and len(caught.value.sentence) < 250
    assert caught.value.param == param


@pytest.mark.parametrize(
    "asked",
    [
        {"response_format": {"type": "json_object", "schema": SCHEMA}},
        {"response_format": {"type": "json_schema", "schema": SCHEMA}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}},
        {"format": SCHEMA},
        {"guided_json": SCHEMA},
        {"guided_json": '{"type": "object", "properties": {"a": {"type": "integer"}}}'},
        {"structured_outputs": {"json": SCHEMA}},
    ],
)
def test_every_way_to_give_a_schema_is_the_same(asked):
    request = chat.parse_request(BASIC | asked)
    assert request.held[0] == SCHEMA
    assert request.format_description.startswith("# Response Formats\n\n## answer\n\n")
    assert completions.parse_request(COMPLETION | asked).held[0] == SCHEMA


def test_json_without_a_schema_has_as_many_ways():
    for asked in ({"format": "json"}, {"guided_json_object": True}, {"response_format": {"type": "json_object"}}):
        assert chat.parse_request(BASIC | asked).held[0] == {"type": "object"}


@pytest.mark.parametrize(
    ("details", "reasoning"),
    [
        ([{"type": "reasoning.text", "text": "Hm"}, {"type": "reasoning.text", "text": "m."}], "Hmm."),
        ([{"type": "reasoning.summary", "summary": "Thought."}], "Thought."),
    ],
)
def test_reasoning_in_details_is_an_earlier_answers_reasoning(details, reasoning, exchange):
    answer = {"role": "assistant", "content": "Hello.", "reasoning_details": details}
    request = chat.parse_request(BASIC | {"messages": [USER, answer, USER]})
    assert request.messages[1] == {"role": "assistant", "content": "Hello.", "reasoning": reasoning}
    request = chat.parse_request(BASIC | {"messages": [USER, answer | {"reasoning": "Own."}, USER]})
    assert request.messages[1] == {"role": "assistant", "content": "Hello.", "reasoning": "Own."}
    assert exchange.ignored == []


def test_reasoning_that_nobody_here_can_read_is_left_out_and_named(exchange):
    answer = {
        "role": "assistant",
        "content": "Hello.",
        "reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}],
    }
    request = chat.parse_request(BASIC | {"messages": [USER, answer, USER]})
    assert request.messages[1] == {"role": "assistant", "content": "Hello."}
    assert exchange.ignored == ["messages[1].reasoning_details"]


@pytest.mark.parametrize(
    ("asked", "answer", "kept"),
    [
        ({}, 5, [1, 2, 3, 4, 5, 6]),
        ({"truncate_prompt_tokens": 9}, None, [1, 2, 3, 4, 5, 6]),
        ({"truncate_prompt_tokens": 2}, None, [5, 6]),
        ({"truncate_prompt_tokens": 2, "truncation_side": "right"}, None, [1, 2]),
        ({"truncate_prompt_tokens": -1}, 3, [6]),
        ({"truncate_prompt_tokens": -1}, None, [4, 5, 6]),
        ({"truncate_prompt_tokens": -1}, 50, [6]),
        ({"truncate_prompt_tokens": 0}, None, []),
    ],
)
def test_a_prompt_is_truncated_to_what_is_asked_for_or_to_what_leaves_room(asked, answer, kept):
    assert completions.parse_request(COMPLETION | asked).truncated([1, 2, 3, 4, 5, 6], 4, answer) == kept
