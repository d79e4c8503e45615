"""The native engine alone, without HTTP: checks and times it on a base.

    python -m tests.bench.native_engine BASE --out FILE [--check] [--max-batch 64]

BASE is a folder or a name (`tiny-bnb-4bit`). `--check` first compares logits with a float32 computation from the
dequantised weights, which needs memory for them; outputs and cache are poisoned before. A decode rate is taken between
128 and 384 new tokens, so that neither prefill nor the first step are in it; a first token is the median of five after
two of the same shape. Prompts are random and their prefixes are not cached, except where the work says so.
"""

import argparse
import asyncio
import itertools
import json
import logging
import random
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from collections.abc import Sequence as Sequence_
from contextlib import aclosing, contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from configs.schema import ServeConfig
from models.base import checkpoint
from serve.engine.native.engine import NativeEngine
from serve.engine.native.loading import load_engine
from serve.engine.native.model import Layer, Sizes, Weights
from serve.engine.native.operations import Expert, Linear, Operations, Routes, TorchOperations
from serve.engine.native.runner import lora_shape
from serve.engine.protocol import GenerationRequest
from serve.engine.sampling import SamplingParams

WORK = ((1, 128), (1, 1024), (4, 128), (16, 128), (64, 128))
"""Streams and tokens of their prompts."""


def write_adapter(sizes: Sizes, folder: Path, *, rank: int, experts: bool, seed: int) -> Path:
    """A PEFT adapter of random numbers with the names of the split layout."""
    generator, shape, tensors = torch.Generator().manual_seed(seed), lora_shape(sizes), {}

    def pair(module: str, into: int, out: int) -> None:
        for side, size in (("A", (rank, into)), ("B", (out, rank))):
            value = torch.randn(size, generator=generator) * 0.02
            tensors[f"base_model.model.{module}.lora_{side}.weight"] = value.bfloat16()

    for layer in range(sizes.layers):
        for name, (into, out) in shape.attention.items():
            pair(f"model.layers.{layer}.self_attn.{name}", into, out)
        for name, (into, out) in shape.expert.items() if experts else ():
            for expert in range(sizes.experts):
                pair(f"model.layers.{layer}.mlp.experts.{name}s.{expert}", into, out)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    targets = r".*self_attn\.[qkvo]_proj" + (r"|.*mlp\.experts\.(gate_up|down)_projs\.\d+" if experts else "")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "bias": "none", "target_modules": targets}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


class Bench:
    def __init__(self, engine: NativeEngine, sizes: Sizes) -> None:
        self.engine, self.sizes = engine, sizes
        self._random, self._count = random.Random(0), 0

    def prompt(self, tokens: int) -> list[int]:
        return [self._random.randrange(200, self.sizes.vocabulary) for _ in range(tokens)]

    async def one(self, prompt: list[int], tokens: int, adapter: str | None, times: list[float]) -> None:
        """Generate so many tokens; `times` gains when each chunk came."""
        self._count += 1
        sampling = SamplingParams(temperature=0, max_tokens=tokens)
        async with aclosing(
            self.engine.generate(GenerationRequest(f"r{self._count}", prompt, sampling, adapter))
        ) as out:
            async for _ in out:
                times.append(time.perf_counter())

    async def together(self, streams: int, tokens: int, new: int, adapters: list[str | None]) -> tuple[float, list]:
        """Seconds for `streams` prompts of `tokens` tokens and `new` tokens each, and when each chunk came."""
        prompts = [self.prompt(tokens) for _ in range(streams)]
        times: list[list[float]] = [[] for _ in prompts]
        begin = time.perf_counter()
        await asyncio.gather(
            *(self.one(each, new, adapters[index % len(adapters)], times[index]) for index, each in enumerate(prompts))
        )
        return time.perf_counter() - begin, [[at - begin for at in each] for each in times]

    async def rates(self, adapters: list[str | None], work=WORK) -> list[dict]:
        found = []
        for streams, tokens in work:
            await self.together(streams, tokens, 384, adapters)
            for _ in range(2):
                await self.together(streams, tokens, 1, adapters)
            first = statistics.median([(await self.together(streams, tokens, 1, adapters))[0] for _ in range(5)])
            rates = []
            for _ in range(3):
                long, _times = await self.together(streams, tokens, 384, adapters)
                short, _times = await self.together(streams, tokens, 128, adapters)
                rates.append(streams * 256 / (long - short))
            line = {
                "streams": streams, "prompt": tokens, "adapters": len(set(adapters) - {None}),
                "first_token_ms": round(first * 1e3, 1), "tokens_per_s": round(statistics.median(rates)),
            }  # fmt: skip
            print(json.dumps(line), flush=True)
            found.append(line)
        return found

    async def prefix(self) -> dict:
        """The first token of a prompt of 1,024 tokens whose first 1,008 were asked before."""
        prompt, times = self.prompt(1024), []
        for turn in range(6):
            own: list[float] = []
            begin = time.perf_counter()
            await self.one([*prompt[:1008], *self.prompt(16)], 1, None, own)
            if turn:
                times.append(own[0] - begin)
        return {"work": "first token, prefix cached", "first_token_ms": round(statistics.median(times) * 1e3, 1)}

    async def swap(self, folder: Path) -> dict:
        """Load and check an adapter while 16 streams decode."""
        gaps: list[list[float]] = []

        async def stream() -> None:
            times: list[float] = []
            await self.one(self.prompt(128), 700, None, times)
            gaps.append([later - sooner for sooner, later in itertools.pairwise(times)])

        running = [asyncio.create_task(stream()) for _ in range(16)]
        await asyncio.sleep(0.5)
        begin = time.perf_counter()
        await self.engine.add_adapter("swapped", folder)
        loaded = time.perf_counter()
        check = await self.engine.verify_adapter("swapped")
        checked = time.perf_counter()
        await asyncio.gather(*running)
        everything = [gap for each in gaps for gap in each]
        return {
            "work": "load and check an adapter while 16 streams decode",
            "load_ms": round((loaded - begin) * 1e3), "check_ms": round((checked - loaded) * 1e3),
            "median_gap_ms": round(statistics.median(everything) * 1e3, 2),
            "worst_gap_ms": round(max(everything) * 1e3, 2), "difference": check.max_difference,
        }  # fmt: skip


@torch.inference_mode()
def check(engine: NativeEngine, sizes: Sizes, names: list[str]) -> dict:
    """Relative errors of logits against float32 over the dequantised weights, by batch bucket; on the engine's thread.

    Every sequence prefills 140 tokens, past the window, in the eager path, then decodes by captured steps; cache and
    logits are NaN before. Half of the sequences name adapters.
    """
    from serve.engine.native.adapters import AdapterSlots
    from serve.engine.native.batch import build
    from serve.engine.native.kv_cache import BLOCK_SIZE, KvCache
    from serve.engine.native.model import GptOss, rope_tables
    from serve.engine.native.scheduler import Scheduler
    from serve.engine.native.sequence import Sequence
    from serve.engine.sampling import Sampler

    runner, device, blocks = engine._runner, engine._runner.device, 1600
    slots = AdapterSlots(lora_shape(sizes), slots=8, rank=runner.adapters.rank, dtype=torch.float32, device=device)
    shape = (sizes.group_layers, 2, blocks, BLOCK_SIZE, sizes.kv_heads, sizes.head_dim)
    rope = tuple(table.to(device) for table in rope_tables(sizes, 4096))
    plain = TorchOperations(
        torch.zeros(shape, device=device), sizes.groups, rope, slots, heads=sizes.heads, top_k=sizes.top_k,
        epsilon=sizes.epsilon,
    )  # fmt: skip
    kv = torch.zeros(shape, dtype=torch.bfloat16, device=device)
    rounding = TorchOperations(
        kv, sizes.groups, rope, runner.adapters, heads=sizes.heads, top_k=sizes.top_k, epsilon=sizes.epsilon
    )
    reference = GptOss(sizes, dequantised(runner.model.weights, torch.float32), plain)
    rounded = GptOss(sizes, dequantised(runner.model.weights, torch.bfloat16), rounding)
    for name in names:
        slots.slot(name, engine._memory.get(name), ())
    runner.model.operations._kv.fill_(torch.nan)
    errors = {}
    for size in [each for each in (1, 4, 16, 64) if each <= runner.max_batch]:
        cache, waiting = KvCache(blocks, sizes.groups), deque()
        scheduler = Scheduler(
            cache, waiting, max_batch=runner.max_batch, prefill_chunk=1024,
            adapter_slot=lambda s: -1 if s.request.adapter is None else engine._place(s.request.adapter),
        )  # fmt: skip
        for row in range(size):
            ids = [random.Random(row).randrange(200, sizes.vocabulary) for _ in range(140)]
            adapter = names[row % len(names)] if row % 2 else None
            sampler = Sampler(SamplingParams(temperature=0), ids)
            waiting.append(Sequence(GenerationRequest(f"c{row}", ids, adapter=adapter), None, 1000, sampler))
        worst, usual, captured_worst, decoded = 0.0, 0.0, 0.0, 0
        while decoded < 3:
            parts = scheduler.schedule()
            batch = build(parts, runner._newest, cache, runner.adapters.expert_slots)
            remap = {engine._place(name): slots.slot(name, None, ()) for name in names}
            lookup = torch.tensor([*(remap.get(slot, -1) for slot in range(64)), -1], device=device)
            adapters = lookup[batch.adapters.long()].int()
            own = tuple(sorted({remap[slot] for slot in batch.slots}))
            with recorded_routes(runner.model.operations) as routes:
                eager = runner.model.forward(replace(batch, memo={})).float()
            with given_routes(plain, routes):
                expected = reference.forward(replace(batch, adapters=adapters, slots=own, memo={}))
            with given_routes(rounding, routes):
                likewise = rounded.forward(replace(batch, memo={})).float()
            for captured in runner._captured.values():
                captured.logits.fill_(torch.nan)
            flight = runner.launch(parts, cache)
            tokens = flight.tokens()
            logits = flight.gained_logits.float()
            if len(expected):
                worst = max(worst, _error(eager, expected))
                usual = max(usual, _error(likewise, expected))
                captured_worst = max(captured_worst, _error(logits, eager))
            for part in parts:
                part.sequence.computed += part.count
            for sequence, token in zip(flight.gaining, tokens, strict=True):
                sequence.tokens.append(token)
                cache.settle(sequence)
            decoded += all(part.count == 1 for part in parts)
        errors[size] = {
            "kernels": round(worst, 5), "PyTorch in bfloat16": round(usual, 5), "captured": round(captured_worst, 5),
        }  # fmt: skip
        print("error", size, errors[size], flush=True)
    return {"work": "relative error of logits, by sequences", "errors": errors}


def _error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).norm(dim=-1) / expected.norm(dim=-1)).max().item()


@contextmanager
def recorded_routes(operations: Operations) -> Iterator[list[torch.Tensor]]:
    """The experts that each layer chooses, in order."""
    routes, route = [], operations.add_norm_route

    def recording(*args: torch.Tensor) -> tuple[torch.Tensor, Routes]:
        h, found = route(*args)
        routes.append(found.experts.long())
        return h, found

    operations.add_norm_route = recording
    try:
        yield routes
    finally:
        operations.add_norm_route = route


@contextmanager
def given_routes(operations: TorchOperations, routes: list[torch.Tensor]) -> Iterator[None]:
    """Let the reference go through the same experts: of two that are equally likely, rounding takes either."""
    left, route = iter(routes), operations.add_norm_route

    def given(x: torch.Tensor, update, weight: torch.Tensor, router: torch.Tensor, bias: torch.Tensor):
        h, experts = operations.add_norm(x, update, weight), next(left)
        return h, Routes(experts, torch.nn.functional.linear(h, router, bias).gather(1, experts).softmax(-1))

    operations.add_norm_route = given
    try:
        yield
    finally:
        operations.add_norm_route = route


class DequantisedLayers(Sequence_):
    """Layers in another type, one at a time in memory."""

    def __init__(self, layers: list[Layer], dtype: torch.dtype) -> None:
        self._layers, self._dtype = layers, dtype

    def __len__(self) -> int:
        return len(self._layers)

    def __getitem__(self, index: int) -> Layer:
        own, dtype = self._layers[index], self._dtype
        qkv, o, gate_up, down = (each.weight.dequantize(dtype) for each in (own.qkv, own.o, own.gate_up, own.down))
        return Layer(
            own.input_norm.to(dtype), Linear(qkv[0], own.qkv.bias.to(dtype)), own.sinks.to(dtype),
            Linear(o[0], own.o.bias.to(dtype)), own.expert_norm.to(dtype), own.router_weight.to(dtype),
            own.router_bias.to(dtype), Expert(gate_up.transpose(1, 2), own.gate_up.bias.to(dtype)),
            Expert(down.transpose(1, 2), own.down.bias.to(dtype)),
        )  # fmt: skip


def dequantised(weights: Weights, dtype: torch.dtype) -> Weights:
    layers = DequantisedLayers(weights.layers, dtype)
    return Weights(weights.embedding.to(dtype), layers, weights.norm.to(dtype), weights.head.to(dtype))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--max-batch", type=int, default=64)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="the base and eight adapters alone")
    options = parser.parse_args()
    folder = checkpoint.resolve(options.base)
    found = checkpoint.inspect(folder)
    sizes = Sizes.of(found.config)
    config = ServeConfig(
        base=options.base, max_batch=options.max_batch, max_context=min(4096, sizes.longest), max_lora_rank=options.rank
    )
    logging.basicConfig(level=logging.INFO)
    begin = time.perf_counter()
    engine = load_engine(config, folder, options.device)
    results: list[dict] = [{"work": "start", "seconds": round(time.perf_counter() - begin, 1)}]
    print(json.dumps(results[0]), flush=True)
    if options.device == "cuda":
        results.append({"work": "memory", "gib": round(torch.cuda.memory_allocated() / 2**30, 2)})
    try:
        asyncio.run(measure(engine, sizes, options, results))
    finally:
        if options.out:
            gpu = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
            options.out.write_text(json.dumps({"machine": gpu, "base": options.base, "results": results}, indent=1))
        engine.close()


async def measure(engine: NativeEngine, sizes: Sizes, options: argparse.Namespace, results: list[dict]) -> None:
    bench = Bench(engine, sizes)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        names: list[str | None] = []
        for number in range(8):
            path = write_adapter(sizes, root / f"a{number}", rank=options.rank, experts=False, seed=number)
            await engine.add_adapter(f"a{number}", path)
            names.append(f"a{number}")
        if options.check:
            results.append(await engine._on_thread(lambda: check(engine, sizes, ["a0", "a1", "a2"])))
        results += await bench.rates([None])
        if not options.quick:
            results += await bench.rates(["a0"], WORK[:2])
        results += await bench.rates(names, WORK[2:] if options.quick else WORK)
        results.append(await bench.prefix())
        path = write_adapter(sizes, root / "swapped", rank=options.rank, experts=False, seed=99)
        results.append(await bench.swap(path))
        print(json.dumps(results[-2:]), flush=True)


if __name__ == "__main__":
    main()
