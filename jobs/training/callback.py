"""What is done around every step of a run: the curve, the watchdog, the control actor's word, checkpoints kept few.

A callback of Transformers' Trainer. It ends the loop by RollBack or NothingLeft, which `jobs.training.loop` answers.
"""

import time

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from actors.client import Directive
from actors.runs.event import EventKind
from configs.errors import TrainingError
from jobs.training import checkpoints
from jobs.training.checkpoints import Checkpoint
from jobs.training.context import TrainingContext
from jobs.training.memory.ladder import Plan
from jobs.training.watchdog.gradient_check import GradientCheck
from jobs.training.watchdog.watchdog import EarlyStopping, Verdict, Watchdog

BEAT_S = 30
"""Between two signs of life in an evaluation."""
COPY_S = 5
"""Between two copies of the curve for TensorBoard, which looks every 5 s."""


class RollBack(Exception):
    """The watchdog wants to go back; unwinds the trainer's loop."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.text)
        self.verdict = verdict


class AlreadyTrained(Exception):
    """The checkpoint is that of the last step; unwinds the trainer's loop, which would take one more."""


class Progress(TrainerCallback):
    """Writes the curve, asks watchdog and control actor, keeps checkpoints few."""

    def __init__(self, context: TrainingContext, plan: Plan, begin: Checkpoint | None) -> None:
        self.context, self.plan, self.begin = context, plan, begin.step if begin else 0
        history = context.log.lines()
        vocabulary = getattr(context.model.config, "vocab_size", None)
        self.watchdog = Watchdog(
            context.config.watchdog, history, rollbacks=context.log.rollbacks(), vocabulary=vocabulary
        )
        self.patience = EarlyStopping(context.config.training.patience, history)
        self.evaluating = self.stopped = False
        self.early: str | None = None
        self.gradient_check: GradientCheck | None = None
        self.seen = (time.monotonic(), 0)
        self.beat = self.copied = 0.0

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self.evaluating = False

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if self.gradient_check:
            self.gradient_check.look(self.context.model)

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """A sign of life during a long evaluation, and an ear for a stop, which takes effect after it."""
        if time.monotonic() - self.beat > BEAT_S:
            self.beat = time.monotonic()
            self.stopped |= self.context.link.starting() is Directive.STOP and state.global_step < state.max_steps

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        optimizer: Optimizer,
        lr_scheduler: LambdaLR,
        **kwargs: object,
    ) -> None:
        self.seen = (time.monotonic(), self.context.tokens)
        if state.global_step >= state.max_steps:
            raise AlreadyTrained
        self.gradient_check = GradientCheck(self.context.model)  # here a checkpoint's weights are in it
        self.evaluating = args.eval_on_start
        self.context.record.begins("evaluate base" if args.eval_on_start else self._first_step)
        _set_learning_rate(optimizer, lr_scheduler, self.context.learning_rate)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        done, last = state.global_step - self.begin, state.global_step >= state.max_steps
        if done == 1:
            self.context.record.first_step(time.monotonic() - self.seen[0])
        if self.gradient_check and (done >= self.context.config.training.movement_steps or (last and done > 1)):
            self.gradient_check.check(self.context.model, done)
            self.gradient_check = None
        if last and self.context.evaluates:
            control.should_evaluate = True
        self.evaluating = bool(control.should_evaluate)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        logs: dict[str, float],
        **kwargs: object,
    ) -> None:
        if "loss" not in logs:
            return
        step, loss, grad_norm = state.global_step, logs["loss"], logs.get("grad_norm")
        now, tokens = time.monotonic(), self.context.tokens
        rate = (tokens - self.seen[1]) / max(now - self.seen[0], 1e-9)
        line = {"step": step, "loss": loss, "grad_norm": grad_norm, "learning_rate": logs.get("learning_rate")}
        line |= {"tokens_per_s": rate} | self._consumed(tokens - self.seen[1])
        self.seen = (now, tokens)
        self.context.log.append(line | {"at": time.time()})
        if now - self.copied > COPY_S:
            self.copied = now
            self.context.copy_curve()
        print(f"step {step}/{state.max_steps} loss {loss:.4f} {rate:.0f} tok/s")
        self._heed(self.watchdog.see(step, loss, grad_norm))
        directive = self.context.link.report(step=step, max_steps=state.max_steps, loss=loss, tokens_per_s=rate)
        if directive is Directive.STOP and step < state.max_steps:
            self.stopped = control.should_save = control.should_training_stop = True
        elif self.watchdog.wants_check and self.context.evaluates:
            self.evaluating = control.should_evaluate = True

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        metrics: dict[str, float],
        **kwargs: object,
    ) -> None:
        """One on the held-out rows (`eval_loss`), or a look at the rows that stay the same (`check_loss`)."""
        self.evaluating = False
        step, kind = state.global_step, "eval_loss" if "eval_loss" in metrics else "check_loss"
        loss = metrics[kind]
        if step == 0:
            self.context.record.took("evaluate base", time.monotonic() - self.seen[0])
            self.context.record.begins(self._first_step)
        line = {"step": step, kind: loss, "at": time.time()}
        self.context.log.append(line if step else line | self.plan.measure)
        print(f"step {step}/{state.max_steps} {'evaluation' if kind == 'eval_loss' else 'check'} loss {loss:.4f}")
        self._heed((self.watchdog.see_evaluation if kind == "eval_loss" else self.watchdog.see_check)(step, loss))
        if self.stopped:
            control.should_save = control.should_training_stop = True
        if kind == "eval_loss" and step > 0:
            self._be_patient(step, loss, state, control)
        self.seen = (time.monotonic(), self.context.tokens)

    def _be_patient(self, step: int, loss: float, state: TrainerState, control: TrainerControl) -> None:
        if (enough := self.patience.see(step, loss)) and step < state.max_steps and not self.stopped:
            self.early = enough
            control.should_training_stop = True
            self.context.say(EventKind.EARLY, f"stopping early: {enough}")

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        best = [self.patience.best[0]] if self.patience.evaluations and self.patience.best else []
        checkpoints.rotate(self.context.checkpoints, self.context.config.training.keep_checkpoints, spare=best)
        self.seen = (time.monotonic(), self.context.tokens)

    @property
    def _first_step(self) -> str:
        return "compile" if self.context.device == "cuda" else "first step"

    def _consumed(self, tokens: int) -> dict[str, float | int | None]:
        """What the run has come to with this step."""
        if self.context.consumption is None:
            return {}
        self.context.consumption.step(tokens)
        return {"tokens": self.context.consumption.tokens, "energy_joules": self.context.consumption.joules}

    def _heed(self, verdicts: list[Verdict]) -> None:
        for verdict in verdicts:
            if verdict.action == "rollback":
                raise RollBack(verdict)
            if verdict.action == "stop":
                raise TrainingError(
                    f"stopped by the watchdog ({verdict.rule}): {verdict.text}", hint="nothing was published"
                )
            self.context.say(EventKind.WATCHDOG, verdict.text)


def _set_learning_rate(optimizer: Optimizer, scheduler: LambdaLR, rate: float) -> None:
    """Move a schedule, also one that a checkpoint brought along, to the peak `rate`; the same rate changes no digit."""
    if all(base == rate for base in scheduler.base_lrs):
        return
    scheduler.base_lrs = [rate] * len(scheduler.base_lrs)
    scheduler._last_lr = [rate * factor(scheduler.last_epoch) for factor in scheduler.lr_lambdas]
    for group, now in zip(optimizer.param_groups, scheduler.get_last_lr(), strict=True):
        group["initial_lr"], group["lr"] = rate, now
