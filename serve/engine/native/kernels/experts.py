"""Projections of a mixture of experts with NF4 weights, for pairs of a token and one of its experts.

A pair p is token p // k's choice p % k. Few pairs are computed each by itself; more are grouped by expert, so that a
weight is read once per tile of rows. Knows nothing of routing weights and adapters: their share comes in as `delta`.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from serve.engine.native.kernels.nf4 import BLOCKSIZE, CONFIGS, Nf4, arguments, nf4_dot, nf4_rows

MAX_SINGLE_PAIRS = 16
"""Pairs up to which each is computed by itself."""
CHUNK, MAX_CHUNKS = 512, 128
"""Pairs that one program groups, unless that makes more programs than so many."""


@dataclass(frozen=True)
class Groups:
    """Pairs by expert, in tiles of `block`; as many tiles as the worst routing needs."""

    pairs: torch.Tensor
    """int32 [tiles * block]; undefined beyond a tile's size."""
    experts: torch.Tensor
    """int32 [tiles]"""
    sizes: torch.Tensor
    """int32 [tiles]; 0 for a tile that isn't used."""
    block: int


def tile_rows(tokens: int, top_k: int, experts: int) -> int:
    """The `block` that suits so many tokens; 1 means pairs one by one, without groups."""
    pairs = tokens * top_k
    if pairs <= MAX_SINGLE_PAIRS:
        return 1
    return 16 if pairs <= 16 * experts else 64 if pairs <= 128 * experts else 128


def group(ids: torch.Tensor, experts: int, block: int) -> Groups:
    """Group the pairs of ids [T, k] int32, each below `experts`, in order within an expert. The host doesn't wait."""
    pairs = ids.numel()
    tiles = min(pairs, (pairs + min(experts, pairs) * (block - 1)) // block)
    new = {"dtype": torch.int32, "device": ids.device}
    groups = Groups(torch.empty(tiles * block, **new), torch.empty(tiles, **new), torch.empty(tiles, **new), block)
    size = triton.next_power_of_2(min(pairs, max(CHUNK, triton.cdiv(pairs, MAX_CHUNKS))))
    chunks, padded = triton.cdiv(pairs, size), triton.next_power_of_2(experts)
    counts = torch.empty(chunks, padded, **new) if chunks > 1 else None
    if counts is not None:
        _count[(chunks,)](ids, counts, pairs, SIZE=size, EXPERTS=padded, num_warps=8)
    _group[(chunks,)](
        ids, counts, groups.pairs, groups.experts, groups.sizes, pairs, tiles,
        BLOCK=block, SIZE=size, CHUNKS=triton.next_power_of_2(chunks), TILES=triton.next_power_of_2(tiles),
        EXPERTS=padded, num_warps=8,
    )  # fmt: skip
    return groups


def gate_up(
    x: torch.Tensor,
    weight: Nf4,
    bias: torch.Tensor,
    ids: torch.Tensor,
    groups: Groups | None = None,
    delta: torch.Tensor | None = None,
) -> torch.Tensor:
    """gpt-oss's clamped SwiGLU of x W^T + bias + delta: bfloat16 [T * k, I].

    x [T, K] bfloat16, W [E, 2I, K] with gates in even and ups in odd rows, bias [E, 2I], ids [T, k] int32,
    delta [T * k, 2I]. `groups` are those of `ids`, or None.
    """
    return _project("gate_up", x, weight, bias, ids, groups, delta, ids.shape[1])


def down(
    act: torch.Tensor,
    weight: Nf4,
    bias: torch.Tensor,
    ids: torch.Tensor,
    groups: Groups | None = None,
    delta: torch.Tensor | None = None,
) -> torch.Tensor:
    """act W^T + bias + delta, each pair by its own expert: bfloat16 [T * k, H].

    act [T * k, I] bfloat16, W [E, H, I], bias [E, H], ids [T, k] int32, delta [T * k, H]. `groups` as in `gate_up`.
    """
    return _project("down", act, weight, bias, ids, groups, delta, 1)


def _project(
    name: str,
    x: torch.Tensor,
    weight: Nf4,
    bias: torch.Tensor,
    ids: torch.Tensor,
    groups: Groups | None,
    delta: torch.Tensor | None,
    share: int,
) -> torch.Tensor:
    """`share` pairs have one row of x."""
    (rows, columns), pairs, swiglu = weight.shape, ids.numel(), name == "gate_up"
    config = CONFIGS[name, groups.block if groups else 1]
    out = torch.empty(pairs, rows // 2 if swiglu else rows, dtype=torch.bfloat16, device=x.device)
    sizes = x, bias, delta, out, rows, columns // BLOCKSIZE
    shared = {
        "SHARE": share,
        "SWIGLU": swiglu,
        "HAS_DELTA": delta is not None,
        "ROWS": config.rows,
        "STAGES": config.stages,
        "DECODE": config.decode,
        "num_warps": config.warps,
        "num_stages": config.stages,
    }
    tiles = triton.cdiv(rows, config.rows)
    if groups is None and not config.dot:
        _pair_rows[(tiles, pairs)](*arguments(weight), ids, *sizes, BLOCKS=config.blocks, **shared)
    elif groups is None:
        _group_dot[(pairs, tiles)](
            *arguments(weight), None, ids, None, *sizes,
            X_ROWS=16, SCALE_WEIGHTS=config.scale_weights, GROUPED=False, **shared,
        )  # fmt: skip
    else:
        _group_dot[(len(groups.sizes), tiles)](
            *arguments(weight), groups.pairs, groups.experts, groups.sizes, *sizes,
            X_ROWS=groups.block, SCALE_WEIGHTS=config.scale_weights, GROUPED=True, **shared,
        )  # fmt: skip
    return out


@triton.jit
def _swiglu(gate, up):
    gate, up = tl.minimum(gate, 7.0), tl.minimum(tl.maximum(up, -7.0), 7.0)
    return (up + 1) * gate * tl.sigmoid(1.702 * gate)


@triton.jit
def _pair_rows(
    codes_ptr, absmax_ptr, nested_ptr, groups, starts_ptr, absmax_map_ptr, map_ptr, tables_ptr,
    ids_ptr, x_ptr, bias_ptr, delta_ptr, out_ptr, N,
    KB: tl.constexpr, SHARE: tl.constexpr, SWIGLU: tl.constexpr, HAS_DELTA: tl.constexpr,
    ROWS: tl.constexpr, BLOCKS: tl.constexpr, STAGES: tl.constexpr, DECODE: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(1)
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    expert = tl.load(ids_ptr + pair)
    acc = nf4_rows(
        codes_ptr, absmax_ptr, nested_ptr, groups, starts_ptr, absmax_map_ptr, map_ptr, tables_ptr,
        x_ptr + (pair // SHARE) * KB * 64, expert, n, N, 0,
        KB, 1, ROWS, BLOCKS, STAGES, DECODE,
    )  # fmt: skip
    acc += tl.load(bias_ptr + expert * N + n, mask=n < N, other=0).to(tl.float32)
    if HAS_DELTA:
        acc += tl.load(delta_ptr + pair * N + n, mask=n < N, other=0).to(tl.float32)
    if SWIGLU:
        gate, up = tl.split(tl.reshape(acc, [ROWS // 2, 2]))
        half = tl.program_id(0) * (ROWS // 2) + tl.arange(0, ROWS // 2)
        tl.store(out_ptr + pair * (N // 2) + half, _swiglu(gate, up).to(tl.bfloat16), mask=half < N // 2)
    else:
        tl.store(out_ptr + pair * N + n, acc.to(tl.bfloat16), mask=n < N)


@triton.jit
def _group_dot(
    codes_ptr, absmax_ptr, nested_ptr, groups, starts_ptr, absmax_map_ptr, map_ptr, tables_ptr,
    pairs_ptr, experts_ptr, sizes_ptr, x_ptr, bias_ptr, delta_ptr, out_ptr, N,
    KB: tl.constexpr, SHARE: tl.constexpr, SWIGLU: tl.constexpr, HAS_DELTA: tl.constexpr,
    ROWS: tl.constexpr, X_ROWS: tl.constexpr, STAGES: tl.constexpr, DECODE: tl.constexpr, SCALE_WEIGHTS: tl.constexpr,
    GROUPED: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    if GROUPED:
        size = tl.load(sizes_ptr + tile)
        if size == 0:
            return
        used = tl.arange(0, X_ROWS) < size
        pair = tl.load(pairs_ptr + tile * X_ROWS + tl.arange(0, X_ROWS), mask=used, other=0)
    else:
        used = tl.arange(0, X_ROWS) < 1
        pair = tile + tl.zeros([X_ROWS], tl.int32)
    expert = tl.load(experts_ptr + tile)
    n = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    acc = nf4_dot(
        codes_ptr, absmax_ptr, nested_ptr, groups, starts_ptr, absmax_map_ptr, map_ptr, tables_ptr,
        x_ptr, pair // SHARE, expert, n, N, 0,
        KB, 1, ROWS, X_ROWS, STAGES, DECODE, SCALE_WEIGHTS,
    )  # fmt: skip
    acc += tl.load(bias_ptr + expert * N + n, mask=n < N, other=0).to(tl.float32)[:, None]
    pair = pair.to(tl.int64)
    if HAS_DELTA:
        ok = (n < N)[:, None] & used[None, :]
        acc += tl.load(delta_ptr + pair[None, :] * N + n[:, None], mask=ok, other=0).to(tl.float32)
    if SWIGLU:
        gate, up = tl.split(tl.permute(tl.reshape(acc, [ROWS // 2, 2, X_ROWS]), [0, 2, 1]))
        half = tl.program_id(1) * (ROWS // 2) + tl.arange(0, ROWS // 2)
        ok = (half < N // 2)[:, None] & used[None, :]
        tl.store(out_ptr + pair[None, :] * (N // 2) + half[:, None], _swiglu(gate, up).to(tl.bfloat16), mask=ok)
    else:
        ok = (n < N)[:, None] & used[None, :]
        tl.store(out_ptr + pair[None, :] * N + n[:, None], acc.to(tl.bfloat16), mask=ok)


@triton.jit(do_not_specialize=["pairs"])
def _count(ids_ptr, counts_ptr, pairs, SIZE: tl.constexpr, EXPERTS: tl.constexpr):
    """Pairs of each expert in each chunk of SIZE."""
    pair, expert = tl.program_id(0) * SIZE + tl.arange(0, SIZE), tl.arange(0, EXPERTS)
    chosen = tl.load(ids_ptr + pair, mask=pair < pairs, other=EXPERTS)
    counts = tl.sum((chosen[:, None] == expert[None, :]).to(tl.int32), 0)
    tl.store(counts_ptr + tl.program_id(0) * EXPERTS + expert, counts)


@triton.jit(do_not_specialize=["pairs", "tiles"])
def _group(
    ids_ptr, counts_ptr, pairs_ptr, experts_ptr, sizes_ptr, pairs, tiles,
    BLOCK: tl.constexpr, SIZE: tl.constexpr, CHUNKS: tl.constexpr, TILES: tl.constexpr, EXPERTS: tl.constexpr,
):  # fmt: skip
    """Each program places its chunk of pairs; the first describes the tiles. `counts_ptr` if CHUNKS > 1."""
    chunk = tl.program_id(0)
    pair, tile, expert = chunk * SIZE + tl.arange(0, SIZE), tl.arange(0, TILES), tl.arange(0, EXPERTS)
    chosen = tl.load(ids_ptr + pair, mask=pair < pairs, other=EXPERTS)
    ours = (chosen[:, None] == expert[None, :]).to(tl.int32)
    if CHUNKS > 1:
        row = tl.arange(0, CHUNKS)[:, None]
        each = tl.load(counts_ptr + row * EXPERTS + expert[None, :], mask=row < tl.num_programs(0), other=0)
        counts, before = tl.sum(each, 0), tl.sum(tl.where(row < chunk, each, 0), 0)
    else:
        counts, before = tl.sum(ours, 0), tl.zeros([EXPERTS], tl.int32)
    used = (counts + BLOCK - 1) // BLOCK
    ends = tl.cumsum(used, 0)
    begins = ends - used
    place = tl.sum(ours * (tl.cumsum(ours, 0) - 1 + (before + begins * BLOCK)[None, :]), 1)
    tl.store(pairs_ptr + place, pair, mask=pair < pairs)
    if chunk == 0:
        held = ((tile[:, None] >= begins[None, :]) & (tile[:, None] < ends[None, :])).to(tl.int32)
        left = tl.sum(held * (counts[None, :] - (tile[:, None] - begins[None, :]) * BLOCK), 1)
        tl.store(experts_ptr + tile, tl.sum(held * expert[None, :], 1), mask=tile < tiles)
        tl.store(sizes_ptr + tile, tl.minimum(left, BLOCK), mask=tile < tiles)
