"""The items of a Responses body as the conversation that they stand for."""

import pytest

from configs.errors import RequestError
from models import harmony
from serve.openai.responses.request import parse_request
from serve.openai.responses.turn import Turn
from tests.gateway_server import HELLO, TOKENIZER, tokens
from tests.unit.serve.openai.responses.test_http import ASK, THOUGHT_THEN_CALL, TOOL


def messages(*items, **body) -> list[dict]:
    request = parse_request(ASK | {"input": list(items)} | body)
    return Turn(request, own=request.items).chat().messages


def test_an_answers_output_goes_back_in_as_it_came(server):
    server.engine.script = tokens(THOUGHT_THEN_CALL)
    first = server.client().responses.create(**ASK, tools=[TOOL])
    server.engine.script = tokens(HELLO)
    output = {"type": "function_call_output", "call_id": first.output[1].call_id, "output": "sunny"}
    history = [{"role": "user", "content": "Hi"}, *first.output, output]
    assert server.client().responses.create(model="prod", input=history, tools=[TOOL]).output_text == "Hello there."
    call = {"name": "get_weather", "arguments": '{"city": "Rome"}'}
    same = harmony.render(
        TOKENIZER,
        [
            {"role": "user", "content": "Hi"},
            {
                "role": "assistant",
                "reasoning_content": "Ask the tool.",
                "tool_calls": [{"id": "1", "type": "function", "function": call}],
            },
            {"role": "tool", "tool_call_id": "1", "content": "sunny"},
        ],
        tools=[{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}],
    )
    assert server.engine.requests[-1].prompt_ids == same


def test_items_of_one_turn_are_one_message():
    said = messages(
        {"role": "developer", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "input_text", "text": "What "}, {"type": "input_text", "text": "now?"}],
        },
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Look."}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "One moment."}]},
        {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
        {"type": "function_call", "call_id": "b", "name": "g", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": [{"type": "input_text", "text": "1"}]},
        {"type": "function_call_output", "call_id": "b", "output": "2"},
        {"type": "message", "role": "assistant", "content": "Done."},
        {"role": "user", "content": "Thanks"},
        instructions="You are Tandem.",
    )
    assert [message["role"] for message in said] == [
        "developer", "developer", "user", "assistant", "tool", "tool", "assistant", "user"
    ]  # fmt: skip
    assert said[0]["content"] == "You are Tandem." and said[2]["content"] == "What now?"
    assert (said[3]["reasoning_content"], said[3]["content"]) == ("Look.", "One moment.")
    assert [call["id"] for call in said[3]["tool_calls"]] == ["a", "b"]
    assert [(said[at]["tool_call_id"], said[at]["content"]) for at in (4, 5)] == [("a", "1"), ("b", "2")]
    assert said[6] == {"role": "assistant", "content": "Done."}


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([{"role": "bot", "content": "x"}], "input[0].role 'bot'"),
        ([{"role": "user"}], "input[0].content is neither text nor a list"),
        ([{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}], "'input_image' parts"),
        ([{"role": "user", "content": [5]}], "input[0].content[0]: 'int' parts"),
        ([{"type": "web_search_call"}], "input[0].type 'web_search_call'"),
        ([{"type": "function_call", "call_id": "a", "name": "f"}], "input[0].arguments is None"),
        ([{"type": "function_call_output", "output": "x"}], "input[0].call_id is None"),
        ([{"type": "reasoning", "encrypted_content": "x"}], "input[0] has reasoning that was encrypted elsewhere"),
        ([{"type": "reasoning", "content": "x"}], "input[0].content is not a list"),
    ],
)
def test_an_item_that_cannot_be_taken_is_named_by_its_number(items, words):
    with pytest.raises(RequestError) as caught:
        messages(*items)
    assert words in caught.value.message and caught.value.param == "input"


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([{"type": "function_call_output", "call_id": "a", "output": "x"}], "input[0]: a tool message without"),
        (
            [
                {"type": "reasoning", "content": []},
                {"type": "function_call", "call_id": "a", "name": "f to=user", "arguments": "{}"},
            ],
            "input[1].name 'f to=user' is not",
        ),
    ],
)
def test_what_the_chat_format_refuses_is_said_in_terms_of_input(items, words, refusing):
    response = refusing.post("/v1/responses", ASK | {"input": items})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "input")
    assert words in response.json()["error"]["message"]
