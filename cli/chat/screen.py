"""What a chat shows: answers, results of commands, side talk. Colours and redrawing on a terminal, plain text else.

Results go to `out`; side talk goes to `side`, which is stderr unless the output is live. Knows no keyboard.
"""

import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.chat.answer import LiveAnswer, LiveComparison, PlainAnswer, PlainComparison, View
from cli.output import PIPED_WIDTH
from cli.printable import printable
from configs.errors import TandemError

if TYPE_CHECKING:
    from serve.client.conversation import Conversation, Statistics


def is_capable(stream) -> bool:
    """Whether `stream` is a terminal that can move its cursor."""
    return stream is not None and stream.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown", "")


class Screen:
    """`live` redraws in place and needs a terminal; `thinking` shows the model's."""

    def __init__(self, out: Console, side: Console, *, live: bool, thinking: bool) -> None:
        self.out, self.side, self.live, self.thinking = out, side, live, thinking

    @classmethod
    def of_process(cls, *, plain: bool, thinking: bool) -> Self:
        """On stdout and stderr; live unless `plain` or stdout is not a capable terminal."""
        live = not plain and is_capable(sys.stdout)
        if live:
            out = Console(highlight=False)
            return cls(out, out, live=True, thinking=thinking)
        out = Console(file=sys.stdout, color_system=None, force_terminal=False, width=PIPED_WIDTH)
        side = Console(file=sys.stderr, color_system=None, width=PIPED_WIDTH)
        return cls(out, side, live=False, thinking=thinking)

    def answer(self) -> View:
        """A view of one answer."""
        if self.live:
            return LiveAnswer(self.out, thinking=self.thinking)
        return PlainAnswer(self.out, self.side, thinking=self.thinking)

    def comparison(self, names: list[str]) -> View:
        """A view of several answers to one question."""
        return LiveComparison(self.out, names) if self.live else PlainComparison(self.out, names)

    def show(self, text: str) -> None:
        """A result."""
        self._print(self.out, text, "")

    def say(self, text: str) -> None:
        """Side talk."""
        self._print(self.side, text, "dim")

    def complain(self, error: TandemError) -> None:
        """What went wrong and the next step."""
        text = f"error: {error.message}{f' -> {error.hint}' if error.hint else ''}"
        self._print(self.side, " ".join(text.split()), "red")

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """A result in columns."""
        table = Table(box=None, pad_edge=False, header_style="bold", show_header=any(columns))
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(Text(printable(str(value))) for value in row))
        self.out.print(table)

    def conversation(self, conversation: "Conversation", most: int = 2) -> None:
        """Its last `most` turns, to see where it stands."""
        hidden = len(conversation.turns) - most
        if hidden > 0:
            self.say(f"... {hidden} earlier messages")
        for turn in conversation.turns[-most:]:
            self.show(f"{'>' if turn.role == 'user' else '<'} {turn.content}{' (cut)' if turn.cut else ''}")

    def _print(self, console: Console, text: str, style: str) -> None:
        console.print(Text(printable(text), style=style), soft_wrap=not self.live)


def statistics(counted: "Statistics", version: str | None) -> str:
    """One line: tokens, speed, wait, who answered."""
    parts = [f"{counted.completion_tokens:,} tokens"] if counted.completion_tokens else []
    parts += [f"{counted.tokens_per_s:,.1f} tok/s"] if counted.tokens_per_s else []
    parts += [f"TTFT {counted.first_token_s:.2f} s"] if counted.first_token_s is not None else []
    parts += [version] if version else []
    return "  ".join(parts)
