"""A PEFT folder in memory, with the checks that hold for every engine. Imports neither PEFT nor Transformers."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import AdapterError
from models.lora.adapter import PEFT_CONFIG, WEIGHTS

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class AdapterFiles:
    """An adapter's configuration and its tensors by their names in the file."""

    path: Path
    config: dict[str, Any]
    tensors: dict[str, "torch.Tensor"]


def read_adapter(path: Path) -> AdapterFiles:
    """Read `adapter_config.json` and `adapter_model.safetensors`; for any thread.

    Raises AdapterError for a folder that is not a LoRA adapter, for numbers that are not finite, and for
    initialisations that change the base model, because other requests use that base.
    """
    from safetensors.torch import load_file

    for name in (PEFT_CONFIG, WEIGHTS):
        if not (path / name).is_file():
            raise AdapterError(f"{path} has no {name}", hint="publish the adapter again")
    try:
        config = json.loads((path / PEFT_CONFIG).read_text())
        tensors = load_file(path / WEIGHTS)
    except Exception as error:
        raise AdapterError(f"{path} cannot be read: {error}", hint="publish the adapter again") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise AdapterError(f"{path} is a {kind} adapter; only LoRA can be served")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start != "gaussian":
        raise AdapterError(f"{path}: init_lora_weights={start!r} changes the base model under it")
    broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        raise AdapterError(f"{path}: {len(broken)} of {len(tensors)} tensors are not finite, such as {broken[0]}")
    return AdapterFiles(path, config, tensors)
