"""What people and machines read: tables, JSON, ages and sizes. Results go to stdout, everything else to stderr."""

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import click
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from cli.printable import folded, printable
from configs.units import short_duration

STATE_COLOURS = {
    "QUEUED": "cyan", "STARTING": "yellow", "RUNNING": "green", "STOPPING": "yellow", "INTERRUPTED": "magenta",
    "SUCCEEDED": "bold green", "FAILED": "bold red", "STOPPED": "dim",
    "LIVE": "bold green", "REFUSED": "bold red", "RETIRED": "dim", "PUBLISHED": "cyan",
}  # fmt: skip

PIPED_WIDTH = 240
"""Columns of a screen that goes into a pipe: nothing is cut."""

FEWEST = 24
"""Columns of free text; in fewer it would be hard to read."""
GAP = 2
INDENT = 2

Column = str | tuple[str, str]
"""A title, or (title, "right") for numbers."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=1, default=str))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str, title: str | None = None) -> None:
    """A table on stdout; `empty` on stderr where there are no rows."""
    rows = [[_cell(value) for value in row] for row in rows]
    if not rows:
        say(empty)
        return
    console = Console(width=None if sys.stdout.isatty() else _UNLIMITED)
    with console.capture() as drawn:
        if title is not None:
            console.print(Text(printable(title), "italic"))
        console.print(table(columns, rows, console.width))
    click.echo("\n".join(line.rstrip() for line in drawn.get().splitlines()))


def table(
    columns: Sequence[Column], rows: Sequence[Sequence[Text]], width: int, *, titles: str = "bold", folds: int = -1
) -> RenderableType:
    """Rows below their titles. Where `width` is too small, the column `folds`, free text, is folded; where that is not
    enough, every row's name stands on a line of its own, and below it what fits on a line, and then the longest cells.

    Nothing else is broken, and nothing is cut.
    """
    heads = [Text(column if isinstance(column, str) else column[0], titles) for column in columns]
    lengths = [max(map(_length, cells)) for cells in zip(heads, *rows, strict=True)]
    folded_to = [*lengths]
    folded_to[folds] = min(lengths[folds], FEWEST)
    if _span(folded_to) > width:
        return Group(*(line for row in (heads, *rows) for line in _stacked(row, lengths, width)))
    drawn = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style=titles)
    for index, column in enumerate(columns):
        justify = "left" if isinstance(column, str) else column[1]
        drawn.add_column(heads[index], justify=justify, overflow="fold", no_wrap=index != folds % len(columns))
    for row in rows:
        drawn.add_row(*row)
    return drawn


def _stacked(row: Sequence[Text], lengths: Sequence[int], width: int) -> Iterator[RenderableType]:
    below = list(range(1, len(row)))
    while below and INDENT + _span(lengths[index] for index in below) > width:
        below.remove(max(below, key=lengths.__getitem__))
    yield row[0]
    grid = Table.grid(padding=(0, GAP, 0, 0))
    for index in below:
        grid.add_column(width=lengths[index], no_wrap=True)
    grid.add_row(*(row[index] for index in below))
    alone = [row[index] for index in range(1, len(row)) if index not in below]
    yield from (_indented(part) for part in ((grid, *alone) if below else alone))


def _length(cell: Text) -> int:
    return max(line.cell_len for line in cell.split(allow_blank=True))


def _span(lengths: Iterable[int]) -> int:
    lengths = list(lengths)
    return sum(lengths) + GAP * (len(lengths) - 1)


def _indented(part: RenderableType) -> Padding:
    return Padding(part, (0, 0, 0, INDENT), expand=False)


class HangingIndent:
    """Lines of text; one that is too long goes on below, indented."""

    def __init__(self, lines: Iterable[Text], indent: int = INDENT) -> None:
        self.lines, self.indent = list(lines), indent

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in self.lines:
            if line.cell_len <= options.max_width and "\n" not in line.plain:
                yield line
                continue
            first, *others = line.wrap(console, options.max_width - self.indent, overflow="fold")
            yield first
            yield from (Text(" " * self.indent).append_text(other) for other in others)


def say(text: str) -> None:
    """Side talk, on stderr."""
    click.echo(folded(printable(text)), err=True)


def state(name: str, reason: str = "") -> Text:
    """A state in its colour, with the reason in plain words behind it."""
    return Text.assemble((name, STATE_COLOURS.get(name, "")), printable(f"  {reason}" if reason else ""))


def adapter_state(name: str, suspect: Sequence[str]) -> Text:
    """An adapter's state, and whether it is suspect."""
    return state(name).append("  suspect" if suspect else "", "bold yellow")


def age(moment: float | None) -> str:
    """How long ago, in the largest unit that makes sense; - for never, and 0s for what a clock set back left ahead."""
    return "-" if moment is None else short_duration(max(0.0, time.time() - moment))


def kinds_width(kinds: Iterable[str]) -> int:
    """Columns for the kinds of events that stand below each other."""
    return max(9, *map(len, kinds), 0)


def sparkline(values: Sequence[float], width: int = 60, *, low: float | None = None, high: float | None = None) -> str:
    """A curve in one line of block characters, averaged down to `width`; from `low` to `high`, by default its own."""
    if not values:
        return ""
    step = max(1, len(values) / width)
    means = []
    for index in range(min(width, len(values))):
        part = values[int(index * step) : max(int((index + 1) * step), int(index * step) + 1)]
        means.append(sum(part) / len(part))
    low, high = min(means) if low is None else low, max(means) if high is None else high
    scale = (len(_BLOCKS) - 1) / ((high - low) or 1)
    return "".join(_BLOCKS[round((mean - low) * scale)] for mean in means)


_UNLIMITED = 100_000  # columns; a row in a pipe is one line

_BLOCKS = "▁▂▃▄▅▆▇█"


def _cell(value: Any) -> Text:
    """Plain text, so that brackets in a reason or a path are not markup to Rich and no control character reaches the
    terminal; a Text is taken as it is."""
    if isinstance(value, Text):
        return value
    if value is None:
        return Text("-")
    return Text(f"{value:.4f}" if isinstance(value, float) else printable(str(value)))
