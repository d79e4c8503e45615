"""Curves and comparisons as a person reads them: a plot in a terminal, one line per curve in a pipe, tables."""

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from actors.energy import cost
from cli import output
from configs import units

if TYPE_CHECKING:
    from jobs.reports.comparison import Comparison
    from jobs.reports.plots import Curve

NARROWEST = 60
"""Columns below which a plot says less than one line does."""

smooth_option = click.option(
    "--smooth", type=click.IntRange(min=1), default=1, metavar="N", help="Draw the mean of N steps at each step."
)
png_option = click.option(
    "--png", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Also draw into a PNG file."
)


def draw(lines: Sequence["Curve"], points: Sequence["Curve"], smooth: int) -> None:
    """The curves on stdout: over each other where it is a wide terminal, otherwise a line for each."""
    from jobs.reports import plots

    lines = [curve.smoothed(smooth) for curve in plots.drawable(lines)]
    points = plots.drawable(points)
    width = shutil.get_terminal_size().columns
    if sys.stdout.isatty() and width >= NARROWEST and not os.environ.get("NO_COLOR"):
        click.echo(plots.terminal(lines, points, width=min(width, 110)))
        if points:
            click.echo(f"loss {'' if smooth == 1 else f'(mean of {smooth} steps) '}and, as ◆, loss on held-out rows")
        return
    for group, single in ((lines, "loss"), (points, "held-out loss")):
        names = [curve.name if len(lines) > 1 else single for curve in group]
        values = [value for curve in group for value in curve.values]
        for name, curve in zip(names, group, strict=True):
            shape = output.sparkline(curve.values, low=min(values), high=max(values))
            click.echo(f"{name:{max(map(len, names))}} {curve.values[0]:.3f} {shape} {curve.values[-1]:.3f}")


def write_png(lines: Sequence["Curve"], points: Sequence["Curve"], file: Path, smooth: int) -> None:
    """The curves as a PNG file, whose name is said on stderr."""
    from jobs.reports import plots

    title = f"loss of {len(lines)} runs" if len(lines) > 1 else f"loss of {lines[0].name}"
    plots.png(lines, points, file, title=title, smooth=smooth)
    output.say(f"drawn into {file}")


def print_comparison(comparison: "Comparison", smooth: int) -> None:
    """Runs by letter, their curves, results and differences."""
    from jobs.reports.plots import COLOURS

    letters = [ascii_uppercase[i] if i < 26 else str(i + 1) for i in range(len(comparison.results))]
    legend = [
        (Text(f"━━ {letter}", f"color({COLOURS[index % len(COLOURS)][0]})"), result.run, output.state(result.state))
        + (result.adapter,)
        for index, (letter, result) in enumerate(zip(letters, comparison.results, strict=True))
    ]
    output.print_table(("", "RUN", "STATE", "ADAPTER"), legend, empty="")
    click.echo("")
    draw(comparison.losses, comparison.evaluations, smooth)
    click.echo("")
    output.print_table(("RESULT", *letters), _results(comparison), empty="")
    click.echo("")
    rows = [(key, *map(_short, values)) for key, values in comparison.differences.items()]
    output.print_table(("DIFFERENT", *letters), rows, empty=_same(len(comparison.results)))


def _results(comparison: "Comparison") -> list[tuple]:
    """A row per result that at least one run has."""
    rows = [
        ("steps", lambda r: r.steps),
        ("first loss", lambda r: r.first_loss),
        ("last loss", lambda r: r.last_loss),
        ("mean loss", lambda r: r.mean_loss),
        ("best loss", lambda r: r.best_loss),
        ("held-out loss, last", lambda r: r.eval_loss),
        ("held-out loss, best", lambda r: r.best_eval_loss),
        ("held-out loss, base", lambda r: r.base_eval_loss),
        ("evaluated loss", lambda r: r.judged_loss),
        ("the base's", lambda r: r.judged_base_loss),
        ("evaluated on", lambda r: r.judged_on),
        ("time", lambda r: units.short_duration(r.seconds) if r.seconds else None),
        ("tokens/s", lambda r: f"{r.tokens_per_s:,.0f}" if r.tokens_per_s else None),
        ("energy", lambda r: None if r.energy_joules is None else cost.watt_hours(r.energy_joules)),
        ("per 1,000 tokens", lambda r: f"{r.joules_per_1000_tokens:,.1f} J" if r.joules_per_1000_tokens else None),
        ("cost", lambda r: None if r.cost is None else cost.money(r.cost, r.currency)),
        ("CO2", lambda r: None if r.co2_g is None else cost.mass(r.co2_g)),
        ("of the energy", lambda r: "; ".join(r.energy_remarks) or None if r.energy_joules is not None else None),
        ("peak GPU memory", lambda r: units.size(r.peak_memory_bytes) if r.peak_memory_bytes else None),
    ]
    table = [(name, *(value(result) for result in comparison.results)) for name, value in rows]
    return [row for row in table if any(cell is not None for cell in row[1:])]


def _short(value: Any, longest: int = 40) -> str | None:
    if value is None:
        return None
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    text = f"{value:g}" if isinstance(value, float) else str(value)
    if len(text) == 64 and all(digit in "0123456789abcdef" for digit in text):
        return text[:8]
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _same(runs: int) -> str:
    return "one run: nothing to differ from" if runs == 1 else "no setting differs"
