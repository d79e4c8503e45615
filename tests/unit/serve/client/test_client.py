"""The endpoint's own client and the conversations that it keeps: over real HTTP, from a real disk."""

import asyncio
import json

import httpx2
import pytest
from openai.types.chat import ChatCompletionChunk

from configs.errors import ClusterError, DataError, NotFoundError, RequestError
from serve.client.conversation import Conversation, Conversations, Turn
from serve.client.endpoint import Endpoint, Reply, Settings
from tests.gateway_server import ASK, tokens


def ask(url: str, **settings) -> list[Reply]:
    async def run() -> list[Reply]:
        async with Endpoint(url) as endpoint:
            return [reply async for reply in endpoint.reply(ASK, Settings(**settings))]

    return asyncio.run(run())


def test_an_answer_grows_to_its_end_with_its_statistics(server):
    replies = ask(f"{server.url}/v1")
    last = replies[-1]
    assert (last.text, last.thinking, last.finish_reason) == ("Hello there.", "Greet them.", "stop")
    assert last.version == "base"
    assert last.completion_tokens == len(server.engine.script)
    assert 0 < last.first_token_s <= last.seconds
    assert not last.cut


def test_settings_reach_the_engine(server):
    ask(f"{server.url}/v1", temperature=0.5, top_p=0.9, top_k=7, max_tokens=5, seed=3, reasoning_effort="high")
    sampling = server.engine.requests[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.max_tokens, sampling.seed) == (
        0.5, 0.9, 7, 5, 3,
    )  # fmt: skip


def test_settings_that_are_not_set_are_left_to_the_model(server):
    ask(f"{server.url}/v1")
    ask(f"{server.url}/v1", temperature=1.0, top_k=0)
    assert [request.sampling.temperature for request in server.engine.requests] == [0.3, 1.0]


def test_an_answer_at_the_token_limit_is_cut(server):
    assert ask(f"{server.url}/v1", max_tokens=5)[-1].cut


def test_an_unknown_model_is_named(server):
    with pytest.raises(NotFoundError, match="nobody"):
        ask(f"{server.url}/v1", model="nobody")


def test_no_server_says_where_and_what_to_do():
    url = "http://127.0.0.1:9/v1"
    for address, hint in ((lambda: None, "`tandem up` starts it"), (None, "is the address right")):
        with pytest.raises(ClusterError, match=r"no answer from http://127\.0\.0\.1:9/v1") as caught:
            asyncio.run(Endpoint(url, address=address).models())
        assert hint in caught.value.hint


def test_a_path_that_is_not_the_apis_is_no_unknown_model(server):
    with pytest.raises(ClusterError, match="/v2 answers 404: no OpenAI API is there"):
        ask(f"{server.url}/v2")


def test_a_bare_404_is_an_endpoint_that_is_not_there_yet_and_no_unknown_model():
    transport = httpx2.MockTransport(lambda request: httpx2.Response(404, text="Not Found"))
    endpoint = Endpoint("http://127.0.0.1:9/v1", http_client=httpx2.AsyncClient(transport=transport))
    with pytest.raises(ClusterError, match="answers 404: no OpenAI API is there"):
        asyncio.run(endpoint.models())


def test_tokens_of_prompt_and_answer_are_the_engines(server):
    found = asyncio.run(Endpoint(f"{server.url}/v1").generate(ASK, Settings(temperature=0)))
    assert found.prompt_ids == server.engine.requests[0].prompt_ids
    assert (found.ids, found.finish_reason, found.version) == (server.engine.script, "stop", "base")


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_thinking_is_read_under_either_of_its_names(name):
    chunk = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    reply = Reply()
    for delta in ({name: "Hm"}, {name: "m."}, {"content": "Yes."}):
        reply.take(ChatCompletionChunk.model_validate(chunk | {"choices": [{"index": 0, "delta": delta}]}), 0.1)
    assert (reply.thinking, reply.text) == ("Hmm.", "Yes.")


def test_a_refused_request_carries_the_servers_words(server):
    async def run() -> None:
        async with Endpoint(f"{server.url}/v1") as endpoint:
            async for _ in endpoint.reply(ASK, Settings(), invented=1):
                raise AssertionError("answered")

    with pytest.raises(RequestError, match="invented is not supported"):
        asyncio.run(run())


def test_an_engine_lost_in_mid_answer_keeps_what_came(server):
    server.remote.dies_after = len(tokens("<|channel|>analysis<|message|>Greet")) + 1
    seen: list[Reply] = []

    async def run() -> None:
        async with Endpoint(f"{server.url}/v1") as endpoint:
            async for reply in endpoint.reply(ASK, Settings()):
                seen.append(reply)

    with pytest.raises(ClusterError, match="died while answering"):
        asyncio.run(run())
    assert seen[-1].thinking.startswith("Greet")


class Breaking(httpx2.AsyncByteStream):
    """A stream that begins an answer and is lost."""

    async def __aiter__(self):
        delta = {"index": 0, "delta": {"content": "The capital"}, "finish_reason": None}
        yield f"data: {json.dumps({'id': 'c', 'object': 'chat.completion.chunk', 'choices': [delta]})}\n\n".encode()
        raise httpx2.ReadError("reset by peer")


def test_an_endpoint_lost_in_mid_answer_is_said_to_have_broken_off():
    headers = {"content-type": "text/event-stream"}
    transport = httpx2.MockTransport(lambda request: httpx2.Response(200, headers=headers, stream=Breaking()))
    endpoint = Endpoint("http://127.0.0.1:9/v1", http_client=httpx2.AsyncClient(transport=transport))
    seen: list[str] = []

    async def run() -> None:
        async for reply in endpoint.reply(ASK, Settings()):
            seen.append(reply.text)

    with pytest.raises(ClusterError, match=r"/v1 broke off in the middle of an answer \(ReadError\)") as caught:
        asyncio.run(run())
    assert (seen, caught.value.hint) == (["The capital"], "ask again")


def growing(arrivals: list[tuple[float, int]]) -> Reply:
    """A reply to which something came at each of these seconds, with the tokens counted until then."""
    reply = Reply()
    for seconds, count in arrivals:
        usage = {"prompt_tokens": 1, "completion_tokens": count, "total_tokens": count + 1}
        reply.take(chunk({"content": "x"}, usage=usage), seconds)
    return reply


def chunk(delta: dict, **more) -> ChatCompletionChunk:
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    return ChatCompletionChunk.construct(**more, id="", choices=[choice], created=0, model="m", object="")


def test_speed_is_that_of_generation_and_of_the_whole_wait_for_a_burst():
    assert growing([(0.5, 1), (0.6, 2), (0.7, 3), (1.0, 6)]).tokens_per_s == pytest.approx(5 / 0.5)
    assert growing([(0.26, 1), (0.2605, 15), (0.261, 20), (0.262, 31)]).tokens_per_s == pytest.approx(31 / 0.262)
    assert growing([(0.5, 20), (0.9, 31)]).tokens_per_s == pytest.approx(31 / 0.9)
    assert growing([(0.5, 1)]).tokens_per_s is None


def test_tool_calls_are_told_apart_by_any_index_that_a_server_gives_them():
    reply = Reply()
    for index, part in ((10**9, "a"), (None, "b"), (7, "c"), (10**9, "d"), (None, "e")):
        reply.take(chunk({"tool_calls": [{"index": index, "id": "", "function": {"arguments": part}}]}), 0.1)
    assert [call["function"]["arguments"] for call in reply.tool_calls] == ["abd", "ce"]


def conversation() -> Conversation:
    made = Conversation(title="Rome", system="Be brief.")
    made.ask("What is **this**?\n\n## You\n\n<!-- tandem:assistant -->\n\\<!-- tandem:user -->")
    made.turns.append(Turn(role="assistant", content="A\n\nb 🙂\n", thinking="Two\n\nparts", version="v1"))
    return made


def test_a_conversation_survives_json_and_disk(home):
    store, made = Conversations(home.conversations), conversation()
    store.save(made)
    assert store.load(made.id) == made
    assert store.load("Rome") == made
    assert [each.id for each in store.saved()] == [made.id]
    store.delete(made.id)
    with pytest.raises(NotFoundError, match=made.id):
        store.load(made.id)


def test_texts_survive_markdown_even_those_that_look_like_its_marks():
    made = conversation()
    read = Conversation.from_markdown(made.to_markdown(), source="rome.md")
    assert (read.title, read.system) == (made.title, made.system)
    assert [(turn.role, turn.content, turn.thinking) for turn in read.turns] == [
        (turn.role, turn.content, turn.thinking) for turn in made.turns
    ]


@pytest.mark.parametrize("text", ["", "{", '{"turns": [{"role": "robot", "content": ""}]}', '{"format": 2}', "[]"])
def test_a_broken_save_file_is_named_and_left_alone(home, text):
    store = Conversations(home.conversations)
    home.conversations.mkdir(parents=True)
    path = home.conversations / "bad.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"bad\.json"):
        store.load("bad")
    assert store.saved() == []
    assert store.broken() == [path]
    assert path.read_text() == text


def test_what_somebody_else_saved_meanwhile_stays_and_this_one_gets_a_new_id(home):
    one, other = Conversations(home.conversations), Conversations(home.conversations)
    one.save(conversation())
    mine, theirs = one.load("Rome"), other.load("Rome")
    theirs.ask("Theirs")
    assert other.save(theirs)
    mine.ask("Mine")
    assert not one.save(mine)
    assert mine.id != theirs.id
    mine.ask("Mine again")
    assert one.save(mine)
    assert [each.turns[2].content for each in one.saved()] == ["Mine", "Theirs"]


def test_a_file_that_became_unreadable_is_not_overwritten(home):
    store, made = Conversations(home.conversations), conversation()
    home.conversations.mkdir(parents=True)
    (home.conversations / f"{made.id}.json").write_text("{")
    assert not store.save(made)
    assert [path.read_text() for path in store.broken()] == ["{"]


def test_an_untitled_conversation_is_found_by_its_id_only_where_ids_are_meant(home):
    store, made = Conversations(home.conversations), Conversation()
    store.save(made)
    assert store.read(made.id) == store.load("") == made
    with pytest.raises(NotFoundError):
        store.read("")


@pytest.mark.parametrize("name", ["x" * 300, "\u00e9" * 150])
def test_a_name_that_no_file_can_have_is_no_conversation(home, name):
    store = Conversations(home.conversations)
    for action in (store.load, store.read, store.delete):
        with pytest.raises(NotFoundError, match="no conversation"):
            action(name)


@pytest.mark.parametrize("moment", ["1e300", "-1", "NaN"])
@pytest.mark.parametrize("field", ["created", "updated"])
def test_a_moment_that_is_no_date_is_refused(field, moment):
    with pytest.raises(DataError, match=rf"odd\.json is not a saved conversation: {field}"):
        Conversation.from_json(f'{{"{field}": {moment}}}', source="odd.json")


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("{", "it is not complete JSON"),
        ("[]", r"a conversation cannot be \[\]"),
        ('{"turns": [{"role": "user"}]}', "turns.0.content is missing"),
        ('{"messages": []}', "messages is nothing that a conversation has"),
        ('{"settings": {"top_p": 2}}', "settings.top_p cannot be 2"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_our_words(text, wrong):
    with pytest.raises(DataError, match=f"^odd.json is not a saved conversation: {wrong}$"):
        Conversation.from_json(text, source="odd.json")


def test_a_name_never_leaves_the_folder(home):
    with pytest.raises(NotFoundError):
        Conversations(home.conversations).load("../ledger")


def test_markdown_of_somebody_else_is_refused():
    with pytest.raises(DataError, match=r"notes\.md"):
        Conversation.from_markdown("# Notes\n\nhello", source="notes.md")
