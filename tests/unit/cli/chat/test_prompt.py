"""The input line: real keys through prompt_toolkit, real lines through a pipe."""

import asyncio
import io
import stat

import pytest
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from cli.chat.prompt import EditedPrompt, PlainPrompt

ENTER, ALT_ENTER, UP, TAB, CTRL_C, CTRL_D = "\r", "\x1b\r", "\x1b[A", "\t", "\x03", "\x04"


def typed(*keys: str, draft: str = "", history=None) -> list:
    """What each message was after these keys, until the input ends."""

    def complete(line: str) -> tuple[str, dict[str, str]]:
        return line, {word: "" for word in ("/settings",) if word.startswith(line)}

    async def run() -> list:
        with create_pipe_input() as pipe:
            prompt = EditedPrompt(history, complete, input=pipe, output=DummyOutput())
            found = []
            for text in keys:
                pipe.send_text(text)
                try:
                    async with asyncio.timeout(10):
                        found.append(await prompt.read(draft))
                except (KeyboardInterrupt, EOFError) as error:
                    found.append(type(error))
            return found

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("hi" + ENTER, "hi"),
        ("one" + ALT_ENTER + "two" + ENTER, "one\ntwo"),
        ("one\\" + ENTER + "two" + ENTER, "one\ntwo"),
        ("\x1b[200~one\r\ntwo\n\nthree\x1b[201~" + ENTER, "one\ntwo\n\nthree"),
        ("\x1b[200~\x1b[31mred\x00\x1b[201~" + ENTER, "\x1b[31mred\x00"),
        ("\N{GRINNING FACE}" + ENTER, "\N{GRINNING FACE}"),
        (CTRL_C, KeyboardInterrupt),
        (CTRL_D, EOFError),
    ],
)
def test_keys_make_one_message(keys, message):
    assert typed(keys) == [message]


def test_a_draft_is_there_to_be_edited():
    assert typed("\x7f!" + ENTER, draft="Hi.") == ["Hi!"]


def test_a_slash_behind_an_untouched_draft_begins_a_command_and_the_history_has_the_draft(tmp_path):
    path = tmp_path / "chat_history"
    assert typed("/help" + ENTER, draft="What is Rome?", history=path) == ["/help"]
    assert [line for line in path.read_text().splitlines() if line.startswith("+")] == ["+What is Rome?", "+/help"]
    assert typed("!/help" + ENTER, draft="What is Rome?") == ["What is Rome?!/help"]


def test_a_text_that_would_fill_the_window_is_kept_for_up_instead(tmp_path):
    path = tmp_path / "chat_history"
    long = "\n".join(f"line {number}" for number in range(30))
    wide = "word " * 500

    async def run() -> list:
        with create_pipe_input() as pipe:
            prompt = EditedPrompt(path, lambda line: (line, {}), input=pipe, output=DummyOutput())
            found = [prompt.holds(text) for text in ("Hi", "\n".join("x" * 20), wide, long, long)]
            pipe.send_text(UP + ENTER)
            async with asyncio.timeout(10):
                return [*found, await prompt.read()]

    assert asyncio.run(run()) == [True, True, False, False, False, long]
    assert path.read_text().count("+line 29\n") == 1


def test_history_is_kept_on_disk_for_its_owner_only(tmp_path):
    path = tmp_path / "chat_history"
    assert typed("first\\" + ENTER + "line" + ENTER, "second" + ENTER, history=path) == ["first\nline", "second"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert typed(UP + ENTER, history=path) == ["second"]


class Keyboard(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_without_an_editor_a_terminal_shows_the_draft_and_an_empty_line_sends_it(capsys):
    async def run(draft: str) -> list[str]:
        prompt = PlainPrompt(Keyboard("\nother\n \n\n"))
        return [await asyncio.wait_for(prompt.read(each), 10) for each in (draft, draft, draft, "")]

    assert asyncio.run(run("What\nis \x1b[2J?")) == ["What\nis \x1b[2J?", "other", " ", ""]
    assert capsys.readouterr().err.count("What\nis \u241b[2J?\n(Enter sends this; a space and Enter drop it)\n> ") == 3
    assert asyncio.run(run("x" * 5000))[0] == "x" * 5000
    assert f"{'x' * 1000} ... (5,000 characters)\n" in capsys.readouterr().err


def test_a_pipe_gives_line_by_line_and_then_the_end():
    stream = io.TextIOWrapper(io.BytesIO(b"one\ntwo\\\nmore\n\xff\nlast"), encoding="utf-8", errors="replace")

    async def run() -> list[str]:
        prompt, found = PlainPrompt(stream), []
        with pytest.raises(EOFError):
            while True:
                found.append(await asyncio.wait_for(prompt.read(), 10))
        return found

    assert asyncio.run(run()) == ["one", "two\nmore", "\ufffd", "last"]
