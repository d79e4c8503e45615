"""What is given up, in which order, when a run does not fit into memory. The effective batch never is."""

from dataclasses import dataclass, replace

from configs.errors import TrainingError
from configs.schema import RunConfig

SHORTEST = 256
"""Tokens below which rows are not shortened any further."""


@dataclass(frozen=True)
class Plan:
    """How the work is cut so that it fits. What is learned depends on `max_seq_length` alone."""

    effective_batch: int
    micro_batch: int
    """Rows per forward pass; divides effective_batch."""
    eval_batch: int
    gradient_checkpointing: bool
    """Activations are recomputed; those that are kept, Unsloth moves to the host."""
    max_seq_length: int
    """Tokens."""

    @property
    def accumulation(self) -> int:
        """Forward passes per optimiser step."""
        return self.effective_batch // self.micro_batch

    @property
    def measure(self) -> dict[str, int]:
        """What two evaluation losses must have in common to be compared."""
        return {"eval_batch": self.eval_batch, "max_seq_length": self.max_seq_length}

    def __str__(self) -> str:
        extras = ["activations recomputed"] if self.gradient_checkpointing else []
        words = [
            f"micro-batch {self.micro_batch} x {self.accumulation}",
            f"evaluation batch {self.eval_batch}",
            f"rows up to {self.max_seq_length} tokens",
        ]
        return ", ".join([*words, *extras])


def first_plan(config: RunConfig, micro_batch: int) -> Plan:
    training = config.training
    return Plan(
        effective_batch=training.effective_batch,
        micro_batch=micro_batch,
        eval_batch=training.eval_batch,
        gradient_checkpointing=training.gradient_checkpointing,
        max_seq_length=config.model.max_seq_length,
    )


def one_rung_down(plan: Plan, *, evaluating: bool, may_shorten: bool) -> Plan:
    """The next plan after `plan` ran out of memory, in an evaluation or in a step.

    Raises TrainingError at the bottom, saying what a person can still change.
    """
    if evaluating and plan.eval_batch > 1:
        return replace(plan, eval_batch=1)
    if plan.micro_batch > 1:
        return replace(plan, micro_batch=divisors(plan.effective_batch, plan.micro_batch // 2)[-1])
    if plan.eval_batch > 1:
        return replace(plan, eval_batch=1)
    if not plan.gradient_checkpointing:
        return replace(plan, gradient_checkpointing=True)
    if may_shorten and plan.max_seq_length // 2 >= SHORTEST:
        return replace(plan, max_seq_length=plan.max_seq_length // 2)
    consent = "" if may_shorten else ", training.allow_shorter_rows=true"
    raise TrainingError(
        f"out of memory at the last rung: {plan}",
        hint=f"lower model.max_seq_length or lora.r, set lora.train_experts=false{consent}, or free GPU memory",
    )


def divisors(number: int, most: int) -> list[int]:
    """The divisors of `number` that are at most `most`, ascending."""
    return [each for each in range(1, min(number, most) + 1) if number % each == 0]
