"""The chat as a person drives it, without a terminal: messages in, what is shown and kept out, over real HTTP."""

import asyncio
import contextlib
import io
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from rich.console import Console

from cli.chat import command, commands, session
from cli.chat.screen import Screen
from cli.chat.session import Chat
from configs.errors import ClusterError, DataError
from configs.paths import Home
from serve.client.conversation import Conversation, Conversations, Turn
from serve.client.endpoint import Endpoint, Settings
from tests.fakes import FakeRemote
from tests.gateway_server import HELLO, TOKENIZER, Server, tokens

LONG = f"<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>{'word ' * 200}<|return|>"
LONGEST_DRAFT = 1000
Step = str | Callable[["Script"], str | None]


class Script:
    """A person's messages, one per prompt; a function sees the chat first and may decide what is typed."""

    interactive = True

    def __init__(self, *steps: Step) -> None:
        self.steps, self.drafts = [*steps], []
        self.chat: Chat | None = None

    async def read(self, draft: str = "") -> str:
        self.drafts.append(draft)
        while self.steps:
            step = self.steps.pop(0)
            typed = step(self) if callable(step) else step
            if typed is not None:
                return typed
        raise EOFError

    def holds(self, draft: str) -> bool:
        return len(draft) < LONGEST_DRAFT

    def interrupt(self) -> None: ...

    def quiet(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


class Talk:
    """What a scripted chat left behind."""

    def __init__(self, chat: Chat, shown: str, prompt: Script) -> None:
        self.chat, self.shown, self.drafts = chat, shown, prompt.drafts
        self.turns = [(turn.role, turn.content, turn.cut) for turn in chat.conversation.turns]


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Iterator[Server]:
    with Server(Home(tmp_path_factory.mktemp("chat"))) as server:
        yield server


@pytest.fixture
def server(shared) -> Server:
    """As new, apart from its process."""
    shared.engine.script, shared.engine.delay = tokens(HELLO), 0.0
    shared.engine.requests.clear()
    return shared


@pytest.fixture
def talk(server, home):
    def run(
        *steps: Step, url: str = "", address=None, interactive: bool = True, meanwhile=None, **conversation
    ) -> Talk:
        shown = io.StringIO()
        console = Console(file=shown, force_terminal=True, color_system=None, width=100, height=30)
        prompt = Script(*steps)
        prompt.interactive = interactive

        async def main() -> Chat:
            async with Endpoint(url or f"{server.url}/v1", address=address) as endpoint:
                chat = Chat(
                    endpoint,
                    prompt,
                    Screen(console, console, live=True, thinking=True),
                    Conversations(home.conversations),
                    Conversation(**conversation),
                )
                prompt.chat = chat
                beside = asyncio.create_task(meanwhile(chat)) if meanwhile else None
                await asyncio.wait_for(chat.run(), 20)
                if beside:
                    await beside
            return chat

        return Talk(asyncio.run(main()), shown.getvalue(), prompt)

    return run


def of_nobody(script: Script) -> None:
    """As a conversation whose model was retired meanwhile."""
    script.chat.conversation.settings.model = "nobody"


def interrupted(server: Server) -> Callable:
    """Ctrl-C once the second tenth of an answer is on its way."""

    async def meanwhile(chat: Chat) -> None:
        while not server.engine._running:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.2)
        chat.interrupt()

    return meanwhile


# Turns


def test_an_answer_is_shown_with_its_thinking_and_statistics_and_kept(talk, home):
    done = talk("Hi")
    assert done.turns == [("user", "Hi", False), ("assistant", "Hello there.", False)]
    assert done.chat.conversation.turns[1].thinking == "Greet them."
    assert "  Greet them.\n\nHello there.\n" in done.shown
    assert f"{len(tokens(HELLO))} tokens" in done.shown
    assert "TTFT" in done.shown
    assert Conversations(home.conversations).load("Hi") == done.chat.conversation


def test_the_endpoint_is_sent_the_whole_conversation_with_its_instructions(talk, server):
    talk("/system Be brief.", "One", "Two")
    prompt = TOKENIZER.decode(server.engine.requests[-1].prompt_ids)
    found = [prompt.index(part) for part in ("Be brief.", "One", "Hello there.", "Two")]
    assert found == sorted(found)


def test_settings_reach_the_engine(talk, server):
    talk("/settings temperature 0.2", "/settings top_k 5", "/settings max_tokens 30", "/reasoning low", "Hi")
    sampling = server.engine.requests[-1].sampling
    assert (sampling.temperature, sampling.top_k, sampling.max_tokens) == (0.2, 5, 30)
    assert "Reasoning: low" in TOKENIZER.decode(server.engine.requests[-1].prompt_ids)


def test_ctrl_c_stops_the_answer_and_keeps_the_chat_and_what_came(talk, server):
    server.engine.script, server.engine.delay = tokens(LONG), 0.005
    done = talk("Hi", meanwhile=interrupted(server))
    assert done.turns[0] == ("user", "Hi", False)
    role, content, cut = done.turns[1]
    assert (role, cut) == ("assistant", True)
    assert len(content) < len("word " * 200)
    assert "stopped; what came is kept" in done.shown
    deadline = time.monotonic() + 10
    while server.engine._running:
        assert time.monotonic() < deadline, "the server goes on generating"
        time.sleep(0.005)


def test_a_question_stopped_before_anything_came_is_there_for_editing(talk, server):
    server.engine.delay = 60
    done = talk("Hi", meanwhile=interrupted(server))
    assert done.turns == []
    assert done.drafts == ["", "Hi"]


def test_a_question_is_on_disk_while_its_answer_is_awaited_and_gone_if_none_comes(talk, server, home):
    server.engine.delay = 60
    saved = []

    async def look(chat: Chat) -> None:
        while not server.engine.requests:
            await asyncio.sleep(0.005)
        saved.extend(Conversations(home.conversations).saved())
        chat.interrupt()

    done = talk("Hi", meanwhile=look)
    assert [turn.content for turn in saved[0].turns] == ["Hi"]
    assert done.drafts == ["", "Hi"]
    assert Conversations(home.conversations).saved() == []


def test_a_refused_question_leaves_the_turns_before_it_on_disk(talk, home):
    done = talk("Hi", of_nobody, "Ho")
    (saved,) = Conversations(home.conversations).saved()
    assert [turn.content for turn in saved.turns] == ["Hi", "Hello there."]
    assert done.drafts[-1] == "Ho"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_mid_answer_keeps_what_came_and_leaves(number, talk, server, home):
    server.engine.script, server.engine.delay = tokens(LONG), 0.005

    async def end(chat: Chat) -> None:
        while "word" not in chat.screen.out.file.getvalue():
            await asyncio.sleep(0.005)
        os.kill(os.getpid(), number)

    done = talk("Hi", "never read", meanwhile=end)
    (saved,) = Conversations(home.conversations).saved()
    assert [(turn.role, turn.cut) for turn in saved.turns] == [("user", False), ("assistant", True)]
    assert saved.turns[1].content.startswith("word") and len(saved.turns[1].content) < len("word " * 200)
    assert done.chat.terminated
    assert done.drafts == [""]


def test_a_signal_before_anything_came_keeps_the_question(talk, server, home):
    server.engine.delay = 60

    async def end(chat: Chat) -> None:
        while not server.engine.requests:
            await asyncio.sleep(0.005)
        os.kill(os.getpid(), signal.SIGHUP)

    talk("Hi", meanwhile=end)
    (saved,) = Conversations(home.conversations).saved()
    assert [(turn.role, turn.content) for turn in saved.turns] == [("user", "Hi")]


def test_an_answer_at_the_token_limit_is_marked_as_cut(talk):
    done = talk("/settings max_tokens 8", "Hi")
    assert done.turns[-1][2] is True
    assert "cut: the token limit was reached" in done.shown


def test_retry_replaces_the_answer(talk, server):
    def other(script: Script) -> str:
        server.engine.script = tokens(HELLO.replace("Hello", "Welcome"))
        return "/retry"

    done = talk("Hi", other)
    assert done.turns == [("user", "Hi", False), ("assistant", "Welcome there.", False)]


def test_a_retry_that_fails_keeps_the_old_answer(talk):
    done = talk("Hi", of_nobody, "/retry")
    assert "does not exist" in done.shown
    assert done.turns == [("user", "Hi", False), ("assistant", "Hello there.", False)]


def test_edit_brings_the_question_back_and_replaces_it(talk):
    done = talk("Hi", "/edit", "Hi again")
    assert done.drafts == ["", "", "Hi", ""]
    assert [content for _, content, _ in done.turns] == ["Hi again", "Hello there."]


def test_an_edit_given_up_changes_nothing(talk):
    done = talk("Hi", "/edit", "", "More")
    assert [content for _, content, _ in done.turns] == ["Hi", "Hello there.", "More", "Hello there."]


def test_what_another_program_added_meanwhile_is_not_overwritten(talk, home):
    store = Conversations(home.conversations)

    def add(script: Script) -> None:
        other = store.load("Hi")
        other.ask("From the browser")
        store.save(other)

    done = talk("Hi", add, "More", "And more")
    assert "changed elsewhere" in done.shown
    mine, others = store.saved()
    assert mine.id == done.chat.conversation.id != others.id
    assert [turn.content for turn in others.turns] == ["Hi", "Hello there.", "From the browser"]
    assert [turn.content for turn in mine.turns if turn.role == "user"] == ["Hi", "More", "And more"]
    assert done.shown.count("changed elsewhere") == 1


def test_clear_begins_anew_and_the_old_conversation_stays_on_disk(talk, home):
    done = talk("Hi", "/clear", "Ho")
    assert [content for _, content, _ in done.turns] == ["Ho", "Hello there."]
    assert {each.title for each in Conversations(home.conversations).saved()} == {"Hi", "Ho"}


def test_a_saved_conversation_goes_on(talk):
    first = talk("Hi", "/save greetings")
    done = talk("/load greetings", "More")
    assert [content for _, content, _ in done.turns] == ["Hi", "Hello there.", "More", "Hello there."]
    assert done.chat.conversation.id == first.chat.conversation.id


@pytest.mark.parametrize("suffix", [".json", ".md"])
def test_an_exported_conversation_can_be_loaded_and_is_never_overwritten(suffix, talk, tmp_path):
    path = tmp_path / f"talk{suffix}"
    done = talk("Hi", f"/export {path}", f"/export {path}", "/clear", f"/load {path}")
    assert "exists already" in " ".join(done.shown.split())  # a long path folds the line
    assert [content for _, content, _ in done.turns] == ["Hi", "Hello there."]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("x" * 300 + ".md", "/export writes .md or .json"),
        ("chat.pdf", "/export writes .md or .json"),
        (
            "/nonexistent/x.md",
            "error: /nonexistent/x.md cannot be written: No such file or directory "
            "-> name a file in a folder of yours that is there",
        ),
    ],
)
def test_a_file_that_nothing_can_be_exported_to_is_named(name, words, talk):
    assert words in " ".join(talk("Hi", f"/export {name}").shown.split())


def test_a_conversation_is_deleted_after_asking(talk, home):
    store = Conversations(home.conversations)
    assert "nothing is deleted" in talk("Hi", "/delete Hi", "no", "/delete Hi", "").shown
    (kept,) = store.saved()
    done = talk("Ho", "/delete Hi", "yes")
    assert f"delete 'Hi', 1 question, id {kept.id}? yes deletes it for good" in done.shown
    assert [each.title for each in store.saved()] == ["Ho"]
    assert [content for _, content, _ in done.turns] == ["Ho", "Hello there."]


def test_deleting_the_conversation_that_is_open_begins_a_new_one(talk, home):
    done = talk("/system Be brief.", "Hi", "/delete Hi", "yes", "Ho")
    (saved,) = Conversations(home.conversations).saved()
    assert (saved.title, saved.system) == ("Ho", "Be brief.")
    assert [content for _, content, _ in done.turns] == ["Ho", "Hello there."]


def test_two_models_answer_one_question_and_the_conversation_stays(talk, server):
    done = talk("Hi", "/compare base prod", "/compare base prod Ho")
    assert len(server.engine.requests) == 5
    assert done.shown.count("Hello there.") >= 3
    assert [content for _, content, _ in done.turns] == ["Hi", "Hello there."]
    assert "base: " in done.shown
    assert "prod: " in done.shown


def test_a_comparison_before_any_question_takes_the_next_message(talk, server):
    done = talk("/compare base prod", "Hi")
    assert len(server.engine.requests) == 2
    assert done.turns == []


def test_a_comparison_that_waits_for_a_message_can_be_given_up(talk, server):
    done = talk("/compare base prod", "", "Hi")
    assert "the next message goes to base and prod; Enter alone gives it up\n(given up)\n" in done.shown
    assert done.turns == [("user", "Hi", False), ("assistant", "Hello there.", False)]


def test_a_setting_without_a_value_is_shown_and_default_takes_it_back(talk):
    done = talk(
        "/settings temperature 0.5", "/settings temperature", "/settings temperature default", "/settings temperature"
    )
    assert done.shown.splitlines() == [
        "temperature 0.5", "temperature 0.5", "temperature default", "temperature default"
    ]  # fmt: skip


def test_every_setting_that_is_listed_can_be_changed_there(talk):
    lines = ("model base", "reasoning_effort low", "thinking hide", "system Be brief.", "thinking", "system")
    done = talk(*(f"/settings {line}" for line in lines))
    assert done.shown.splitlines() == [
        "model base", "reasoning_effort low", "thinking is hidden", "instructions: Be brief.",
        "thinking hidden", "system Be brief.",
    ]  # fmt: skip
    again = talk("/settings model base", *(f"/settings {name} default" for name in commands.DEFAULTS))
    settings = again.chat.conversation.settings
    assert (settings, again.chat.conversation.system) == (Settings(), "")


def test_open_for_counts_this_chat_and_not_the_days_between(talk):
    shown = talk("Hi", "/stats", created=time.time() - 7 * 86400).shown
    row = next(line for line in shown.splitlines() if line.startswith("open for"))
    assert int(row.split()[-1].removesuffix("s")) < 60


def test_statistics_of_the_conversation_add_up(talk):
    shown = talk("Hi", "Ho", "/stats").shown
    assert f"{2 * len(tokens(HELLO))}" in next(
        line for line in shown.splitlines() if line.startswith("tokens generated")
    )
    assert next(line for line in shown.splitlines() if line.startswith("answers")).split() == ["answers", "2"]


def test_help_names_every_command(talk):
    shown = talk("/help").shown
    assert [name for name in commands.COMMANDS if f"/{name}" not in shown] == []


def test_thinking_can_be_hidden_and_shown_again(talk):
    hidden = talk("/thinking hide", "Hi", "Ho").shown
    assert "Greet them." not in hidden
    assert "Greet them." in talk("/thinking hide", "Hi", "/thinking show").shown


# What goes wrong


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/hlep", "did you mean /help?"),
        ("/exot", "did you mean /exit?"),
        ("/exprt", "did you mean /export?"),
        ("/mdel", "did you mean /model?"),
        ("/etc/passwd says what?", "a space first makes it a message"),
        ("/settings temperature hot", "temperature cannot be 'hot'"),
        ("/settings temperature 3", "less than or equal to 2"),
        ("/settings warmth 1", "no setting 'warmth' -> settings: model, "),
        ("/settings max_new_tokens 1", "no setting 'max_new_tokens' -> did you mean /settings max_tokens? settings: "),
        ("/settings temprature 1", "did you mean /settings temperature?"),
        ("/reasoning extreme", "'low', 'medium' or 'high'"),
        ("/model nobody", "models: tiny, base, prod"),
        ("/settings model nobody", "models: tiny, base, prod"),
        ("/settings thinking loudly", "cannot be 'loudly'"),
        ("/save", "nothing to save yet -> ask something first"),
        ("/export x.md", "nothing to save yet -> ask something first"),
        ("/delete", "/delete needs a name -> /conversations lists them"),
        ("/delete nothing", "no conversation 'nothing'"),
        ("/load", "/load needs a name"),
        ("/load nothing", "no conversation 'nothing'"),
        ("/load nothing", "-> /conversations in a chat lists them"),
        ("/load " + "x" * 300, "no conversation 'xxx"),
        ("/load " + "x" * 300 + ".json", "no conversation 'xxx"),
        ("/load ~nobody-here/x.json", "no conversation '~nobody-here/x.json'"),
        ("/retry", "nothing was asked yet"),
        ("/edit", "nothing was asked yet"),
        ("/compare base", "needs two models"),
        ("/compare base nobody", "no model 'nobody'"),
        ("/thinking loudly", "cannot be 'loudly'"),
    ],
)
def test_a_wrong_command_says_what_is_wrong_and_the_chat_goes_on(line, words, talk):
    done = talk(line, "Hi")
    assert words in " ".join(done.shown.split())
    assert done.turns[-1] == ("assistant", "Hello there.", False)


def test_a_space_makes_a_message_of_what_looks_like_a_command(talk):
    assert talk(" /help me").turns[0] == ("user", " /help me", False)


def test_a_broken_save_file_is_named_and_left_as_it_is(talk, home):
    home.conversations.mkdir()
    bad = home.conversations / "bad.json"
    bad.write_text('{"turns": 1}')
    done = talk("/load bad", "/conversations", "/load What is it", "Hi")
    assert "is not a saved conversation" in done.shown
    assert "1 conversation saved in" in done.shown.partition("no conversation 'What is it'")[2]
    assert "not readable" in done.shown
    assert bad.read_text() == '{"turns": 1}'
    assert done.turns[-1] == ("assistant", "Hello there.", False)


def test_going_on_names_damaged_conversations_instead_of_saying_that_there_are_none(talk, home):
    home.conversations.mkdir()
    (home.conversations / "bad.json").write_text("{")

    def resume(script: Script) -> None:
        with pytest.raises(DataError, match=r"1 conversation saved in .* cannot be read: bad\.json"):
            command._open(script.chat, resume=True, name=None)

    def resume_the_whole_one(script: Script) -> None:
        command._open(script.chat, resume=True, name=None)
        assert script.chat.conversation.title == "Hi"

    assert talk(resume, "Hi", resume_the_whole_one).shown.count("cannot be read: bad.json") == 1


def test_an_unknown_model_is_refused_and_the_text_kept(talk):
    done = talk(of_nobody, "A long question", "/settings model prod")
    assert "nobody" in done.shown
    assert done.drafts[1] == "A long question"
    assert done.turns == []


def test_a_paste_that_the_server_refuses_is_kept_for_editing(talk, server):
    paste = "x" * (8 * 2**20)
    done = talk(paste, "Hi")
    assert "larger than 8 MiB" in done.shown
    assert "Up brings the text back" in done.shown.partition("larger than 8 MiB")[2]
    assert done.drafts == ["", "", ""]
    assert done.turns[0] == ("user", "Hi", False)


def test_control_characters_and_emojis_do_no_harm_either_way(talk, server):
    evil = "\x1b[2J\x1b]0;owned\x07 \x9b31m \u202eabc &#x1b;[1m &#x202e;x"
    server.engine.script = tokens(f"<|channel|>final<|message|>{evil}<|return|>")
    done = talk("\N{GRINNING FACE}", "\x1b[31mred\x00", "/load " + evil)
    assert done.turns[1] == ("assistant", evil, False), "kept as it came"
    assert done.turns[2] == ("user", "\x1b[31mred\x00", False)
    for raw in ("\x1b[2J\x1b", "\x1b]0", "\x07", "\x9b", "\u202e", "\x1b[31m"):
        assert raw not in done.shown
    assert "\u241b[2J" in done.shown


def test_a_lost_connection_is_said_and_the_question_asked_again(talk, home, tmp_path):
    first = Server(Home(tmp_path / "a"))
    first.start()
    port = first.socket.getsockname()[1]
    first.engine.script, first.engine.delay = tokens(LONG), 0.005
    second = Server(Home(tmp_path / "b"))

    async def restart(chat: Chat) -> None:
        nonlocal second
        while not first.engine._running:
            await asyncio.sleep(0.005)
        await asyncio.to_thread(first.stop)
        second = Server(Home(tmp_path / "b"), port)
        second.start()

    done = talk("Hi", url=f"{first.url}/v1", meanwhile=restart)
    second.stop()
    assert "waiting for " in done.shown
    assert done.turns == [("user", "Hi", False), ("assistant", "Hello there.", False)]


def test_ctrl_c_gives_up_waiting_and_keeps_what_was_typed(talk):
    async def give_up(chat: Chat) -> None:
        while not chat._awaited:
            await asyncio.sleep(0.005)
        while "waiting for" not in chat.screen.out.file.getvalue():
            await asyncio.sleep(0.005)
        chat.interrupt()

    done = talk("Hi", url="http://127.0.0.1:9/v1", meanwhile=give_up)
    assert "no answer from http://127.0.0.1:9/v1" in done.shown
    assert done.drafts == ["", "Hi"]
    assert done.turns == []


def test_nobody_waits_where_nobody_is_there(talk):
    with pytest.raises(ClusterError, match="no answer from"):
        talk("Hi", url="http://127.0.0.1:9/v1", interactive=False)


def test_a_broken_answer_is_set_apart_from_the_one_that_follows(talk, server):
    server.engine.script = tokens(LONG)
    server.remote.dies_after = 30

    async def mend(chat: Chat) -> None:
        while "waiting for" not in chat.screen.out.file.getvalue():
            await asyncio.sleep(0.005)
        server.remote.dies_after, server.engine.script = None, tokens(HELLO)

    done = talk("Hi", meanwhile=mend)
    first, said, second = done.shown.partition("asking again; the broken answer above is dropped")
    assert said
    assert "word word" in first
    assert "Hello there." in second
    assert done.turns[-1] == ("assistant", "Hello there.", False)


def test_where_nobody_waits_what_came_before_the_loss_is_kept(talk, server, home):
    server.engine.script = tokens(LONG)
    server.remote.dies_after = 30
    with pytest.raises(ClusterError, match="died while answering"):
        talk("Hi", interactive=False)
    (saved,) = Conversations(home.conversations).saved()
    question, answer = saved.turns
    assert (question.content, answer.cut, answer.thinking) == ("Hi", True, "Hm.")
    assert answer.content.startswith("word word") and len(answer.content) < len("word " * 200)


def test_an_endpoint_that_comes_back_elsewhere_is_found_there(talk, tmp_path):
    first, second = (Server(Home(tmp_path / name)) for name in "ab")
    running = [first]

    def move(script: Script) -> None:
        first.stop()
        running[:] = [second]
        second.start()

    first.start()
    done = talk("Hi", move, "Ho", address=lambda: f"{running[0].url}/v1" if running else None, url=f"{first.url}/v1")
    second.stop()
    assert done.turns[-1] == ("assistant", "Hello there.", False)
    assert len(second.engine.requests) == 1
    assert done.chat.endpoint.url == f"{second.url}/v1"


def test_a_disk_that_takes_nothing_is_said_and_the_chat_goes_on(talk, home):
    home.conversations.write_text("a file where the folder should be")
    done = talk("Hi", "Ho")
    assert "is not saved" in done.shown
    assert len(done.turns) == 4


# Completion


def test_commands_models_settings_and_saved_names_are_completed(talk):
    def complete(script: Script) -> None:
        script.chat.models = ["tiny", "prod"]
        for line, found in {
            "/re": ("/re", ["/reasoning", "/retry"]),
            "/model p": ("p", ["prod"]),
            "/compare tiny p": ("p", ["prod"]),
            "/settings top": ("top", ["top_p", "top_k"]),
            "/load What is": ("What is", ["What is Rome?"]),
            "/nothing x": ("", []),
        }.items():
            unfinished, words = commands.complete(script.chat, line)
            assert (unfinished, list(words)) == found

    talk("What is Rome?", complete)


def test_conversations_of_one_title_are_completed_by_their_ids_with_what_tells_them_apart(talk):
    def complete(script: Script) -> None:
        older, newer = (each.id for each in reversed(script.chat.store.saved()[:2]))
        assert commands.complete(script.chat, "/load What is R") == (
            "What is R", {newer: "What is Rome?, 0s ago, 1 question", older: "What is Rome?, 0s ago, 2 questions"}
        )  # fmt: skip

    talk("Something else", "/clear", "What is Rome?", "More", "/clear", "What is Rome?", complete)


def test_what_the_person_typed_is_valid_json_on_disk(talk, home):
    done = talk("caf\u00e9 \N{GRINNING FACE}")
    saved = json.loads((home.conversations / f"{done.chat.conversation.id}.json").read_text())
    assert Turn.model_validate(saved["turns"][0]).content == "caf\u00e9 \N{GRINNING FACE}"


# Waiting


def test_ctrl_c_ends_a_command_that_waits_for_a_silent_server_and_the_chat_goes_on(talk):
    with Silent() as server:

        async def interrupt(chat: Chat) -> None:
            for waiting in (1, 2):
                while len(taken) < waiting:
                    await asyncio.sleep(0.005)
                chat.interrupt()

        taken = server.taken
        done = talk("/model", "/compare base prod Hi", url=server.address, meanwhile=interrupt)
    assert done.shown == "(stopped)\n(stopped)\n"
    assert done.drafts == ["", "", ""]


def test_a_silent_server_is_given_up_after_a_while(talk, monkeypatch):
    monkeypatch.setattr(session, "MODELS_S", 0.1)
    with Silent() as server:
        done = talk("/model", url=server.address)
    assert done.shown.startswith(f"error: no answer from {server.address} within 0.1 s")


class Silent:
    """A server that takes connections and says nothing."""

    def __enter__(self) -> "Silent":
        self.taken: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listening.getsockname()[1]}/v1"
        threading.Thread(target=self._take, daemon=True).start()
        return self

    def _take(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.taken.append(self._listening.accept()[0])

    def __exit__(self, *raised: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        for each in (self._listening, *self.taken):
            each.close()


def test_a_question_whose_every_answer_breaks_off_comes_back_with_what_came(talk, server, monkeypatch, home):
    monkeypatch.setattr(session, "AGAIN_S", 0.01)
    monkeypatch.setattr(
        FakeRemote, "dies_after", property(lambda remote: 30, lambda remote, value: None), raising=False
    )
    server.engine.script = tokens(LONG)
    done = talk("Hi")
    assert len(server.engine.requests) == session.MOST_BROKEN == 3
    assert done.shown.count("asking again;") == 2
    assert "3 answers in a row broke off -> change the question, or send it again" in done.shown
    assert [(role, cut) for role, _, cut in done.turns] == [("user", False), ("assistant", True)]
    assert done.turns[1][1].startswith("word word")
    assert done.drafts == ["", "Hi"]
    assert done.chat.editing, "sent again, it takes the place of the broken one"
    assert Conversations(home.conversations).load("Hi") == done.chat.conversation
