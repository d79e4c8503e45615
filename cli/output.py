"""What people and machines read: tables, JSON, ages and sizes. Results go to stdout, everything else to stderr."""

import json
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.printable import folded, printable

STATE_COLOURS = {
    "QUEUED": "cyan", "STARTING": "yellow", "RUNNING": "green", "STOPPING": "yellow", "INTERRUPTED": "magenta",
    "SUCCEEDED": "bold green", "FAILED": "bold red", "STOPPED": "dim",
    "LIVE": "bold green", "REFUSED": "bold red", "RETIRED": "dim", "PUBLISHED": "cyan",
}  # fmt: skip

PIPED_WIDTH = 240
"""Columns of a screen that goes into a pipe: nothing is cut."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=1, default=str))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str, title: str | None = None) -> None:
    """A table on stdout; `empty` on stderr where there are no rows."""
    rows = [[_cell(value) for value in row] for row in rows]
    if not rows:
        say(empty)
        return
    table = Table(title_justify="left", box=None, pad_edge=False, header_style="bold")
    table.title = None if title is None else Text(printable(title))
    for index, column in enumerate(columns):
        table.add_column(column, no_wrap=index == 0, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console(width=None if sys.stdout.isatty() else _UNLIMITED)
    with console.capture() as drawn:
        console.print(table)
    click.echo("\n".join(line.rstrip() for line in drawn.get().splitlines()))


def say(text: str) -> None:
    """Side talk, on stderr."""
    click.echo(folded(printable(text)), err=True)


def state(name: str, reason: str = "") -> Text:
    """A state in its colour, with the reason in plain words behind it."""
    return Text.assemble((name, STATE_COLOURS.get(name, "")), printable(f"  {reason}" if reason else ""))


def age(moment: float | None) -> str:
    """How long ago, in the largest unit that makes sense; - for never."""
    return "-" if moment is None else duration(time.time() - moment)


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f}{unit}"
    return f"{seconds:.0f}s"


def size(number: float | None) -> str:
    """Bytes in binary units."""
    if number is None:
        return "-"
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"


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
    """Plain text, so that brackets in a reason or a path are no markup to Rich and no control character reaches the
    terminal; a Text is taken as it is."""
    if isinstance(value, Text):
        return value
    if value is None:
        return Text("-")
    return Text(f"{value:.4f}" if isinstance(value, float) else printable(str(value)))
