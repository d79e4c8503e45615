"""One plan, measured on the device: its time and the most memory it takes. `jobs.training.memory.micro_batch` asks and
chooses."""

import random
import time

import torch
from torch.utils.data import SequentialSampler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import SFTConfig, SFTTrainer

from jobs.training.context import Rows, TrainingContext, free_memory
from jobs.training.memory.ladder import Plan
from jobs.training.memory.micro_batch import Trial
from jobs.training.trainers import common_arguments, new_trainer, trainer_class

SEED = 0


def probe(context: TrainingContext, plan: Plan) -> Trial:
    """What `plan` takes on this device: a step over the longest rows for the memory, then the same typical rows twice.

    Only the last step is timed: every shape that comes for the first time is compiled on a GPU. The adapter is as
    before afterwards. A plan that does not fit is a Trial without seconds.
    """
    rows, _ = context.rows(plan.max_seq_length)
    longest = sorted(rows, key=lambda row: -len(row["input_ids"]))
    typical = random.Random(SEED).choices(rows, k=plan.effective_batch)
    batch = (longest * plan.effective_batch)[: plan.effective_batch] + 2 * typical
    timing = _Timing(context.device)
    try:
        _probing_trainer(context, plan, batch, timing).train()
    except torch.OutOfMemoryError:
        return Trial(plan.micro_batch, None, None)
    finally:
        context.reset()
        free_memory()
    return Trial(plan.micro_batch, round(timing.seconds[-1], 4), timing.peak_bytes)


class _Timing(TrainerCallback):
    """Seconds per optimiser step, and the most memory that any took."""

    def __init__(self, device: str) -> None:
        self.seconds: list[float] = []
        self.peak_bytes: int | None = None
        self._cuda = device == "cuda"
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self._wait()
        self._started = time.perf_counter()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self._wait()
        self.seconds.append(time.perf_counter() - self._started)
        self.peak_bytes = torch.cuda.max_memory_allocated() if self._cuda else None

    def _wait(self) -> None:
        if self._cuda:
            torch.cuda.synchronize()


def _probing_trainer(context: TrainingContext, plan: Plan, rows: Rows, timing: _Timing) -> SFTTrainer:
    class InOrder(trainer_class(context)):  # type: ignore[misc]  # which class it is depends on the device
        def _get_train_sampler(self, *args: object) -> SequentialSampler:
            return SequentialSampler(self.train_dataset)

    folder = str(context.checkpoints / ".probing")
    arguments = SFTConfig(
        output_dir=folder,
        max_steps=3,
        save_strategy="no",
        report_to="none",
        logging_steps=1000,
        learning_rate=0.0,
        **common_arguments(context, plan),
    )
    return new_trainer(InOrder, context, arguments, rows, [], timing)
