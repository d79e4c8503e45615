"""Curves of runs as pictures: `terminal` as text, `png` as a file. Knows numbers and names, nothing of runs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.errors import ConfigError

COLOURS = ((33, "#0072b2"), (208, "#e69f00"), (35, "#009e73"), (160, "#d62728"), (134, "#9467bd"))
COLOURS += ((37, "#17becf"), (205, "#cc79a7"), (142, "#9a9a00"), (245, "#7f7f7f"), (94, "#8c564b"))
"""(of 256 in a terminal, in a file) of the first, second, ... curve; an eleventh begins again."""


@dataclass(frozen=True)
class Curve:
    """Values at rising steps. `color` is an index into COLOURS; curves of one run share it."""

    name: str
    steps: tuple[int, ...]
    values: tuple[float, ...]
    color: int = 0

    def finite(self) -> "Curve":
        """Without the points that cannot be drawn."""
        kept = [(step, value) for step, value in zip(self.steps, self.values, strict=True) if math.isfinite(value)]
        return Curve(self.name, tuple(step for step, _ in kept), tuple(value for _, value in kept), self.color)

    def smoothed(self, count: int) -> "Curve":
        """The mean of every value and the `count - 1` before it."""
        values = self.finite().values
        means = (values[max(0, end - count) : end] for end in range(1, len(values) + 1))
        return Curve(self.name, self.finite().steps, tuple(sum(part) / len(part) for part in means), self.color)


def drawable(curves: Sequence[Curve]) -> list[Curve]:
    """The curves that have at least one finite point, with only such points."""
    return [curve for curve in (curve.finite() for curve in curves) if curve.steps]


def terminal(
    lines: Sequence[Curve], points: Sequence[Curve] = (), *, width: int = 80, height: int = 18, colorless: bool = False
) -> str:
    """`lines` over each other and `points` as marks on them, in `width` columns; the empty string if there is nothing.

    There is no legend: names would cover the curves.
    """
    import plotext

    lines, points = drawable(lines), drawable(points)
    if not lines and not points:
        return ""
    figure = plotext.figure  # the only one there is
    figure.clear()
    figure.plot_size(width, height).theme("simple")
    for curve in lines:
        signal = figure.signal(curve.steps, curve.values, marker=plotext.marker("braille", _colour(curve)))
        signal.lines() if len(curve.steps) > 1 else None
        figure.draw(signal)
    for curve in points:
        figure.draw(figure.signal(curve.steps, curve.values, marker=plotext.marker("diamond", _colour(curve))))
    steps = [step for curve in (*lines, *points) for step in curve.steps]
    figure.ruler("x").ticks(ticks := _ticks(min(steps), max(steps)), [str(tick) for tick in ticks])
    figure.label("step")
    text = figure.build().string(colorless)
    figure.clear()
    return text.rstrip("\n")


def _colour(curve: Curve) -> int:
    return COLOURS[curve.color % len(COLOURS)][0]


def _ticks(low: int, high: int, count: int = 7) -> list[int]:
    """Round steps between two, both ends included."""
    from matplotlib.ticker import MaxNLocator

    rounds = [
        int(tick)
        for tick in MaxNLocator(nbins=count, steps=[1, 2, 5, 10], integer=True).tick_values(float(low), float(high))
    ]
    apart = (rounds[1] - rounds[0]) / 2
    return [low, *(tick for tick in rounds if tick - low > apart and high - tick > apart), high]


def png(lines: Sequence[Curve], points: Sequence[Curve], file: Path, *, title: str, smooth: int = 1) -> None:
    """The same as a PNG file of 1440 x 810 pixels, with a legend. Smoothed lines have the unsmoothed ones behind them.

    Raises ConfigError if the file cannot be written.
    """
    from matplotlib.figure import Figure  # without pyplot: no display and no global state
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9.6, 5.4), dpi=150, layout="constrained")
    axes = figure.subplots()
    for curve in drawable(lines):
        if smooth > 1:
            axes.plot(curve.steps, curve.values, color=_hex(curve), linewidth=1, alpha=0.25)
        shown = curve.smoothed(smooth)
        mark = "o" if len(shown.steps) == 1 else None
        axes.plot(shown.steps, shown.values, color=_hex(curve), linewidth=1.8, marker=mark, label=shown.name)
    for curve in drawable(points):
        style = {"linestyle": "--", "linewidth": 1, "marker": "D", "markersize": 4, "markeredgecolor": "white"}
        axes.plot(curve.steps, curve.values, color=_hex(curve), label=curve.name, **style)
    axes.set_title(title, loc="left", pad=12)
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.set_ylabel("loss" if smooth <= 1 else f"loss (mean of {smooth} steps)")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    names = len(axes.get_legend_handles_labels()[0])
    if names:
        figure.legend(loc="outside lower left", ncols=min(3, -(-names // 2)), frameon=False, fontsize=8)
    else:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "no steps yet", ha="center", transform=axes.transAxes)
    try:
        figure.savefig(file, format="png")
    except OSError as error:
        raise ConfigError(
            f"{file} cannot be written: {error.strerror}", hint="name a file in a folder of yours"
        ) from None


def _hex(curve: Curve) -> str:
    return COLOURS[curve.color % len(COLOURS)][1]
