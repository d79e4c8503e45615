"""Kernels of gpt-oss-20b's sizes compile, fit and do not spill on the GPUs that we know of, without one."""

import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

CAPABILITIES = (86, 89, 90)


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_kernel_compiles_fits_and_does_not_spill(capability):
    """In a process of its own, whose Triton doesn't interpret."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", __name__, str(capability)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-5000:]
    needs = json.loads(done.stdout)
    assert {name.split()[0] for name in needs} >= {
        *("_pair_rows", "_group_dot", "_linear_rows", "_linear_dot", "_group"),
        *("_decode", "_prefill", "_combine", "_add_norm", "_add_norm_route", "_rope_store", "_shrink", "_expand"),
    }
    from tests.unit.serve.engine.native.kernels.compilation import SHARED_LIMIT

    for name, (shared, _, spilled) in needs.items():
        assert shared <= SHARED_LIMIT[capability], name
        assert spilled <= 16, name  # what lies outside the loop may


def gpt_oss_launches() -> list:
    """What a decode step and a prefill of gpt-oss-20b launch."""
    import torch

    from serve.engine.native.kernels.experts import down, gate_up, group, tile_rows
    from serve.engine.native.kernels.linear import linear
    from serve.engine.native.kernels.nf4 import dequantize
    from tests.unit.serve.engine.native.kernels.compilation import launches_of

    qkv, o, wide, narrow = (
        meta_nf4(*sizes) for sizes in ((1, 5120, 2880), (1, 2880, 4096), (32, 5760, 2880), (32, 2880, 2880))
    )

    def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    def experts(tokens: int, block: int, with_delta: bool) -> None:
        ids = empty(tokens, 4, dtype=torch.int32)
        groups = None if block == 1 else group(ids, 32, block)
        deltas = [empty(tokens * 4, size) if with_delta else None for size in (5760, 2880)]
        act = gate_up(empty(tokens, 2880), wide, empty(32, 5760), ids, groups, deltas[0])
        down(act, narrow, empty(32, 2880), ids, groups, deltas[1])

    return launches_of(
        *other_steps(empty),
        *(lambda t=t: linear(empty(t, 2880), qkv, empty(5120)) for t in (1, 16, 64)),
        *(lambda t=t: linear(empty(t, 4096), o, empty(2880)) for t in (1, 16, 64)),
        *(
            lambda t=t, d=d: experts(t, tile_rows(t, 4, 32), d)
            for t, d in ((1, False), (4, True), (16, False), (64, True), (1024, False), (8192, False))
        ),
        lambda: dequantize(qkv),
    )


def other_steps(empty: Callable) -> list[Callable[[], object]]:
    """Attention over a paged cache, norms, router, rotation and adapters, for one token, 16 and a prompt."""
    import torch

    from serve.engine.native.kernels import attention, elementwise, lora

    def numbers(*shape: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
        return empty(*shape, dtype=dtype)

    cache = empty(1000, 16, 8, 64), empty(1000, 16, 8, 64)

    def attend(tokens: int, window: int) -> None:
        common = {"sinks": empty(64), "window": window, "scale": 0.125}
        q, tables = empty(tokens, 64, 64), numbers(tokens, 256)
        attention.decode_attention(q, *cache, tables, numbers(tokens), **common)
        attention.prefill_attention(q, *cache, tables[:1], numbers(1), numbers(2), tokens, **common)

    def around(tokens: int) -> None:
        x, part, weight = empty(tokens, 2880), empty(tokens, 2880), empty(2880)
        shares, angles = empty(tokens, 4, dtype=torch.float32), empty(131072, 32, dtype=torch.float32)
        elementwise.add_rms_norm(x, None, weight, 1e-5)
        elementwise.add_rms_norm(x, empty(tokens, 4, 2880), weight, 1e-5, shares)
        elementwise.add_rms_norm_route(x, part, weight, 1e-5, empty(32, 2880), empty(32), 4)
        places = numbers(tokens, dtype=torch.int64)
        elementwise.rope_store(empty(tokens, 5120), places, angles, angles, *cache, places)

    def adapters(tokens: int) -> None:
        slots, chosen, x = numbers(tokens), numbers(tokens, 4), empty(tokens, 2880)
        between = lora.shrink(x, empty(8, 96, 2880), slots)
        lora.expand_add(empty(tokens, 5120), between, empty(8, 5120, 32), slots, (4096, 4608, 5120))
        lora.expert_expand(
            lora.expert_shrink(x, empty(8, 32, 32, 2880), slots, chosen), empty(8, 32, 5760, 32), slots, chosen
        )

    return [
        *(lambda t=t, w=w: attend(t, w) for t in (1, 16, 1024) for w in (0, 128)),
        *(lambda t=t: around(t) for t in (1, 16)),
        lambda: adapters(16),
    ]


def meta_nf4(experts: int, rows: int, columns: int):
    """A weight without content."""
    import torch

    from serve.engine.native.kernels.nf4 import Nf4

    def empty(dtype: torch.dtype, *shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    blocks = columns // 64
    return Nf4(
        codes=empty(torch.uint8, experts, blocks, rows, 32),
        absmax=empty(torch.uint8, experts, blocks, rows),
        nested=empty(torch.float32, experts, -(-blocks * rows // 256), 2),
        starts=empty(torch.int32, rows),
        absmax_map=empty(torch.float32, 256),
        code_map=empty(torch.float32, 16),
        tables=empty(torch.int32, 4 * 32 + 256),
    )


def main() -> None:
    from tests.unit.serve.engine.native.kernels.compilation import compile_launch

    print(json.dumps({str(launch): compile_launch(launch, int(sys.argv[1])) for launch in gpt_oss_launches()}))


if __name__ == "__main__":
    main()
