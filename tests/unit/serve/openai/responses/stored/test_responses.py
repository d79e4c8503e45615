"""Responses that are kept: gone on from, referred to, read again, listed and deleted, over real HTTP."""

import openai
import pytest

from configs.schema import ResponsesConfig
from models import harmony
from tests.gateway_server import HELLO, TOKENIZER, Server, tokens
from tests.unit.serve.openai.responses.test_http import ASK, THOUGHT_THEN_CALL, TOOL

PLAIN = "<|channel|>final<|message|>Second.<|return|>"
SAID = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "reasoning_content": "Greet them.", "content": "Hello there."},
    {"role": "user", "content": "And now?"},
]


def prompt(*messages: dict, tools: list[dict] | None = None) -> list[int]:
    return harmony.render(TOKENIZER, list(messages), tools=tools)


def texts(items) -> list[str]:
    return [(item.content or [item])[0].text for item in items]


# Going on from a response


def test_a_response_goes_on_from_the_one_before_as_from_the_same_items(server):
    client = server.client()
    first = client.responses.create(**ASK, instructions="Be brief.")
    second = client.responses.create(model="prod", input="And now?", previous_response_id=first.id)
    assert server.engine.requests[-1].prompt_ids == prompt(*SAID), "instructions do not carry over"
    assert second.previous_response_id == first.id
    client.responses.create(model="prod", input="Third", previous_response_id=second.id, instructions="Other.")
    answer = {"role": "assistant", "reasoning_content": "Greet them.", "content": "Hello there."}
    last = {"role": "user", "content": "Third"}
    same = prompt({"role": "developer", "content": "Other."}, *SAID, answer, last)
    assert server.engine.requests[-1].prompt_ids == same


def test_a_tools_output_alone_goes_on_from_the_call(server):
    client = server.client()
    server.engine.script = tokens(THOUGHT_THEN_CALL)
    first = client.responses.create(**ASK, tools=[TOOL])
    server.engine.script = tokens(PLAIN)
    output = {"type": "function_call_output", "call_id": first.output[1].call_id, "output": "sunny"}
    stream = client.responses.create(
        model="prod", input=[output], tools=[TOOL], previous_response_id=first.id, stream=True
    )
    assert list(stream)[-1].response.output_text == "Second."
    call = {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}}
    assert server.engine.requests[-1].prompt_ids == prompt(
        SAID[0],
        {"role": "assistant", "reasoning_content": "Ask the tool.", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "sunny"},
        tools=[{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}],
    )


def test_references_stand_for_the_items_of_earlier_answers(server):
    client = server.client()
    first = client.responses.create(**ASK)
    reasoning, message = first.output
    references = [{"type": "item_reference", "id": reasoning.id}, {"id": message.id}]
    client.responses.create(model="prod", input=[SAID[0], *references, SAID[2]])
    assert server.engine.requests[-1].prompt_ids == prompt(*SAID)
    listed = client.responses.input_items.list(client.responses.create(model="prod", input=references).id, order="asc")
    assert [item.id for item in listed] == [reasoning.id, message.id], "a listing has the items themselves"


def test_a_call_without_its_output_is_named_as_the_item_that_it_is(server):
    client = server.client()
    server.engine.script = tokens(THOUGHT_THEN_CALL)
    first = client.responses.create(**ASK, tools=[TOOL])
    with pytest.raises(openai.BadRequestError, match=f"the earlier item {first.output[0].id}") as caught:
        client.responses.create(model="prod", input="And now?", previous_response_id=first.id, tools=[TOOL])
    assert caught.value.param == "input"
    with pytest.raises(openai.BadRequestError, match=r"input\[0\]"):
        client.responses.create(model="prod", input=[first.output[1]], tools=[TOOL])


def test_without_new_input_the_response_before_is_answered(server):
    first = server.client().responses.create(**ASK)
    server.client().responses.create(model="prod", previous_response_id=first.id)
    assert server.engine.requests[-1].prompt_ids == prompt(*SAID[:2])


def test_the_oldest_turns_are_left_out_where_truncation_is_auto(server):
    client, chat = server.client(), server.gateway.chat
    said = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "one one"}]
    last = client.responses.create(model="prod", input=said)
    for name in ("two", "three"):
        last = client.responses.create(model="prod", input=f"{name} {name}", previous_response_id=last.id)
    asked = {"model": "prod", "input": "four four", "truncation": "auto", "max_output_tokens": 10}
    client.responses.create(**asked, previous_response_id=last.id)
    whole = server.engine.requests[-1].prompt_ids
    chat.max_context = len(whole) - 1
    fourth = client.responses.create(**asked, previous_response_id=last.id)
    shorter = server.engine.requests[-1].prompt_ids
    assert len(shorter) + 10 <= chat.max_context
    wanted = ("Be brief.", "one one", "two two", "three three", "four four")
    assert [text in TOKENIZER.decode(shorter) for text in wanted] == [True, False, True, True, True]
    listed = client.responses.input_items.list(fourth.id, order="asc")
    assert texts(listed)[:3] == ["Be brief.", "one one", "Greet them."], "all of it is kept"
    chat.max_context = len(shorter) - 40
    client.responses.create(**asked, previous_response_id=last.id)
    assert "three three" not in TOKENIZER.decode(server.engine.requests[-1].prompt_ids)
    chat.max_context = 20
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**asked, previous_response_id=last.id)
    assert caught.value.code == "context_length_exceeded", "the last question stays"


# Reading it again


def test_a_stored_response_is_read_again_as_it_was(server):
    client = server.client()
    done = client.responses.create(**ASK, metadata={"run": "7"}, tools=[TOOL])
    assert client.responses.retrieve(done.id) == done
    streamed = list(client.responses.create(**ASK, stream=True))[-1].response
    assert client.responses.retrieve(streamed.id) == streamed
    assert streamed.store is True


def test_a_deleted_response_is_gone_and_what_went_on_from_it_stays(server):
    client = server.client()
    first = client.responses.create(**ASK)
    second = client.responses.create(model="prod", input="And now?", previous_response_id=first.id)
    deleted = server.delete(f"/v1/responses/{first.id}")
    assert deleted.json() == {"id": first.id, "object": "response", "deleted": True}
    for again in (client.responses.retrieve, client.responses.delete, client.responses.cancel):
        with pytest.raises(openai.NotFoundError, match=f"Response with id '{first.id}' not found."):
            again(first.id)
    client.responses.create(model="prod", input="Third", previous_response_id=second.id)
    answer = {"role": "assistant", "reasoning_content": "Greet them.", "content": "Hello there."}
    assert server.engine.requests[-1].prompt_ids == prompt(*SAID, answer, {"role": "user", "content": "Third"})


def test_input_items_are_paged_in_both_orders(server):
    client = server.client()
    said = [{"role": "user", "content": str(number)} for number in range(5)]
    done = client.responses.create(model="prod", input=said)
    assert texts(client.responses.input_items.list(done.id)) == ["4", "3", "2", "1", "0"]
    page = client.responses.input_items.list(done.id, order="asc", limit=2)
    assert (texts(page.data), page.has_more, page.first_id, page.last_id) == (
        ["0", "1"], True, page.data[0].id, page.data[1].id
    )  # fmt: skip
    assert texts(page) == ["0", "1", "2", "3", "4"], "the client goes through all pages"
    rest = client.responses.input_items.list(done.id, order="asc", limit=3, after=page.last_id)
    assert (texts(rest.data), rest.has_more) == (["2", "3", "4"], False)
    first = page.data[0]
    assert (first.type, first.role, first.status, first.content[0].type) == (
        "message",
        "user",
        "completed",
        "input_text",
    )
    included = client.responses.input_items.list(done.id, include=["message.output_text.logprobs"])
    assert len(included.data) == 5


def test_input_items_begin_with_what_the_response_went_on_from(server):
    client = server.client()
    first = client.responses.create(**ASK)
    second = client.responses.create(model="prod", input="And now?", previous_response_id=first.id)
    items = list(client.responses.input_items.list(second.id, order="asc"))
    assert [item.type for item in items] == ["message", "reasoning", "message", "message"]
    assert texts(items) == ["Hi", "Greet them.", "Hello there.", "And now?"]
    assert [item.id for item in items[1:3]] == [item.id for item in first.output]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("limit=0", "limit: Input should be greater than or equal to 1"),
        ("limit=101", "limit: Input should be less than or equal to 100"),
        ("order=up", "order"),
        ("after=msg_1", "after is 'msg_1', which is not an item of this list"),
    ],
)
def test_a_page_that_does_not_exist_is_refused(query, words, one_for_all):
    done = one_for_all.client().responses.create(**ASK)
    refused = one_for_all.get(f"/v1/responses/{done.id}/input_items?{query}")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, query.partition("=")[0])
    assert words in refused.json()["error"]["message"]


def test_a_count_of_input_tokens_is_that_of_the_prompt(server):
    client = server.client()
    first = client.responses.create(**ASK)
    asked = {"model": "prod", "input": "And now?", "previous_response_id": first.id, "instructions": "Be brief."}
    counted = client.responses.input_tokens.count(**asked)
    assert (counted.object, counted.input_tokens) == (
        "response.input_tokens",
        client.responses.create(**asked).usage.input_tokens,
    )


# What is not kept


def test_with_store_false_nothing_is_kept(server):
    client = server.client()
    done = client.responses.create(**ASK, store=False)
    assert done.store is False
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(done.id)
    with pytest.raises(openai.NotFoundError, match="Items are not persisted when `store` is set to false") as caught:
        client.responses.create(model="prod", input=[{"type": "item_reference", "id": done.output[0].id}])
    assert caught.value.param == "input"
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="prod", input="Go on", previous_response_id=done.id)
    assert (caught.value.code, caught.value.param) == ("previous_response_not_found", "previous_response_id")
    assert f"Previous response with id '{done.id}' not found." in caught.value.message


def test_reasoning_that_is_included_encrypted_goes_back_in_where_nothing_is_kept(server):
    client = server.client()
    asked = {"include": ["reasoning.encrypted_content"], "store": False}
    server.engine.script = tokens(THOUGHT_THEN_CALL)
    reasoning, call = client.responses.create(**ASK, **asked, tools=[TOOL]).output
    sealed = {"type": "reasoning", "id": reasoning.id, "summary": [], "encrypted_content": reasoning.encrypted_content}
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    server.engine.script = tokens(HELLO)
    for thought in (sealed, reasoning):
        client.responses.create(model="prod", input=[SAID[0], thought, call, output], tools=[TOOL], **asked)
    one, other = server.engine.requests[-2:]
    assert one.prompt_ids == other.prompt_ids
    assert "Ask the tool." in TOKENIZER.decode(one.prompt_ids)


def test_a_server_that_keeps_nothing_says_so(home):
    with Server(home, keeping=ResponsesConfig(keep="nothing")) as server:
        client = server.client()
        done = client.responses.create(**ASK)
        assert (done.store, done.output_text) == (False, "Hello there.")
        for refused, kind in (
            (lambda: client.responses.retrieve(done.id), openai.NotFoundError),
            (lambda: client.responses.create(**ASK, previous_response_id=done.id), openai.BadRequestError),
            (lambda: client.responses.create(**ASK, background=True), openai.BadRequestError),
            (lambda: client.conversations.create(), openai.BadRequestError),
        ):
            with pytest.raises(kind, match="this server keeps no responses"):
                refused()


def test_on_disk_responses_outlive_the_gateway_and_only_their_owner_reads_them(home):
    keeping = ResponsesConfig(keep="disk")
    with Server(home, keeping=keeping) as server:
        first = server.client().responses.create(**ASK)
        conversation = server.client().conversations.create()
    assert home.responses.stat().st_mode & 0o777 == 0o600
    with Server(home, keeping=keeping) as server:
        client = server.client()
        assert client.responses.retrieve(first.id) == first
        assert client.conversations.retrieve(conversation.id) == conversation
        client.responses.create(model="prod", input="And now?", previous_response_id=first.id)
        assert server.engine.requests[-1].prompt_ids == prompt(*SAID)


def test_in_memory_they_do_not_and_a_client_is_told_why(home):
    with Server(home) as server:
        first = server.client().responses.create(**ASK)
    assert not home.responses.exists()
    with Server(home) as server, pytest.raises(openai.BadRequestError, match="until the gateway is restarted"):
        server.client().responses.create(**ASK, previous_response_id=first.id)


def test_two_requests_with_one_id_are_two_responses(server):
    client = server.client()
    same = {"extra_headers": {"X-Request-Id": "trace-1"}}
    first = client.responses.create(**ASK, **same)
    second = client.responses.create(model="prod", input="Other", **same)
    assert first.id == "resp_trace-1" and second.id != first.id
    assert client.responses.retrieve(first.id) == first
    odd = client.responses.create(**ASK, extra_headers={"X-Request-Id": "a/b?c"})
    assert client.responses.retrieve(odd.id) == odd
