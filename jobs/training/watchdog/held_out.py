"""The base's own loss on rows that stay the same, and what the run makes of these rows: no batch's luck is in it.

The losses of single batches scatter by a factor of a thousand, so a jump of one is only a reason to look. A look is an
evaluation now; because both figures are of the same rows, it tells at any step whether the model got worse. Knows
numbers, no trainer; `jobs.training.watchdog.watchdog` keeps one for each run.
"""

from collections import deque
from statistics import fmean

LOSS_JUMP, NORM_JUMP = 1.5, 5.0
"""A training loss or a gradient norm so many times above the highest that was found harmless is a reason to look: a
healthy run of the embedded model needs at most three looks, one that diverges is looked at within two steps."""
FARTHEST = 1.5
"""Nats per token. A base that knows its rows has a loss near 0, of which any multiple is little."""
RECENT = 3
"""Steps whose mean training loss is set against the base's. One that is lower has learned something, if only its own
rows by heart."""


class DivergenceRule:
    """One run's. It has diverged when its loss is FARTHEST above the base's and either `factor` times that or above
    `guess`, the loss of a model that takes all tokens for equally likely."""

    def __init__(self, factor: float, guess: float) -> None:
        self._factor, self._guess = factor, guess
        self.base: float | None = None
        """The base's loss on the rows; None until it was measured, before the first step."""
        self.doubtful = False
        """Whether it is time to look."""
        self._first: tuple[float, float] | None = None
        self._harmless = self._since = (0.0, 0.0)  # the highest loss and norm until the last look, and after it
        self._recent: deque[float] = deque(maxlen=RECENT)

    def step(self, loss: float, grad_norm: float | None) -> None:
        """See one optimiser step. The first is the base's own: it is measured before anything is changed."""
        now = (loss, grad_norm or 0.0)
        self._recent.append(loss)
        if self._first is None:
            self._first = self._harmless = now
            return
        self._since = _higher(self._since, now)
        highest = max(self._harmless[0], self.base or 0.0)
        jump = loss > LOSS_JUMP * highest or now[1] > NORM_JUMP * self._harmless[1] > 0
        self.doubtful = self.base is not None and (self.doubtful or jump)

    def measured(self, step: int, loss: float) -> str:
        """See the loss on the rows after `step`, of step 0 the base's own. In words how far the run has diverged; empty
        if it has not."""
        self.doubtful = False
        if step == 0:
            self.base = loss
        if self.base is None or self._first is None:
            return ""
        far = loss > self.base + FARTHEST and loss > min(self._factor * self.base, self._guess)
        if far and fmean(self._recent) >= self.base:
            return self._words(step, loss, self._first)
        self._harmless = _higher(self._harmless, self._since)
        return ""

    def _words(self, step: int, loss: float, began: tuple[float, float]) -> str:
        (first, first_norm), (highest, highest_norm) = began, _higher(self._harmless, self._since)
        return (
            f"its loss is {loss:.4g} at step {step} on rows of which the base's is {self.base:.4g} (the training "
            f"loss began at {first:.4g} and was up to {highest:.4g}, the gradient's norm at {first_norm:.4g} and up to "
            f"{highest_norm:.4g})"
        )


def _higher(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    return max(one[0], other[0]), max(one[1], other[1])
