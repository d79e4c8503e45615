"""The optimisation itself: TRL's SFTTrainer over labelled rows, with curve, checkpoints, watchdog and evaluation.

`train` goes on until the last step whatever memory and watchdog ask for: down the ladder after an out-of-memory, back
to the last good checkpoint after a rollback. Knows no ledger and no adapter registry. On a GPU import it only after
Unsloth, which must come before transformers and TRL.
"""

import contextlib
import gc
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import SequentialSampler
from transformers import PrinterCallback, Trainer, TrainerCallback
from transformers.integrations import TensorBoardCallback
from transformers.trainer_callback import ProgressCallback
from transformers.trainer_utils import IntervalStrategy
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from actors.control import Directive
from actors.trainer import Link
from configs.errors import TandemError, TrainingError
from configs.schema import RunConfig
from jobs.training import checkpoints, ladder
from jobs.training.checkpoints import Checkpoint
from jobs.training.fit import Trial
from jobs.training.ladder import Plan
from jobs.training.metrics_log import MetricsLog
from jobs.training.movement import Movement
from jobs.training.record import Record
from jobs.training.watchdog import Patience, Verdict, Watchdog

Rows = list[dict[str, list[int]]]
PROBE_SEED = 0
BEAT_S = 30
"""Between two signs of life in an evaluation."""


@dataclass
class Work:
    """Everything that one attempt of a run works on."""

    model: Any
    tokenizer: Any
    config: RunConfig
    folder: Path
    device: str
    """`cuda` or `cpu`."""
    link: Link
    record: Record
    origin: dict[str, Any]
    """What its checkpoints are of; see `jobs.training.provenance`."""
    rows: Callable[[int], tuple[Rows, Rows]]
    """(training, held out) for a `max_seq_length` in tokens."""
    parents: tuple[Path, ...] = ()
    """Checkpoint folders of the run that this one continues."""
    forget_fit: Callable[[], None] = lambda: None
    """Called when the micro-batch that the probe chose turns out not to fit."""
    tokens: int = 0
    """That went through the model so far, padding included."""
    weights: dict[str, torch.Tensor] = field(init=False)
    """The adapter as it was before the first step, on the CPU."""

    def __post_init__(self) -> None:
        self.weights = {n: p.detach().cpu().clone() for n, p in self.model.named_parameters() if p.requires_grad}

    @property
    def log(self) -> MetricsLog:
        return MetricsLog(self.folder / "metrics.jsonl")

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def say(self, kind: str, text: str) -> None:
        """To the run's log and to its events."""
        print(text)
        self.link.note(kind, text)

    def reset(self) -> None:
        """Put the adapter back to where it was before the first step."""
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(self.weights[name])


@dataclass(frozen=True)
class Ended:
    """How the optimisation ended. `early` says why before the last step; `stopped` that somebody asked for it."""

    step: int
    stopped: bool
    early: str | None


@dataclass(frozen=True)
class _OutOfMemory:
    step: int
    evaluating: bool


class _RollBack(Exception):
    """The watchdog wants to go back; unwinds the trainer's loop."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.text)
        self.verdict = verdict


class _NothingLeft(Exception):
    """The checkpoint is that of the last step; unwinds the trainer's loop, which would take one more."""


def train(work: Work, plan: Plan, begin: Checkpoint | None) -> Ended:
    """Train from `begin`, or from the fresh adapter, to the last step.

    Raises TrainingError if the watchdog stops the run or nothing more can be given up for memory.
    """
    if work.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    first = begin  # a resumed run's is its parent's
    while True:
        work.log.begin_after(begin.step if begin else 0)
        ended = _stretch(work, plan, begin)
        if isinstance(ended, Ended):
            return ended
        work.model.zero_grad(set_to_none=True)  # of a step that was broken off
        _free_memory()
        if isinstance(ended, _OutOfMemory):
            plan = _give_up_something(work, plan, ended)
            begin = checkpoints.newest(work.checkpoints) or first
        else:
            begin = checkpoints.newest(work.checkpoints, before=ended.step) or first
            checkpoints.drop_after(work.checkpoints, begin.step if begin else 0)
            _note_rollback(work, ended, begin)
        if begin is None:
            work.reset()


def _stretch(work: Work, plan: Plan, begin: Checkpoint | None) -> Ended | _OutOfMemory | Verdict:
    """One trainer's life. What it held on the GPU is free once this has returned."""
    with work.record.stage("build trainer"):
        progress = _Progress(work, begin)
        trainer = _trainer(work, plan, progress)
    try:
        with contextlib.suppress(_NothingLeft):
            trainer.train(resume_from_checkpoint=str(begin.path) if begin else None)
    except torch.OutOfMemoryError:
        return _OutOfMemory(trainer.state.global_step, progress.evaluating)
    except _RollBack as back:
        return back.verdict
    best = progress.patience.best
    if progress.early or (work.config.training.patience and not progress.stopped and best):
        _load_best(work, best, trainer.state.global_step)
    return Ended(trainer.state.global_step, progress.stopped, progress.early)


def _give_up_something(work: Work, plan: Plan, ended: _OutOfMemory) -> Plan:
    may_shorten = work.config.training.allow_shorter_rows
    lower = ladder.one_rung_down(plan, evaluating=ended.evaluating, may_shorten=may_shorten)
    if lower.micro_batch != plan.micro_batch:
        work.forget_fit()
    where = "an evaluation" if ended.evaluating else "a step"
    work.say("memory", f"out of memory in {where} after step {ended.step} with {plan}; going on with {lower}")
    return lower


def _note_rollback(work: Work, verdict: Verdict, begin: Checkpoint | None) -> None:
    step = begin.step if begin else 0
    work.log.begin_after(step)
    work.log.append({"step": step, "rollback": verdict.text, "from": verdict.step, "at": time.time()})
    rate = _learning_rate(work)
    work.say("rollback", f"back to step {step} with the learning rate {rate:g}, because {verdict.text}")


def _learning_rate(work: Work) -> float:
    """The peak rate, halved at every rollback so far."""
    return work.config.training.learning_rate * 0.5 ** work.log.rollbacks()


def _load_best(work: Work, best: tuple[int, float] | None, last: int) -> None:
    """Take the adapter of the checkpoint with the lowest evaluation loss, this run's or its parent's."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    if best is None:
        raise TrainingError("the evaluation loss was never a number", hint="look for a broken row in the data")
    if best[0] == last:
        return
    places = (work.checkpoints, *work.parents)
    found = [Checkpoint(best[0], folder / f"checkpoint-{best[0]}") for folder in places]
    whole = next((checkpoint for checkpoint in found if not checkpoint.fault()), None)
    if whole is None:
        raise TrainingError(
            f"the checkpoint of step {best[0]}, whose evaluation loss {best[1]:.4f} is the lowest, is gone or damaged",
            hint="train on without training.patience to publish the last step",
        )
    loaded = set_peft_model_state_dict(work.model, load_file(whole.path / "adapter_model.safetensors"))
    if loaded.unexpected_keys:
        raise TrainingError(f"{whole.path} holds other tensors than the adapter: {loaded.unexpected_keys[0]}")
    work.say("best", f"publishing step {best[0]}, whose evaluation loss {best[1]:.4f} is the lowest")


def _free_memory() -> None:
    """Let go of what a broken-off step left behind. Unsloth resets its offloading buffers only after a good one."""
    if "unsloth_zoo.gradient_checkpointing" in sys.modules:
        from unsloth_zoo.gradient_checkpointing import reset_unsloth_gradient_checkpointing_buffers

        with contextlib.suppress(NameError):  # raised where checkpointing was never used
            reset_unsloth_gradient_checkpointing_buffers()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class _Progress(TrainerCallback):
    """Writes the curve, asks watchdog and control actor, keeps checkpoints few."""

    def __init__(self, work: Work, begin: Checkpoint | None) -> None:
        self.work, self.begin = work, begin.step if begin else 0
        history = work.log.lines()
        self.watchdog = Watchdog(work.config.watchdog, history, rollbacks=work.log.rollbacks())
        self.patience = Patience(work.config.training.patience, history)
        self.evaluating = self.stopped = False
        self.early: str | None = None
        self.movement: Movement | None = None
        self.seen = (time.monotonic(), 0)
        self.beat = 0.0

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        self.evaluating = False

    def on_pre_optimizer_step(self, args, state, control, **kwargs) -> None:
        if self.movement:
            self.movement.look(self.work.model)

    def on_prediction_step(self, args, state, control, **kwargs) -> None:
        """A sign of life during a long evaluation, and an ear for a stop, which takes effect after it."""
        if time.monotonic() - self.beat > BEAT_S:
            self.beat = time.monotonic()
            self.stopped |= self.work.link.starting() is Directive.STOP and state.global_step < state.max_steps

    def on_train_begin(self, args, state, control, optimizer=None, lr_scheduler=None, **kwargs) -> None:
        self.seen = (time.monotonic(), self.work.tokens)
        if state.global_step >= state.max_steps:
            raise _NothingLeft
        self.movement = Movement(self.work.model)  # here a checkpoint's weights are in it
        _set_learning_rate(optimizer, lr_scheduler, _learning_rate(self.work))

    def on_step_end(self, args, state, control, **kwargs) -> None:
        done, last = state.global_step - self.begin, state.global_step >= state.max_steps
        if done == 1:
            self.work.record.first_step(time.monotonic() - self.seen[0])
        if self.movement and (done >= self.work.config.training.movement_steps or (last and done > 1)):
            self.movement.check(self.work.model, done)
            self.movement = None
        if last and args.eval_strategy != "no":
            control.should_evaluate = True
        self.evaluating = bool(control.should_evaluate)

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if "loss" not in (logs or {}):
            return
        step, loss, grad_norm = state.global_step, logs["loss"], logs.get("grad_norm")
        now, tokens = time.monotonic(), self.work.tokens
        rate = (tokens - self.seen[1]) / max(now - self.seen[0], 1e-9)
        self.seen = (now, tokens)
        line = {"step": step, "loss": loss, "grad_norm": grad_norm, "learning_rate": logs.get("learning_rate")}
        self.work.log.append(line | {"tokens_per_s": rate, "at": time.time()})
        print(f"step {step}/{state.max_steps} loss {loss:.4f} {rate:.0f} tok/s")
        self._heed(self.watchdog.see(step, loss, grad_norm))
        directive = self.work.link.report(step=step, max_steps=state.max_steps, loss=loss, tokens_per_s=rate)
        if directive is Directive.STOP and step < state.max_steps:
            self.stopped = control.should_save = control.should_training_stop = True

    def on_evaluate(self, args, state, control, metrics=None, **kwargs) -> None:
        self.evaluating = False
        step, loss = state.global_step, metrics["eval_loss"]
        self.work.log.append({"step": step, "eval_loss": loss, "at": time.time()})
        print(f"step {step}/{state.max_steps} evaluation loss {loss:.4f}")
        self._heed(self.watchdog.see_evaluation(step, loss))
        if self.stopped:
            control.should_save = control.should_training_stop = True
        if (enough := self.patience.see(step, loss)) and step < state.max_steps and not self.stopped:
            self.early = enough
            control.should_training_stop = True
            self.work.say("early", f"stopping early: {enough}")
        self.seen = (time.monotonic(), self.work.tokens)

    def on_save(self, args, state, control, **kwargs) -> None:
        best = [self.patience.best[0]] if self.patience.evaluations and self.patience.best else []
        checkpoints.rotate(self.work.checkpoints, self.work.config.training.keep_checkpoints, spare=best)
        self.seen = (time.monotonic(), self.work.tokens)

    def _heed(self, verdicts: list[Verdict]) -> None:
        for verdict in verdicts:
            if verdict.action == "rollback":
                raise _RollBack(verdict)
            if verdict.action == "stop":
                raise TrainingError(
                    f"stopped by the watchdog ({verdict.rule}): {verdict.text}", hint="nothing was published"
                )
            self.work.say("watchdog", verdict.text)


def _set_learning_rate(optimizer, scheduler, rate: float) -> None:
    """Move a schedule, also one that a checkpoint brought along, to the peak `rate`; the same rate changes no digit."""
    if all(base == rate for base in scheduler.base_lrs):
        return
    scheduler.base_lrs = [rate] * len(scheduler.base_lrs)
    scheduler._last_lr = [rate * factor(scheduler.last_epoch) for factor in scheduler.lr_lambdas]
    for group, now in zip(optimizer.param_groups, scheduler.get_last_lr(), strict=True):
        group["initial_lr"], group["lr"] = rate, now


def _trainer(work: Work, plan: Plan, progress: _Progress) -> SFTTrainer:
    config, training = work.config, work.config.training
    rows, held_out = work.rows(plan.max_seq_length)
    evaluation = {}
    if held_out:
        evaluation = {"eval_strategy": "steps", "eval_steps": training.eval_steps}
    arguments = _arguments(
        work,
        plan,
        output_dir=str(work.checkpoints),
        max_steps=training.max_steps or -1,
        num_train_epochs=training.epochs,
        learning_rate=_learning_rate(work),
        lr_scheduler_type=training.scheduler,
        warmup_steps=training.warmup_steps,
        logging_steps=1,
        save_steps=training.save_steps,
        report_to=[name for name in training.report_to if name != "tensorboard"] or "none",
        run_name=work.folder.name,
        project=f"tandem-{config.profile}",
        **evaluation,
    )
    trainer = _new_trainer(trainer_class(work), work, arguments, rows, held_out, progress)
    if "tensorboard" in training.report_to:
        trainer.add_callback(TensorBoardCallback(_tensorboard(work, progress.begin)))
    return trainer


def _arguments(work: Work, plan: Plan, **more: Any) -> SFTConfig:
    training, cpu = work.config.training, work.device == "cpu"
    optimizer = "adamw_torch" if cpu else training.optimizer
    return SFTConfig(
        per_device_train_batch_size=plan.micro_batch,
        per_device_eval_batch_size=plan.eval_batch,
        gradient_accumulation_steps=plan.accumulation,
        gradient_checkpointing=plan.gradient_checkpointing,
        optim=optimizer,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        bf16=training.bf16 and not cpu,
        use_cpu=cpu,
        router_aux_loss_coef=training.router_aux_loss_coef,
        seed=training.seed,
        data_seed=training.seed,
        logging_nan_inf_filter=False,  # its default hides a NaN loss
        prediction_loss_only=True,
        max_length=None,  # cut, and counted, in jobs.data.dataset
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},  # rows are tokens with labels already
        disable_tqdm=True,
        dataloader_pin_memory=not cpu,
        **more,
    )


def _new_trainer(
    kind: type, work: Work, arguments: SFTConfig, rows: Rows, held_out: Rows, callback: TrainerCallback
) -> SFTTrainer:
    trainer = kind(
        model=work.model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(held_out) if held_out else None,
        processing_class=work.tokenizer,
        data_collator=DataCollatorForLanguageModeling(pad_token_id=work.tokenizer.pad_token_id),
        callbacks=[callback],
    )
    for printing in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(printing)  # _Progress says it in one line
    return trainer


def trainer_class(work: Work) -> type[SFTTrainer]:
    """SFTTrainer with checkpoints written aside, and on a CPU the model's own loss."""

    class Whole(SFTTrainer):
        _aside: Path | None = None

        def training_step(self, model, inputs, *args, **kwargs) -> torch.Tensor:
            work.tokens += inputs["input_ids"].numel()  # the trainer's own count waits for the GPU at every batch
            return super().training_step(model, inputs, *args, **kwargs)

        def _get_output_dir(self, trial) -> str:
            return str(self._aside) if self._aside else super()._get_output_dir(trial)

        def _save_checkpoint(self, model, trial) -> None:
            started = time.monotonic()
            with checkpoints.writing(work.checkpoints, self.state.global_step, work.origin) as self._aside:
                super()._save_checkpoint(model, trial)
            work.record.took("checkpoints", time.monotonic() - started)

        def _save(self, output_dir=None, state_dict=None) -> None:
            """Without the tokenizer: 27 MB that the base has already."""
            tokenizer, self.processing_class = self.processing_class, None
            try:
                super()._save(output_dir, state_dict)
            finally:
                self.processing_class = tokenizer

        def evaluate(self, *args, **kwargs) -> dict[str, float]:
            """One that breaks is said, and the run goes on without; only early stopping cannot do without."""
            try:
                return super().evaluate(*args, **kwargs)
            except (TandemError, _RollBack):
                raise
            except Exception as error:
                if isinstance(error, torch.OutOfMemoryError) and self.args.per_device_eval_batch_size > 1:
                    raise  # there is a rung for it
                reason = f"the evaluation after step {self.state.global_step} broke: {type(error).__name__}: {error}"
                if work.config.training.patience:
                    raise TrainingError(reason, hint="train without training.patience") from error
            work.say("evaluation", f"{reason}; going on without evaluations")
            self.args.eval_strategy = IntervalStrategy.NO
            self.control.should_evaluate = False
            _free_memory()
            return {}

    if work.device == "cpu":  # TRL 1.15 computes the loss in a Triton kernel
        Whole.compute_loss = Trainer.compute_loss
    return Whole


def _tensorboard(work: Work, step: int):
    """A writer whose curves go on after `step`, whatever an interrupted attempt wrote beyond it."""
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(work.folder / "tensorboard"), purge_step=step + 1)


def probe(work: Work, plan: Plan) -> Trial:
    """What `plan` takes on this device: a step over the longest rows for the memory, then the same typical rows twice.

    Only the last step is timed: every shape that comes for the first time is compiled on a GPU. The adapter is as
    before afterwards. A plan that does not fit is a Trial without seconds.
    """
    rows, _ = work.rows(plan.max_seq_length)
    longest = sorted(rows, key=lambda row: -len(row["input_ids"]))
    typical = random.Random(PROBE_SEED).choices(rows, k=plan.effective_batch)
    batch = (longest * plan.effective_batch)[: plan.effective_batch] + 2 * typical
    timing = _Timing(work.device)
    try:
        _probing_trainer(work, plan, batch, timing).train()
    except torch.OutOfMemoryError:
        return Trial(plan.micro_batch, None, None)
    finally:
        work.reset()
        _free_memory()
    return Trial(plan.micro_batch, round(timing.seconds[-1], 4), timing.peak_bytes)


class _Timing(TrainerCallback):
    """Seconds per optimiser step, and the most memory that any took."""

    def __init__(self, device: str) -> None:
        self.seconds: list[float] = []
        self.peak_bytes: int | None = None
        self._cuda = device == "cuda"
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        self._wait()
        self._started = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self._wait()
        self.seconds.append(time.perf_counter() - self._started)
        self.peak_bytes = torch.cuda.max_memory_allocated() if self._cuda else None

    def _wait(self) -> None:
        if self._cuda:
            torch.cuda.synchronize()


def _probing_trainer(work: Work, plan: Plan, rows: Rows, timing: _Timing) -> SFTTrainer:
    class InOrder(trainer_class(work)):
        def _get_train_sampler(self, *args) -> SequentialSampler:
            return SequentialSampler(self.train_dataset)

    folder = str(work.checkpoints / ".probing")
    quiet = {"save_strategy": "no", "report_to": "none", "logging_steps": 1000, "learning_rate": 0.0}
    arguments = _arguments(work, plan, output_dir=folder, max_steps=3, **quiet)
    return _new_trainer(InOrder, work, arguments, rows, [], timing)
