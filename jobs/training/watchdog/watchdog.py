"""Looks at a run's curves and says when something is wrong, or reached: rules, each with the action its profile sets.

Pure logic over numbers: it stops, rolls back and publishes nothing itself. `jobs.training.callback` shows it every step
and every evaluation and acts on the verdicts. A rule speaks when its condition begins, and again only after it has
ended. What the whole run comes to is judged by `jobs.training.watchdog.verdict`.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean

from actors.runs.event import GOOD_NEWS
from configs.schema import Action, WatchdogConfig
from jobs.training.watchdog.held_out import DivergenceRule
from jobs.training.watchdog.spikes import SpikeDetector

ZERO_LOSS = 1e-7
"""A loss below this is not learning. The embedded model, given four rows for 400 steps, still shows 3.3e-6."""
PLATEAU_FALL = 0.01
"""A mean that fell by a smaller part than this over `plateau_steps` stands still."""
RELEASE = 0.05
"""How far a mean must move past its limit before the condition counts as ended. Noise of 10 % per step moves a mean
over 10 steps by 3 %."""


class Rule(StrEnum):
    TARGET = "target"  # the mean loss is what one hopes for
    OVERFIT = "overfit"  # the rows are being learned by heart
    ZERO = "zero"  # the loss is 0: nothing is learned, the template or the mask is wrong
    NAN = "nan"  # the loss or the gradient's norm is not a finite number
    SPIKE = "spike"  # the loss or the gradient's norm is far above what it was
    DIVERGED = "diverged"  # of the rows that are looked at, the run knows much less than the base
    FOREIGN = "foreign"  # of these rows, the base itself knows less than a guess
    PLATEAU = "plateau"  # the mean loss stands still above the target


@dataclass(frozen=True)
class Verdict:
    """What a rule says at one step. `text` is one sentence with both values, and the next step."""

    rule: Rule
    action: Action
    step: int
    text: str


class Watchdog:
    """The rules of one run.

    `history` are the metrics lines of the part that is done already (see `actors.runs.curve`): means, medians
    and what has been said go on from there. `rollbacks` is how many there were, `vocabulary` how many tokens the base
    knows. NaN and infinity are told first and enter no mean.
    """

    def __init__(
        self, config: WatchdogConfig, history: Iterable[dict] = (), *, rollbacks: int = 0, vocabulary: int | None = None
    ) -> None:
        self.config, self.rollbacks = config, rollbacks
        self._steps: list[tuple[int, float, float | None]] = []
        self._evaluations: list[tuple[int, float, float | None]] = []
        self._active: set[str] = set()
        self._plateau: float | None = None
        guess = math.log(vocabulary) if vocabulary else math.inf
        self._usual = SpikeDetector(config.window, config.spike_factor)
        self._divergence = DivergenceRule(config.diverged_factor, guess)
        self._guess = guess
        for line in history:
            if "loss" in line:
                self.see(line["step"], line["loss"], line.get("grad_norm"))
            elif "eval_loss" in line:
                self.see_evaluation(line["step"], line["eval_loss"])
            elif "check_loss" in line:
                self.see_check(line["step"], line["check_loss"])

    @property
    def wants_check(self) -> bool:
        """Whether the newest steps look as if the run had diverged, so that `see_check` should be shown a look now."""
        return self._divergence.doubtful

    def see(self, step: int, loss: float, grad_norm: float | None = None) -> list[Verdict]:
        """Judge one optimiser step."""
        broken = not math.isfinite(loss) or (grad_norm is not None and not math.isfinite(grad_norm))
        found = [self._nan(step, broken, f"the loss is {loss:.4g} and the gradient's norm {_number(grad_norm)}")]
        if not broken:
            spike = self._spike(step, loss, grad_norm)
            self._divergence.step(loss, grad_norm)
            self._steps.append((step, loss, grad_norm))
            found += [self._zero(step, loss), spike, self._target(step), self._overfit(step), self._standstill(step)]
        return [verdict for verdict in found if verdict and verdict.action != "ignore"]

    def see_evaluation(self, step: int, loss: float) -> list[Verdict]:
        """Judge an evaluation on the held-out rows. Of step 0 it is the base's own; later, overfitting is a loss that
        rises twice while training's falls."""
        found = self.see_check(step, loss)
        if step > 0 and math.isfinite(loss):
            self._evaluations.append((step, loss, self._mean_loss()))
            found += [verdict for verdict in [self._rising(step)] if verdict and verdict.action != "ignore"]
        return found

    def see_check(self, step: int, loss: float) -> list[Verdict]:
        """Judge a loss on the rows that stay the same, held-out ones or a few of those that are trained."""
        broken = not math.isfinite(loss)
        text = f"the evaluation loss is {loss} at step {step}; {_LOOK}"
        verdicts = [self._begins(Rule.NAN, step, broken, text, "eval")]
        if not broken:
            words = self._divergence.measured(step, loss)
            text = f"the run has diverged: {words}; train anew with a lower training.learning_rate"
            verdicts.append(self._begins(Rule.DIVERGED, step, bool(words), text))
            verdicts.append(self._foreign(step, loss))
        return [verdict for verdict in verdicts if verdict and verdict.action != "ignore"]

    def _foreign(self, step: int, loss: float) -> Verdict | None:
        text = (
            f"the base's own loss on these rows is {loss:.4g}, worse than the {self._guess:.4g} of a guess: the text, "
            "the template or the labels are not of its kind; `tandem data inspect` shows what is learned"
        )
        return self._begins(Rule.FOREIGN, step, step == 0 and loss > self._guess, text)

    def _nan(self, step: int, broken: bool, what: str) -> Verdict | None:
        return self._begins(Rule.NAN, step, broken, f"{what} at step {step}; {_LOOK}")

    def _zero(self, step: int, loss: float) -> Verdict | None:
        text = (
            f"the loss is {loss:.4g} at step {step}, below {ZERO_LOSS:.0e}: nothing is learned, the template or the "
            "mask is wrong; `tandem data inspect` shows what is learned, data.mask decides it"
        )
        return self._begins(Rule.ZERO, step, abs(loss) < ZERO_LOSS, text)

    def _spike(self, step: int, loss: float, grad_norm: float | None) -> Verdict | None:
        """Only above the target: a loss of 0.02 that doubles is noise (embedded model, profile tiny)."""
        parts = self._usual.spike(loss, grad_norm)
        text = (
            f"{' and '.join(parts)}, at step {step}; if it comes again, look for a broken row in the data, or lower "
            "training.learning_rate or training.max_grad_norm"
        )
        return self._begins(Rule.SPIKE, step, bool(parts) and loss > self.config.target_loss, text)

    def _target(self, step: int) -> Verdict | None:
        limit, mean = self.config.target_loss, self._mean_loss()
        reached = mean is not None and mean <= limit
        text = (
            f"{GOOD_NEWS}the mean loss of the last {self.config.window} steps is {_number(mean)} at step {step}, the "
            f"target is {limit:g}; more steps are worth it only while the evaluation loss falls too"
        )
        return self._begins(Rule.TARGET, step, reached, text, ended=mean is not None and mean > limit * (1 + RELEASE))

    def _overfit(self, step: int) -> Verdict | None:
        limit, mean = self.config.overfit_loss, self._mean_loss()
        below = mean is not None and mean < limit
        text = (
            f"the mean loss of the last {self.config.window} steps is {_number(mean)} at step {step}, below {limit:g}: "
            f"{_BY_HEART}"
        )
        return self._begins(Rule.OVERFIT, step, below, text, ended=mean is not None and mean > limit * (1 + RELEASE))

    def _rising(self, step: int) -> Verdict | None:
        last = self._evaluations[-3:]
        rises = len(last) == 3 and last[0][1] < last[1][1] < last[2][1]
        overfit, text = False, ""
        if rises and (before := last[0][2]) is not None and (now := last[2][2]) is not None and now < before:
            overfit = True
            text = (
                f"the evaluation loss rose from {last[0][1]:.4g} at step {last[0][0]} to {last[2][1]:.4g} at step "
                f"{step} while the training loss fell from {before:.4g} to {now:.4g}: {_BY_HEART}, or set "
                "training.patience"
            )
        return self._begins(Rule.OVERFIT, step, overfit, text, "eval", ended=not rises)

    def _standstill(self, step: int) -> Verdict | None:
        """A plateau ends when the mean has fallen clearly below the one at which it was told."""
        half = self.config.plateau_steps // 2
        losses = [entry[1] for entry in self._steps[-2 * half :]]
        if len(losses) < 2 * half:
            return None
        before, after = fmean(losses[:half]), fmean(losses[half:])
        if self._plateau is not None:
            if after < self._plateau * (1 - RELEASE):
                self._plateau = None
            return None
        if after <= self.config.target_loss or before - after >= PLATEAU_FALL * before:
            return None
        self._plateau = after
        text = (
            f"the mean loss no longer falls: {after:.4g} at step {step}, it was {before:.4g} over the {half} steps "
            f"before, and the target is {self.config.target_loss:g}; stop here, or train anew with another "
            "training.learning_rate or a higher lora.r"
        )
        return self._verdict(Rule.PLATEAU, step, text)

    def _mean_loss(self) -> float | None:
        """Over the last `window` steps; None before there are as many."""
        losses = [entry[1] for entry in self._steps[-self.config.window :]]
        return fmean(losses) if len(losses) == self.config.window else None

    def _begins(
        self, rule: Rule, step: int, holds: bool, text: str, source: str = "", *, ended: bool | None = None
    ) -> Verdict | None:
        """A verdict if the condition holds and did not before. `ended` says when it may begin again."""
        key = f"{rule} {source}".strip()
        began = holds and key not in self._active
        if holds:
            self._active.add(key)
        elif ended is None or ended:
            self._active.discard(key)
        return self._verdict(rule, step, text) if began else None

    def _verdict(self, rule: Rule, step: int, text: str) -> Verdict:
        action: Action = getattr(self.config, f"on_{rule}")
        if action == "rollback" and self.rollbacks >= self.config.max_rollbacks:
            action, text = "stop", f"{text} (stopping: it was rolled back {self.rollbacks} times already)"
        return Verdict(rule, action, step, text)


class EarlyStopping:
    """Early stopping: no lower evaluation loss for `evaluations` evaluations. None never stops.

    `history` are the metrics lines of a resumed run, of which those with `eval_loss` count. The base's own, of step 0,
    is not among those that can be best.
    """

    def __init__(self, evaluations: int | None, history: Iterable[dict] = ()) -> None:
        self.evaluations = evaluations
        self.best: tuple[int, float] | None = None
        """(step, loss) of the lowest evaluation so far."""
        self._since = 0
        for line in history:
            if "eval_loss" in line and line["step"] > 0:
                self.see(line["step"], line["eval_loss"])

    def see(self, step: int, loss: float) -> str | None:
        """The reason to stop here, with the best step and loss, or None. A loss that is not finite is not better."""
        if math.isfinite(loss) and (self.best is None or loss < self.best[1]):
            self.best, self._since = (step, loss), 0
            return None
        self._since += 1
        if self.evaluations is None or self._since < self.evaluations:
            return None
        best = f"{self.best[1]:.4g} at step {self.best[0]}" if self.best else "none that is a number"
        return (
            f"no lower evaluation loss in {self._since} evaluations: {loss:.4g} at step {step}, the best was {best} "
            f"(training.patience is {self.evaluations})"
        )


_LOOK = "lower training.learning_rate, or look for a broken row in the data"
_BY_HEART = (
    "the rows are being learned by heart; train fewer steps, lower training.learning_rate or lora.r, or set "
    "training.weight_decay=0.1 and lora.dropout=0.1"
)


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"
