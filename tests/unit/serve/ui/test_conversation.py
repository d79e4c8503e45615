"""The browser's page without a browser: what is shown of a text, who may open it, how votes are kept."""

import asyncio
import functools
import json
import os
import socket
import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs import durable, paths
from configs.errors import ClusterError, ConfigError, StateError
from serve.client.conversation import Conversation, Conversations, Turn
from serve.client.endpoint import Endpoint, Reply, Settings
from serve.ui.conversation import display
from serve.ui.conversation.answering import Answer, Answers
from serve.ui.conversation.votes import Duel, Side, Votes
from serve.ui.guard import Guard
from serve.ui.server import Access, Server

# What is shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<b>bold</b> a < b <3", "&lt;b>bold&lt;/b> a < b <3"),
        ("![p](http://x/y)", "&#33;&#91;p](http://x/y)"),
        ("[![p](x)](y) [a](b)", "&#91;&#33;&#91;p](x)](y) [a](b)"),
        ("AT&T &amp; &#60;", "AT&T &amp;amp; &amp;#60;"),
        ("`<b>` and <b>", "`<b>` and &lt;b>"),
        ("```html\n<b>\n```\n<b>", "```html\n<b>\n```\n&lt;b>"),
        ("```\n<b> still being written", "```\n<b> still being written"),
        ("```mermaid\ngraph\n```", "```text-mermaid\ngraph\n```"),
        (r"\`<b>`", r"\`&lt;b>`"),
    ],
)
def test_tags_entities_and_pictures_are_shown_as_written_and_code_is_left_alone(text, shown):
    assert display.escaped(text) == shown
    assert display.unescaped(shown) == text


@given(st.text(alphabet="<>&!;[]()`~\\\nabl t#391", max_size=80))
def test_an_edited_question_is_read_back_exactly(text):
    assert display.unescaped(display.escaped(text)) == text


@given(st.text(alphabet="<>!/ab \n", max_size=60))
def test_no_tag_survives_outside_code(text):
    assert not any(f"<{start}" in display.escaped(text) for start in "ab/!")


def test_the_place_of_an_edited_question_counts_the_thinking_parts_that_are_shown():
    talk = Conversation()
    for number in range(2):
        talk.turns += [
            Turn(role="user", content=f"q{number}"),
            Turn(role="assistant", content="a", thinking="t"),
        ]
    shown = display.messages(talk, thinking=True)
    assert [message["content"][0]["text"] for message in shown] == ["q0", "t", "a", "q1", "t", "a"]
    assert display.turn_at(talk, 3, thinking=True) == 2
    assert display.turn_at(talk, 2, thinking=False) == 2


def test_statistics_and_notices_are_escaped():
    turn = Turn.model_validate({"role": "assistant", "content": "", "statistics": {"completion_tokens": 3}})
    assert display.statistics("<v>", turn.statistics) == "<b>&lt;v&gt;</b> · 3 tokens"
    assert "&lt;img&gt;" in display.notice("<img>")
    assert "<code>tandem up &lt;b&gt;</code> starts it" in display.notice("`tandem up <b>` starts it")


@pytest.mark.parametrize(
    ("reply", "thinking", "shown"),
    [
        (Reply(), True, ["…"]),
        (Reply(thinking="Hm"), True, ["Hm"]),
        (Reply(thinking="Hm"), False, ["*thinking …*"]),
        (Reply(thinking="Hm", finish_reason="length"), False, ["*no answer*"]),
        (Reply(thinking="Hm", finish_reason="length"), True, ["Hm", "*no answer*"]),
        (Reply("Yes", "Hm"), True, ["Hm", "Yes"]),
    ],
)
def test_an_answer_says_what_it_is_doing_until_it_has_ended(reply, thinking, shown):
    assert [part["content"][0]["text"] for part in display.answer(reply, thinking=thinking)] == shown


def test_an_answer_that_ended_without_a_word_says_so():
    shown = display.answer(Reply(thinking="Hm"), thinking=True, ended=True)
    assert [part["content"][0]["text"] for part in shown] == ["Hm", "*no answer*"]
    assert shown[0]["metadata"]["status"] == "done"


def test_what_became_of_a_text_follows_the_next_step_as_a_sentence():
    assert "does it run? It is kept<" in display.problem(ClusterError("lost", hint="does it run?"), then="It is kept")
    assert "lost → ask again. It is kept<" in display.problem(ClusterError("lost", hint="ask again"), then="It is kept")


# Answers


async def counting(log: list[str]):
    reply = Reply()
    try:
        for number in range(1000):
            reply.text += f"{number} "
            yield reply
            await asyncio.sleep(0.001)
    finally:
        log.append("ended")


def test_a_stopped_answer_ends_its_generation_and_keeps_what_came():
    async def run() -> None:
        log: list[str] = []
        answers = Answers()
        answer = answers.begin("c", "session", counting(log))
        with pytest.raises(StateError, match="still being written"):
            answers.begin("c", "other", counting(log))
        async for reply in answer.states():
            if reply.text:
                assert answers.stop("other") == []
                assert answers.stop("session", "c") == [answer]
        assert log == ["ended"]
        assert answer.reply.text.startswith("0 ")
        answers.end("c")
        answers.begin("c", "other", counting(log))

    asyncio.run(run())


def test_an_answers_last_state_is_always_shown_and_its_error_raised():
    async def failing():
        reply = Reply()
        for word in ("a", "b", "c"):
            reply.text += word
            yield reply
        raise ClusterError("lost")

    async def run() -> None:
        seen = []
        with pytest.raises(ClusterError, match="lost"):
            async for reply in Answer(failing()).states():
                seen.append(reply.text)
        assert seen[-1] == "abc"

    asyncio.run(run())


def test_a_question_into_a_running_answer_changes_nothing_but_the_notice(home):
    import gradio as gr

    from serve.ui.conversation.chat import ChatTab
    from serve.ui.conversation.controls import Controls

    store, answers, endpoint = Conversations(home.conversations), Answers(), Endpoint("http://127.0.0.1:9/v1")
    with gr.Blocks():
        controls = Controls(endpoint)
        chat = ChatTab(endpoint, store, answers, controls)

    async def run() -> list[dict]:
        answers.begin("c", "session", counting([]))
        values = [component.value for component in controls.inputs]
        request = types.SimpleNamespace(session_hash="session")
        return [update async for update in chat.send(request, "Me too", "", "c", *values)]

    (update,) = asyncio.run(run())
    assert list(update) == [chat.notice], "Stop and the answer so far stay on the page"
    assert "still being written" in update[chat.notice]
    assert store.saved() == []


# Votes


def duel(a: str = "first", b: str = "second") -> Duel:
    sides = [Side(f"model-{text}", Reply(text=text, version=f"v-{text}", finish_reason="stop")) for text in (a, b)]
    return Duel([{"role": "user", "content": "q\n🙂"}], Settings(), True, *sides)


@pytest.mark.parametrize(
    ("choice", "chosen", "tie"), [("a", "first", False), ("b", "second", False), ("tie", "first", True)]
)
def test_a_vote_is_a_line_of_preference_data(home, choice, chosen, tie):
    votes = Votes(home.preferences)
    votes.add(duel(), choice)
    (line,) = votes.path.read_text().splitlines()
    vote = json.loads(line)
    assert vote["prompt"] == [{"role": "user", "content": "q\n🙂"}]
    assert vote["chosen"] == [{"role": "assistant", "content": chosen}]
    assert (vote["chosen_version"], vote["tie"], vote["vote"]) == (f"v-{chosen}", tie, choice)
    assert {vote["chosen_version"], vote["rejected_version"]} == {"v-first", "v-second"}
    assert (vote["chosen_finish_reason"], vote["rejected_finish_reason"]) == ("stop", "stop")
    assert "model" not in vote["settings"]


def test_votes_from_many_threads_are_whole_lines_and_a_torn_one_is_cut_off(home):
    votes = Votes(home.preferences)
    votes.add(duel(), "a")
    with votes.path.open("a") as file:
        file.write('{"prompt": [{"role": "us')
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: votes.add(duel(a="x" * 9000 + str(number)), "a"), range(16)))
    assert len([json.loads(line) for line in votes.path.read_text().splitlines()]) == 17


def test_a_file_that_is_one_torn_line_begins_anew(tmp_path):
    file = tmp_path / "lines"
    file.write_bytes(b"x" * 200_000)
    durable.append_line(file, "whole")
    assert file.read_text() == "whole\n"


# Who may open it


@pytest.mark.parametrize(
    "access",
    [Access(server_name="0.0.0.0"), Access(share=True), Access(server_name="::"), Access(server_name="gpu-box")],
)
def test_others_may_open_the_page_only_with_a_password(access):
    with pytest.raises(ConfigError, match="needs a password"):
        access.check()
    Access(server_name=access.server_name, share=access.share, password="long enough").check()


def test_a_short_password_is_refused_without_being_said():
    with pytest.raises(ConfigError) as caught:
        Access(password="secret").check()
    assert "secret" not in caught.value.message + caught.value.hint


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    server = Server(
        "http://127.0.0.1:9/v1",
        paths.Home(tmp_path_factory.mktemp("ui")),
        Access(port=free_port(), password="a long password"),
    )
    server.start()
    yield server
    server.close()


def test_the_page_asks_for_the_password_and_its_api_too(served):
    page = httpx.get(served.url)
    assert "gradio_config" in page.text
    assert "conversations" not in page.text, "nothing of the page is told before the password"
    assert httpx.get(f"{served.url}gradio_api/info").status_code == 401
    assert httpx.post(f"{served.url}login", data={"username": "me", "password": "wrong"}).status_code == 400
    right = httpx.post(f"{served.url}login", data={"username": "me", "password": "a long password"})
    assert right.status_code == 200
    assert "conversations" in httpx.get(served.url, cookies=right.cookies).text


def test_passwords_are_tried_one_by_one_and_a_wrong_one_costs_a_second(monkeypatch, home):
    page = Server("http://127.0.0.1:9/v1", home, Access(password="a long password"))
    waiting, slept = 0, []

    async def sleep(seconds: float) -> None:
        nonlocal waiting
        waiting += 1
        assert waiting == 1, "two attempts are judged at once"
        slept.append(seconds)
        await yielded()
        waiting -= 1

    async def attempts() -> list[bool]:
        return await asyncio.gather(*(page._admits("me", word) for word in ["wrong", "a long password", "", "wrong"]))

    yielded = functools.partial(asyncio.sleep, 0)
    monkeypatch.setattr("serve.ui.server.asyncio", SimpleNamespace(sleep=sleep))
    assert asyncio.run(attempts()) == [False, True, False, False]
    assert slept == [1.0] * 3


def test_every_response_forbids_scripts_and_addresses_that_are_not_ours(served):
    first, second = (httpx.get(served.url) for _ in range(2))
    policy = first.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe-inline" not in policy.partition("script-src")[2].partition(";")[0]
    nonce = policy.partition("'nonce-")[2].partition("'")[0]
    assert first.text.count("<script") == first.text.count(f'<script nonce="{nonce}"') > 0
    assert nonce not in second.headers["content-security-policy"]


def test_a_foreign_host_name_is_refused(served):
    assert httpx.get(served.url, headers={"host": "evil.example"}).status_code == 403


def test_a_foreign_page_uploads_nothing_and_does_not_log_in(served):
    own = {"origin": served.url.rstrip("/")}
    for headers in ({"origin": "https://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}):
        refused = httpx.post(f"{served.url}gradio_api/upload", files={"files": b"x"}, headers=headers)
        assert refused.status_code == 403 and "may not use this server" in refused.json()["error"]["message"]
        form = {"username": "me", "password": "a long password"}
        assert httpx.post(f"{served.url}login", data=form, headers=headers).status_code == 403
    assert httpx.post(f"{served.url}login", data=form, headers=own).status_code == 200


def test_nothing_is_told_to_anybody_else(served):
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert "fonts.googleapis.com" not in httpx.get(f"{served.url}theme.css").text


def test_a_taken_port_is_named_with_the_option(served, home):
    taken = httpx.URL(served.url).port
    with pytest.raises(ClusterError, match=str(taken)) as caught:
        Server("http://127.0.0.1:9/v1", home, Access(port=taken)).start()
    assert "--port" in caught.value.hint


def test_guard_lets_streams_pass_as_they_come():
    sent: list[dict] = []

    async def app(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        assert sent[-1]["body"] == b"one"
        await send({"type": "http.response.body", "body": b"two"})

    async def send(message: dict) -> None:
        sent.append(message)

    asyncio.run(Guard(app)({"type": "http"}, None, send))
    assert [message.get("body") for message in sent] == [None, b"one", b"two"]


# The command


def test_ctrl_c_ends_the_command_cleanly(home):
    """In a process of its own, as a shell has it."""
    port = free_port()
    code = "from cli.main import main; main()"
    command = [sys.executable, "-c", code, "ui", "--url", "http://127.0.0.1:9/v1", "--port", str(port)]
    process = subprocess.Popen(command, cwd=paths.SOURCE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == f"http://127.0.0.1:{port}/\n"
        assert process.stderr.readline() == "Ctrl-C ends it\n"
        process.send_signal(2)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert (process.returncode, out, err) == (0, "", "")
