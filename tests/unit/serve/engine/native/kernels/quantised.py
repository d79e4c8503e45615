"""Random matrices in 4 bit as bitsandbytes stores them, and references in float64."""

import torch
from bitsandbytes.functional import quantize_4bit

from serve.engine.native.kernels.nf4 import Nf4Part


def random_part(rows: int, columns: int, seed: int) -> Nf4Part:
    """A matrix [rows, columns] whose scale varies by row."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.rand(rows, 1, generator=generator) + 0.05
    weight = torch.randn(rows, columns, generator=generator) * scale * columns**-0.5
    codes, state = quantize_4bit(weight, blocksize=64, compress_statistics=True, quant_type="nf4")
    return Nf4Part.from_checkpoint(codes, state.as_dict(packed=True))


def random_rows(*shape: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    """bfloat16"""
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale).bfloat16()


def error(out: torch.Tensor, reference: torch.Tensor) -> float:
    """Of the whole, relative; NaN if anything wasn't written."""
    return ((out.double() - reference).norm() / reference.norm()).item()
