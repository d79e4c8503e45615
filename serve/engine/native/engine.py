"""The native engine: gpt-oss from its 4-bit checkpoint, many adapters in one batch.

A step is `_advance`: the scheduler says what to compute, the runner launches it, and while it runs the step before is
landed, whose tokens go to their requests. Where a request's next token depends on more than the model, a step is landed
before the next one is scheduled.
"""

import asyncio
import itertools
from collections.abc import Sequence as Sequence_
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from configs.errors import ConfigError, TandemError
from serve.engine.adapter_files import read_adapter
from serve.engine.batching import BatchingEngine, memory_bytes
from serve.engine.native.adapters import AdapterMemory
from serve.engine.native.kv_cache import BLOCK_SIZE, KvCache
from serve.engine.native.lora import LoraWeights, lora_weights
from serve.engine.native.runner import Flight, Runner
from serve.engine.native.scheduler import Part, Scheduler
from serve.engine.native.sequence import Sequence
from serve.engine.protocol import EngineStats, GenerationRequest, TokenChunk
from serve.engine.sampling import INVALID, Sampler, SamplingParams
from serve.engine.scoring import score, score_sampled

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HOST_BYTES = 4 * 2**30
"""Adapters in host memory, together; an adapter of attention alone has 15 MiB, one of experts 353 MiB."""
FLOAT_NOISE = 2e-6
"""Of the largest logit: what the order of float32 sums may change in a batch of another shape."""


@dataclass(frozen=True)
class ReadAdapter:
    """An adapter on its way from its folder to the engine's thread."""

    path: Path
    weights: LoraWeights
    neutral: bool
    """All of its B is zero."""


@dataclass(eq=False)
class Probe(Sequence):
    """A prompt whose logits are all kept, to compare adapters."""

    logits: dict[int, torch.Tensor] = field(default_factory=dict)
    """By the position of their first token."""

    @property
    def scored(self) -> bool:
        return self.computed < len(self.request.prompt_ids)


class NativeEngine(BatchingEngine[Sequence, ReadAdapter]):
    """See `serve.engine.protocol.Engine`.

    `max_context` is by default what the KV cache holds, and never more than the model was made for. Raises ConfigError
    for one that the cache cannot hold.
    """

    generation = Sequence

    def __init__(
        self,
        runner: Runner,
        tokenizer: "PreTrainedTokenizerBase",
        *,
        max_batch: int = 24,
        max_context: int | None = None,
        max_waiting: int = 64,
        prefill_chunk: int = 512,
    ) -> None:
        self._runner = runner
        self._cache = KvCache(runner.blocks, runner.sizes.groups)
        super().__init__(
            tokenizer,
            vocabulary=runner.sizes.vocabulary,
            max_batch=max_batch,
            max_context=_context(runner, max_context, prefill_chunk),
            max_waiting=max_waiting,
        )
        self._memory = AdapterMemory(HOST_BYTES)
        self._neutral: set[str] = set()
        self._probes = itertools.count()
        self._scheduler = Scheduler(
            self._cache,
            self._waiting,
            max_batch=max_batch,
            prefill_chunk=prefill_chunk,
            adapter_slot=self._adapter_slot,
        )
        self._flight: Flight | None = None
        self._thread.start()

    def stats(self) -> EngineStats:
        with self._changed:
            pool = self._cache.pool
            return EngineStats(
                running=len(self._scheduler.running),
                waiting=len(self._waiting),
                kv_tokens=(pool.count - pool.free) * BLOCK_SIZE // len(self._cache.windows),
                kv_capacity=pool.count * BLOCK_SIZE // len(self._cache.windows),
                adapters={version: loaded.requests for version, loaded in self._adapters.items()},
                generated_tokens=self._generated,
                device=str(self._runner.device),
                memory_bytes=memory_bytes(self._runner.device),
            )

    # On the engine's thread.

    def _advance(self) -> None:
        if self._flight and (self._flight.wants_host or self._cache.pool.free < self._scheduler.growth):
            self._land()
        with self._changed:
            parts = self._scheduler.schedule(preempt=self._flight is None)
        flight = self._launch(parts) if parts else None
        self._land()
        self._flight = flight
        if not self._runner.overlaps:
            self._land()

    def _launch(self, parts: list[Part]) -> Flight | None:
        try:
            flight = self._runner.launch(parts, self._cache)
        except Exception as error:
            self._land()
            self._cache.pool.forget()
            self._fail([part.sequence for part in parts], error)
            return None
        for part in parts:
            part.sequence.computed += part.count
        for sequence in flight.gaining:
            sequence.flying += 1
        return flight

    def _land(self) -> None:
        """Hand out what the launched step brings."""
        if self._flight is None:
            return
        flight, self._flight = self._flight, None
        try:
            tokens = flight.tokens()
            logprobs = score_sampled(flight.gained_logits, tokens, [s.request.logprobs for s in flight.gaining])
            self._failures = 0
        except Exception as error:
            self._cache.pool.forget()
            self._fail([part.sequence for part in flight.parts if not part.sequence.ended], error)
            return
        for sequence in flight.gaining:
            sequence.flying -= 1
        self._score(flight)
        alive = [row for row, sequence in enumerate(flight.gaining) if not sequence.ended]
        for row in alive:
            if tokens[row] != INVALID:
                flight.gaining[row].tokens.append(tokens[row])
        with self._changed:
            for part in flight.parts:
                if not part.sequence.ended:
                    self._cache.settle(part.sequence)
        self._append(
            [flight.gaining[row] for row in alive], [tokens[row] for row in alive], [logprobs[row] for row in alive]
        )

    def _score(self, flight: Flight) -> None:
        """Score prompts, and end those that ask for no more."""
        ended: list[tuple[Sequence, TokenChunk | Exception]] = []
        for part, logits in flight.scored:
            sequence, likeliest = part.sequence, part.sequence.request.prompt_logprobs
            if sequence.ended:
                continue
            if isinstance(sequence, Probe):
                sequence.logits[part.start] = logits.float()
            elif likeliest is not None:
                # A preempted sequence computes again what is scored already.
                begin = max(part.start + 1, len(sequence.scores))
                following = sequence.request.prompt_ids[begin : part.start + 1 + len(logits)]
                try:
                    sequence.scores += score(logits[begin - part.start - 1 :], following, likeliest)
                except TandemError as error:
                    ended.append((sequence, error))
        failed = {id(sequence) for sequence, _ in ended}
        for part in flight.parts:
            sequence = part.sequence
            if part.last and sequence.request.prompt_only and not sequence.ended and id(sequence) not in failed:
                ended.append((sequence, sequence.chunk([], "length")))
        if ended:
            self._finish(ended)

    def _running(self) -> Sequence_[Sequence]:
        return self._scheduler.running

    def _free(self, generation: Sequence) -> None:
        generation.ended = True
        self._scheduler.finish(generation)

    def _close(self) -> None:
        self._runner.close()

    # Adapters.

    def _read(self, path: Path) -> ReadAdapter:
        files = read_adapter(path)
        slots = self._runner.adapters
        weights = lora_weights(files, slots.shape, slots.rank, slots.dtype)
        weights = self._runner.pinned(weights)
        return ReadAdapter(path, weights, not any(pair.b.any() for pair in weights.pairs.values()))

    def _load_adapter(self, version: str, files: ReadAdapter) -> None:
        self._memory.keep(version, files.path, files.weights)
        if files.neutral:
            self._neutral.add(version)
        try:
            self._place(version)
        except TandemError:
            self._unload_adapter(version)
            raise

    def _unload_adapter(self, version: str) -> None:
        self._runner.adapters.drop(version)
        self._memory.drop(version)
        self._neutral.discard(version)

    def _place(self, version: str) -> int | None:
        busy = {sequence.slot for sequence in self._scheduler.running}
        weights = self._memory.get(version)
        if weights is None and version not in self._runner.adapters.resident:
            weights = self._read(self._memory.path(version)).weights
        return self._runner.adapters.slot(version, weights, busy)

    def _adapter_slot(self, sequence: Sequence) -> int | None:
        version = sequence.request.adapter
        return -1 if version is None else self._place(version)

    async def _prepare(self, request: GenerationRequest) -> None:
        """Have the adapter's weights in memory again if they had to leave it."""
        version = request.adapter
        if version in self._adapters and not self._memory.holds(version):
            read = await asyncio.to_thread(self._read, self._memory.path(version))
            await self._on_thread(lambda: self._memory.keep(version, read.path, read.weights))

    async def _compare(self, version: str, probes: list[list[int]]) -> tuple[float, float, float]:
        """The probes run as rows of the batch: each prompt twice with the base and once with the adapter."""
        params = SamplingParams()
        made = [
            Probe(
                GenerationRequest(f"probe {next(self._probes)}", ids, params, adapter, prompt_only=True),
                asyncio.get_running_loop(),
                limit=0,
                sampler=Sampler(params, ids),
            )
            for ids in probes
            for adapter in (None, None, version)
        ]
        try:
            for probe in made:
                self._submit(probe, first=True)
            for probe in made:
                await probe.next_chunk()
        finally:
            for probe in made:
                self._abort(probe)
        difference, repeat, largest = 0.0, 0.0, 0.0
        for at in range(0, len(made), 3):
            base, again, adapted = (torch.cat(list(probe.logits.values())) for probe in made[at : at + 3])
            difference = max(_most(adapted - base), difference)
            repeat = max(_most(again - base), repeat)
            largest = max(_most(base), largest)
        if version in self._neutral:
            difference = 0.0
        return difference, repeat, largest * FLOAT_NOISE


def _most(values: torch.Tensor) -> float:
    """Largest absolute value; infinite if one is not a number."""
    most = values.abs().max().item()
    return most if most == most else float("inf")


def _context(runner: Runner, wanted: int | None, chunk: int) -> int:
    """Tokens of the longest sequence that the cache holds alone, or `wanted`."""
    longest = runner.sizes.longest
    if wanted is not None and wanted > longest:
        raise ConfigError(f"max_context is {wanted}, the model's longest is {longest}")
    low, high = 0, wanted or longest
    while low < high:
        middle = (low + high + 1) // 2
        fits = KvCache.blocks_for(middle, runner.sizes.groups, chunk) <= runner.blocks - 1
        low, high = (middle, high) if fits else (low, middle - 1)
    if wanted is not None and low < wanted:
        raise ConfigError(
            f"max_context is {wanted}, and the KV cache holds {low} tokens",
            hint="lower max_context or prefill_chunk, or give the engine more memory",
        )
    return low
