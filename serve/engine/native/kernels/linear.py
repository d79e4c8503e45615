"""A linear layer with an NF4 weight. Knows nothing of adapters; called for attention's projections."""

import torch
import triton
import triton.language as tl

from serve.engine.native.kernels.nf4 import BLOCKSIZE, CONFIGS, Config, Nf4, arguments, dequantize, nf4_dot, nf4_rows

MAX_DECODE_ROWS = 64
"""Rows of x above which the weight is dequantised and multiplied by cuBLAS."""


def linear(
    x: torch.Tensor, weight: Nf4, bias: torch.Tensor | None = None, out: torch.Tensor | None = None
) -> torch.Tensor:
    """x [T, K] bfloat16 times `weight`, one matrix [N, K], transposed, plus bias [N]: [T, N] bfloat16.

    `out` may be given, contiguous. Its launches depend on shapes alone, so CUDA graphs can hold them.
    """
    count, (rows, _columns) = len(x), weight.shape
    if out is None:
        out = torch.empty(count, rows, dtype=torch.bfloat16, device=x.device)
    if count > MAX_DECODE_ROWS:
        dense = dequantize(weight, 0)
        return torch.mm(x, dense.T, out=out) if bias is None else torch.addmm(bias.to(x.dtype), x, dense.T, out=out)
    x_rows = 1 if count == 1 else 16 if count <= 16 else 64
    config = CONFIGS["linear", x_rows]
    partial = out
    if config.split > 1:
        partial = torch.empty(config.split, count, rows, dtype=torch.float32, device=x.device)
    _multiply(x, weight, bias, partial, x_rows, config)
    if config.split > 1:
        _reduce[(triton.cdiv(count * rows, 512),)](
            partial, bias, out, count * rows, rows, SPLIT=config.split, SIZE=512, HAS_BIAS=bias is not None, num_warps=4
        )
    return out


def _multiply(
    x: torch.Tensor, weight: Nf4, bias: torch.Tensor | None, out: torch.Tensor, x_rows: int, config: Config
) -> None:
    count, (rows, columns) = len(x), weight.shape
    x_rows = 16 if config.dot and x_rows == 1 else x_rows
    grid = triton.cdiv(rows, config.rows), triton.cdiv(count, x_rows), config.split
    shared = {
        "ROWS": config.rows,
        "SPLIT": config.split,
        "STAGES": config.stages,
        "DECODE": config.decode,
        "HAS_BIAS": bias is not None and config.split == 1,
        "num_warps": config.warps,
        "num_stages": config.stages,
    }
    sizes = x, bias, out, count, rows, columns // BLOCKSIZE
    if x_rows == 1:
        _linear_rows[grid](*arguments(weight), *sizes, BLOCKS=config.blocks, **shared)
    else:
        _linear_dot[grid](*arguments(weight), *sizes, X_ROWS=x_rows, SCALE_WEIGHTS=config.scale_weights, **shared)


@triton.jit(do_not_specialize=["T"])
def _linear_rows(
    codes_ptr, absmax_ptr, nested_ptr, groups, starts_ptr, absmax_map_ptr, map_ptr, tables_ptr,
    x_ptr, bias_ptr, out_ptr, T, N,
    KB: tl.constexpr, ROWS: tl.constexpr, BLOCKS: tl.constexpr, SPLIT: tl.constexpr, STAGES: tl.constexpr,
    DECODE: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    row, part = tl.program_id(1), tl.program_id(2)
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    acc = nf4_rows(
        codes_ptr, absmax_ptr, nested_ptr, groups, starts_ptr, absmax_map_ptr, map_ptr, tables_ptr,
        x_ptr + row * KB * 64, tl.zeros([], tl.int32), n, N, part,
        KB, SPLIT, ROWS, BLOCKS, STAGES, DECODE,
    )  # fmt: skip
    if HAS_BIAS:
        acc += tl.load(bias_ptr + n, mask=n < N, other=0).to(tl.float32)
    tl.store(out_ptr + (part * T + row) * N + n, acc.to(out_ptr.dtype.element_ty), mask=n < N)


@triton.jit(do_not_specialize=["T"])
def _linear_dot(
    codes_ptr, absmax_ptr, nested_ptr, groups, starts_ptr, absmax_map_ptr, map_ptr, tables_ptr,
    x_ptr, bias_ptr, out_ptr, T, N,
    KB: tl.constexpr, ROWS: tl.constexpr, X_ROWS: tl.constexpr, SPLIT: tl.constexpr, STAGES: tl.constexpr,
    DECODE: tl.constexpr, SCALE_WEIGHTS: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    part = tl.program_id(2)
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row = tl.program_id(1) * X_ROWS + tl.arange(0, X_ROWS)
    acc = nf4_dot(
        codes_ptr, absmax_ptr, nested_ptr, groups, starts_ptr, absmax_map_ptr, map_ptr, tables_ptr,
        x_ptr, tl.minimum(row, T - 1), tl.zeros([], tl.int32), n, N, part,
        KB, SPLIT, ROWS, X_ROWS, STAGES, DECODE, SCALE_WEIGHTS,
    )  # fmt: skip
    if HAS_BIAS:
        acc += tl.load(bias_ptr + n, mask=n < N, other=0).to(tl.float32)[:, None]
    ok = (n < N)[:, None] & (row < T)[None, :]
    tl.store(out_ptr + (part * T + row)[None, :] * N + n[:, None], acc.to(out_ptr.dtype.element_ty), mask=ok)


@triton.jit(do_not_specialize=["size"])
def _reduce(
    partial_ptr, bias_ptr, out_ptr, size, N, SPLIT: tl.constexpr, SIZE: tl.constexpr, HAS_BIAS: tl.constexpr
):  # fmt: skip
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    ok = at < size
    acc = tl.zeros([SIZE], tl.float32)
    for part in tl.static_range(SPLIT):
        acc += tl.load(partial_ptr + part * size + at, mask=ok, other=0)
    if HAS_BIAS:
        acc += tl.load(bias_ptr + at % N, mask=ok, other=0).to(tl.float32)
    tl.store(out_ptr + at, acc.to(tl.bfloat16), mask=ok)
