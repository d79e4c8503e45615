"""Low-rank updates, each row by its own adapter, against float64."""

import pytest
import torch

from serve.engine.native.kernels.lora import expand_add, expert_expand, expert_shrink, shrink

SLOTS = torch.tensor([1, -1, 0, 2, 1], dtype=torch.int32)


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found.double(), expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("rank", [4, 16, 24])
@pytest.mark.parametrize(("width", "ends"), [(128, (64, 96, 128)), (720, (320,))])
def test_each_segment_gains_what_its_rows_adapter_says(rank, width, ends):
    segments = len(ends)
    x, out = torch.randn(5, width), torch.randn(5, ends[-1])
    a, b = torch.randn(3, segments * rank, width), torch.randn(3, ends[-1], rank)
    expected = out.double()
    for row, slot in enumerate(SLOTS.tolist()):
        for segment, (begin, end) in enumerate(zip((0, *ends), ends, strict=False)):
            if slot >= 0:
                low = a[slot, segment * rank : (segment + 1) * rank].double() @ x[row].double()
                expected[row, begin:end] += b[slot, begin:end].double() @ low
    between = shrink(x, a, SLOTS)
    assert not between[1].any()
    expand_add(out, between, b, SLOTS, ends)
    close(out, expected)


@pytest.mark.parametrize("per_pair", [False, True])
def test_each_pair_of_a_token_and_an_expert_gains_its_own(per_pair):
    experts, top_k, rank, width, rows = 4, 2, 8, 128, 192
    chosen = torch.tensor([[0, 1], [2, 3], [3, 0], [1, 2], [2, 2]], dtype=torch.int32)
    x = torch.randn(5 * (top_k if per_pair else 1), width)
    a, b = torch.randn(3, experts, rank, width), torch.randn(3, experts, rows, rank)
    found = expert_expand(expert_shrink(x, a, SLOTS, chosen), b, SLOTS, chosen)
    for pair, expert in enumerate(chosen.flatten().tolist()):
        slot, row = int(SLOTS[pair // top_k]), x[pair if per_pair else pair // top_k].double()
        expected = (
            b[slot, expert].double() @ (a[slot, expert].double() @ row) if slot >= 0 else torch.zeros(rows).double()
        )
        close(found[pair], expected)
