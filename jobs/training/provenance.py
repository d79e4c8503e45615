"""What a run is made of, and what of it must be the same for a checkpoint to be gone on from.

A checkpoint carries its origin. `refuse_other` compares it with that of the run which wants to resume: what would make
the continued curve mean something else is an error that names both values; what may shift its digits is said.
"""

import os
import platform
from collections.abc import Callable
from importlib import metadata
from typing import Any

from configs.errors import TrainingError
from configs.schema import RunConfig

PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "ray", "bitsandbytes", "unsloth", "unsloth_zoo")
SWITCHES = ("UNSLOTH_", "TORCH", "PYTORCH_", "CUBLAS_", "CUDA_LAUNCH", "OMP_NUM_THREADS", "MKL_")
"""Beginnings of environment variables that change how training computes."""
UNIMPORTANT = ("UNSLOTH_COMPILE_LOCATION", "TORCHINDUCTOR_CACHE_DIR")
"""Of those, the ones that only say where something is kept."""

MUST_AGREE = {
    "base": "the base model",
    "data": "the training data",
    "template": "the chat template or data.current_date",
    "lora": "the adapter's shape (lora.*)",
    "mask": "data.mask",
    "max_seq_length": "model.max_seq_length",
    "effective_batch": "training.effective_batch",
    "seed": "training.seed",
    "optimizer": "training.optimizer",
}
MAY_DIFFER = {"versions": "versions", "environment": "environment switches", "device": "the device"}


def origin(config: RunConfig, *, base: str, data: str, template: str, device: str) -> dict[str, Any]:
    """Everything that decides a loss curve, as plain values; `base`, `data` and `template` are fingerprints.

    The random state itself is in the checkpoint; its seeds are here.
    """
    fingerprints = {"base": base, "data": data, "template": template}
    around = {"versions": versions(), "environment": environment(), "device": device}
    return fingerprints | of_config(config) | around


def of_config(config: RunConfig) -> dict[str, Any]:
    """The part of an origin that the configuration alone says."""
    return {
        "lora": config.lora.model_dump(mode="json"),
        "mask": config.data.mask,
        "max_seq_length": config.model.max_seq_length,
        "effective_batch": config.training.effective_batch,
        "seed": config.training.seed,
        "optimizer": config.training.optimizer,
    }


def versions() -> dict[str, str]:
    """Python's version and those of the packages that training runs on, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def environment() -> dict[str, str]:
    """The environment variables that change how training computes."""
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith(SWITCHES) and name not in UNIMPORTANT
    }


def refuse_other(before: dict[str, Any], now: dict[str, Any], *, say: Callable[[str], None] = print) -> None:
    """Raises TrainingError naming everything that must agree and does not; tells `say` what may shift the digits.

    `before` is a checkpoint's origin, `now` that of the run which resumes, or a part of it.
    """
    changed = [
        f"{words} ({_both(before.get(key), now[key])})"
        for key, words in MUST_AGREE.items()
        if key in now and before.get(key) != now[key]
    ]
    if changed:
        raise TrainingError(
            f"the checkpoint is of another run: different are {'; '.join(changed)}",
            hint="put that back as it was, or train anew without --resume",
        )
    for key, words in MAY_DIFFER.items():
        if key in now and before.get(key) != now[key]:
            say(f"resuming with other {words} ({_both(before.get(key), now[key])}): digits may differ")


def _both(before: Any, now: Any) -> str:
    """Both values, of dicts only what differs, of fingerprints only the beginning."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        return ", ".join(f"{key}: {before.get(key)} then, {now.get(key)} now" for key in sorted(keys))
    return f"{str(before)[:12]} then, {str(now)[:12]} now"
