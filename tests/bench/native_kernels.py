"""Times the native engine's NF4 kernels at gpt-oss-20b's sizes with random weights. On a GPU:

    python -m tests.bench.native_kernels --out FILE
    python -m tests.bench.native_kernels --sweep --seconds 60 --only gate_up --out FILE

Every kernel is first compared with float32 from dequantised weights, its memory poisoned with NaN. Then a CUDA graph of
many launches, which take turns among weights that together exceed the L2 cache, is replayed. `--sweep` tries launch
configurations for so many seconds per kernel and number of tokens, and prints the best five. Sizes are bytes, times
microseconds. `t3090` is a forecast: bytes at an RTX 3090's 936 GB/s instead of the H200's measured 4.30 TB/s, the rest
of the time as it is.
"""

import argparse
import itertools
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from serve.engine.native.kernels import nf4
from serve.engine.native.kernels.experts import Groups, down, gate_up, group, tile_rows
from serve.engine.native.kernels.linear import MAX_DECODE_ROWS, linear
from serve.engine.native.kernels.nf4 import CONFIGS, Config, Nf4, dequantize
from tests.unit.serve.engine.native.kernels.compilation import recorded

PEAK, PEAK_3090 = 4.30e12, 936e9
TOKENS = (1, 4, 16, 64, 1024)
EXPERTS, TOP_K = 32, 4
SHAPES = {"qkv": (5120, 2880), "o": (2880, 4096), "gate_up": (5760, 2880), "down": (2880, 2880)}
SETS = 4
MAX_ERROR = 1e-2
DEVICE = "cuda"


@dataclass(frozen=True)
class Case:
    """One kernel at one number of tokens."""

    kernel: str
    tokens: int
    key: tuple[str, int]
    """Of CONFIGS."""
    calls: list[Callable[[], torch.Tensor]]
    """One for each set of weights."""
    reference: Callable[[], torch.Tensor]
    """What the first call should return, float32."""
    nbytes: int
    """That one call reads and writes, on average."""


@dataclass
class Result:
    kernel: str
    tokens: int
    config: dict
    error: float
    us: float
    nbytes: int

    @property
    def line(self) -> str:
        speed = self.nbytes / self.us * 1e6
        t3090 = self.us + (self.nbytes / PEAK_3090 - self.nbytes / PEAK) * 1e6
        return (
            f"{self.kernel:>10} T={self.tokens:<5} {self.nbytes / 1e6:8.1f} MB {self.us:8.1f} us "
            f"{speed / 1e9:6.0f} GB/s {speed / PEAK:4.0%}  t3090 {t3090:8.1f} us  error {self.error:.1e}  {self.config}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--seconds", type=float, default=30, help="of a sweep, per kernel and number of tokens")
    parser.add_argument("--only", nargs="+", default=[*SHAPES, "dequantize", "group"])
    parser.add_argument("--tokens", nargs="+", type=int, default=TOKENS)
    parser.add_argument(
        "--decode", nargs="+", type=int, default=(nf4.PERMUTE, nf4.SHARED), help="decoders that a sweep tries"
    )
    arguments = parser.parse_args()
    machine = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__}
    results: list[Result] = []
    for case in cases(arguments.only, arguments.tokens):
        if arguments.sweep and case.key[0] not in ("dequantize", "group"):
            results += sweep(case, arguments.seconds, tuple(arguments.decode))
        else:
            results.append(measure(case))
            print(results[-1].line, flush=True)
        arguments.out.write_text(json.dumps({"machine": machine, "results": [asdict(r) for r in results]}, indent=1))
        torch.cuda.empty_cache()


def cases(kernels: list[str], tokens: list[int]) -> Iterator[Case]:
    """Weights are made once per kernel."""
    for kernel in kernels:
        if kernel == "group":
            yield from (group_case(count) for count in tokens)
            continue
        rows, columns = SHAPES.get(kernel, SHAPES["gate_up"])
        mixture = kernel not in ("qkv", "o")
        sets = SETS if mixture else 4 * SETS
        weights = [random_nf4(EXPERTS if mixture else 1, rows, columns, seed) for seed in range(sets)]
        if kernel == "dequantize":
            yield dequantize_case(weights)
        else:
            yield from ((expert_case if mixture else linear_case)(kernel, weights, count) for count in tokens)


def random_nf4(experts: int, rows: int, columns: int, seed: int) -> Nf4:
    generator = torch.Generator(DEVICE).manual_seed(seed)
    blocks = columns // 64

    def random_bytes(*shape: int) -> torch.Tensor:
        return torch.randint(0, 256, shape, dtype=torch.uint8, device=DEVICE, generator=generator)

    scale = torch.rand(experts, -(-blocks * rows // 256), device=DEVICE, generator=generator) * 0.02 + 0.01
    return Nf4(
        codes=random_bytes(experts, blocks, rows, 32),
        absmax=random_bytes(experts, blocks, rows),
        nested=torch.stack((scale, torch.full_like(scale, 0.04)), -1),
        starts=torch.arange(rows, dtype=torch.int32, device=DEVICE) * blocks,
        absmax_map=torch.linspace(-1, 1, 256, device=DEVICE),
        code_map=torch.tensor(nf4.CODE_MAP, device=DEVICE),
        tables=torch.tensor(nf4._tables(), dtype=torch.int32, device=DEVICE),
    )


def random_rows(*shape: int) -> torch.Tensor:
    return torch.randn(shape, device=DEVICE, dtype=torch.bfloat16)


def routing(tokens: int) -> torch.Tensor:
    return torch.rand(tokens, EXPERTS, device=DEVICE).topk(TOP_K).indices.int()


def linear_case(kernel: str, weights: list[Nf4], tokens: int) -> Case:
    rows, columns = weights[0].shape
    x, bias = random_rows(tokens, columns), random_rows(rows)
    x_rows = 1 if tokens == 1 else 16 if tokens <= 16 else 64
    return Case(
        kernel,
        tokens,
        ("linear", x_rows) if tokens <= MAX_DECODE_ROWS else ("dequantize", 1),
        [lambda w=w: linear(x, w, bias) for w in weights],
        lambda: torch.addmm(bias.float(), x.float(), weights[0].dequantize(torch.float32)[0].T),
        weights[0].nbytes + x.nbytes + 2 * tokens * rows,
    )


def expert_case(kernel: str, weights: list[Nf4], tokens: int) -> Case:
    rows, columns = weights[0].shape
    bias = random_rows(EXPERTS, rows)
    x = random_rows(tokens if kernel == "gate_up" else tokens * TOP_K, columns)
    ids = [routing(tokens) for _ in weights]
    block = tile_rows(tokens, TOP_K, EXPERTS)
    groups: list[Groups | None] = [None if block == 1 else group(each, EXPERTS, block) for each in ids]
    project = gate_up if kernel == "gate_up" else down
    used = sum(len(each.unique()) for each in ids) / len(ids) / EXPERTS
    return Case(
        kernel,
        tokens,
        (kernel, block),
        [lambda w=w, i=i, g=g: project(x, w, bias, i, g) for w, i, g in zip(weights, ids, groups, strict=True)],
        lambda: expert_reference(kernel, x, weights[0], bias, ids[0]),
        int(weights[0].nbytes * used) + x.nbytes + 2 * tokens * TOP_K * (rows // 2 if kernel == "gate_up" else rows),
    )


def expert_reference(kernel: str, x: torch.Tensor, weight: Nf4, bias: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    chosen = ids.flatten()
    x = x.float().repeat_interleave(TOP_K, 0) if kernel == "gate_up" else x.float()
    wide = torch.full((len(chosen), weight.shape[0]), float("nan"), device=x.device)
    for expert in chosen.unique().tolist():
        one = Nf4(
            weight.codes[expert : expert + 1], weight.absmax[expert : expert + 1], weight.nested[expert : expert + 1],
            weight.starts, weight.absmax_map, weight.code_map, weight.tables,
        )  # fmt: skip
        at = chosen == expert
        wide[at] = torch.addmm(bias[expert].float(), x[at], one.dequantize(torch.float32)[0].T)
    if kernel == "down":
        return wide
    gate, up = wide[:, ::2].clamp(max=7), wide[:, 1::2].clamp(-7, 7)
    return (up + 1) * gate * torch.sigmoid(1.702 * gate)


def dequantize_case(weights: list[Nf4]) -> Case:
    """All experts of a gate_up."""
    return Case(
        "dequantize",
        0,
        ("dequantize", 1),
        [lambda w=w: dequantize(w) for w in weights],
        lambda: weights[0].dequantize(torch.float32),
        weights[0].nbytes + 2 * weights[0].experts * weights[0].shape[0] * weights[0].shape[1],
    )


def group_case(tokens: int) -> Case:
    ids = [routing(tokens) for _ in range(SETS)]
    block = max(16, tile_rows(tokens, TOP_K, EXPERTS))
    counts = torch.bincount(ids[0].flatten().long(), minlength=EXPERTS)
    return Case(
        "group",
        tokens,
        ("group", block),
        [lambda i=i: group(i, EXPERTS, block).sizes.sum() for i in ids],
        lambda: counts.sum().float(),
        ids[0].nbytes * 2,
    )


def measure(case: Case, launches: int = 40, replays: int = 7) -> Result:
    """Raises AssertionError for wrong results, and whatever a kernel raises."""
    found = error(case, case.reference())
    assert found <= MAX_ERROR, f"error {found} of {case.kernel} T={case.tokens}"
    config = CONFIGS[case.key]._asdict() if case.key in CONFIGS else {}
    return Result(case.kernel, case.tokens, config, found, time_us(case.calls, launches, replays), case.nbytes)


def error(case: Case, reference: torch.Tensor) -> float:
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills what torch.empty returns with NaN
    try:
        out = case.calls[0]().float()
    finally:
        torch.use_deterministic_algorithms(False)
    return ((out - reference).norm() / reference.norm()).nan_to_num(float("inf")).item()


def time_us(calls: list[Callable[[], torch.Tensor]], launches: int, replays: int) -> float:
    """Of one call, median over replays of a graph of `launches` of them."""
    for call in calls:
        call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in itertools.islice(itertools.cycle(calls), launches):
            call()
    graph.replay()
    times = []
    for _ in range(replays):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3 / launches)
    return statistics.median(times)


def sweep(case: Case, seconds: float, decoders: tuple[int, ...]) -> list[Result]:
    """Random configurations for half the time, then those that differ least from the best; returns the best five."""
    print(f"sweep of {case.kernel} T={case.tokens}", flush=True)
    reference, default, began = case.reference(), CONFIGS[case.key], time.monotonic()
    left = candidates(case.key, decoders)
    random.Random(0).shuffle(left)
    left = [default] + [config for config in left if config != default]
    results: list[Result] = []
    with ThreadPoolExecutor(16) as pool:
        while left and (spent := time.monotonic() - began) < seconds:
            if results and spent > seconds / 2:
                best = Config(**min(results, key=lambda result: result.us).config)
                left.sort(key=lambda config: sum(a != b for a, b in zip(config, best, strict=True)))
            batch, left = left[:32], left[32:]
            for config, failure in compiled(case, batch, pool):
                if failure is None and time.monotonic() - began < 1.5 * seconds:
                    CONFIGS[case.key] = config
                    try:
                        found = error(case, reference)
                        failure = f"error {found}" if found > MAX_ERROR else None
                        if failure is None:
                            us = time_us(case.calls, launches=20, replays=3)
                            results.append(Result(case.kernel, case.tokens, config._asdict(), found, us, case.nbytes))
                    except Exception as caught:
                        failure = reason(caught)
                if failure is not None:
                    print(f"  {tuple(config)}: {failure}", file=sys.stderr, flush=True)
    CONFIGS[case.key] = default
    by_default = [result.line for result in results if result.config == default._asdict()]
    results = sorted(results, key=lambda result: result.us)
    print(f"  {len(results)} configurations measured, {len(left)} untried; by default:", *by_default, sep="\n")
    print("  best:", *(result.line for result in results[:5]), sep="\n", flush=True)
    return results[:5]


def candidates(key: tuple[str, int], decoders: tuple[int, ...]) -> list[Config]:
    kernel, x_rows = key
    splits = (1, 2, 3, 4, 5, 8) if kernel == "linear" else (1,)
    if x_rows == 1:
        grid = itertools.product((8, 16, 32, 64, 128), (1, 2, 4, 8), (1, 2, 4, 8), (1, 2, 3, 4), splits, decoders)
        rows = [
            Config(*values)
            for values in grid
            if 8 <= values[0] * values[1] / values[2] <= 128  # rows times blocks of 32 bytes per warp
        ]
        grid = itertools.product((32, 64, 128), (1,), (1, 2, 4), (1, 3, 4, 6), splits, decoders, (False,), (True,))
        return rows + [Config(*values) for values in grid if values[0] / values[2] >= 16]
    grid = itertools.product(
        (32, 64, 128, 256), (1,), (1, 2, 4, 8), (1, 2, 3, 4, 5, 6), splits, decoders, (False, True)
    )
    return [
        Config(*values)
        for values in grid
        if values[0] / values[2] >= 16 and values[0] * max(x_rows, 32) / values[2] <= 4096
    ]


def compiled(case: Case, configs: list[Config], pool: ThreadPoolExecutor) -> list[tuple[Config, str | None]]:
    """Each configuration with why it doesn't compile, or None; in threads, as most of it is LLVM and ptxas."""
    default, launches = CONFIGS[case.key], []
    for config in configs:
        CONFIGS[case.key] = config
        with recorded() as each:
            case.calls[0]()
        launches.append(each)
    CONFIGS[case.key] = default

    def warm(each: list) -> str | None:
        try:
            for launch in each:
                launch.kernel.warmup(*launch.arguments, grid=(1,), **launch.options)
        except Exception as caught:
            return reason(caught)
        return None

    return list(zip(configs, pool.map(warm, launches), strict=True))


def reason(caught: BaseException) -> str:
    while caught.__cause__ is not None:
        caught = caught.__cause__
    return f"{type(caught).__name__}: {str(caught).strip()[-200:]}"


if __name__ == "__main__":
    main()
