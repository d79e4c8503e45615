"""A base's parameters one at a time, by their names in Transformers' fused layout, whatever layout the files have.

`full` is read as it is, `split-nf4` is dequantised and put together, OpenAI's MXFP4 experts are dequantised by
Transformers' own function, which needs no kernels. Nothing larger than one parameter is in memory. Called by
`models.lora.merge` and `models.lora.verification`; knows no adapter.
"""

import math
from contextlib import ExitStack

import torch

from configs.errors import CheckpointError
from models.base.checkpoint import Checkpoint, refuse
from models.base.split_nf4 import QUANT_STATE, Reader, read_fused, split_names

BLOCKS, SCALES = "_blocks", "_scales"
"""What MXFP4 stores in place of an expert parameter: 32 values a block, [experts, out, in / 32, 16] bytes, and their
scales."""


class FusedBase:
    """A checkpoint whose files stay open until `stack` closes. Raises CheckpointError for an unknown quantisation."""

    def __init__(self, checkpoint: Checkpoint, stack: ExitStack) -> None:
        self.checkpoint = checkpoint
        self.quantised = _quantisation(checkpoint)
        """`NF4`, `MXFP4`, or empty for weights that are stored as they are."""
        self._reader = Reader(checkpoint, stack)
        self.shapes = _split_shapes(checkpoint) if self.quantised == "NF4" else _stored_shapes(checkpoint)
        """Every parameter's name to its shape."""

    @property
    def parameters(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes.values())

    def read(self, name: str) -> torch.Tensor:
        """One parameter, dequantised, in the type in which it is stored or was quantised from."""
        if self.quantised == "NF4":
            return read_fused(self._reader, name, self.checkpoint.config["num_local_experts"])
        if self.quantised == "MXFP4" and name + BLOCKS in self._reader.handles:
            from transformers.integrations.mxfp4 import convert_moe_packed_tensors

            blocks, scales = (self._reader.read_raw(name + suffix) for suffix in (BLOCKS, SCALES))
            return convert_moe_packed_tensors(blocks, scales)
        return self._reader.read_raw(name)


def _quantisation(checkpoint: Checkpoint) -> str:
    if checkpoint.layout == "split-nf4":
        return "NF4"
    method = (checkpoint.config.get("quantization_config") or {}).get("quant_method")
    if method not in (None, "mxfp4"):
        raise CheckpointError(
            f"{checkpoint.name} is quantised with {method}, which cannot be undone here",
            hint="name a 16-bit, MXFP4 or split NF4 form of it with --base",
        )
    return "MXFP4" if method else ""


def _stored_shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for key, header in ((k, h) for file in checkpoint.files for k, h in file.tensors.items()):
        if key.endswith(BLOCKS):
            experts, rows, groups, half = header["shape"]
            shapes[key.removesuffix(BLOCKS)] = (experts, groups * half * 2, rows)
        elif not key.endswith(SCALES):
            shapes[key] = tuple(header["shape"])
    return shapes


def _split_shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """What the architecture has, once the files are known to hold exactly that."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(checkpoint.path)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    wanted = {key for name in shapes for key in split_names(name, config.num_local_experts)}
    stored = {k for file in checkpoint.files for k in file.tensors if not k.endswith(QUANT_STATE)}
    refuse(checkpoint.path, missing=wanted - stored, unexpected=stored - wanted)
    return shapes
