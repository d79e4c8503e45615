"""OpenAI's conversations over real HTTP: made, answered into, listed, changed and deleted."""

import openai
import pytest

from tests.unit.serve.openai.responses.stored.test_responses import SAID, prompt, texts
from tests.unit.serve.openai.responses.test_http import ASK


def test_a_conversation_gathers_what_is_said_in_it(server):
    client = server.client()
    conversation = client.conversations.create(metadata={"topic": "tea"})
    assert (conversation.object, conversation.metadata) == ("conversation", {"topic": "tea"})
    first = client.responses.create(**ASK, conversation=conversation.id)
    assert first.conversation.id == conversation.id
    list(client.responses.create(model="prod", input="And now?", conversation={"id": conversation.id}, stream=True))
    assert server.engine.requests[-1].prompt_ids == prompt(*SAID)
    items = list(client.conversations.items.list(conversation.id, order="asc"))
    assert texts(items) == ["Hi", "Greet them.", "Hello there.", "And now?", "Greet them.", "Hello there."]
    assert [item.id for item in items[1:3]] == [item.id for item in first.output]
    assert len({item.id for item in items}) == 6
    newest = client.conversations.items.list(conversation.id, limit=2)
    assert (texts(newest.data), newest.has_more) == (["Hello there.", "Greet them."], True)


def test_items_are_added_read_and_deleted_one_by_one(server):
    client = server.client()
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there."}]
    conversation = client.conversations.create(items=said)
    added = client.conversations.items.create(conversation.id, items=[{"role": "user", "content": "And now?"}])
    assert texts(added.data) == ["And now?"] and added.first_id == added.last_id == added.data[0].id
    item = client.conversations.items.retrieve(added.data[0].id, conversation_id=conversation.id)
    assert (item, item.role) == (added.data[0], "user")
    left = client.conversations.items.delete(item.id, conversation_id=conversation.id)
    assert left == client.conversations.retrieve(conversation.id)
    assert texts(client.conversations.items.list(conversation.id, order="asc")) == ["Hi", "Hello there."]
    with pytest.raises(openai.NotFoundError, match=f"Item with id '{item.id}' not found"):
        client.conversations.items.retrieve(item.id, conversation_id=conversation.id)
    client.responses.create(model="prod", input="And now?", conversation=conversation.id)
    plain = [SAID[0], {"role": "assistant", "content": "Hello there."}, SAID[2]]
    assert server.engine.requests[-1].prompt_ids == prompt(*plain)


def test_metadata_is_replaced_and_a_deleted_conversation_is_gone(server):
    client = server.client()
    conversation = client.conversations.create()
    assert conversation.metadata == {}
    changed = client.conversations.update(conversation.id, metadata={"topic": "tea"})
    assert changed.metadata == {"topic": "tea"} and changed == client.conversations.retrieve(conversation.id)
    done = client.responses.create(**ASK, conversation=conversation.id)
    deleted = client.conversations.delete(conversation.id)
    assert (deleted.id, deleted.object, deleted.deleted) == (conversation.id, "conversation.deleted", True)
    for again in (
        lambda: client.conversations.retrieve(conversation.id),
        lambda: client.conversations.delete(conversation.id),
        lambda: client.conversations.update(conversation.id, metadata={}),
        lambda: client.conversations.items.list(conversation.id),
        lambda: client.responses.create(**ASK, conversation=conversation.id),
    ):
        with pytest.raises(openai.NotFoundError, match=f"Conversation with id '{conversation.id}' not found"):
            again()
    assert client.responses.retrieve(done.id) == done, "responses stay"


def test_a_response_that_is_not_stored_is_still_said_in_its_conversation(server):
    client = server.client()
    conversation = client.conversations.create()
    done = client.responses.create(**ASK, conversation=conversation.id, store=False)
    assert done.store is False
    assert texts(client.conversations.items.list(conversation.id, order="asc")) == ["Hi", "Greet them.", "Hello there."]


def test_an_answer_that_breaks_off_adds_nothing(server):
    client = server.client()
    conversation = client.conversations.create()
    server.remote.dies_after = 18
    events = list(client.responses.create(**ASK, conversation=conversation.id, stream=True))
    assert events[-1].type == "response.failed"
    assert client.conversations.items.list(conversation.id).data == []


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"items": [{"role": "bot", "content": "x"}]}, "items", "items[0].role 'bot'"),
        ({"items": [{"type": "web_search_call"}]}, "items", "items[0].type 'web_search_call'"),
        ({"items": [{"role": "user", "content": "x"}] * 21}, "items", "at most 20"),
        ({"items": "x"}, "items", "list"),
        ({"metadata": {"a": 1}}, "metadata", "metadata.a"),
        ({"name": "x"}, "name", "name is not supported"),
        ([], None, "not an object"),
    ],
)
def test_what_cannot_be_said_is_refused_by_name(body, param, words, refusing):
    response = refusing.post("/v1/conversations", body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert words in response.json()["error"]["message"]
