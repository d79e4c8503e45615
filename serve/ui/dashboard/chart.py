"""Curves as HTML: a sparkline, and a loss curve with axes. Numbers and labels in, markup out, every label escaped.

Lines are SVG that stretches with the page; labels and dots are placed in percent over it, so they keep their size on a
phone. Colours are classes of `dashboard.css`: light and dark need no new drawing.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

MOST_POINTS = 360
"""Of one curve; more would be closer together than a screen's pixels."""
LARGEST = 1e100
"""Of what is drawn; an axis of larger numbers cannot be computed."""

LOG_FROM = 20
"""So many times the smallest loss the largest must be for an axis by powers of ten, where all are positive: on an even
one the small ones would lie on the bottom."""

Point = tuple[float, float]
"""(step, loss)"""


@dataclass(frozen=True)
class Level:
    """A horizontal line with its name; `kind` is its CSS class."""

    value: float
    label: str
    kind: str


@dataclass(frozen=True)
class Frame:
    """What the plot's area stands for: steps from `begin` to `end`, losses from `low` to `high`, where `is_log` by
    their logarithm. Places are in percent."""

    begin: int
    """1, or 0 where the base's loss is there."""
    end: int
    low: float
    high: float
    is_log: bool = False

    def x(self, step: float) -> float:
        return round(100 * (step - self.begin) / (self.end - self.begin), 2)

    def y(self, loss: float) -> float:
        loss, low, high = (math.log10(value) if self.is_log else value for value in (loss, self.low, self.high))
        return round(100 * (high - loss) / (high - low), 2)

    def line(self, points: Sequence[Point]) -> str:
        return " ".join(f"{self.x(step)},{self.y(loss)}" for step, loss in points)


def sparkline(values: Sequence[float | None], top: float, *, label: str, length: int) -> Markup:
    """The newest `length` values from 0 to `top`, the newest at the right; a reading that is missing is a gap."""
    shown = list(values)[-length:]
    offset, stretches, stretch = length - len(shown), [], []
    for index, value in enumerate([*shown, None]):
        if value is not None:
            stretch.append((100 * (offset + index) / max(1, length - 1), 23 - 22 * min(1, value / (top or 1))))
        elif stretch:
            stretches.append(stretch)
            stretch = []
    drawn = Markup("").join(
        Markup('<polyline points="{0}"/><polygon points="{1:.1f},24 {0} {2:.1f},24"/>').format(
            " ".join(f"{x:.1f},{y:.1f}" for x, y in each), each[0][0], each[-1][0]
        )
        for each in stretches
    )
    return Markup(
        '<svg class="spark" viewBox="0 0 100 24" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    ).format(label, drawn)


def loss_curve(
    train: Sequence[Point], held_out: Sequence[Point], levels: Sequence[Level], *, last_step: int | None, label: str
) -> Markup:
    """Training losses as a line, held-out losses as dots on one, `levels` as dashes; steps rising, up to `last_step`.

    Values that are not finite or above LARGEST are left out; the result is empty where nothing is left.
    """
    train, held_out = (_finite(points) for points in (train, held_out))
    if not train and not held_out:
        return Markup("")
    values = [value for _, value in (*train, *held_out)]
    is_log = min(values) > 0 and max(values) > LOG_FROM * min(values)
    shown = [*values, *(level.value for level in levels if level.value > 0)]
    ticks = _log_ticks(min(shown), max(shown)) if is_log else _ticks(min(0.0, *values), max(values))
    steps = [int(step) for step, _ in (*train, *held_out)]
    frame = Frame(min(1, *steps), max(last_step or 0, 2, *steps), ticks[0], ticks[-1], is_log)
    levels = [level for level in levels if frame.low <= level.value <= frame.high]
    lines = [_straight("grid", frame.y(tick)) for tick in ticks]
    lines += [_straight(f"level {level.kind}", frame.y(level.value)) for level in levels]
    for kind, points in (("train", train), ("held-out", held_out)):
        lines.append(Markup('<polyline class="{}" points="{}"/>').format(kind, frame.line(thinned(points))))
    shown = [_label("y", f"top: {frame.y(tick)}%", f"{tick:g}") for tick in ticks]
    shown += [_label("x", f"left: {frame.x(step)}%", f"{step:,}") for step in _steps(frame.begin, frame.end)]
    shown += [_label(f"level {level.kind}", f"top: {frame.y(level.value)}%", level.label) for level in levels]
    dots = [("held-out", point) for point in thinned(held_out, 60)] + [("train", point) for point in train[-1:]]
    shown += [
        _label(f"dot {kind}", f"left: {frame.x(step)}%; top: {frame.y(loss)}%", "") for kind, (step, loss) in dots
    ]
    scale, drawn = "log" if is_log else "linear", Markup("").join(lines)
    return Markup(
        '<div class="curve" role="img" aria-label="{}" data-begin="{}" data-end="{}" data-low="{}" data-high="{}"'
        ' data-scale="{}">'
        '<svg viewBox="0 0 100 100" preserveAspectRatio="none">{}</svg>{}<output></output></div>'
    ).format(label, frame.begin, frame.end, frame.low, frame.high, scale, drawn, Markup("").join(shown))


def thinned(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most `most` points or one more: the lowest and the highest of every stretch, so that no spike is lost."""
    if len(points) <= most:
        return list(points)
    stretch, kept = 2 * len(points) / most, []
    for index in range(most // 2):
        part = points[int(index * stretch) : int((index + 1) * stretch)]
        ends = {pick(range(len(part)), key=lambda place: part[place][1]) for pick in _ENDS}
        kept += [part[place] for place in sorted(ends)]
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]


_ENDS: tuple[Callable, ...] = (min, max)


def _straight(kind: str, y: float) -> Markup:
    return Markup('<line class="{0}" x1="0" x2="100" y1="{1}" y2="{1}"/>').format(kind, y)


def _label(kind: str, place: str, text: str) -> Markup:
    return Markup('<span class="{}" style="{}">{}</span>').format(kind, place, text)


def _steps(begin: int, end: int) -> list[int]:
    """Where the step axis has labels: the first step, the last, and round numbers that do not touch them."""
    return sorted({begin, end, *(int(step) for step in _ticks(0, end) if 0.08 * end < step < 0.92 * end)})


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from at most `low` to at least `high`, about five."""
    from matplotlib.ticker import MaxNLocator  # loads numpy: 0.3 s that no other part of the page needs

    return (
        MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10])
        .tick_values(float(low), float(high if high > low else low + 1))
        .tolist()
    )


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten from at most `low` to at least `high`, about seven at most; between few of them 2 and 5 as well."""
    from matplotlib.ticker import LogLocator

    factors = (1, 2, 5) if math.log10(high) - math.log10(low) <= 1.7 else (1,)
    ticks = LogLocator(subs=factors, numticks=6).tick_values(low, high)
    begin = max(tick for tick in ticks if tick <= low * (1 + 1e-9))
    end = min(tick for tick in ticks if tick >= high * (1 - 1e-9))
    return [tick for tick in ticks.tolist() if begin <= tick <= end]


def _finite(points: Sequence[Point]) -> list[Point]:
    return [(step, value) for step, value in points if abs(value) <= LARGEST]
