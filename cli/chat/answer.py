"""Answers as they grow on the screen: with Markdown and in place on a terminal, or as plain text that only appends.

A view is an async context around one question (`Screen.answer`, `Screen.comparison`); `show` takes the newest Reply at
any rate, the live views draw at theirs. Knows the client's Reply, not where it comes from.
"""

import asyncio
import contextlib
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol, Self

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.text import Text

from cli.chat import tail
from cli.chat.markdown import Formatted, split_finished
from cli.chat.tail import Tail
from cli.printable import printable

if TYPE_CHECKING:
    from serve.client.endpoint import Reply

FRAME_S = 1 / 15
MOST_SHARE = 0.25
"""Of the time may go into drawing; a large table or code block is drawn less often."""
BESIDE_WIDTH = 100
"""Columns from which two answers stand side by side."""
_GAP = " \u2502 "


class View(Protocol):
    """One answer, or with `index` several, while they come."""

    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *raised: object) -> None: ...
    def show(self, reply: "Reply", index: int = 0) -> None: ...


class _Drawn(ABC):
    """Draws at most every FRAME_S while the context is open, and once more at its end."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tail = Tail(console)
        self._started = time.monotonic()

    async def __aenter__(self) -> Self:
        self._drawing = asyncio.create_task(self._draw_on())
        return self

    async def __aexit__(self, *raised: object) -> None:
        self._drawing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._drawing
        self._draw(last=True)

    async def _draw_on(self) -> None:
        while True:
            began = time.monotonic()
            self._draw(last=False)
            await asyncio.sleep(max(FRAME_S, (time.monotonic() - began) / MOST_SHARE))

    @abstractmethod
    def _draw(self, *, last: bool) -> None: ...

    def _waiting(self, reply: "Reply | None") -> str:
        seconds = time.monotonic() - self._started
        if reply is None or reply.first_token_s is None:
            return f"waiting {seconds:.0f} s"
        return f"thinking {seconds:.0f} s" + (f", {reply.completion_tokens} tokens" if reply.completion_tokens else "")


class LiveAnswer(_Drawn):
    """Thinking dim above, the answer's Markdown below; finished blocks stay, the last one is redrawn."""

    def __init__(self, console: Console, *, thinking: bool) -> None:
        super().__init__(console)
        self._reply: Reply | None = None
        self._show_thinking = thinking
        self._thinking = self._text = 0
        """Characters that are final on the screen."""
        self._thought = False

    def show(self, reply: "Reply", index: int = 0) -> None:
        self._reply = reply

    def _draw(self, *, last: bool) -> None:
        thought, thinking = self._thinking_rows(last)
        final, live = self._text_rows(last)
        if not last and not (thinking or live or self._text):
            live = tail.rows(self._console, Text(f"{self._waiting(self._reply)} ...", style="dim"))
        self._tail.update(thought + final, thinking + live)

    def _thinking_rows(self, last: bool) -> tuple[list[str], list[str]]:
        """Final and changeable ones. Thinking that comes after the answer began is not shown."""
        if self._reply is None or self._thought or not self._show_thinking:
            return [], []
        text = printable(self._reply.thinking)[self._thinking :]
        self._thought = last or bool(self._reply.text)
        end = len(text) if self._thought else text.rfind("\n") + 1
        self._thinking += end
        final = [row for line in text[:end].splitlines() for row in self._dim(line)]
        final += [""] if self._thought and self._thinking else []
        return final, self._dim(text[end:]) if text[end:] else []

    def _dim(self, line: str) -> list[str]:
        return tail.rows(self._console, Padding(Text(line, style="dim"), (0, 0, 0, 2)))

    def _text_rows(self, last: bool) -> tuple[list[str], list[str]]:
        text = printable(self._reply.text)[self._text :] if self._reply else ""
        blocks, rest = ([text], "") if last else split_finished(text)
        self._text += sum(map(len, blocks))
        final = [row for block in blocks for row in _formatted(self._console, block)]
        return final, _formatted(self._console, rest)


class LiveComparison(_Drawn):
    """Several answers at once: their ends while they grow, all of them once they are whole."""

    def __init__(self, console: Console, names: list[str]) -> None:
        super().__init__(console)
        self._names = names
        self._replies: list[Reply | None] = [None] * len(names)

    def show(self, reply: "Reply", index: int = 0) -> None:
        self._replies[index] = reply

    def _draw(self, *, last: bool) -> None:
        if last:
            self._tail.update(self._arranged(None), [])
            return
        beside = self._console.width >= BESIDE_WIDTH
        room = self._console.height - 3 * (1 if beside else len(self._names))
        self._tail.update([], self._arranged(max(room // (1 if beside else len(self._names)), 2)))

    def _arranged(self, most: int | None) -> list[str]:
        if self._console.width < BESIDE_WIDTH:
            return [row for index in range(len(self._names)) for row in (*self._column(index, None, most), "")]
        width = (self._console.width - len(_GAP) * (len(self._names) - 1)) // len(self._names)
        columns = [self._column(index, width, most) for index in range(len(self._names))]
        height = max(map(len, columns))
        filled = [[_filled(row, width) for row in (*column, *[""] * (height - len(column)))] for column in columns]
        return [_GAP.join(row).rstrip() for row in zip(*filled, strict=True)] + [""]

    def _column(self, index: int, width: int | None, most: int | None) -> list[str]:
        """Label and answer, of which the last `most` rows."""
        reply = self._replies[index]
        label = self._rows(Text(self._names[index], style="bold"), width)
        if reply is None or not reply.text.strip():
            return label + (self._rows(Text(self._waiting(reply), style="dim"), width) if most else [])
        found = _formatted(self._console, printable(reply.text), width)[:-1]
        return label + (found if most is None else found[-most:])

    def _rows(self, renderable: RenderableType, width: int | None) -> list[str]:
        return tail.rows(self._console, renderable, width)


def _formatted(console: Console, text: str, width: int | None = None) -> list[str]:
    """Its rows, an empty one after each block, be the block finished or not."""
    blocks, rest = split_finished(f"{text}\n")
    found = (tail.rows(console, Formatted(block), width) for block in (*blocks, rest))
    return [row for rows in found if rows for row in (*rows, "")]


def _filled(row: str, width: int) -> str:
    return row + " " * (width - cell_len(tail.unstyled(row)))


class PlainAnswer:
    """Text goes out as it comes, thinking as side talk; nothing is ever redrawn."""

    def __init__(self, out: Console, side: Console, *, thinking: bool) -> None:
        self._out, self._side, self._show_thinking = out, side, thinking
        self._thinking = self._text = 0
        self._open: Console | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None:
        self._end_line()

    def show(self, reply: "Reply", index: int = 0) -> None:
        if self._show_thinking:
            self._write(self._side, reply.thinking[self._thinking :])
            self._thinking = len(reply.thinking)
        self._write(self._out, reply.text[self._text :])
        self._text = len(reply.text)

    def _write(self, console: Console, text: str) -> None:
        if not text:
            return
        if self._open is not console:
            self._end_line()
        console.file.write(printable(text))
        console.file.flush()
        self._open = console

    def _end_line(self) -> None:
        if self._open is not None:
            self._open.file.write("\n")
            self._open.file.flush()
            self._open = None


class PlainComparison:
    """Every answer below its label, once all are there."""

    def __init__(self, out: Console, names: list[str]) -> None:
        self._out, self._names = out, names
        self._replies: list[Reply | None] = [None] * len(names)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None:
        for name, reply in zip(self._names, self._replies, strict=True):
            self._out.file.write(f"[{name}]\n{printable(reply.text) if reply else ''}\n\n")
        self._out.file.flush()

    def show(self, reply: "Reply", index: int = 0) -> None:
        self._replies[index] = reply
