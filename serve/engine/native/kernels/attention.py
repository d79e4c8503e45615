"""Attention over a paged KV cache, with sinks and sliding windows. The heads that share keys are computed together.

`decode_attention` is for one query per sequence, its past in parts that are put together afterwards; after flash
decoding, https://crfm.stanford.edu/2023/10/12/flashdecoding.html. `prefill_attention` is for many queries.
"""

import torch
import triton
import triton.language as tl

from serve.engine.native.kernels.nf4 import OPERAND

KEYS = 64
"""Keys in a step of the loop."""
MOST_SPLITS = 16
WANTED_PROGRAMS = 256
QUERY_ROWS = 128
"""Queries times the heads that share keys, in a program of `prefill_attention`."""
HIDDEN = tl.constexpr(-1e30)


def decode_attention(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    tables: torch.Tensor,
    lengths: torch.Tensor,
    *,
    sinks: torch.Tensor,
    window: int,
    scale: float,
) -> torch.Tensor:
    """[T, HQ * D] for q [T, HQ, D], one query per sequence, over keys and values [blocks, block size, HK, D].

    tables [T, M] int32: a sequence's blocks; lengths [T] int32: its keys, the newest included, 0 for a row of padding,
    which gives zeros; sinks [HQ]; a query sees `window` keys, itself included, and blocks before that are not read; 0
    is all. Its launches depend on shapes alone, so CUDA graphs can hold them.
    """
    count, heads, width = q.shape
    block, kv_heads = keys.shape[1:3]
    wanted = 1 if window else max(1, min(MOST_SPLITS, WANTED_PROGRAMS // (count * kv_heads)))
    splits = 1 << (wanted.bit_length() - 1)
    out = torch.empty(count, heads * width, dtype=q.dtype, device=q.device)
    new = {"dtype": torch.float32, "device": q.device}
    partial = torch.empty(count, heads, splits, width, **new) if splits > 1 else None
    weights = torch.empty(count, heads, splits, 2, **new) if splits > 1 else None
    _decode[(count, kv_heads, splits)](
        q, keys, values, tables, tables.stride(0), lengths, sinks, out, partial, weights, scale,
        HEADS=heads, KV_HEADS=kv_heads, WIDTH=width, BLOCK=block, WINDOW=window, SPLITS=splits, KEYS=KEYS,
        ROWS=max(16, triton.next_power_of_2(heads // kv_heads)), num_warps=4, num_stages=2,
    )  # fmt: skip
    if splits > 1:
        _combine[(count, heads)](
            partial, weights, sinks, lengths, out, HEADS=heads, WIDTH=width, SPLITS=splits, num_warps=1
        )
    return out


def prefill_attention(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    tables: torch.Tensor,
    starts: torch.Tensor,
    offsets: torch.Tensor,
    longest: int,
    *,
    sinks: torch.Tensor,
    window: int,
    scale: float,
) -> torch.Tensor:
    """[T, HQ * D] for q [T, HQ, D]: sequence s has the rows offsets[s] to offsets[s + 1], from position starts[s] on.

    tables [S, M], starts [S] and offsets [S + 1], all int32; `longest` is the most rows of one sequence. Keys and
    values of all rows are in the cache. For the rest see `decode_attention`.
    """
    count, heads, width = q.shape
    block, kv_heads = keys.shape[1:3]
    queries = max(1, QUERY_ROWS // triton.next_power_of_2(heads // kv_heads))
    # Rows of padding belong to no sequence, and what is computed from them must not be NaN.
    out = torch.zeros(count, heads * width, dtype=q.dtype, device=q.device)
    _prefill[(triton.cdiv(longest, queries), kv_heads, len(starts))](
        q, keys, values, tables, tables.stride(0), starts, offsets, sinks, out, scale,
        HEADS=heads, KV_HEADS=kv_heads, WIDTH=width, BLOCK=block, WINDOW=window, KEYS=KEYS,
        QUERIES=queries, GROUP=heads // kv_heads, PADDED=triton.next_power_of_2(heads // kv_heads),
        num_warps=8, num_stages=2,
    )  # fmt: skip
    return out


@triton.jit
def _attend(
    q, keys_ptr, values_ptr, table_ptr, kv_head, at, query, first, end, scale, top, total, acc,
    KV_HEADS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """One step of an online softmax: keys at positions `at` that are in [first, end) and visible to `query` [rows]."""
    d = tl.arange(0, WIDTH)
    ok = (at >= first) & (at < end)
    block = tl.load(table_ptr + at // BLOCK, mask=ok, other=0).to(tl.int64)
    place = ((block * BLOCK + at % BLOCK) * KV_HEADS + kv_head) * WIDTH
    keys = tl.load(keys_ptr + place[None, :] + d[:, None], mask=ok[None, :], other=0)
    scores = tl.dot(q, keys.to(OPERAND)) * scale
    seen = ok[None, :] & (at[None, :] <= query[:, None])
    if WINDOW > 0:
        seen = seen & (at[None, :] > query[:, None] - WINDOW)
    scores = tl.where(seen, scores, HIDDEN)
    new = tl.maximum(top, tl.max(scores, 1))
    weights = tl.where(seen, tl.exp(scores - new[:, None]), 0.0)
    shrink = tl.exp(top - new)
    values = tl.load(values_ptr + place[:, None] + d[None, :], mask=ok[:, None], other=0)
    acc = acc * shrink[:, None] + tl.dot(weights.to(values.dtype).to(OPERAND), values.to(OPERAND))
    return new, total * shrink + tl.sum(weights, 1), acc


@triton.jit(do_not_specialize=["table_stride"])
def _decode(
    q_ptr, keys_ptr, values_ptr, tables_ptr, table_stride, lengths_ptr, sinks_ptr, out_ptr, partial_ptr, weights_ptr,
    scale,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, WINDOW: tl.constexpr,
    SPLITS: tl.constexpr, KEYS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    row, kv_head, split = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    GROUP: tl.constexpr = HEADS // KV_HEADS
    length = tl.load(lengths_ptr + row)
    member, d = tl.arange(0, ROWS), tl.arange(0, WIDTH)
    head = kv_head * GROUP + member
    ok = member < GROUP
    q = tl.load(q_ptr + (row * HEADS + head)[:, None] * WIDTH + d[None, :], mask=ok[:, None], other=0).to(OPERAND)
    query = tl.zeros([ROWS], tl.int32) + length - 1
    first = 0
    if WINDOW > 0:
        first = tl.maximum(length - WINDOW, 0)
    each = tl.cdiv(tl.cdiv(length - first, SPLITS), KEYS) * KEYS
    begin = first + split * each
    end = tl.minimum(begin + each, length)
    top = tl.zeros([ROWS], tl.float32) + HIDDEN
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, WIDTH], tl.float32)
    table_ptr = tables_ptr + row * table_stride
    for at in range(begin, end, KEYS):
        top, total, acc = _attend(
            q, keys_ptr, values_ptr, table_ptr, kv_head, at + tl.arange(0, KEYS), query, begin, end, scale,
            top, total, acc, KV_HEADS, WIDTH, BLOCK, WINDOW,
        )  # fmt: skip
    if SPLITS == 1:
        sink = tl.load(sinks_ptr + head, mask=ok, other=0).to(tl.float32)
        new = tl.maximum(top, sink)
        total = total * tl.exp(top - new) + tl.exp(sink - new)
        acc = acc * (tl.exp(top - new) / total)[:, None]
        to = (row * HEADS + head)[:, None] * WIDTH + d[None, :]
        tl.store(out_ptr + to, acc.to(out_ptr.dtype.element_ty), mask=ok[:, None])
    else:
        to = (row * HEADS + head) * SPLITS + split
        tl.store(partial_ptr + to[:, None] * WIDTH + d[None, :], acc, mask=ok[:, None])
        tl.store(weights_ptr + to * 2, top, mask=ok)
        tl.store(weights_ptr + to * 2 + 1, total, mask=ok)


@triton.jit
def _combine(
    partial_ptr, weights_ptr, sinks_ptr, lengths_ptr, out_ptr,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    split, d = tl.arange(0, SPLITS), tl.arange(0, WIDTH)
    at = (row * HEADS + head) * SPLITS + split
    top = tl.load(weights_ptr + at * 2)
    total = tl.load(weights_ptr + at * 2 + 1)
    sink = tl.load(sinks_ptr + head).to(tl.float32)
    most = tl.maximum(tl.max(top, 0), sink)
    scale = tl.exp(top - most)
    acc = tl.sum(tl.load(partial_ptr + at[:, None] * WIDTH + d[None, :]) * scale[:, None], 0)
    acc = acc / (tl.sum(total * scale, 0) + tl.exp(sink - most))
    tl.store(out_ptr + (row * HEADS + head) * WIDTH + d, acc.to(out_ptr.dtype.element_ty))


@triton.jit(do_not_specialize=["table_stride"])
def _prefill(
    q_ptr, keys_ptr, values_ptr, tables_ptr, table_stride, starts_ptr, offsets_ptr, sinks_ptr, out_ptr, scale,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, WINDOW: tl.constexpr,
    KEYS: tl.constexpr, QUERIES: tl.constexpr, GROUP: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    tile, kv_head, sequence = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    offset = tl.load(offsets_ptr + sequence)
    count = tl.load(offsets_ptr + sequence + 1) - offset
    if tile * QUERIES >= count:
        return
    start = tl.load(starts_ptr + sequence)
    member = tl.arange(0, QUERIES * PADDED)
    number, d = tile * QUERIES + member // PADDED, tl.arange(0, WIDTH)
    head = kv_head * GROUP + member % PADDED
    ok = (number < count) & (member % PADDED < GROUP)
    place = ((offset + number).to(tl.int64) * HEADS + head)[:, None] * WIDTH + d[None, :]
    q = tl.load(q_ptr + place, mask=ok[:, None], other=0).to(OPERAND)
    query = start + tl.minimum(number, count - 1)
    end = start + tl.minimum(tile * QUERIES + QUERIES, count)
    first = 0
    if WINDOW > 0:
        first = tl.maximum(start + tile * QUERIES - WINDOW + 1, 0)
    top = tl.zeros([QUERIES * PADDED], tl.float32) + HIDDEN
    total = tl.zeros([QUERIES * PADDED], tl.float32)
    acc = tl.zeros([QUERIES * PADDED, WIDTH], tl.float32)
    table_ptr = tables_ptr + sequence * table_stride
    for at in range(first, end, KEYS):
        top, total, acc = _attend(
            q, keys_ptr, values_ptr, table_ptr, kv_head, at + tl.arange(0, KEYS), query, first, end, scale,
            top, total, acc, KV_HEADS, WIDTH, BLOCK, WINDOW,
        )  # fmt: skip
    sink = tl.load(sinks_ptr + head, mask=ok, other=0).to(tl.float32)
    new = tl.maximum(top, sink)
    total = total * tl.exp(top - new) + tl.exp(sink - new)
    acc = acc * (tl.exp(top - new) / total)[:, None]
    tl.store(out_ptr + place, acc.to(out_ptr.dtype.element_ty), mask=ok[:, None])
