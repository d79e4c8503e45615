"""TRL's SFTTrainer as runs and probes use it: labelled rows, checkpoints aside, evaluations that may break.

On a GPU import it only after Unsloth, which must come before transformers and TRL.
"""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback
from transformers.trainer_callback import ProgressCallback
from transformers.trainer_utils import IntervalStrategy
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from actors.runs.event import EventKind
from configs.errors import TandemError, TrainingError
from jobs.training import checkpoints
from jobs.training.callback import RollBack
from jobs.training.context import Rows, TrainingContext, free_memory
from jobs.training.memory.ladder import Plan

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def common_arguments(context: TrainingContext, plan: Plan) -> dict[str, Any]:
    """The fields of SFTConfig that a run and a probe of it share."""
    training, cpu = context.config.training, context.device == "cpu"
    optimizer = "adamw_torch" if cpu else training.optimizer
    return {
        "per_device_train_batch_size": plan.micro_batch,
        "per_device_eval_batch_size": plan.eval_batch,
        "gradient_accumulation_steps": plan.accumulation,
        "gradient_checkpointing": plan.gradient_checkpointing,
        "optim": optimizer,
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        "bf16": training.bf16 and not cpu,
        "use_cpu": cpu,
        "router_aux_loss_coef": training.router_aux_loss_coef,
        "seed": training.seed,
        "data_seed": training.seed,
        "logging_nan_inf_filter": False,  # its default hides a NaN loss
        "prediction_loss_only": True,
        "max_length": None,  # cut, and counted, in jobs.data.dataset
        "packing": False,
        "dataset_kwargs": {"skip_prepare_dataset": True},  # rows are tokens with labels already
        "disable_tqdm": True,
        "dataloader_pin_memory": not cpu,
    }


def new_trainer(
    kind: type[SFTTrainer],
    context: TrainingContext,
    arguments: SFTConfig,
    rows: Rows,
    held_out: Rows,
    callback: TrainerCallback,
) -> SFTTrainer:
    trainer = kind(
        model=context.model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(held_out) if held_out else None,
        processing_class=context.tokenizer,
        data_collator=DataCollatorForLanguageModeling(pad_token_id=context.tokenizer.pad_token_id),
        callbacks=[callback],
    )
    for printing in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(printing)  # Progress says it in one line
    return trainer


def trainer_class(context: TrainingContext) -> type[SFTTrainer]:
    """SFTTrainer with checkpoints written aside, and on a CPU the model's own loss."""

    class Whole(SFTTrainer):
        _aside: Path | None = None
        processing_class: "PreTrainedTokenizerBase | None"

        def training_step(
            self, model: torch.nn.Module, inputs: dict[str, torch.Tensor], *args: object, **kwargs: object
        ) -> torch.Tensor:
            context.tokens += inputs["input_ids"].numel()  # the trainer's own count waits for the GPU at every batch
            return super().training_step(model, inputs, *args, **kwargs)

        def _get_output_dir(self, trial: object) -> str:
            return str(self._aside) if self._aside else super()._get_output_dir(trial)

        def _save_checkpoint(self, model: torch.nn.Module, trial: object) -> None:
            started = time.monotonic()
            with checkpoints.writing(context.checkpoints, self.state.global_step, context.origin) as self._aside:
                super()._save_checkpoint(model, trial)
            context.record.took("checkpoints", time.monotonic() - started)

        def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
            """Without the tokenizer: 27 MB that the base has already."""
            tokenizer, self.processing_class = self.processing_class, None
            try:
                super()._save(output_dir, state_dict)
            finally:
                self.processing_class = tokenizer

        def evaluate(self, *args: object, **kwargs: object) -> dict[str, float]:
            """One that breaks is said, and the run goes on without; only early stopping cannot do without.

            What the schedule does not ask for is a look of the watchdog's, and its loss is `check_loss`.
            """
            step, every = self.state.global_step, self.args.eval_steps
            planned = self.args.eval_strategy != "no" and (step % every == 0 or step >= self.state.max_steps)
            try:
                return super().evaluate(*args, metric_key_prefix="eval" if planned else "check", **kwargs)
            except (TandemError, RollBack):
                raise
            except Exception as error:
                if isinstance(error, torch.OutOfMemoryError) and self.args.per_device_eval_batch_size > 1:
                    raise  # there is a rung for it
                reason = f"the evaluation after step {self.state.global_step} broke: {type(error).__name__}: {error}"
                if context.config.training.patience:
                    raise TrainingError(reason, hint="train without training.patience") from error
            context.say(EventKind.EVALUATION, f"{reason}; going on without evaluations")
            self.args.eval_strategy = IntervalStrategy.NO
            context.evaluates = self.control.should_evaluate = False
            free_memory()
            return {}

    if context.device == "cpu":  # TRL 1.15 computes the loss in a Triton kernel
        Whole.compute_loss = Trainer.compute_loss
    return Whole
