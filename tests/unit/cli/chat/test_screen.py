"""Answers on a terminal: whatever the pieces and the window, what stands there in the end is the whole answer."""

import asyncio
import io
import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from cli.chat.answer import LiveAnswer, LiveComparison, PlainAnswer
from cli.chat.markdown import Formatted, split_finished
from cli.chat.screen import is_capable
from cli.chat.tail import Tail, rows
from cli.printable import printable, sendable
from serve.client.endpoint import Reply

ANSWER = """# Rome

It is the **capital** of Italy, see [this](https://example.org) and <b>that</b>, List<int> too.
Second line

1. One
   - inner

2. Two, which is a good example of an item that is longer than a narrow window is wide
2

| a | b |
|---|---|
| 1 | 2 |

```python
def first():
    return 1


def second():
    return "two"
```

> quoted

Setext
------

Last \N{THUMBS UP SIGN}"""


class Terminal(io.StringIO):
    """Rows that went past, applied as a terminal does: up, erase below, and lines. Nothing above the window changes."""

    def __init__(self, height: int) -> None:
        super().__init__()
        self.height, self.rows = height, [""]
        self.at = 0

    def write(self, text: str) -> int:
        for part in re.findall(r"\x1b\[\d+A|\x1b\[J|\r|\n|[^\x1b\r\n]+", text):
            if part.endswith("A") and part.startswith("\x1b"):
                self.at = max(self.at - int(part[2:-1]), len(self.rows) - self.height, 0)
            elif part == "\x1b[J":
                self.rows[self.at :] = [""]
            elif part == "\n":
                self.at += 1
                self.rows += [""] if self.at == len(self.rows) else []
            elif part != "\r":
                self.rows[self.at] = part
        return len(text)


def console(terminal: io.StringIO, *, width: int = 60, height: int = 24) -> Console:
    return Console(file=terminal, force_terminal=True, color_system=None, width=width, height=height)


def drawn(pieces: list[str], *, width: int, height: int, thinking: str = "") -> list[str]:
    """All rows after an answer that came in `pieces`, each of them drawn."""
    terminal = Terminal(height)
    view, reply = LiveAnswer(console(terminal, width=width, height=height), thinking=True), Reply(thinking=thinking)
    for piece in pieces:
        reply.text += piece
        reply.first_token_s = 0.1
        view.show(reply)
        view._draw(last=False)
    view._draw(last=True)
    return terminal.rows


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(0, len(ANSWER)), max_size=30), width=st.sampled_from([20, 40, 120]))
def test_an_answer_looks_the_same_however_it_came(cuts, width):
    bounds = [0, *sorted(cuts), len(ANSWER)]
    pieces = [ANSWER[start:end] for start, end in pairwise(bounds)]
    at_once = drawn([ANSWER], width=width, height=100)
    assert drawn(pieces, width=width, height=100) == at_once
    for word in ("<b>that</b>", "List<int>", "https://example.org"):
        assert word in "".join(row.strip() for row in at_once).replace(" ", "")


@pytest.mark.parametrize("height", [4, 30])
def test_an_answer_longer_than_the_window_is_all_there(height):
    text = "\n\n".join([ANSWER, "```\n" + "\n".join(f"line {number}" for number in range(60)) + "\n```", "End."])
    pieces = [text[start : start + 7] for start in range(0, len(text), 7)]
    shown = drawn(pieces, width=60, height=height)
    assert shown == drawn([text], width=60, height=200)


def test_what_scrolled_out_and_turned_out_different_is_written_again():
    items = "\n".join(f"{number}. item" for number in range(1, 13))
    shown = drawn([*items], width=40, height=5)
    assert shown[-14:-2] == [f"{number:3} item" for number in range(1, 13)]


def test_thinking_stands_above_the_answer():
    shown = drawn(["Rome", "."], width=40, height=24, thinking="First\nSecond")
    assert shown == ["  First", "  Second", "", "Rome.", "", ""]


def test_rows_that_a_narrower_window_wrapped_are_erased_too():
    terminal = Terminal(24)
    screen = console(terminal, width=40)
    tail = Tail(screen)
    tail.update([], ["x" * 40, "y"])
    terminal.rows = ["x" * 20, "x" * 20, "y", ""]  # what the terminal makes of it
    terminal.at = 3
    screen.width = 20
    tail.update(["z"], [])
    assert terminal.rows == ["z", ""]


@pytest.mark.parametrize(
    ("text", "finished"),
    [
        ("one", []),
        ("one\n\ntwo", []),
        ("one\n\ntwo\n", ["one\n\n"]),
        ("1. a\n\n2", []),
        ("1. a\n\n2. b\n", []),
        ("```\na\n\nb\n", []),
        ("```\na\n```\nb\n", ["```\na\n```\n"]),
        ("title\n---", []),
        ("\n\n# a\nb\n", ["\n\n# a\n"]),
        ("a\x0bb\u2028c\n\nd\n", ["a\x0bb\u2028c\n\n"]),
    ],
)
def test_only_what_no_more_text_can_change_is_finished(text, finished):
    blocks, rest = split_finished(text)
    assert blocks == finished
    assert "".join(blocks) + rest == text


def test_an_answer_cannot_speak_to_the_terminal():
    evil = "".join(map(chr, [*range(1, 32), *range(0x7F, 0xA0), 0x202E, 0x2066, 0xD800]))
    shown = rows(console(io.StringIO()), Formatted(printable(f"a {evil} &#x202e; [x](<https://a/\x1b[2J>)")))
    assert [character for row in shown for character in row if character in evil and character not in "\n\t"] == []
    assert printable("\x1b[2J\r\n") == "\u241b[2J\n"
    assert sendable("\x1b\udcff") == "\x1b\ufffd"


def test_a_comparison_stands_side_by_side_or_below():
    def shown(width: int) -> list[str]:
        terminal = Terminal(50)
        view = LiveComparison(console(terminal, width=width, height=50), ["base", "prod"])
        for index, text in enumerate(("Rome.", "Rome is\n\n- big")):
            view.show(Reply(text=text), index)
            view._draw(last=False)
        view._draw(last=True)
        return terminal.rows

    wide = shown(101)
    assert wide[:4] == [
        f"{'base':49} \u2502 prod",
        f"{'Rome.':49} \u2502 Rome is",
        f"{'':49} \u2502",
        f"{'':49} \u2502  \u2022 big",
    ]
    assert shown(40)[:6] == ["base", "Rome.", "", "prod", "Rome is", ""]


def test_plain_text_only_appends_and_thinking_goes_beside():
    out, side = io.StringIO(), io.StringIO()

    async def play() -> None:
        async with PlainAnswer(Console(file=out), Console(file=side), thinking=True) as view:
            for reply in (Reply(thinking="H"), Reply(thinking="Hm"), Reply("**A", "Hm"), Reply("**A\x1b**", "Hm")):
                view.show(reply)

    asyncio.run(play())
    assert out.getvalue() == "**A\u241b**\n"
    assert side.getvalue() == "Hm\n"


def test_a_stream_that_is_no_terminal_or_a_dumb_one_is_not_redrawn(monkeypatch):
    class Tty(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    assert is_capable(Tty())
    assert not is_capable(io.StringIO())
    monkeypatch.setenv("TERM", "dumb")
    assert not is_capable(Tty())
