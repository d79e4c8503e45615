"""The layout of `unsloth/gpt-oss-20b-unsloth-bnb-4bit`: its keys, and tensors read from it.

Every expert is a bitsandbytes NF4 linear of its own (blocksize 64, doubly quantised), the router is one module deeper.
Stock Transformers loads it with random experts and only a warning (transformers 5.17.0), so nothing here is left to it.
Called by `models.base.loading` and `models.base.fused`.
"""

from contextlib import ExitStack

import torch

from models.base.checkpoint import Checkpoint

QUANT_STATE = ("absmax", "quant_map", "nested_absmax", "nested_quant_map", "quant_state.bitsandbytes__nf4")
"""What bitsandbytes stores beside a doubly quantised NF4 weight, each as `<weight>.<suffix>`."""


def split_names(name: str, experts: int) -> list[str]:
    """The keys of the split layout that one parameter of the fused layout is made of, in order."""
    stem, _, leaf = name.rpartition(".")
    if stem.endswith(".mlp.experts"):
        kind = "bias" if leaf.endswith("_bias") else "weight"
        return [f"{stem}.{leaf.removesuffix('_bias')}s.{i}.{kind}" for i in range(experts)]
    return [f"{stem}.linear.{leaf}" if stem.endswith(".mlp.router") else name]


class Reader:
    """Tensors of a checkpoint by key, on the CPU, NF4 already dequantised to the type it was made from."""

    def __init__(self, checkpoint: Checkpoint, stack: ExitStack) -> None:
        from safetensors import safe_open

        self.handles = {}
        for file in checkpoint.files:
            handle = stack.enter_context(safe_open(file.path, framework="pt"))
            self.handles |= dict.fromkeys(file.tensors, handle)

    def read_raw(self, key: str) -> torch.Tensor:
        """As it is stored."""
        return self.handles[key].get_tensor(key)

    def read(self, key: str) -> torch.Tensor:
        tensor = self.read_raw(key)
        if tensor.dtype != torch.uint8:
            return tensor
        from bitsandbytes.functional import QuantState, dequantize_4bit

        parts = {suffix: self.handles[f"{key}.{suffix}"].get_tensor(f"{key}.{suffix}") for suffix in QUANT_STATE}
        return dequantize_4bit(tensor, QuantState.from_dict(parts, device=torch.device("cpu")))


def read_fused(reader: Reader, name: str, experts: int) -> torch.Tensor:
    """One parameter of the fused layout, dequantised: experts are [experts, in, out] there, and linears [out, in] here.

    The interleaving of gate and up is the same. No more than one expert is held beside the result.
    """
    keys = split_names(name, experts)
    if ".mlp.experts." not in name:
        return reader.read(keys[0])
    fused = None
    for index, key in enumerate(keys):
        part = reader.read(key)
        part = part.T if part.ndim == 2 else part
        if fused is None:
            fused = torch.empty((experts, *part.shape), dtype=part.dtype)
        fused[index] = part
    return fused
