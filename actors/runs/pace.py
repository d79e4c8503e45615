"""How fast a run goes and when it will be done, from the newest lines of its `metrics.jsonl`.

Knows lines, not runs: a step is `{"step", "loss", "at"}`, an evaluation `{"step", "eval_loss", "at"}`, of step 0 the
base's. Called by
`actors.status.overview` and `actors.metrics`; what else reads a whole curve does it through
`actors.runs.curve`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median, quantiles
from typing import Any

from actors.runs.curve import number

FEWEST_STEPS = 3
"""Step times below which nothing is said of the rest."""


@dataclass(frozen=True)
class Eta:
    """Seconds from now until the last step and its evaluations are done; saving what was trained comes after it."""

    seconds: float
    """If what is left goes at the median of the recent steps."""
    low: float
    """If every step were as quick as the quickest quarter of them."""
    high: float
    """If every step were as slow as the slowest quarter."""
    step_seconds: float
    """The median."""


def losses(lines: Sequence[dict[str, Any]]) -> tuple[float, ...]:
    """Training losses of these lines, those that are finite numbers."""
    found = (number(line.get("loss")) for line in lines)
    return tuple(value for value in found if value is not None and math.isfinite(value))


def newest(lines: Sequence[dict[str, Any]], name: str) -> float | None:
    """The last number of this name, such as `loss`; a run that diverged wrote NaN, and so it is. None without one.

    The ledger cannot tell it: SQLite stores NaN as NULL.
    """
    found = (number(line.get(name)) for line in reversed(lines))
    return next((value for value in found if value is not None), None)


def eta(lines: Sequence[dict[str, Any]], max_steps: int | None, now: float) -> Eta | None:
    """When the run will have taken `max_steps`; None while too little is known. `now` is in Unix seconds.

    Every line took the time since the line before it; the first step compiles and does not count. One that took none or
    less, because the clock was set back, does not count either; the medians do not follow a single pause, such as an
    interruption's.
    """
    steps, evaluations = [], []
    for before, line in pairwise(lines):
        if (took := line["at"] - before["at"]) > 0:
            if "eval_loss" in line:
                evaluations.append(took)
            elif "loss" in line and line["step"] > before["step"] > 0:
                steps.append(took)
    if max_steps is None or len(steps) < FEWEST_STEPS:
        return None
    between = median(evaluations) * len(evaluations) / len(steps) if evaluations else 0
    left = max(0, max_steps - lines[-1]["step"])
    low, middle, high = quantiles(steps, n=4, method="inclusive")
    gone = min(max(0, now - lines[-1]["at"]), middle + between) if left else 0
    likely, least, most = (max(0.0, left * (one + between) - gone) for one in (middle, low, high))
    return Eta(likely, least, most, step_seconds=middle)
