"""What adapters add to projections, each row by its own adapter's slot; a row whose slot is -1 gets nothing."""

import torch
import triton
import triton.language as tl

RANKS = 8
"""Ranks in a program of a shrink."""
COLUMNS = 1024
"""Columns of the input in a step of its loop."""
ROWS = 128
"""Outputs in a program of an expand."""


def shrink(x: torch.Tensor, a: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
    """float32 [T, R]: x [T, K] times A [slots, R, K] of each row's slot; slots [T] int32."""
    return _shrink_pairs(x, a, slots, None, 1, 1)


def expand_add(
    out: torch.Tensor, between: torch.Tensor, b: torch.Tensor, slots: torch.Tensor, ends: tuple[int, ...]
) -> None:
    """Add to out [T, N] in place: between [T, S R] times B [slots, N, R] of each row's slot.

    Of the S segments of N, which end at `ends`, each takes its own R of `between`; `ends` are multiples of 8.
    """
    rank = b.shape[-1]
    first, second = (ends + (ends[-1],) * 2)[:2]
    grid = len(out), triton.cdiv(out.shape[1], ROWS)
    _expand[grid](
        out, between, between.stride(0), b, slots, None, out.shape[1], first, second,
        EXPERTS=1, SHARE=1, RANK=rank, PADDED=triton.next_power_of_2(rank), ROWS=ROWS, ADD=True, num_warps=4,
    )  # fmt: skip


def expert_shrink(x: torch.Tensor, a: torch.Tensor, slots: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """float32 [T k, R]: A [slots, E, R, K] of each pair of a token and one of its experts, chosen [T, k] int32.

    x has a row per token, or per pair.
    """
    top_k = chosen.shape[1]
    return _shrink_pairs(x, a, slots, chosen, top_k, top_k if len(x) == len(chosen) and top_k > 1 else 1)


def expert_expand(between: torch.Tensor, b: torch.Tensor, slots: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """float32 [T k, N]: between [T k, R] times B [slots, E, N, R] of each pair; zeros where the slot is -1."""
    _, experts, rows, rank = b.shape
    out = torch.empty(len(between), rows, dtype=torch.float32, device=between.device)
    _expand[(len(between), triton.cdiv(rows, ROWS))](
        out, between, between.stride(0), b, slots, chosen, rows, rows, rows,
        EXPERTS=experts, SHARE=chosen.shape[1], RANK=rank, PADDED=triton.next_power_of_2(rank), ROWS=ROWS, ADD=False,
        num_warps=4,
    )  # fmt: skip
    return out


def _shrink_pairs(
    x: torch.Tensor, a: torch.Tensor, slots: torch.Tensor, chosen: torch.Tensor | None, top_k: int, share: int
) -> torch.Tensor:
    """`share` pairs have one row of x."""
    pairs, rank, width = len(slots) * top_k, a.shape[-2], a.shape[-1]
    out = torch.empty(pairs, rank, dtype=torch.float32, device=x.device)
    _shrink[(pairs, triton.cdiv(rank, RANKS))](
        x, a, slots, chosen, out, rank,
        WIDTH=width, EXPERTS=a.shape[1] if chosen is not None else 1, TOP_K=top_k, SHARE=share, RANKS=RANKS,
        COLUMNS=min(COLUMNS, triton.next_power_of_2(width)), HAS_EXPERTS=chosen is not None, num_warps=4,
    )  # fmt: skip
    return out


@triton.jit
def _shrink(
    x_ptr, a_ptr, slots_ptr, chosen_ptr, out_ptr, rank,
    WIDTH: tl.constexpr, EXPERTS: tl.constexpr, TOP_K: tl.constexpr, SHARE: tl.constexpr, RANKS: tl.constexpr,
    COLUMNS: tl.constexpr, HAS_EXPERTS: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots_ptr + pair // TOP_K).to(tl.int64)
    r = tl.program_id(1) * RANKS + tl.arange(0, RANKS)
    if slot < 0:
        tl.store(out_ptr + pair * rank + r, tl.zeros([RANKS], tl.float32), mask=r < rank)
        return
    matrix = slot * EXPERTS
    if HAS_EXPERTS:
        matrix += tl.load(chosen_ptr + pair)
    acc = tl.zeros([RANKS, COLUMNS], tl.float32)
    for begin in range(0, WIDTH, COLUMNS):
        at = begin + tl.arange(0, COLUMNS)
        x = tl.load(x_ptr + (pair // SHARE) * WIDTH + at, mask=at < WIDTH, other=0).to(tl.float32)
        a = tl.load(
            a_ptr + (matrix * rank + r)[:, None] * WIDTH + at[None, :],
            mask=(r < rank)[:, None] & (at < WIDTH)[None, :], other=0,
        )  # fmt: skip
        acc += a.to(tl.float32) * x[None, :]
    tl.store(out_ptr + pair * rank + r, tl.sum(acc, 1), mask=r < rank)


@triton.jit
def _expand(
    out_ptr, between_ptr, between_stride, b_ptr, slots_ptr, chosen_ptr, N, first, second,
    EXPERTS: tl.constexpr, SHARE: tl.constexpr, RANK: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr,
    ADD: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    ok = n < N
    slot = tl.load(slots_ptr + pair // SHARE).to(tl.int64)
    if slot < 0:
        if not ADD:
            tl.store(out_ptr + pair * N + n, tl.zeros([ROWS], tl.float32), mask=ok)
        return
    matrix = slot * EXPERTS
    if EXPERTS > 1:
        matrix += tl.load(chosen_ptr + pair)
    r = tl.arange(0, PADDED)
    segment = (n >= first).to(tl.int32) + (n >= second).to(tl.int32)
    seen = ok[:, None] & (r < RANK)[None, :]
    between = tl.load(
        between_ptr + pair * between_stride + segment[:, None] * RANK + r[None, :], mask=seen, other=0
    )  # fmt: skip
    b = tl.load(b_ptr + (matrix * N + n)[:, None] * RANK + r[None, :], mask=seen, other=0).to(tl.float32)
    value = tl.sum(b * between, 1)
    if ADD:
        value += tl.load(out_ptr + pair * N + n, mask=ok, other=0).to(tl.float32)
    tl.store(out_ptr + pair * N + n, value.to(out_ptr.dtype.element_ty), mask=ok)
