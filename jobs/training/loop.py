"""The optimisation itself, until the last step whatever memory and watchdog ask for.

Down the ladder after an out-of-memory, back to the last good checkpoint after a rollback. Knows no ledger and no
adapter registry. On a GPU import it only after Unsloth, which must come before transformers and TRL.
"""

import contextlib
import time
from dataclasses import dataclass

import torch
from trl import SFTConfig, SFTTrainer

from actors.runs.event import EventKind
from configs.errors import TrainingError
from jobs.training import checkpoints
from jobs.training.callback import AlreadyTrained, Progress, RollBack
from jobs.training.checkpoints import Checkpoint
from jobs.training.context import TrainingContext, free_memory
from jobs.training.memory import ladder
from jobs.training.memory.ladder import Plan
from jobs.training.trainers import common_arguments, new_trainer, trainer_class
from jobs.training.watchdog.watchdog import Verdict

LOOKED_AT = 8
"""Trained rows whose loss is set against the base's where no rows are held out."""


@dataclass(frozen=True)
class TrainingEnd:
    """How the optimisation ended. `early` says why before the last step; `stopped` that somebody asked for it."""

    step: int
    stopped: bool
    early: str | None
    taken: int
    """The step whose adapter is in the model: with early stopping the best."""


@dataclass(frozen=True)
class _OutOfMemory:
    step: int
    evaluating: bool


def train(context: TrainingContext, plan: Plan, begin: Checkpoint | None) -> TrainingEnd:
    """Train from `begin`, or from the fresh adapter, to the last step.

    Raises TrainingError if the watchdog stops the run or nothing more can be given up for memory.
    """
    if context.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    first = begin  # a resumed run's is its parent's
    while True:
        context.log.begin_after(begin.step if begin else 0)
        ended = _stretch(context, plan, begin)
        if isinstance(ended, TrainingEnd):
            return ended
        context.model.zero_grad(set_to_none=True)  # of a step that was broken off
        free_memory()
        if isinstance(ended, _OutOfMemory):
            plan = _give_up_something(context, plan, ended)
            begin = checkpoints.newest(context.checkpoints) or first
        else:
            begin = checkpoints.newest(context.checkpoints, before=ended.step) or first
            checkpoints.drop_after(context.checkpoints, begin.step if begin else 0)
            _note_rollback(context, ended, begin)
        if begin is None:
            context.reset()


def _stretch(context: TrainingContext, plan: Plan, begin: Checkpoint | None) -> TrainingEnd | _OutOfMemory | Verdict:
    """One trainer's life. What it held on the GPU is free once this has returned."""
    with context.record.stage("build trainer"):
        context.log.keep_base(plan.measure)
        progress = Progress(context, plan, begin)
        trainer = _trainer(context, plan, progress)
    try:
        with contextlib.suppress(AlreadyTrained):
            trainer.train(resume_from_checkpoint=str(begin.path) if begin else None)
    except torch.OutOfMemoryError:
        return _OutOfMemory(trainer.state.global_step, progress.evaluating)
    except RollBack as back:
        return back.verdict
    finally:
        context.copy_curve()
    best, last = progress.patience.best, trainer.state.global_step
    taken = last
    if progress.early or (context.config.training.patience and not progress.stopped and best):
        taken = _load_best(context, best, last)
    return TrainingEnd(last, progress.stopped, progress.early, taken)


def _give_up_something(context: TrainingContext, plan: Plan, ended: _OutOfMemory) -> Plan:
    may_shorten = context.config.training.allow_shorter_rows
    lower = ladder.one_rung_down(plan, evaluating=ended.evaluating, may_shorten=may_shorten)
    if lower.micro_batch != plan.micro_batch:
        context.forget_fit()
    where = "an evaluation" if ended.evaluating else "a step"
    context.say(
        EventKind.MEMORY, f"out of memory in {where} after step {ended.step} with {plan}; going on with {lower}"
    )
    return lower


def _note_rollback(context: TrainingContext, verdict: Verdict, begin: Checkpoint | None) -> None:
    step = begin.step if begin else 0
    context.log.begin_after(step)
    context.log.append({"step": step, "rollback": verdict.text, "from": verdict.step, "at": time.time()})
    rate = context.learning_rate
    context.say(EventKind.ROLLBACK, f"back to step {step} with the learning rate {rate:g}, because {verdict.text}")


def _load_best(context: TrainingContext, best: tuple[int, float] | None, last: int) -> int:
    """Take the adapter of the checkpoint with the lowest evaluation loss, this run's or its parent's; which step it is
    of."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    if best is None:
        raise TrainingError("the evaluation loss was never a number", hint="look for a broken row in the data")
    if best[0] == last:
        return last
    places = (context.checkpoints, *context.parents)
    found = [Checkpoint(best[0], folder / f"checkpoint-{best[0]}") for folder in places]
    whole = next((checkpoint for checkpoint in found if not checkpoint.fault()), None)
    if whole is None:
        raise TrainingError(
            f"the checkpoint of step {best[0]}, whose evaluation loss {best[1]:.4f} is the lowest, is gone or damaged",
            hint="train on without training.patience to publish the last step",
        )
    loaded = set_peft_model_state_dict(context.model, load_file(whole.path / "adapter_model.safetensors"))
    if loaded.unexpected_keys:
        raise TrainingError(f"{whole.path} holds other tensors than the adapter: {loaded.unexpected_keys[0]}")
    context.say(EventKind.BEST, f"publishing step {best[0]}, whose evaluation loss {best[1]:.4f} is the lowest")
    return best[0]


def _trainer(context: TrainingContext, plan: Plan, progress: Progress) -> SFTTrainer:
    config, training = context.config, context.config.training
    rows, held_out = context.rows(plan.max_seq_length)
    context.evaluates = True
    evaluation: dict[str, object] = {"eval_on_start": progress.begin == 0 and context.log.base_loss() is None}
    if held_out:
        evaluation |= {"eval_strategy": "steps", "eval_steps": training.eval_steps}
    arguments = SFTConfig(
        output_dir=str(context.checkpoints),
        max_steps=training.max_steps or -1,
        num_train_epochs=training.epochs,
        learning_rate=context.learning_rate,
        lr_scheduler_type=training.scheduler,
        warmup_steps=training.warmup_steps,
        logging_steps=1,
        save_steps=training.save_steps,
        report_to=[name for name in training.report_to if name != "tensorboard"] or "none",
        run_name=context.folder.name,
        project=f"tandem-{config.profile}",
        **evaluation,
        **common_arguments(context, plan),
    )
    looked_at = held_out or rows[:: -(-len(rows) // LOOKED_AT)]
    return new_trainer(trainer_class(context), context, arguments, rows, looked_at, progress)
