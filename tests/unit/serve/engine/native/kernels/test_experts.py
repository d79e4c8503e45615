import pytest
import torch

from serve.engine.native.kernels import experts
from serve.engine.native.kernels.experts import down, gate_up, group, tile_rows
from serve.engine.native.kernels.nf4 import CONFIGS, Nf4
from tests.unit.serve.engine.native.kernels.quantised import error, random_part, random_rows

EXPERTS, TOP_K = 4, 2


def random_weight(rows: int, columns: int) -> Nf4:
    return Nf4.pack([[random_part(rows, columns, seed)] for seed in range(EXPERTS)])


@pytest.fixture(scope="module")
def tiny() -> Nf4:
    return random_weight(128, 128)


@pytest.fixture(scope="module")
def odd() -> Nf4:
    """Sizes of no power of two, and nested blocks of absmaxes that straddle rows."""
    return random_weight(320, 192)


def routing(tokens: int, pattern: str) -> torch.Tensor:
    """[T, 2] int32: random experts, one pair of them for all, or all but the first."""
    if pattern == "one":
        return torch.tensor([[2, 2]], dtype=torch.int32).repeat(tokens, 1)
    scores = torch.rand(tokens, EXPERTS, generator=torch.Generator().manual_seed(tokens))
    scores[:, 0] = -1 if pattern == "some" else scores[:, 0]
    return scores.topk(TOP_K).indices.int()


def products(x: torch.Tensor, weight: Nf4, bias: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """float64 [T * k, N], x one row per pair."""
    dense, chosen = weight.dequantize(torch.float64), ids.flatten().long()
    return torch.einsum("pk,pnk->pn", x.double(), dense[chosen]) + bias.double()[chosen]


def swiglu(wide: torch.Tensor) -> torch.Tensor:
    gate, up = wide[:, ::2].clamp(max=7), wide[:, 1::2].clamp(-7, 7)
    return (up + 1) * gate * torch.sigmoid(1.702 * gate)


def check(weight: Nf4, ids: torch.Tensor, block: int, with_delta: bool) -> None:
    (rows, columns), pairs = weight.shape, ids.numel()
    groups = None if block == 1 else group(ids, EXPERTS, block)
    bias = random_rows(EXPERTS, rows, seed=1)
    delta = random_rows(pairs, rows, seed=2, scale=4.0) if with_delta else None
    extra = delta.double() if with_delta else 0
    x = random_rows(len(ids), columns, seed=3, scale=4.0)
    act = random_rows(pairs, columns, seed=4)
    expected = swiglu(products(x.repeat_interleave(TOP_K, 0), weight, bias, ids) + extra)
    assert error(gate_up(x, weight, bias, ids, groups, delta), expected) < 1e-2
    assert error(down(act, weight, bias, ids, groups, delta), products(act, weight, bias, ids) + extra) < 1e-2


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """What isn't written is NaN, or an index far outside."""

    def empty(*shape, dtype, device=None):
        return torch.full(shape, float("nan") if dtype.is_floating_point else 2**30, dtype=dtype, device=device)

    monkeypatch.setattr(experts.torch, "empty", empty)


@pytest.mark.parametrize("tokens", [1, 4, 5, 16, 17, 70])
def test_every_number_of_tokens_gives_what_its_experts_compute(odd, tokens):
    check(odd, routing(tokens, "random"), tile_rows(tokens, TOP_K, EXPERTS), with_delta=tokens % 2 == 0)


@pytest.mark.parametrize("pattern", ["one", "some"])
@pytest.mark.parametrize(("tokens", "block"), [(3, 1), (3, 16), (21, 16), (40, 64), (70, 128)])
def test_tokens_may_crowd_and_leave_experts_out(tiny, tokens, block, pattern):
    check(tiny, routing(tokens, pattern), block, with_delta=pattern == "one")


@pytest.mark.parametrize("change", [{"blocks": 2, "rows": 64}, {"scale_weights": True}, {"dot": True}])
def test_every_way_to_launch_the_kernels_gives_the_same(tiny, change, monkeypatch):
    for block in (1, 16):
        for name in ("gate_up", "down"):
            monkeypatch.setitem(CONFIGS, (name, block), CONFIGS[name, block]._replace(**change))
        check(tiny, routing(3, "random"), block, with_delta=True)


@pytest.mark.parametrize(("chunk", "chunks"), [(512, 128), (32, 128), (8, 2)])
@pytest.mark.parametrize("pattern", ["random", "one", "some"])
@pytest.mark.parametrize(("tokens", "block"), [(1, 16), (9, 16), (70, 16), (70, 64)])
def test_groups_hold_each_pair_once_under_its_expert(tokens, block, pattern, chunk, chunks, monkeypatch):
    monkeypatch.setattr(experts, "CHUNK", chunk)
    monkeypatch.setattr(experts, "MAX_CHUNKS", chunks)
    ids = routing(tokens, pattern)
    groups = group(ids, EXPERTS, block)
    found = {expert: [] for expert in range(EXPERTS)}
    for tile, size in enumerate(groups.sizes.tolist()):
        assert 0 <= size <= block
        if size:
            found[groups.experts[tile].item()] += groups.pairs[tile * block : tile * block + size].tolist()
    assert found == {e: (ids.flatten() == e).nonzero()[:, 0].tolist() for e in range(EXPERTS)}
