"""The steps between projections: residual and norm, router, rotation and the write to the KV cache."""

import math

import torch
import triton
import triton.language as tl

CHUNK = 512
"""Columns of a row that the router's kernel takes at a time."""


def add_rms_norm(
    x: torch.Tensor,
    parts: torch.Tensor | None,
    weight: torch.Tensor,
    epsilon: float,
    shares: torch.Tensor | None = None,
) -> torch.Tensor:
    """Add `parts` to the residual stream x [T, H] in place and return its RMS norm times `weight` [H], like x.

    parts [T, H], or [T, k, H] with their `shares` [T, k] float32; None adds nothing. Computed in float32.
    """
    count, width = x.shape
    out = torch.empty_like(x)
    if count:
        _add_norm[(count,)](
            x, parts, shares, weight, out, width, epsilon,
            PARTS=0 if parts is None else 1 if shares is None else shares.shape[1], WEIGHTED=shares is not None,
            SIZE=triton.next_power_of_2(width), num_warps=8,
        )  # fmt: skip
    return out


def add_rms_norm_route(
    x: torch.Tensor,
    part: torch.Tensor,
    weight: torch.Tensor,
    epsilon: float,
    router: torch.Tensor,
    bias: torch.Tensor,
    top_k: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`add_rms_norm` with one part, and the router's choice for the result: the norm [T, H], experts [T, top_k] int32,
    the likeliest first, and their softmax [T, top_k] float32. router [E, H], bias [E]."""
    count, width = x.shape
    out = torch.empty_like(x)
    chosen = torch.empty(count, top_k, dtype=torch.int32, device=x.device)
    shares = torch.empty(count, top_k, dtype=torch.float32, device=x.device)
    _add_norm_route[(count,)](
        x, part, weight, router, bias, out, chosen, shares, epsilon,
        WIDTH=width, EXPERTS=len(router), TOP_K=top_k, SIZE=CHUNK, PADDED=triton.next_power_of_2(len(router)),
        num_warps=8,
    )  # fmt: skip
    return out, chosen, shares


def rope_store(
    qkv: torch.Tensor,
    positions: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    stores: torch.Tensor,
) -> torch.Tensor:
    """Rotated queries [T, HQ, D] of qkv [T, (HQ + 2 HK) D]; rotated keys and the values go to the cache.

    positions [T] int64, cos and sin [P, D / 2] float32, keys and values [blocks, block size, HK, D], stores [T] int64
    (block x block size + offset, negative for a row of padding).
    """
    kv_heads, width = keys.shape[-2:]
    heads = qkv.shape[1] // width - 2 * kv_heads
    together = math.gcd(heads, kv_heads)
    q = torch.empty(len(qkv), heads, width, dtype=qkv.dtype, device=qkv.device)
    _rope_store[(len(qkv), (heads + 2 * kv_heads) // together)](
        qkv, positions, cos, sin, keys, values, stores, q,
        HEADS=heads, KV_HEADS=kv_heads, TOGETHER=together, HALF=width // 2, num_warps=1,
    )  # fmt: skip
    return q


@triton.jit
def _add_norm(
    x_ptr, parts_ptr, shares_ptr, weight_ptr, out_ptr, width, epsilon,
    PARTS: tl.constexpr, WEIGHTED: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, SIZE)
    ok = at < width
    x = tl.load(x_ptr + row * width + at, mask=ok, other=0).to(tl.float32)
    if PARTS > 0:
        for part in tl.static_range(PARTS):
            value = tl.load(parts_ptr + (row * PARTS + part) * width + at, mask=ok, other=0).to(tl.float32)
            if WEIGHTED:
                value *= tl.load(shares_ptr + row * PARTS + part)
            x += value
        x = x.to(x_ptr.dtype.element_ty)
        tl.store(x_ptr + row * width + at, x, mask=ok)
        x = x.to(tl.float32)
    scale = tl.rsqrt(tl.sum(x * x) / width + epsilon)
    weight = tl.load(weight_ptr + at, mask=ok, other=0).to(tl.float32)
    tl.store(out_ptr + row * width + at, (x * scale * weight).to(out_ptr.dtype.element_ty), mask=ok)


@triton.jit
def _add_norm_route(
    x_ptr, part_ptr, weight_ptr, router_ptr, bias_ptr, out_ptr, chosen_ptr, shares_ptr, epsilon,
    WIDTH: tl.constexpr, EXPERTS: tl.constexpr, TOP_K: tl.constexpr, SIZE: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    expert = tl.arange(0, PADDED)
    squares = tl.zeros([SIZE], tl.float32)
    products = tl.zeros([PADDED, SIZE], tl.float32)
    for begin in range(0, WIDTH, SIZE):
        at = begin + tl.arange(0, SIZE)
        ok = at < WIDTH
        x = tl.load(x_ptr + row * WIDTH + at, mask=ok, other=0).to(tl.float32)
        x += tl.load(part_ptr + row * WIDTH + at, mask=ok, other=0).to(tl.float32)
        x = x.to(x_ptr.dtype.element_ty)
        tl.store(x_ptr + row * WIDTH + at, x, mask=ok)
        x = x.to(tl.float32)
        squares += x * x
        weighted = x * tl.load(weight_ptr + at, mask=ok, other=0).to(tl.float32)
        router = tl.load(
            router_ptr + expert[:, None] * WIDTH + at[None, :], mask=(expert < EXPERTS)[:, None] & ok[None, :], other=0
        )
        products += router.to(tl.float32) * weighted[None, :]
    scale = tl.rsqrt(tl.sum(squares) / WIDTH + epsilon)
    logits = tl.sum(products, 1) * scale + tl.load(bias_ptr + expert, mask=expert < EXPERTS, other=0).to(tl.float32)
    logits = tl.where(expert < EXPERTS, logits, float("-inf"))
    best = tl.max(logits, 0)
    total = 0.0
    for _ in tl.static_range(TOP_K):
        value, index = tl.max(logits, 0, return_indices=True)
        tl.store(chosen_ptr + row * TOP_K + _, index)
        tl.store(shares_ptr + row * TOP_K + _, tl.exp(value - best))
        total += tl.exp(value - best)
        logits = tl.where(expert == index, float("-inf"), logits)
    tl.debug_barrier()
    for _ in tl.static_range(TOP_K):
        tl.store(shares_ptr + row * TOP_K + _, tl.load(shares_ptr + row * TOP_K + _) / total)
    for begin in range(0, WIDTH, SIZE):
        at = begin + tl.arange(0, SIZE)
        ok = at < WIDTH
        x = tl.load(x_ptr + row * WIDTH + at, mask=ok, other=0).to(tl.float32)
        weight = tl.load(weight_ptr + at, mask=ok, other=0).to(tl.float32)
        tl.store(out_ptr + row * WIDTH + at, (x * scale * weight).to(out_ptr.dtype.element_ty), mask=ok)


@triton.jit
def _rope_store(
    qkv_ptr, positions_ptr, cos_ptr, sin_ptr, keys_ptr, values_ptr, stores_ptr, q_ptr,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, TOGETHER: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * TOGETHER
    head, d = tl.arange(0, TOGETHER), tl.arange(0, HALF)
    at = (row * (HEADS + 2 * KV_HEADS) + first + head)[:, None] * (2 * HALF) + d[None, :]
    left = tl.load(qkv_ptr + at).to(tl.float32)
    right = tl.load(qkv_ptr + at + HALF).to(tl.float32)
    if first < HEADS + KV_HEADS:
        position = tl.load(positions_ptr + row)
        cos = tl.load(cos_ptr + position * HALF + d)[None, :]
        sin = tl.load(sin_ptr + position * HALF + d)[None, :]
        turned = left * cos - right * sin
        right = right * cos + left * sin
        left = turned
    type_ = q_ptr.dtype.element_ty
    if first < HEADS:
        to = (row * HEADS + first + head)[:, None] * (2 * HALF) + d[None, :]
        tl.store(q_ptr + to, left.to(type_))
        tl.store(q_ptr + to + HALF, right.to(type_))
    else:
        store = tl.load(stores_ptr + row)
        if store >= 0:
            if first < HEADS + KV_HEADS:
                to = (store * KV_HEADS + first - HEADS + head)[:, None] * (2 * HALF) + d[None, :]
                tl.store(keys_ptr + to, left.to(type_))
                tl.store(keys_ptr + to + HALF, right.to(type_))
            else:
                to = (store * KV_HEADS + first - HEADS - KV_HEADS + head)[:, None] * (2 * HALF) + d[None, :]
                tl.store(values_ptr + to, left.to(type_))
                tl.store(values_ptr + to + HALF, right.to(type_))
