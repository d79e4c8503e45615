"""Norms, the router, and the rotation with its write to the cache, against float64."""

import pytest
import torch

from serve.engine.native.kernels.elementwise import add_rms_norm, add_rms_norm_route, rope_store

EPSILON = 1e-5


def norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    x = x.double()
    return x / (x.pow(2).mean(-1, keepdim=True) + EPSILON).sqrt() * weight.double()


def close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    limit = 1e-2 if found.dtype == torch.bfloat16 else 1e-5
    return bool((found.double() - expected.double()).norm() <= limit * expected.double().norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("parts", ["none", "one", "four with shares"])
@pytest.mark.parametrize("width", [128, 720])
def test_the_residual_stream_gains_the_parts_and_its_norm_is_returned(dtype, parts, width):
    x, weight = torch.randn(5, width).to(dtype), torch.randn(width).to(dtype)
    added = {"none": None, "one": torch.randn(5, width).to(dtype)}.get(parts, torch.randn(5, 4, width).to(dtype))
    shares = torch.rand(5, 4) if parts.startswith("four") else None
    total = x.double()
    if added is not None:
        total = total + (added.double() if shares is None else (added.double() * shares.double()[..., None]).sum(1))
    found = add_rms_norm(x, added, weight, EPSILON, shares)
    assert close(x, total)
    assert close(found, norm(x, weight))


@pytest.mark.parametrize(("experts", "top_k", "width"), [(4, 2, 128), (32, 4, 720)])
def test_the_router_chooses_the_likeliest_experts_of_the_norm(experts, top_k, width):
    x, part, weight = torch.randn(6, width), torch.randn(6, width), torch.randn(width)
    router, bias = torch.randn(experts, width) * 0.1, torch.randn(experts)
    total = x + part
    found, chosen, shares = add_rms_norm_route(x, part, weight, EPSILON, router, bias, top_k)
    assert close(x, total)
    assert close(found, norm(total, weight))
    best, expected = (norm(total, weight) @ router.double().T + bias.double()).topk(top_k)
    assert torch.equal(chosen.long(), expected)
    torch.testing.assert_close(shares.double(), best.softmax(-1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(4, 2, 32), (16, 8, 64)])
def test_queries_and_keys_are_rotated_and_only_rows_with_a_place_are_stored(heads, kv_heads, width):
    tokens, positions = 5, torch.tensor([3, 0, 9, 1, 7])
    stores = torch.tensor([17, 2, -1, 33, 16])
    qkv = torch.randn(tokens, (heads + 2 * kv_heads) * width)
    angles = torch.randn(12, width // 2)
    keys, values = (torch.full((4, 16, kv_heads, width), torch.nan) for _ in "kv")
    q = rope_store(qkv, positions, angles.cos(), angles.sin(), keys, values, stores)
    by_head = qkv.view(tokens, -1, width)
    first, second = by_head.chunk(2, -1)
    cos, sin = (table[positions][:, None] for table in (angles.cos(), angles.sin()))
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), -1)
    torch.testing.assert_close(q, turned[:, :heads], atol=1e-5, rtol=1e-5)
    there = stores >= 0
    torch.testing.assert_close(
        keys.flatten(0, 1)[stores[there]], turned[there, heads : heads + kv_heads], atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(values.flatten(0, 1)[stores[there]], by_head[there, heads + kv_heads :])
    assert keys.isnan().any((-1, -2)).sum() == values.isnan().any((-1, -2)).sum() == 4 * 16 - int(there.sum())
