import pytest
import torch

from serve.engine.native.kernels.linear import linear
from serve.engine.native.kernels.nf4 import CONFIGS, Nf4
from tests.unit.serve.engine.native.kernels.quantised import error, random_part, random_rows


@pytest.fixture(scope="module", params=[[(128, 128), (64, 128), (64, 128)], [(320, 192)]], ids=["qkv", "odd"])
def weight(request):
    return Nf4.pack([[random_part(*shape, seed) for seed, shape in enumerate(request.param)]])


def reference(x: torch.Tensor, weight: Nf4) -> torch.Tensor:
    return x.double() @ weight.dequantize(torch.float64)[0].T


@pytest.mark.parametrize("tokens", [1, 2, 16, 17, 70])
def test_every_number_of_rows_gives_the_product_with_its_bias(weight, tokens):
    x, bias = random_rows(tokens, weight.shape[1], seed=tokens), random_rows(weight.shape[0], seed=99)
    out = torch.full((tokens, weight.shape[0]), float("nan"), dtype=torch.bfloat16)
    assert linear(x, weight, bias, out) is out
    assert error(out, reference(x, weight) + bias.double()) < 1e-2
    assert error(linear(x, weight), reference(x, weight)) < 1e-2


@pytest.mark.parametrize(
    "change",
    [{"split": 1}, {"split": 3}, {"blocks": 2, "rows": 64}, {"dot": True}],
)
def test_every_way_to_launch_the_kernels_gives_the_same(weight, change, monkeypatch):
    bias = random_rows(weight.shape[0], seed=99)
    for tokens, x_rows in ((1, 1), (3, 16)):
        config = CONFIGS["linear", x_rows]._replace(**change)
        monkeypatch.setitem(CONFIGS, ("linear", x_rows), config)
        x = random_rows(tokens, weight.shape[1], seed=tokens)
        assert error(linear(x, weight, bias), reference(x, weight) + bias.double()) < 1e-2
