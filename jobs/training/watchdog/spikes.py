"""What the losses and gradient norms of single steps usually are, and which step is far above that: a spike.

A spike is not a part of what is usual, so a loss that stays high does not become the usual. A slow climb does;
`jobs.training.watchdog.held_out` sees that. Knows numbers; `jobs.training.watchdog.watchdog` keeps one for each run.
"""

from collections import deque
from collections.abc import Iterator
from statistics import median

FEWEST = 5
"""Steps below which nothing is usual yet."""
ABOVE, ABOVE_AT_FIRST = 1.5, 2.0
"""A spike is also so many times above the highest of the usual, until there is a whole window by the second figure.
Single batches of a healthy run scatter from 0.0003 to 5 where some rows are known already and others are not (embedded
model, batches of one to four rows)."""


class SpikeDetector:
    """Of one run; `window` steps are remembered, `factor` times their median is a spike."""

    def __init__(self, window: int, factor: float) -> None:
        self._window, self._factor = window, factor
        self._losses: deque[float] = deque(maxlen=window)
        self._norms: deque[float] = deque(maxlen=window)

    def spike(self, loss: float, grad_norm: float | None) -> list[str]:
        """In words what of this step is far above the usual, with both values; empty for a usual step, which is
        remembered."""
        words = [
            *self._far_above("loss", loss, self._losses),
            *self._far_above("gradient's norm", grad_norm, self._norms),
        ]
        if not words:
            self._losses.append(loss)
            if grad_norm is not None:
                self._norms.append(grad_norm)
        return words

    def _far_above(self, name: str, value: float | None, usual: deque[float]) -> Iterator[str]:
        if value is None or len(usual) < min(FEWEST, self._window):
            return
        middle, above = median(usual), ABOVE if len(usual) == self._window else ABOVE_AT_FIRST
        if middle > 0 and value > max(self._factor * middle, above * max(usual)):
            times = f"{value / middle:.1f} times its median of {middle:.4g} over the steps before"
            yield f"the {name} is {value:.4g}, {times}"
