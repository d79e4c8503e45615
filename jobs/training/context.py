"""What one attempt of a run works on: model, data, folder and the way to the control actor. Knows no trainer."""

import contextlib
import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from actors.energy.usage import Recorder
from actors.runs import event_files
from actors.runs.curve import MetricsLog
from actors.runs.event import EventKind
from actors.trainer import ControlLink
from configs.schema import RunConfig
from jobs.training.run_record import RunRecord

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

Rows = list[dict[str, list[int]]]


@dataclass
class TrainingContext:
    """Everything that one attempt of a run works on."""

    model: "PeftModel"
    tokenizer: "PreTrainedTokenizerBase"
    config: RunConfig
    folder: Path
    device: str
    """`cuda` or `cpu`."""
    link: ControlLink
    record: RunRecord
    origin: dict[str, Any]
    """What its checkpoints are of; see `jobs.training.provenance`."""
    rows: Callable[[int], tuple[Rows, Rows]]
    """(training, held out) for a `max_seq_length` in tokens."""
    parents: tuple[Path, ...] = ()
    """Checkpoint folders of the run that this one continues."""
    forget_fit: Callable[[], None] = lambda: None
    """Called when the micro-batch that the probe chose turns out not to fit."""
    consumption: Recorder | None = None
    """Keeps joules and tokens; None where nobody asks for them, as in a measurement."""
    evaluates: bool = True
    """False once an evaluation broke."""
    tokens: int = 0
    """That went through the model so far, padding included."""
    weights: dict[str, torch.Tensor] = field(init=False)
    """The adapter as it was before the first step, on the CPU."""

    def __post_init__(self) -> None:
        self.weights = {n: p.detach().cpu().clone() for n, p in self.model.named_parameters() if p.requires_grad}

    @property
    def log(self) -> MetricsLog:
        return MetricsLog(self.folder / "metrics.jsonl")

    def copy_curve(self) -> None:
        """Bring the run's own event files up to date, if it reports to TensorBoard."""
        if "tensorboard" in self.config.training.report_to:
            event_files.copy(self.log.path, self.folder / "tensorboard")

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def say(self, kind: EventKind, text: str) -> None:
        """To the run's log and to its events."""
        print(text)
        self.link.note(kind, text)

    @property
    def learning_rate(self) -> float:
        """The peak rate, halved at every rollback so far."""
        return self.config.training.learning_rate * 0.5 ** self.log.rollbacks()

    def reset(self) -> None:
        """Put the adapter back to where it was before the first step."""
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(self.weights[name])


def free_memory() -> None:
    """Let go of what a broken-off step left behind. Unsloth resets its offloading buffers only after a good one."""
    if "unsloth_zoo.gradient_checkpointing" in sys.modules:
        from unsloth_zoo.gradient_checkpointing import reset_unsloth_gradient_checkpointing_buffers

        with contextlib.suppress(NameError):  # raised where checkpointing was never used
            reset_unsloth_gradient_checkpointing_buffers()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
