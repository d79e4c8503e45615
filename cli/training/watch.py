"""`tandem runs watch`: one run on a screen of its own, with its loss curve growing, until the run ends.

Reads the ledger's file and the run's `metrics.jsonl`, so it outlives the cluster, and goes on with the run after it.
"""

import os
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console, Group, RenderableType
from rich.text import Text

from actors.energy import cost
from actors.runs import curve, pace
from actors.runs.event import Event, Severity
from actors.runs.ledger import Ledger
from actors.runs.run import Run, RunState
from actors.status.overview import RunReading, age
from cli import output
from cli.screens import live, meter
from cli.screens.board import NARROWEST, Sanitized, rule
from cli.training.follow import ended, follow, is_up, left
from cli.training.run_lookup import ledger, resolve
from configs import paths, units
from configs.paths import Home

LOG_BYTES = 16 * 2**20
"""About 80,000 steps; of a longer run the newest are drawn."""
MOST_POINTS = 2000
"""More than these cost time and no braille dot shows them; then each point is the mean of several steps."""
EVENTS = 5
EVENT_LINES = 3
LOWEST_PLOT = 6
EVENT_COLOURS = {Severity.WARNING: "yellow", Severity.FAILURE: "bold red"}


@click.command()
@click.argument("run_id", metavar="RUN")
@click.option("--smooth", type=click.IntRange(min=1), default=1, metavar="N", help="Draw the mean of N steps.")
@click.option(
    "--interval", type=click.FloatRange(min=0.2), default=1.0, show_default=True, metavar="SECONDS",
    help="Between two looks.",
)  # fmt: skip
def watch(run_id: str, smooth: int, interval: float) -> None:
    """Watch a run live: loss curve, held-out losses, the watchdog's lines, time left. Ends with the run, and exits with
    its result: 0 succeeded, 1 failed, 3 stopped. q or Ctrl-C leaves the run alone.

    In a pipe it prints lines, as `tandem train --follow` does.

    \b
    Example:
      tandem runs watch tiny-20260101-120000-ab12 --smooth 5
    """
    home = paths.home()
    book, run_id = ledger(), resolve(run_id)
    book.run(run_id)
    if not live.is_screen():
        raise SystemExit(follow(home, run_id))
    screen = _Screen(home, book, run_id, smooth)
    if not live.run(screen.look, screen.draw, interval):
        raise SystemExit(left(run_id))
    console = Console(highlight=False)
    console.print(screen.draw(console.width, LOWEST_PLOT + 24))
    raise SystemExit(ended(home, screen.run))


class _Screen:
    """What is known of the run, and how it is drawn."""

    def __init__(self, home: Home, book: Ledger, run_id: str, smooth: int) -> None:
        self.home, self.book, self.run_id, self.smooth = home, book, run_id, smooth
        self.log = _Log(home.run(run_id) / "metrics.jsonl")
        self.run: Run
        self.events: list[Event] = []
        self.position: int | None = None

    def look(self) -> bool:
        """Read what is new; whether the run has ended."""
        self.run = self.book.run(self.run_id)
        self.log.look()
        after = self.events[-1].seq if self.events else 0
        self.events += self.book.events(run_id=self.run_id, after=after)
        waiting = [run.id for run in self.book.queue()] if self.run.state is RunState.QUEUED else []
        self.position = waiting.index(self.run_id) + 1 if self.run_id in waiting else None
        return self.run.state.is_terminal

    def draw(self, columns: int, lines: int) -> RenderableType:
        """At most `lines` lines; the plot gets what the words leave."""
        now = time.time()
        head = [*self._head(now, columns), *self._figures(columns)]
        newest = self.events[-EVENTS:]
        kinds = output.kinds_width(event.kind for event in newest)
        events = [line for event in newest for line in _event(event, now, columns, kinds)]
        below = [rule("events", columns), *events] if events else []
        height = lines - len(head) - len(below) - 1
        return Sanitized(Group(*head, *self._plot(columns, height), *below))

    def _head(self, now: float, columns: int) -> list[Text]:
        run = self.run
        line = Text.assemble((run.id, "bold"), "  ", output.state(run.state))
        if self.position is not None:
            line.append(f"  {'next' if self.position == 1 else f'{self.position}.'} in the queue")
        if not run.state.is_terminal and not is_up(self.home):
            line.append("  Tandem is down: it goes on after `tandem up`", "bold red")
        line.append(f"  {run.stage}" if run.stage else "", "yellow")
        if run.state.holds_slot:
            line.append(f"  slot {run.slot}  {units.short_duration(age(run.started_at, now))}")
        elif run.state.is_terminal and run.started_at and run.ended_at:
            line.append(f"  took {units.short_duration(age(run.started_at, run.ended_at))}")
        if run.attempt > 1:
            line.append(f"  attempt {run.attempt}", "yellow")
        reading = RunReading(run, None, None, ())
        way = Text.assemble(meter.bar(reading.progress, max(20, columns // 2 - 10), "blue"))
        way.append(f" {run.step}/{run.max_steps or '?'} {meter.percent(reading.progress)}  ")
        if run.state.holds_slot:
            way.append(meter.remaining(pace.eta(self.log.lines[-150:], run.max_steps, now)))
        return [_one_line(line, columns), _one_line(way, columns)]

    def _figures(self, columns: int) -> list[Text]:
        run, lines = self.run, self.log.lines
        told = Text()
        newest = pace.newest(lines, "loss")
        if (loss := run.loss if newest is None else newest) is not None:
            told.append(f"loss {loss:.4f}", "bold")
        held_out = [(line["eval_loss"], line["step"]) for line in lines if _is_finite(line.get("eval_loss"))]
        base = [f"the base's {loss:.4f}" for loss, step in held_out if step == 0]
        if own := [(loss, step) for loss, step in held_out if step > 0]:
            base.insert(0, f"{own[-1][0]:.4f}, best {min(own)[0]:.4f} at step {min(own)[1]}")
        if held_out:
            told.append(f"   held-out ◆ {', '.join(base)}")
        if run.tokens_per_s is not None:
            told.append(f"   {run.tokens_per_s:,.0f} tok/s")
        used = [line["energy_joules"] for line in lines[-150:] if _is_finite(line.get("energy_joules"))]
        if used:
            told.append(f"   {cost.watt_hours(used[-1])}")
        said = [_one_line(told, columns)] if told else []
        if self.log.unreadable:
            number = self.log.unreadable
            said.append(_one_line(Text(f"! lines of metrics.jsonl that cannot be read: {number}", "red"), columns))
        return said

    def _plot(self, columns: int, height: int) -> list[Text]:
        from jobs.reports import plots
        from jobs.reports.plots import Curve

        steps = [line for line in self.log.lines if _is_finite(line.get("loss"))]
        evaluations = [line for line in self.log.lines if _is_finite(line.get("eval_loss"))]
        if not steps:
            return [Text("no step yet: the curve begins with the first", "dim")]
        if height < LOWEST_PLOT or columns < NARROWEST // 2:
            return [meter.curve([line["loss"] for line in steps], columns)]
        loss = Curve("loss", *zip(*((line["step"], line["loss"]) for line in steps), strict=True))
        points = [(line["step"], line["eval_loss"]) for line in evaluations]
        held_out = [Curve("held out", *zip(*points, strict=True), color=1)] if points else []
        plain = bool(os.environ.get("NO_COLOR"))
        text = plots.terminal(
            [_thin(loss.smoothed(self.smooth))], held_out, width=columns, height=height, colorless=plain
        )
        return [Text.from_ansi(text)]


class _Log:
    """The run's metrics, read again when the file has changed."""

    def __init__(self, path: Path) -> None:
        self.path, self.lines, self.unreadable = path, [], 0
        self._seen: tuple[int, int] | None = None

    def look(self) -> None:
        try:
            now = self.path.stat()
            if (now.st_size, now.st_mtime_ns) != self._seen:
                self._seen = (now.st_size, now.st_mtime_ns)
                self.lines, self.unreadable = curve.tail(self.path, LOG_BYTES)
        except OSError:  # not there yet, or being written anew: what was read stays
            return


def _event(event: Event, now: float, columns: int, kinds: int) -> list[Text]:
    """One line; of what somebody should read up to EVENT_LINES. The kind takes `kinds` columns."""
    colour = EVENT_COLOURS.get(event.severity)
    ago = f"{units.short_duration(age(event.at, now)):>6} "
    head = Text.assemble((ago, "dim"), (f"{event.kind:{kinds}} ", colour or "cyan"))
    indent = " " * len(head)
    words = textwrap.wrap(
        event.text, max(20, columns - len(head)), max_lines=EVENT_LINES if colour else 1, placeholder="…"
    )
    first, *others = words or [""]
    return [_one_line(line, columns) for line in (head.append(first), *(Text(indent + other) for other in others))]


def _one_line(line: Text, columns: int) -> Text:
    line.truncate(columns, overflow="ellipsis")
    return line


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) < sys.float_info.max  # JSON may hold larger integers


def _thin(curve):
    """The same curve with at most MOST_POINTS points, each the mean of as many steps as that takes."""
    from jobs.reports.plots import Curve

    every = -(-len(curve.steps) // MOST_POINTS)
    if every <= 1:
        return curve
    return Curve(curve.name, curve.steps[::every], tuple(_means(curve.values, every)), curve.color)


def _means(values: Sequence[float], every: int) -> list[float]:
    parts = [values[begin : begin + every] for begin in range(0, len(values), every)]
    return [sum(part) / len(part) for part in parts]
