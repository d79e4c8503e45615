"""Which micro-batch is fastest within the memory that a run may use: measured once on the slot, then remembered.

Larger ones use the GPU better but also pad more, so neither the largest nor a formula is right (on one H100 a step of
16 x 1,024 tokens of gpt-oss-20b takes 4.1 s at 2 x 8 and 1.6 s at 16 x 1). Knows no trainer: it is given what measures.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from configs import durable
from configs.errors import TrainingError
from jobs.training.memory.ladder import divisors

CUSHION = 0.06
"""Part of the GPU's memory that is left alone: the CUDA context and other processes' kernels take 0.5 to 1 GiB."""
SLOWER = 1.02
"""A micro-batch that is this much slower than the best so far ends the search: smaller ones will not be faster."""
MOST = 32
"""The largest micro-batch that is tried."""


@dataclass(frozen=True)
class Trial:
    """One micro-batch, measured. `seconds` for an optimiser step at the effective batch; None if it does not fit."""

    micro_batch: int
    seconds: float | None
    peak_bytes: int | None
    """GPU memory; None on a CPU."""


@dataclass(frozen=True)
class MicroBatchChoice:
    """What was chosen and why."""

    micro_batch: int
    trials: tuple[Trial, ...]
    longest_row: int
    """Tokens of the longest row it was measured with."""
    cached: bool = False

    def __str__(self) -> str:
        tried = ", ".join(
            f"{trial.micro_batch}: {f'{trial.seconds:.2f} s' if trial.seconds else 'does not fit'}"
            for trial in self.trials
        )
        return f"micro-batch {self.micro_batch} ({'measured earlier' if self.cached else 'measured'}: {tried})"


def choose(
    effective_batch: int, measure: Callable[[int], Trial], *, longest_row: int, key: str, cache: Path
) -> MicroBatchChoice:
    """The fastest micro-batch that fits, from `cache` if it was measured under `key` with rows at least as long.

    From the largest down, until the next smaller one is slower. Raises TrainingError if not even 1 fits.
    """
    remembered = _recall(cache, key)
    if remembered and remembered.longest_row >= longest_row:
        return remembered
    trials: list[Trial] = []
    for micro_batch in reversed(divisors(effective_batch, MOST)):
        trials.append(measure(micro_batch))
        best = min((trial.seconds for trial in trials if trial.seconds), default=None)
        if best and (trials[-1].seconds or 0) > SLOWER * best:
            break
    seconds = {trial.micro_batch: trial.seconds for trial in trials if trial.seconds}
    if not seconds:
        raise TrainingError(
            f"one row of {longest_row} tokens does not fit into memory",
            hint="lower model.max_seq_length or lora.r, set lora.train_experts=false, or free GPU memory",
        )
    fit = MicroBatchChoice(min(seconds, key=lambda each: seconds[each]), tuple(trials), longest_row)
    _remember(cache, key, fit)
    return fit


def key_of(*, config: dict[str, Any], how: dict[str, Any], base: str, versions: dict[str, str], on: str) -> str:
    """What a measurement holds for: parts of the configuration, how a step is made, the base's fingerprint, versions
    and the device."""
    parts = {"config": config, "how": how, "base": base, "versions": versions, "on": on}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def budget_bytes(total: int, share: float, vram_gib: float | None) -> int:
    """GPU memory that a run may use, of `total` bytes on the card and its slot's `share` of it."""
    allowed = int(total * share * (1 - CUSHION))
    return min(allowed, int(vram_gib * 2**30)) if vram_gib else allowed


def forget(cache: Path, key: str) -> None:
    """Measure anew next time: what was chosen did not fit after all."""
    (cache / f"{key}.json").unlink(missing_ok=True)


def _recall(cache: Path, key: str) -> MicroBatchChoice | None:
    try:
        values = json.loads((cache / f"{key}.json").read_text())
        trials = tuple(Trial(**trial) for trial in values.pop("trials"))
        return MicroBatchChoice(**values | {"trials": trials, "cached": True})
    except (OSError, ValueError, KeyError, TypeError):
        return None  # a cache may be deleted or damaged at any time


def _remember(cache: Path, key: str, fit: MicroBatchChoice) -> None:
    durable.private_folder(cache)
    durable.write_text(cache / f"{key}.json", json.dumps(asdict(fit)))
