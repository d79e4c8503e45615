"""Messages and tools of a chat body: no key is ignored unless the documentation says so, and clients' echoes pass."""

import openai
import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from configs.errors import RequestError
from models import harmony
from serve.openai.chat.request import parse_request
from serve.openai.completions import request as completions
from tests.gateway_server import BASIC, TOKENIZER, Server, tokens

USER = {"role": "user", "content": "What is the weather in Rome?"}
FUNCTION = {"name": "get_weather", "arguments": '{"city": "Rome"}'}
CALL = {"id": "c", "type": "function", "function": FUNCTION}
CALLS = {"role": "assistant", "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "c", "content": "sunny"}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}
CALLED = (
    "<|channel|>analysis<|message|>Ask.<|end|>"
    '<|start|>assistant to=functions.get_weather<|channel|>commentary json<|message|>{"city": "Rome"}<|call|>'
)


def said(*messages: dict) -> dict:
    return BASIC | {"messages": list(messages)}


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([USER | {"nam": "Ann"}], "messages[0].nam is not supported -> leave it out"),
        ([{"role": "system", "content": "x", "tool_calls": [CALL]}, USER], "messages[0].tool_calls is not supported"),
        (
            [USER | {"content": [{"type": "text", "text": "x", "detail": "low"}]}],
            "messages[0].content[0].detail is not",
        ),
        ([USER, CALLS | {"tool_calls": [CALL | {"custom": {}}]}, RESULT], "messages[1].tool_calls[0].custom is not"),
        (
            [USER, CALLS | {"tool_calls": [CALL | {"function": FUNCTION | {"x": 1}}]}, RESULT],
            "messages[1].tool_calls[0].function.x is not supported",
        ),
        ([USER, CALLS, RESULT | {"is_error": True}], "messages[2].is_error is not supported"),
        (
            [USER, {"role": "assistant", "function_call": FUNCTION}],
            "messages[1].function_call is not supported -> send the call in tool_calls and its result in a",
        ),
        ([USER, {"role": "assistant", "refusal": "No."}], "messages[1].refusal is not supported -> send it as content"),
        ([USER, {"role": "assistant", "audio": {"id": "a"}}], "messages[1].audio is not supported"),
        ([USER, {"role": "assistant", "content": "x", "annotations": [{}]}], "messages[1].annotations is not"),
        ([{"role": "user"}], "messages[0].content is missing -> send a text"),
        ([{"role": "user", "content": None}], "messages[0].content is missing"),
        ([{"role": "user", "content": []}], "messages[0].content is missing"),
        ([{"role": "system", "content": None}, USER], "messages[0].content is missing"),
        ([USER, CALLS, RESULT | {"content": None}], "messages[2].content is missing"),
        ([USER, {"role": "assistant"}], "messages[1] says nothing -> give it content or tool_calls, or leave it out"),
        ([USER, {"role": "assistant", "content": None, "tool_calls": []}], "messages[1] says nothing"),
        ([USER, {"role": "assistant", "tool_calls": {}}], "messages[1].tool_calls is not a list of calls"),
        ([USER, {"role": "assistant", "content": "x", "reasoning_content": 0}], "messages[1].reasoning_content is not"),
    ],
)
def test_a_message_that_would_be_heard_in_part_is_refused_by_name(messages, words):
    with pytest.raises(RequestError) as caught:
        parse_request(said(*messages))
    assert words in caught.value.sentence and caught.value.param == "messages"


@pytest.mark.parametrize(
    "message",
    [
        {"content": "Hello.", "refusal": None, "annotations": [], "audio": None, "function_call": None},
        {"content": "Hello.", "tool_calls": None, "reasoning_content": None, "reasoning": None, "parsed": None},
        {"content": "Hello.", "tool_calls": [], "name": "helper", "provider_specific_fields": None},
        {"content": "Hello.", "provider_specific_fields": {"refusal": None, "reasoning": "Greet them."}},
        {"content": "", "reasoning_content": "cut off"},
        {"content": ""},
        {"content": [{"type": "text", "text": "Hello.", "cache_control": {"type": "ephemeral"}, "annotations": None}]},
    ],
)
def test_an_answer_goes_back_as_clients_echo_it(message):
    asked = said(USER, {"role": "assistant"} | message, USER | {"name": "Ann", "cache_control": {"type": "ephemeral"}})
    assert len(parse_request(asked).messages) == 3


def test_names_and_cache_marks_do_not_change_the_prompt():
    marked = USER | {"name": "Ann", "cache_control": {"type": "ephemeral"}}
    assert harmony.render(TOKENIZER, [marked]) == harmony.render(TOKENIZER, [USER])
    request = parse_request(BASIC | {"tools": [TOOL | {"cache_control": {"type": "ephemeral"}}]})
    assert request.offered_tools == [TOOL]


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_is_heard_under_each_of_its_names(name):
    prompt = TOKENIZER.decode(harmony.render(TOKENIZER, [USER, CALLS | {name: "They ask."}, RESULT]))
    assert "<|channel|>analysis<|message|>They ask.<|end|>" in prompt


@pytest.mark.parametrize("calls", [[CALL], [CALL, CALL | {"id": "d"}]])
def test_calls_without_their_results_are_refused(calls, refusing: Server):
    results = [RESULT] * (len(calls) - 1)
    error = refusing.refusal(400, said(USER, CALLS | {"tool_calls": calls}, *results))
    counted = f"messages[1]: tool_calls holds {len(calls)}, and tool messages with a result that follow are "
    assert error["message"].startswith(counted + str(len(results))) and error["param"] == "messages"
    items = [{"type": "function_call", "call_id": "c"} | FUNCTION]
    response = refusing.post("/v1/responses", {"model": "prod", "input": [USER, *items]})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "input")
    assert "input[1]: tool_calls holds 1" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("tools", "words"),
    [
        ([TOOL | {"custom": {}}], "tools[0].custom is not supported"),
        (
            [{"type": "function", "function": TOOL["function"] | {"parameter": {}}}],
            "function.parameter is not",
        ),
        ([{"type": "function", "function": {"name": "f", "parameters": []}}], "function.parameters"),
        ([TOOL, TOOL], "tools: 'get_weather' is declared 2 times"),
    ],
)
def test_a_tool_that_would_be_heard_in_part_is_refused_by_name(tools, words):
    with pytest.raises(RequestError) as caught:
        parse_request(BASIC | {"tools": tools, "tool_choice": "auto"})
    assert words in caught.value.message and caught.value.param == "tools"


def test_null_stands_for_the_default_inside_too():
    function = TOOL["function"] | {"description": None, "strict": None}
    nulls = {"stream_options": {"include_usage": None, "include_obfuscation": None}, "tools": [TOOL | {"x": None}]}
    nulls["tools"].append({"type": "function", "function": function | {"name": "f"}})
    request = parse_request(BASIC | nulls)
    assert [tool["function"] for tool in request.offered_tools] == [TOOL["function"], TOOL["function"] | {"name": "f"}]


@pytest.mark.parametrize("parse", [parse_request, lambda body: completions.parse_request({"prompt": "Hi"} | body)])
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"stream": True, "stream_options": {"include_usages": True}}, "include_usages is not supported"),
        ({"stream_options": {"include_usage": True}}, "stream_options: goes with stream: true only"),
    ],
)
def test_stream_options_that_would_have_no_effect_are_refused(parse, fields, words):
    body = BASIC if parse is parse_request else {"model": "prod"}
    with pytest.raises(RequestError) as caught:
        parse(body | fields)
    assert words in caught.value.message and caught.value.param == "stream_options"
    quiet = {"include_usage": False, "include_obfuscation": False}
    assert parse(body | {"stream_options": quiet}).stream_options.include_usage is False


def test_obfuscation_of_a_stream_is_named_as_without_effect(server: Server):
    asked = {"stream": True, "stream_options": {"include_obfuscation": True}}
    for path, body in (("/v1/chat/completions", BASIC), ("/v1/completions", {"model": "prod", "prompt": "Hi"})):
        response = server.post(path, body | asked)
        assert (response.status_code, response.headers["x-tandem-ignored"]) == (
            200,
            "stream_options.include_obfuscation",
        )


# Clients' echoes over HTTP


def test_openais_client_sends_its_own_answers_back(server: Server):
    class GetWeather(BaseModel):
        city: str

    tools = [TOOL, openai.pydantic_function_tool(GetWeather)]
    server.engine.script = tokens(CALLED)
    with server.client() as client:
        chat = client.chat.completions
        with chat.stream(**said(USER), tools=tools) as stream:
            for message in (
                chat.create(**said(USER), tools=tools).choices[0].message,
                chat.parse(**said(USER), tools=tools[1:]).choices[0].message,
                stream.get_final_completion().choices[0].message,
            ):
                result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "sunny"}
                assert chat.create(**said(USER, message, result), tools=tools).choices[0].message.tool_calls
                spelled = message.model_dump()
                assert chat.create(**said(USER, spelled, result), tools=tools).choices[0].message.tool_calls


def test_langchain_sends_its_own_answers_back(server: Server):
    model = ChatOpenAI(model="prod", base_url=f"{server.url}/v1", api_key="unused", max_retries=0)
    server.engine.script = tokens(CALLED)
    bound, asked = model.bind_tools([TOOL]), HumanMessage(USER["content"], name="Ann")
    answer = bound.invoke([asked])
    answer.name = "helper"
    first, *others = bound.stream([asked])
    for echo in (answer, sum(others, start=first)):
        result = ToolMessage("sunny", tool_call_id=echo.tool_calls[0]["id"], name="get_weather")
        assert bound.invoke([asked, echo, result]).tool_calls[0]["args"] == {"city": "Rome"}
