"""The one screen of `tandem status` and `tandem top`: an Overview as dense text, at any width from 80 columns on.

Every section becomes lines, so that a screen of a given height drops the least important ones. Reads nothing: what it
draws is in the Overview, and in the Rate between two of them where there is one.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from actors.status.overview import Overview
from actors.status.rates import Rate
from cli.printable import printable
from cli.screens import panels

NARROWEST = 80
WIDEST = 160


@dataclass(frozen=True)
class Section:
    """A title and what is below it. `spare` is how soon its lines may be dropped; 0 is never."""

    title: str
    body: RenderableType
    spare: int = 0


class Board:
    """A rich renderable: everything, or with `height` what of it fits on so many lines."""

    def __init__(self, overview: Overview, rate: Rate | None = None, *, height: int | None = None) -> None:
        self.overview, self.rate, self.height = overview, rate, height

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        blocks = []
        for section in _sections(self.overview, self.rate, width):
            lines = console.render_lines(section.body, options.update(height=None), pad=False)
            head = console.render_lines(rule(section.title, width), options, pad=False) if section.title else []
            blocks.append((section.spare, [*head, *lines]))
        kept, left_out = _fit(blocks, self.height)
        for line in kept:
            yield from _harmless(line)
            yield Segment.line()
        if left_out:
            yield Segment(f"… and {left_out} lines more: `tandem status` shows all of them", Style(dim=True))
            yield Segment.line()


class Sanitized:
    """A renderable as a terminal may be given it: what others wrote in it is shown, not obeyed."""

    def __init__(self, body: RenderableType) -> None:
        self.body = body

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from _harmless(console.render(self.body, options))


def _harmless(segments: Iterable[Segment]) -> Iterator[Segment]:
    for segment in segments:
        yield Segment(printable(segment.text), segment.style)


def _fit(blocks: list[tuple[int, list]], height: int | None) -> tuple[list[list[Segment]], int]:
    """(the lines of all blocks, how many more there are). Too many are taken from the end of the block that may soonest
    be spared, and one of which only the title would be left goes as a whole; a line is left to say how many."""
    kept = {index: lines for index, (_, lines) in enumerate(blocks)}
    total = sum(map(len, kept.values()))
    if height is None or total <= height:
        return [line for lines in kept.values() for line in lines], 0
    over = total - (height - 1)
    for index in sorted(kept, key=lambda index: -blocks[index][0]):
        if over <= 0 or not blocks[index][0]:
            break
        lines = kept[index]
        left = max(0, len(lines) - over)
        kept[index] = lines[: left if left > 1 else 0]
        over -= len(lines) - len(kept[index])
    shown = [line for lines in kept.values() for line in lines][: height - 1]
    return shown, total - len(shown)


def _sections(overview: Overview, rate: Rate | None, width: int) -> Iterator[Section]:
    yield Section("", panels.head(overview))
    if overview.problems:
        yield Section("", panels.problems(overview.problems), spare=1)
    yield Section("machine", panels.machine(overview, width))
    if overview.slots:
        yield Section("slots", panels.slots(overview, width), spare=2)
    yield Section("serving" if overview.up else "aliases", panels.serving(overview, rate, width), spare=3)
    yield Section(panels.runs_title(overview), panels.runs(overview, width))
    if overview.processes:
        yield Section("processes", panels.processes(overview, rate, width), spare=4)
    if overview.adapters:
        yield Section("adapters", panels.adapters(overview, width), spare=5)
    if overview.events:
        yield Section("events", panels.events(overview, width), spare=6)


def rule(title: str, width: int) -> Text:
    dashes = "─" * max(0, min(width, WIDEST) - len(title) - 4)
    return Text.assemble(("── ", "dim"), (title, "bold"), (f" {dashes}", "dim"))
