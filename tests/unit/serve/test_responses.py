"""`POST /v1/responses` over real HTTP: OpenAI's events and items, the conversation that they stand for, refusals."""

import json

import openai
import pytest
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseReasoningItem
from pydantic import BaseModel

from configs.errors import RequestError
from models import harmony
from serve.wire.responses import parse_request
from tests.gateway_server import HELLO, TOKENIZER, tokens
from tests.samples import publish
from tests.unit.serve.test_gateway import until

ASK = {"model": "prod", "input": "Hi"}
TOOL = {"type": "function", "name": "get_weather", "parameters": {"type": "object"}}
CALL = '<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "Rome"}<|call|>'
DEEP = json.loads('{"items": ' * 400 + "{}" + "}" * 400)
THOUGHT_THEN_CALL = f"<|channel|>analysis<|message|>Ask the tool.<|end|><|start|>assistant{CALL}"


class Answer(BaseModel):
    answer: str


def events(server, **body) -> list:
    return list(server.client().responses.create(**ASK | body, stream=True))


def messages(*items, **body) -> list[dict]:
    return parse_request(ASK | {"input": list(items)} | body).chat().messages


# Answers


def test_the_answer_has_the_reasoning_and_the_message_as_items(server):
    done = server.client().responses.create(**ASK)
    reasoning, message = done.output
    assert isinstance(reasoning, ResponseReasoningItem) and isinstance(message, ResponseOutputMessage)
    assert [(part.type, part.text) for part in reasoning.content] == [("reasoning_text", "Greet them.")]
    assert (done.output_text, message.role, message.status) == ("Hello there.", "assistant", "completed")
    assert (done.status, done.incomplete_details, done.error) == ("completed", None, None)
    assert (done.model, done.system_fingerprint, done.store) == ("prod", "base", False)
    assert done.usage.output_tokens == len(tokens(HELLO))
    assert done.usage.output_tokens_details.reasoning_tokens == len(tokens("Greet them."))
    assert done.usage.input_tokens == len(server.engine.requests[0].prompt_ids)
    assert done.usage.total_tokens == done.usage.input_tokens + done.usage.output_tokens


def test_the_prompt_is_that_of_the_same_chat(server):
    tool = {"type": "function", "function": {key: value for key, value in TOOL.items() if key != "type"}}
    server.client().chat.completions.create(
        model="prod",
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        reasoning_effort="low",
        tools=[tool],
        temperature=0.5,
        max_completion_tokens=9,
    )
    server.client().responses.create(
        **ASK, instructions="Be brief.", reasoning={"effort": "low"}, tools=[TOOL], temperature=0.5, max_output_tokens=9
    )
    chat, response = server.engine.requests
    assert response.prompt_ids == chat.prompt_ids
    assert response.sampling == chat.sampling


def test_a_stream_has_openais_events_in_their_order(server):
    found = events(server)
    assert [event.sequence_number for event in found] == list(range(len(found)))
    kinds = [event.type.removeprefix("response.") for event in found]
    assert [kind for at, kind in enumerate(kinds) if kind != kinds[at - 1]] == [
        "created", "in_progress",
        "output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.done",
        "content_part.done", "output_item.done",
        "output_item.added", "content_part.added", "output_text.delta", "output_text.done",
        "content_part.done", "output_item.done",
        "completed",
    ]  # fmt: skip
    said = {kind: "".join(event.delta for event in found if event.type == f"response.{kind}.delta")
            for kind in ("reasoning_text", "output_text")}  # fmt: skip
    assert said == {"reasoning_text": "Greet them.", "output_text": "Hello there."}
    assert [event.text for event in found if event.type.endswith("_text.done")] == ["Greet them.", "Hello there."]
    done = found[-1].response
    assert found[0].response.status == "in_progress" and found[0].response.output == []
    assert done.status == "completed" and done.output_text == "Hello there." and done.usage.total_tokens > 0
    ids = [item.id for item in done.output]
    assert len(set(ids)) == 2 and {event.response.id for event in (found[0], found[-1])} == {done.id}
    for event in found:
        if hasattr(event, "item_id"):
            assert event.item_id == ids[event.output_index]


def test_the_stream_is_named_events_without_a_done_mark(server):
    response = server.post("/v1/responses", ASK | {"stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert "[DONE]" not in response.text
    for event in response.text.strip().split("\n\n"):
        name, data = event.split("\n")
        assert name == f"event: {json.loads(data.removeprefix('data: '))['type']}"
    last = json.loads(data.removeprefix("data: "))
    assert response.headers["x-request-id"] == last["response"]["id"]


def test_the_clients_own_helper_gathers_the_stream(server):
    with server.client().responses.stream(**ASK) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        assert (text, stream.get_final_response().output_text) == ("Hello there.", "Hello there.")


def test_a_function_call_is_an_item_with_streamed_arguments(server):
    server.engine.script = tokens(THOUGHT_THEN_CALL)
    found = events(server, tools=[TOOL])
    assert "".join(event.delta for event in found if event.type.endswith("arguments.delta")) == '{"city": "Rome"}'
    (done,) = [event for event in found if event.type == "response.function_call_arguments.done"]
    assert (done.arguments, done.output_index) == ('{"city": "Rome"}', 1)
    reasoning, call = found[-1].response.output
    assert reasoning.content[0].text == "Ask the tool."
    assert isinstance(call, ResponseFunctionToolCall)
    assert (call.name, call.arguments, call.status) == ("get_weather", '{"city": "Rome"}', "completed")
    assert call.call_id.startswith("call_") and call.id.startswith("fc_")
    assert found[-1].response.status == "completed"
    assert found[-1].response.tools[0].name == "get_weather"


def test_whole_and_streamed_are_the_same_answer(server):
    server.engine.script = tokens(THOUGHT_THEN_CALL)
    whole = server.client().responses.create(**ASK, tools=[TOOL])
    streamed = events(server, tools=[TOOL])[-1].response
    without_ids = {"id": True, "created_at": True, "completed_at": True, "output": {"__all__": {"id", "call_id"}}}
    assert whole.model_dump(exclude=without_ids) == streamed.model_dump(exclude=without_ids)


def test_what_is_said_before_a_call_is_a_message_of_its_own(server):
    server.engine.script = tokens(
        "<|channel|>analysis<|message|>One.<|end|><|start|>assistant<|channel|>commentary<|message|>Let me look.<|end|>"
        f"<|start|>assistant<|channel|>analysis<|message|>Two.<|end|><|start|>assistant{CALL}"
    )
    output = server.client().responses.create(**ASK, tools=[TOOL]).output
    assert [item.type for item in output] == ["reasoning", "message", "reasoning", "function_call"]
    assert [output[0].content[0].text, output[1].content[0].text, output[2].content[0].text] == [
        "One.", "Let me look.", "Two."
    ]  # fmt: skip


@pytest.mark.parametrize(("limit", "kinds"), [(5, ["reasoning"]), (18, ["reasoning", "message"])])
def test_an_answer_that_is_cut_off_is_incomplete_and_says_why(limit, kinds, server):
    found = events(server, max_output_tokens=limit)
    assert found[-1].type == "response.incomplete"
    done = found[-1].response
    assert (done.status, done.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert [item.type for item in done.output] == kinds
    assert (done.output[-1].status, done.usage.output_tokens) == ("incomplete", limit)
    whole = server.client().responses.create(**ASK, max_output_tokens=limit)
    assert (whole.status, whole.output_text) == ("incomplete", done.output_text)


def test_a_format_and_a_forced_call_reach_the_engine_as_from_chat(server):
    schema = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
    named = {"name": "answer", "schema": schema, "strict": True}
    function = {"type": "function", "function": {key: value for key, value in TOOL.items() if key != "type"}}
    asked = server.client()
    chat = {"model": "prod", "messages": [{"role": "user", "content": "Hi"}]}
    asked.chat.completions.create(**chat, response_format={"type": "json_schema", "json_schema": named})
    done = asked.responses.create(**ASK, text={"format": {"type": "json_schema"} | named})
    assert (done.text.format.name, done.text.format.schema_) == ("answer", schema)
    asked.chat.completions.create(**chat, response_format={"type": "json_object"})
    asked.responses.create(**ASK, text={"format": {"type": "json_object"}})
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "get_weather"}}]}
    flat = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "get_weather"}]}
    for theirs, ours in (
        ("required", "required"),
        ({"type": "function", "function": {"name": "get_weather"}}, {"type": "function", "name": "get_weather"}),
        ({"type": "allowed_tools", "allowed_tools": allowed}, flat),
    ):
        asked.chat.completions.create(**chat, tools=[function], tool_choice=theirs)
        asked.responses.create(**ASK, tools=[TOOL], tool_choice=ours)
    requests = server.engine.requests
    for theirs, ours in zip(requests[::2], requests[1::2], strict=True):
        assert ours.constraint == theirs.constraint and ours.constraint is not None
        assert ours.prompt_ids == theirs.prompt_ids


def test_logprobs_of_the_text_come_with_its_deltas(server):
    asked = {"include": ["message.output_text.logprobs"], "top_logprobs": 1}
    found = events(server, **asked)
    deltas = [event for event in found if event.type == "response.output_text.delta"]
    assert [event.logprobs[0].token for event in deltas] == [event.delta for event in deltas]
    (part,) = found[-1].response.output[1].content
    assert [each.logprob for each in part.logprobs] == [token / -1000 for token in tokens("Hello there.")]
    assert [each.top_logprobs[0].token for each in part.logprobs] == [each.token for each in part.logprobs]
    (whole,) = server.client().responses.create(**ASK, **asked).output[1].content
    assert whole == part


def test_the_clients_own_parser_reads_a_structured_answer(server):
    server.engine.script = tokens('<|channel|>final<|message|>{"answer": "Rome"}<|return|>')
    parsed = server.client().responses.parse(**ASK, text_format=Answer).output_parsed
    assert parsed == Answer(answer="Rome")
    assert server.engine.requests[0].constraint is not None


def test_what_was_asked_is_told_back_and_nothing_is_stored(server):
    asked = {"metadata": {"run": "7"}, "user": "me", "instructions": "Be brief.", "max_output_tokens": 50}
    done = server.client().responses.create(**ASK, **asked, store=True, tool_choice="none", top_p=0.9)
    assert {name: getattr(done, name) for name in asked} == asked
    assert (done.store, done.tool_choice, done.top_p) == (False, "none", 0.9)
    with pytest.raises(openai.NotFoundError):
        server.client().responses.retrieve(done.id)


def test_the_adapter_behind_the_alias_answers(server):
    version = publish(server.registry).version
    server.post("/api/aliases/prod", {"adapter": version})
    assert server.client().responses.create(**ASK).system_fingerprint == version
    assert server.engine.requests[-1].adapter == version


# Conversations


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
        ([{"type": "item_reference", "id": "x"}], "input[0] refers to a stored item"),
        ([{"type": "web_search_call"}], "input[0].type 'web_search_call'"),
        ([{"type": "function_call", "call_id": "a", "name": "f"}], "input[0].arguments is None"),
        ([{"type": "function_call_output", "output": "x"}], "input[0].call_id is None"),
        ([{"type": "reasoning", "encrypted_content": "x"}], "input[0] has encrypted reasoning only"),
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
        ([{"role": "user", "content": "x"}, {"role": "developer", "content": "y"}], "input[1]: system and developer"),
        ([{"type": "function_call_output", "call_id": "a", "output": "x"}], "input[0]: a tool message without"),
        (
            [
                {"type": "reasoning", "content": []},
                {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{"},
            ],
            "input[0].tool_calls[0].function.arguments is not JSON",
        ),
    ],
)
def test_what_the_chat_format_refuses_is_said_in_terms_of_input(items, words, refusing):
    response = refusing.post("/v1/responses", ASK | {"input": items})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "input")
    assert words in response.json()["error"]["message"]


# Refusals


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"input": None}, "input", "required"),
        ({"input": ""}, "input", "is empty"),
        ({"input": []}, "input", "is empty"),
        ({"input": 5}, "input", "neither a text nor a list of items"),
        ({"input": ["Hi"]}, "input", "neither a text nor a list of items"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "send the earlier items"),
        ({"conversation": "conv_1"}, "conversation", "send the earlier items"),
        ({"background": True}, "background", "set stream"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt", "send its text"),
        ({"truncation": "auto"}, "truncation", "shorten input"),
        ({"tools": [{"type": "web_search"}]}, "tools", "functions only"),
        ({"tools": [{"type": "function"}]}, "tools", "name"),
        ({"tools": [TOOL | {"name": "a b"}]}, "tools", "'a b'"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice", "tool_choice"),
        ({"reasoning": {"effort": "minimal"}}, "reasoning", "'low', 'medium' or 'high'"),
        ({"reasoning": {"summary": "detailed"}}, "reasoning", "'auto'"),
        ({"text": {"verbosity": "low"}}, "text", "'medium'"),
        ({"text": {"format": {"type": "yaml"}}}, "text.format", "text.format"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format", "text.format"),
        ({"text": {"format": {"type": "json_schema", "name": "x", "schema": DEEP}}}, "text", "nested too deep"),
        ({"tools": [TOOL | {"parameters": DEEP}]}, "tools", "nested too deep"),
        ({"tool_choice": "required"}, "tool_choice", "tools is empty"),
        ({"tool_choice": {"type": "function", "name": "f"}, "tools": [TOOL]}, "tool_choice", "'f'"),
        ({"include": ["message.output_text.logprobs"], "top_logprobs": 21}, "top_logprobs", "20"),
        ({"max_output_tokens": 0}, "max_output_tokens", "max_output_tokens"),
        ({"temperature": 3}, "temperature", "0 to 2"),
        ({"temperature": "hot"}, "temperature", "temperature"),
        ({"include": ["file_search_call.results"]}, "include", "include"),
        ({"stream_options": {"include_obfuscation": True}}, "stream_options", "stream_options"),
        ({"metadata": {"a": 5}}, "metadata", "metadata"),
        ({"max_tool_calls": 3}, "max_tool_calls", "not supported"),
        ({"messages": []}, "messages", "not supported"),
        ({"nonsense": 1}, "nonsense", "not supported"),
    ],
    ids=lambda value: str(value)[:60],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_done_is_refused_by_name(change, param, words, stream, refusing):
    response = refusing.post("/v1/responses", ASK | {"stream": stream} | change)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert words in error["message"]


def test_what_asks_for_nothing_is_taken(server):
    nothing = {
        "background": False, "previous_response_id": None, "truncation": "disabled", "tools": [], "tool_choice": "auto",
        "include": ["reasoning.encrypted_content"], "reasoning": {"effort": None, "summary": "auto"},
        "text": {"format": {"type": "text"}, "verbosity": "medium"}, "stream_options": {"include_obfuscation": False},
        "store": True, "service_tier": "auto", "prompt_cache_key": "x", "parallel_tool_calls": True,
    }  # fmt: skip
    assert server.post("/v1/responses", ASK | nothing).json()["status"] == "completed"


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_a_400(content, refusing):
    response = refusing.post("/v1/responses", content=content)
    assert response.status_code == 400 and "the body is" in response.json()["error"]["message"]


def test_an_unknown_model_is_a_404(refusing):
    response = refusing.post("/v1/responses", ASK | {"model": "gpt-4"})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


# Engines that die, clients that leave


def test_an_engine_that_dies_mid_stream_ends_it_with_a_failed_event(server):
    server.remote.dies_after = 18
    found = events(server)
    assert found[-1].type == "response.failed"
    failed = found[-1].response
    assert (failed.status, failed.error.code) == ("failed", "server_error")
    assert "died while answering" in failed.error.message
    assert [item.type for item in failed.output] == ["reasoning", "message"]
    assert [item.status for item in failed.output] == ["completed", "incomplete"], "what came before stays"


def test_an_answer_that_is_not_streamed_starts_again_when_its_engine_dies(server):
    server.remote.dies_after = 12
    assert server.client().responses.create(**ASK).output_text == "Hello there."
    assert len(server.engine.requests) == 2


def test_a_client_that_leaves_ends_its_request_in_the_engine(server):
    server.engine.script = tokens("<|channel|>final<|message|>" + "on and on " * 300)
    server.engine.delay = 0.005
    stream = server.client().responses.create(**ASK, stream=True)
    next(iter(stream))
    assert server.engine.stats().running == 1
    stream.close()
    assert until(lambda: server.engine.stats().running == 0)
