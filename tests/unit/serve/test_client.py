"""The endpoint's own client and the conversations that it keeps: over real HTTP, from a real disk."""

import asyncio

import httpx2
import pytest

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


def test_an_answer_at_the_token_limit_is_cut(server):
    assert ask(f"{server.url}/v1", max_tokens=5)[-1].cut


def test_an_unknown_model_is_named(server):
    with pytest.raises(NotFoundError, match="nobody"):
        ask(f"{server.url}/v1", model="nobody")


def test_no_server_says_where_and_what_to_do():
    with pytest.raises(ClusterError, match=r"127\.0\.0\.1:9") as caught:
        ask("http://127.0.0.1:9/v1")
    assert "tandem up" in caught.value.hint


def test_a_bare_404_is_an_endpoint_that_is_not_there_yet_and_no_unknown_model():
    transport = httpx2.MockTransport(lambda request: httpx2.Response(404, text="Not Found"))
    endpoint = Endpoint("http://127.0.0.1:9/v1", http_client=httpx2.AsyncClient(transport=transport))
    with pytest.raises(ClusterError, match="answers 404: no OpenAI API is there"):
        asyncio.run(endpoint.models())


def test_tokens_of_prompt_and_answer_are_the_engines(server):
    found = asyncio.run(Endpoint(f"{server.url}/v1").generate(ASK, Settings(temperature=0)))
    assert found.prompt_ids == server.engine.requests[0].prompt_ids
    assert (found.ids, found.finish_reason, found.version) == (server.engine.script, "stop", "base")


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


def test_a_name_never_leaves_the_folder(home):
    with pytest.raises(NotFoundError):
        Conversations(home.conversations).load("../ledger")


def test_markdown_of_somebody_else_is_refused():
    with pytest.raises(DataError, match=r"notes\.md"):
        Conversation.from_markdown("# Notes\n\nhello", source="notes.md")
