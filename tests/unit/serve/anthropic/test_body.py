"""Anthropic's body as the chat request that it stands for: messages, blocks, tools, thinking, and what is refused."""

import asyncio
import json

import pytest
import torch

from configs.errors import RequestError
from serve.anthropic import request as anthropic
from serve.anthropic.input import seal
from serve.engine.grammar import Grammars, mask
from serve.request_log import _EXCHANGE, Exchange
from tests.gateway_server import TOKENIZER, tokens

HI = {"role": "user", "content": "Hi"}
BASIC = {"model": "prod", "max_tokens": 100, "messages": [HI]}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "get_weather", "description": "Weather.", "input_schema": SCHEMA}
USE = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Rome"}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1"}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0K"}}


def chat(**fields):
    return anthropic.parse_request(BASIC | fields).chat()


def messages(*said, **fields):
    return chat(messages=list(said), **fields).messages


def refusal(**fields) -> RequestError:
    with pytest.raises(RequestError) as caught:
        anthropic.parse_request(BASIC | fields).chat()
    return caught.value


@pytest.fixture
def exchange():
    """What the answer's headers will say."""
    _EXCHANGE.set(one := Exchange("a"))
    yield one
    _EXCHANGE.set(None)


def user(*blocks):
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks):
    return {"role": "assistant", "content": list(blocks)}


def text(said, **more):
    return {"type": "text", "text": said} | more


# Messages


def test_texts_and_blocks_of_text_are_chat_messages():
    found = messages(HI, assistant(text("Hello."), text("And?")), user(text("Go", cache_control={"type": "ephemeral"})))
    assert found == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello.\n\nAnd?"},
        {"role": "user", "content": "Go"},
    ]


@pytest.mark.parametrize("system", ["Be brief.\n\nBe kind.", [text("Be brief."), text("Be kind.", citations=None)]])
def test_the_system_prompt_comes_first_as_text_or_as_blocks(system):
    assert messages(HI, system=system)[0] == {"role": "system", "content": "Be brief.\n\nBe kind."}


def test_what_claude_code_tells_of_itself_is_no_part_of_the_prompt():
    told = [text("x-anthropic-billing-header: cc_version=2.1.197.123; cc_entrypoint=cli;"), text("Be brief.")]
    assert messages(HI, system=told)[0]["content"] == "Be brief."
    assert messages(HI, system=told[:1]) == [HI]


def test_a_system_message_may_come_anywhere():
    found = messages(HI, {"role": "system", "content": [text("Now in French.")]}, assistant(text("Salut.")), HI)
    assert [message["role"] for message in found] == ["user", "system", "assistant", "user"]
    assert found[1]["content"] == "Now in French."


def test_messages_of_one_role_in_a_row_are_one_turn():
    assert messages(HI, user(text("there")), assistant(text("A")), assistant(text("B")), HI) == [
        {"role": "user", "content": "Hi\n\nthere"},
        {"role": "assistant", "content": "A\n\nB"},
        HI,
    ]


def test_an_answer_that_says_nothing_is_left_out():
    assert messages(HI, assistant(), {"role": "assistant", "content": ""}, HI) == [HI, HI]


def test_thinking_and_calls_and_their_results_are_chats():
    thought = {"type": "thinking", "thinking": "Ask.", "signature": "any"}
    found = messages(
        HI,
        assistant({"type": "redacted_thinking", "data": "xyz"}, thought, text("Let me see."), USE | {"caller": None}),
        user(RESULT | {"content": "sunny"}, text("Well?")),
        tools=[WEATHER],
    )
    (call,) = found[1].pop("tool_calls")
    assert (call["id"], call["type"], call["function"]["name"]) == ("toolu_1", "function", "get_weather")
    assert json.loads(call["function"]["arguments"]) == {"city": "Rome"}
    assert found[1:] == [
        {"role": "assistant", "content": "Let me see.", "reasoning_content": "Ask."},
        {"role": "tool", "tool_call_id": "toolu_1", "content": "sunny"},
        {"role": "user", "content": "Well?"},
    ]


def test_thinking_that_was_not_shown_comes_back_from_its_signature():
    for signature, said in ((seal("Grüße 🙂"), {"reasoning_content": "Grüße 🙂"}), ("EqQB", {}), ("tandem-text:%", {})):
        block = {"type": "thinking", "thinking": "", "signature": signature}
        assert messages(HI, assistant(block, text("A")), HI)[1] == {"role": "assistant", "content": "A"} | said


@pytest.mark.parametrize(
    ("block", "read"),
    [
        ({}, ""),
        ({"content": "a\nb"}, "a\nb"),
        ({"content": [text("a"), text("b")]}, "a\n\nb"),
        ({"content": "no such file", "is_error": True}, "Error: no such file"),
        ({"content": [text("Error: none")], "is_error": True}, "Error: none"),
        ({"content": "fine", "is_error": False}, "fine"),
        ({"content": [{"type": "tool_reference", "tool_name": "get_weather"}]}, "The tool get_weather may be called."),
        (
            {"content": [{"type": "search_result", "title": "T", "source": "S", "content": [text("a")]}]},
            "T\nS\na",
        ),
    ],
)
def test_a_tools_result_is_read_as_text(block, read):
    assert messages(HI, assistant(USE), user(RESULT | block), tools=[WEATHER])[-1] == {
        "role": "tool",
        "tool_call_id": "toolu_1",
        "content": read,
    }


@pytest.mark.parametrize(
    "source",
    [
        {"type": "text", "media_type": "text/plain", "data": "Rome is a city."},
        {"type": "content", "content": "Rome is a city."},
        {"type": "content", "content": [text("Rome is a city.")]},
    ],
)
def test_a_document_of_text_is_read(source):
    document = {"type": "document", "source": source, "title": "On Rome", "citations": {"enabled": True}}
    assert messages(user(document, text("What is it?")))[0]["content"] == "On Rome\nRome is a city.\n\nWhat is it?"


def test_results_come_before_the_words_beside_them_and_in_their_own_order():
    first, second = USE, USE | {"id": "toolu_2"}
    found = messages(
        HI,
        assistant(first, second),
        user(text("Here:"), RESULT | {"tool_use_id": "toolu_2", "content": "b"}, RESULT | {"content": "a"}),
        tools=[WEATHER],
    )
    assert [(each["role"], each["content"]) for each in found[2:]] == [("tool", "b"), ("tool", "a"), ("user", "Here:")]


# Images and files


@pytest.mark.parametrize(
    ("said", "place"),
    [
        ([user(text("What?"), IMAGE)], "messages[0].content[1].image"),
        ([user({"type": "document", "source": {"type": "url", "url": "http://a/b.pdf"}})],
         "messages[0].content[0].document"),
        ([HI, assistant(USE), user(RESULT | {"content": [text("a"), IMAGE]})],
         "messages[2].content[0].tool_result.content[1].image"),
    ],
)  # fmt: skip
def test_an_image_or_a_file_is_refused_by_the_place_where_claude_code_finds_it(said, place):
    error = refusal(messages=said, tools=[WEATHER])
    assert (error.message, error.param) == (f"{place}: the model reads text only", "messages")


# What does not belong together


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ([HI, assistant(USE)], "messages[1]: `tool_use` ids were found without `tool_result` blocks immediately after"),
        ([HI, assistant(USE), HI], "messages[2]: `tool_use` ids were found without"),
        ([HI, user(RESULT)], "messages[0]: unexpected `tool_use_id` found in `tool_result` blocks: toolu_1"),
        ([HI, assistant(USE), user(RESULT, RESULT)], "messages[2]: unexpected `tool_use_id`"),
        ([user(USE)], "messages[0]: tool_use blocks do not belong into a message of role user"),
        ([HI, assistant(RESULT)], "messages[1]: tool_result blocks do not belong into a message of role assistant"),
        ([{"role": "tool", "content": "a"}], "messages[0].role: Input should be 'user', 'assistant' or 'system'"),
        ([{"role": "user"}], "messages[0].content: Field required"),
        ([user({"type": "audio"})], "messages[0].content[0].type: Input should be one of 'text', "),
        ([user({"text": "a"})], "messages[0].content[0].type: Field required"),
        ([user(text("a", txt="b"))], "messages[0].content[0].txt is not supported"),
        ([user(RESULT | {"content": [{"type": "text"}]})], "messages[0].content[0].content[0].text: Field required"),
        ([HI | {"name": "Ann"}], "messages[0].name is not supported"),
        ([], "messages: Input should not be empty"),
    ],
)
def test_a_conversation_that_cannot_be_is_refused_by_its_place(said, why):
    error = refusal(messages=said, tools=[WEATHER])
    assert error.message.startswith(why) and error.param == "messages"


# Tools


def test_tools_and_the_choice_among_them_are_chats():
    one = chat(
        tools=[WEATHER | {"type": "custom", "strict": True}, {"name": "now", "input_schema": {"type": "object"}}]
    )
    assert one.offered_tools == [
        {"type": "function", "function": {"name": "get_weather", "description": "Weather.", "parameters": SCHEMA,
                                          "strict": True}},
        {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}},
    ]  # fmt: skip
    tools = [WEATHER]
    assert chat(tools=tools, tool_choice={"type": "auto", "disable_parallel_tool_use": True}).tool_choice == "auto"
    assert chat(tools=tools, tool_choice={"type": "any"}).tool_choice == "required"
    assert chat(tools=tools, tool_choice={"type": "none"}).offered_tools == []
    named = chat(tools=tools, tool_choice={"type": "tool", "name": "get_weather"}).tool_choice
    assert named.function.name == "get_weather"


@pytest.mark.parametrize(
    ("tools", "why"),
    [
        ([{"type": "web_search_20250305", "name": "web_search"}],
         "tools[0]: web_search_20250305 is a tool of Anthropic's service -> declare a tool of your own"),
        ([WEATHER, {"type": "bash_20250124", "name": "bash"}], "tools[1]: bash_20250124 is a tool of Anthropic's"),
        ([{"name": "now"}], "tools[0].input_schema: Field required"),
        ([WEATHER | {"parameters": {}}], "tools[0].parameters is not supported"),
        ([WEATHER, WEATHER], "tools: 'get_weather' is declared 2 times"),
    ],
)  # fmt: skip
def test_tools_that_cannot_be_offered_are_refused_in_words(tools, why):
    error = refusal(tools=tools)
    assert error.message.startswith(why) and error.param == "tools"


def test_a_schema_that_is_nested_too_deep_is_refused_under_its_own_name():
    deep: dict = {"type": "string"}
    for _ in range(300):
        deep = {"type": "object", "properties": {"a": deep}}
    assert refusal(tools=[WEATHER | {"input_schema": deep}]).message == "tools[0].input_schema: is nested too deep"


def test_a_call_always_has_an_object_as_input():
    grammars = Grammars(TOKENIZER, len(TOKENIZER))
    now = {"name": "now", "input_schema": {"type": "object"}}

    def takes(arguments: str) -> bool:
        call = f"<|channel|>commentary to=functions.now <|constrain|>json<|message|>{arguments}<|call|>"
        matcher = asyncio.run(grammars.matcher(chat(tools=[WEATHER, now]).constraint()))
        for token in tokens(call):
            logits = torch.zeros(1, len(TOKENIZER))
            mask(logits, {0: matcher})
            if logits[0, token] < 0:
                return False
            matcher.advance(token)
        return matcher.complete

    assert takes('{"any": ["thing", 1]}') and takes("{}")
    assert not any(map(takes, ("[1]", "Rome", '"Rome"', "", '{"city": }')))


# Thinking and effort


@pytest.mark.parametrize(
    ("fields", "effort", "shown", "mapped"),
    [
        ({}, "medium", False, {}),
        ({"thinking": {"type": "adaptive"}}, "medium", True, {}),
        ({"thinking": {"type": "between_tools"}}, "medium", True, {}),
        ({"thinking": {"type": "disabled"}}, "low", False, {"thinking.type": "disabled->low"}),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "low", True,
         {"thinking.budget_tokens": "1024->low"}),
        ({"thinking": {"type": "enabled", "budget_tokens": 4096}}, "medium", True,
         {"thinking.budget_tokens": "4096->medium"}),
        ({"thinking": {"type": "enabled", "budget_tokens": 31999}}, "high", True,
         {"thinking.budget_tokens": "31999->high"}),
        ({"output_config": {"effort": "low"}}, "low", False, {}),
        ({"output_config": {"effort": "max"}}, "high", False, {"output_config.effort": "max->high"}),
        ({"output_config": {"effort": "xhigh"}, "thinking": {"type": "enabled", "budget_tokens": 1024}}, "high", True,
         {"output_config.effort": "xhigh->high"}),
        ({"output_config": {"effort": "high"}, "thinking": {"type": "disabled"}}, "low", False,
         {"thinking.type": "disabled->low"}),
    ],
)  # fmt: skip
def test_thinking_and_effort_are_the_models_nearest(exchange, fields, effort, shown, mapped):
    request = anthropic.parse_request(BASIC | fields)
    assert (request.chat().reasoning_effort, request.shows_thinking, exchange.mapped) == (effort, shown, mapped)


# Sampling, structured answers, what has no effect


def test_sampling_is_chats_and_the_models_own_values_fill_what_is_open():
    request = anthropic.parse_request(BASIC | {"temperature": 0.5, "top_k": 5, "stop_sequences": ["END", "\n\nHuman:"]})
    (sampling,) = request.with_defaults({"top_p": 0.9, "top_k": 40}).chat().samplings(())
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.max_tokens) == (0.5, 5, 0.9, 100)
    assert sampling.stop == ("END", "\n\nHuman:")


@pytest.mark.parametrize(
    "where", [lambda format: {"output_config": {"format": format}}, lambda f: {"output_format": f}]
)
def test_an_answer_may_be_held_to_a_schema(where):
    format = chat(**where({"type": "json_schema", "schema": SCHEMA})).response_format
    assert (format.type, format.definition) == ("json_schema", SCHEMA)


def test_what_has_no_effect_is_accepted_and_named(exchange):
    request = anthropic.parse_request(
        BASIC
        | {
            "metadata": {"user_id": "a"}, "service_tier": "auto", "speed": "fast", "mcp_servers": [], "container": None,
            "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
            "system": [text("Be brief.", cache_control={"type": "ephemeral"})],
            "tools": [WEATHER | {"input_examples": [{"city": "Rome"}], "eager_input_streaming": True}],
        }
    )  # fmt: skip
    assert sorted(exchange.ignored) == [
        "cache_control", "context_management", "eager_input_streaming", "input_examples", "metadata", "service_tier",
        "speed",
    ]  # fmt: skip
    assert request.chat().messages == [{"role": "system", "content": "Be brief."}, HI]


@pytest.mark.parametrize(
    ("fields", "param", "why"),
    [
        ({"max_tokens": None}, "max_tokens", "max_tokens: Field required"),
        ({"max_tokens": 0}, "max_tokens", "max_tokens: Input should be greater than or equal to 1, not 0"),
        ({"max_token": 3}, "max_token", "max_token is not supported"),
        ({"stop_sequences": [""]}, "stop_sequences", "stop_sequences is '', allowed is"),
        ({"temperature": 3.5}, "temperature", "temperature is 3.5, allowed is 0 to 2"),
        ({"mcp_servers": [{"url": "a"}]}, "mcp_servers", 'mcp_servers=[{"url": "a"}] is not supported'),
        ({"container": "c"}, "container", 'container="c" is not supported'),
        ({"tool_choice": {"type": "any"}}, "tool_choice", "tool_choice requires a call, and tools is empty"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "a"}}, "tool_choice", "tool_choice names 'a'"),
        ({"output_config": {"effort": "most"}}, "output_config", "output_config.effort: Input should be 'low', "),
    ],
)
def test_what_is_wrong_is_refused_in_this_routes_words(fields, param, why):
    with pytest.raises(RequestError) as caught:
        request = anthropic.parse_request(BASIC | fields)
        with request.in_own_words():
            asked = request.chat()
            asked.samplings(())
            asked.constraint()
    assert caught.value.message.startswith(why) and caught.value.param == param


def test_a_count_needs_no_limit_and_takes_what_a_message_takes():
    count = anthropic.parse_count({"model": "prod", "messages": [HI], "tools": [WEATHER], "system": "Be brief."})
    same = anthropic.parse_request(BASIC | {"tools": [WEATHER], "system": "Be brief."})
    assert count.chat().messages == same.chat().messages and count.chat().tools == same.chat().tools
    assert anthropic.parse_count(BASIC | {"stop_sequences": ["a"], "stream": True}).chat().messages == [HI]
