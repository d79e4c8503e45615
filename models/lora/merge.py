"""A base and one adapter as a whole model of its own, in the layout that stock Transformers loads.

Parameter by parameter: what is in memory is one shard that is being filled and one parameter. Called by the export job;
knows no queue. `models.lora.verification` says whether the result is what it should be.
"""

import json
import math
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from configs import durable
from models.base.checkpoint import Checkpoint
from models.base.fused import FusedBase
from models.lora.delta import Lora

SHARD_BYTES = 2 << 30
COMPANIONS = ("*.json", "*.jinja", "*.txt", "tokenizer.model")
"""Tokenizer, chat template and generation configuration, whatever their names."""


@dataclass(frozen=True)
class Plan:
    """What a merge will write: parameter names by shard, in order, and bytes in all."""

    shards: list[list[str]]
    bytes: int

    @property
    def parameters(self) -> int:
        return sum(map(len, self.shards))


def plan(base: FusedBase, dtype: torch.dtype) -> Plan:
    """Shards of at most SHARD_BYTES; a parameter that is larger has one to itself."""
    shards, size, total = [[]], 0, 0
    for name in sorted(base.shapes):
        length = math.prod(base.shapes[name]) * dtype.itemsize
        if shards[-1] and size + length > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size, total = size + length, total + length
    return Plan(shards, total)


def merge(
    checkpoint: Checkpoint, adapter: Path, out: Path, dtype: torch.dtype, *, on_tensor: Callable[[int, int], None]
) -> None:
    """Write `checkpoint` plus the adapter in folder `adapter` to the existing, empty folder `out`.

    `on_tensor(done, in_all)` is called after every parameter and may raise to stop. Raises AdapterError if the adapter
    does not fit the base, CheckpointError if the base cannot be dequantised, OSError or SafetensorError from the disk.
    """
    with ExitStack() as stack:
        base, lora = FusedBase(checkpoint, stack), Lora(adapter, stack)
        pairs, planned = lora.pairs(base.shapes), plan(base, dtype)
        done, weight_map = 0, {}
        for number, names in enumerate(planned.shards, start=1):
            file = f"model-{number:05d}-of-{len(planned.shards):05d}.safetensors"
            shard = {}
            for name in names:
                value = base.read(name)
                value = value.to(torch.promote_types(value.dtype, dtype))
                lora.add(pairs.get(name, []), value)
                shard[name] = value.to(dtype).contiguous()
                done += 1
                on_tensor(done, planned.parameters)
            save_file(shard, out / file, metadata={"format": "pt"})
            durable.fsync(out / file)
            weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": planned.bytes}, "weight_map": weight_map}
    durable.write_text(out / "model.safetensors.index.json", json.dumps(index, indent=1), shared=True)
    _write_companions(checkpoint, out, dtype)


def _write_companions(checkpoint: Checkpoint, out: Path, dtype: torch.dtype) -> None:
    config = {k: v for k, v in checkpoint.config.items() if k not in ("quantization_config", "torch_dtype", "dtype")}
    config |= {"dtype": str(dtype).removeprefix("torch.")}
    durable.write_text(out / "config.json", json.dumps(config, indent=1), shared=True)
    for path in (path for pattern in COMPANIONS for path in checkpoint.path.glob(pattern)):
        if path.name != "config.json" and not path.name.endswith(".index.json"):
            shutil.copyfile(path, out / path.name)
            durable.fsync(out / path.name)
