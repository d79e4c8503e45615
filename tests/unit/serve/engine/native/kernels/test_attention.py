"""Attention over a paged cache against float64, over mixed lengths, windows, padding and blocks that hold anything."""

import pytest
import torch

from serve.engine.native.kernels.attention import decode_attention, prefill_attention

BLOCK, BLOCKS = 16, 80
LENGTHS = (1, 15, 16, 17, 64, 65, 127, 128, 129, 200)
HEADS, KV_HEADS, WIDTH = 4, 2, 32


class Past:
    """Sequences in a cache whose other blocks are NaN; entries of a table that a window has passed are absurd."""

    def __init__(self, lengths, window: int, dtype: torch.dtype = torch.float32) -> None:
        generator = torch.Generator().manual_seed(sum(lengths) + window)
        self.window, self.lengths = window, lengths
        self.keys, self.values = (torch.full((BLOCKS, BLOCK, KV_HEADS, WIDTH), torch.nan, dtype=dtype) for _ in "kv")
        self.tables = torch.full((len(lengths), max(lengths) // BLOCK + 1), 10**6, dtype=torch.int32)
        self.past = []
        free = iter(torch.randperm(BLOCKS, generator=generator).tolist())
        for row, length in enumerate(lengths):
            k, v = (torch.randn(length, KV_HEADS, WIDTH, generator=generator).to(dtype) for _ in "kv")
            self.past.append((k, v))
            for index in range(-(-length // BLOCK)):
                self.tables[row, index] = block = next(free)
                part = slice(index * BLOCK, min((index + 1) * BLOCK, length))
                self.keys[block, : part.stop - part.start] = k[part]
                self.values[block, : part.stop - part.start] = v[part]
        self.sinks = torch.randn(HEADS, generator=generator).to(dtype)

    def forget(self, row: int, position: int) -> None:
        """No query from `position` on sees the blocks that the window has passed."""
        if self.window:
            self.tables[row, : max(0, position - self.window + 1) // BLOCK] = 10**6

    def expected(self, row: int, q: torch.Tensor, position: int) -> torch.Tensor:
        """float64 [Q, HEADS * WIDTH] of queries [Q, HEADS, WIDTH] from `position` on."""
        k, v = (each.double().repeat_interleave(HEADS // KV_HEADS, 1) for each in self.past[row])
        scores = torch.einsum("qhd,khd->hqk", q.double(), k) * WIDTH**-0.5
        at, to = torch.arange(len(k)), position + torch.arange(len(q))[:, None]
        seen = at <= to
        if self.window:
            seen &= at > to - self.window
        scores = scores.masked_fill(~seen, float("-inf"))
        sink = self.sinks.double()[:, None, None].expand(*scores.shape[:2], 1)
        return torch.einsum("hqk,khd->qhd", torch.cat((scores, sink), -1).softmax(-1)[..., :-1], v).flatten(1)

    @property
    def common(self) -> dict:
        return {"sinks": self.sinks, "window": self.window, "scale": WIDTH**-0.5}


def close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    limit = 1e-2 if found.dtype == torch.bfloat16 else 1e-5
    return bool((found.double() - expected).norm() <= limit * expected.norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [0, 64])
def test_one_query_of_each_sequence_sees_its_own_past(window, dtype):
    past = Past(LENGTHS, window, dtype)
    q = torch.randn(len(LENGTHS) + 1, HEADS, WIDTH).to(dtype)
    for row, length in enumerate(LENGTHS):
        past.forget(row, length - 1)
    tables = torch.cat((past.tables, past.tables[:1] * 0 + 10**6))
    lengths = torch.tensor([*LENGTHS, 0], dtype=torch.int32)
    found = decode_attention(q, past.keys, past.values, tables, lengths, **past.common)
    for row, length in enumerate(LENGTHS):
        assert close(found[row], past.expected(row, q[row : row + 1], length - 1)[0]), length
    assert not found[-1].any(), "a row of padding gives zeros"


@pytest.mark.parametrize("window", [0, 64])
def test_queries_of_several_sequences_see_what_is_before_each(window):
    counts = (1, 17, 3, 40, 129)
    lengths = (1, 20, 130, 40, 200)
    past = Past(lengths, window)
    q = torch.randn(sum(counts), HEADS, WIDTH)
    starts = torch.tensor([length - count for length, count in zip(lengths, counts, strict=True)], dtype=torch.int32)
    offsets = torch.tensor([0, *torch.tensor(counts).cumsum(0)], dtype=torch.int32)
    for row, start in enumerate(starts.tolist()):
        past.forget(row, start)
    found = prefill_attention(q, past.keys, past.values, past.tables, starts, offsets, max(counts), **past.common)
    for row, start in enumerate(starts.tolist()):
        rows = slice(offsets[row], offsets[row + 1])
        assert close(found[rows], past.expected(row, q[rows], start))


def test_a_prompt_in_parts_is_the_prompt_at_once_and_its_last_query_is_a_decode():
    past = Past((150,), 64)
    q = torch.randn(150, HEADS, WIDTH)

    def part(begin: int, end: int) -> torch.Tensor:
        starts, offsets = torch.tensor([begin], dtype=torch.int32), torch.tensor([0, end - begin], dtype=torch.int32)
        arguments = past.keys, past.values, past.tables, starts, offsets, end - begin
        return prefill_attention(q[begin:end], *arguments, **past.common)

    whole = part(0, 150)
    torch.testing.assert_close(torch.cat([part(0, 37), part(37, 100), part(100, 150)]), whole, atol=1e-5, rtol=1e-5)
    lengths = torch.tensor([150], dtype=torch.int32)
    last = decode_attention(q[-1:], past.keys, past.values, past.tables, lengths, **past.common)
    torch.testing.assert_close(last, whole[-1:], atol=1e-5, rtol=1e-5)
