"""`POST /v1/responses` over real HTTP: OpenAI's events and items, whole and streamed, and engines that die."""

import json

import pytest
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseReasoningItem
from pydantic import BaseModel

from tests.gateway_server import HELLO, tokens
from tests.samples import publish
from tests.unit.serve.http.test_gateway import until

ASK = {"model": "prod", "input": "Hi"}
TOOL = {"type": "function", "name": "get_weather", "parameters": {"type": "object"}}
CALL = '<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "Rome"}<|call|>'
THOUGHT_THEN_CALL = f"<|channel|>analysis<|message|>Ask the tool.<|end|><|start|>assistant{CALL}"


class Answer(BaseModel):
    answer: str


def events(server, **body) -> list:
    return list(server.client().responses.create(**ASK | body, stream=True))


# Answers


def test_the_answer_has_the_reasoning_and_the_message_as_items(server):
    done = server.client().responses.create(**ASK)
    reasoning, message = done.output
    assert isinstance(reasoning, ResponseReasoningItem) and isinstance(message, ResponseOutputMessage)
    assert [(part.type, part.text) for part in reasoning.content] == [("reasoning_text", "Greet them.")]
    assert (done.output_text, message.role, message.status) == ("Hello there.", "assistant", "completed")
    assert (done.status, done.incomplete_details, done.error) == ("completed", None, None)
    assert (done.model, done.system_fingerprint, done.store) == ("prod", "base", True)
    assert done.usage.output_tokens == len(tokens(HELLO))
    assert done.usage.output_tokens_details.reasoning_tokens == len(tokens("Greet them."))
    assert done.usage.input_tokens == len(server.engine.requests[0].prompt_ids)
    assert done.usage.total_tokens == done.usage.input_tokens + done.usage.output_tokens


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


def test_a_summary_is_the_reasoning_a_second_time(server):
    for asked in ({"summary": "auto"}, {"summary": "concise"}, {"generate_summary": "detailed"}):
        found = events(server, reasoning=asked)
        kinds = [event.type.removeprefix("response.") for event in found if event.type.startswith("response.reasoning")]
        assert {kind: kinds.count(kind) > 0 for kind in kinds} == dict.fromkeys(
            [
                "reasoning_summary_part.added", "reasoning_text.delta", "reasoning_summary_text.delta",
                "reasoning_text.done", "reasoning_summary_text.done", "reasoning_summary_part.done",
            ],
            True,
        )  # fmt: skip
        deltas = [event.delta for event in found if event.type == "response.reasoning_summary_text.delta"]
        (reasoning, _) = found[-1].response.output
        assert ["".join(deltas), reasoning.summary[0].text, reasoning.content[0].text] == ["Greet them."] * 3
        assert [event.sequence_number for event in found] == list(range(len(found)))
    assert server.client().responses.create(**ASK).output[0].summary == []


def test_the_stream_is_named_events_without_a_done_mark(server):
    response = server.post("/v1/responses", ASK | {"stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert "[DONE]" not in response.text
    for event in response.text.strip().split("\n\n"):
        name, data = event.split("\n")
        assert name == f"event: {json.loads(data.removeprefix('data: '))['type']}"
    last = json.loads(data.removeprefix("data: "))
    assert last["response"]["id"] == f"resp_{response.headers['x-request-id']}"


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


def test_what_was_asked_is_told_back(server):
    asked = {
        "metadata": {"run": "7"}, "user": "me", "instructions": "Be brief.", "max_output_tokens": 50,
        "prompt_cache_key": "k", "safety_identifier": "me", "max_tool_calls": 3, "truncation": "auto",
    }  # fmt: skip
    done = server.client().responses.create(**ASK, **asked, tool_choice="none", top_p=0.9)
    assert {name: getattr(done, name) for name in asked} == asked
    assert (done.tool_choice, done.top_p) == ("none", 0.9)


def test_the_adapter_behind_the_alias_answers(server):
    version = publish(server.registry).version
    server.post("/api/aliases/prod", {"adapter": version})
    assert server.client().responses.create(**ASK).system_fingerprint == version
    assert server.engine.requests[-1].adapter == version


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
