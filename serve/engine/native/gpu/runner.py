"""The model on a GPU: Triton kernels, and whole steps in CUDA graphs, one per bucket of sizes.

A captured step finds its inputs where they were when it was captured. What changes from step to step crosses in one
small copy; block tables stay on the device, one row per running sequence, and only new blocks are sent.
"""

from collections.abc import Sequence as Sequence_
from dataclasses import dataclass, replace

import torch

from serve.engine.native.batch import Batch
from serve.engine.native.gpu.operations import TritonOperations
from serve.engine.native.kv_cache import BLOCK_SIZE, KvCache
from serve.engine.native.lora import LoraPair, LoraWeights
from serve.engine.native.model import Sizes, Weights
from serve.engine.native.operations import Operations
from serve.engine.native.runner import Flight, Runner
from serve.engine.native.scheduler import Part
from serve.engine.native.sequence import Sequence
from serve.engine.sampling import INVALID

BUCKETS = (1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128)
"""Decoding sequences that a captured step may have; padding fills it up."""
TOKEN_BUCKETS = (16, 64, 128, 256, 512)
"""Tokens that a captured step with prompts in it may have, below the most that one may have."""
SEQUENCE_BUCKETS = (1, 8)
"""Sequences of such a step, below as many as run together."""
STAGES = 4
"""Host buffers in turn: two steps are under way at most."""
WARM_UP_TOKENS = (1, 4, 16, 40, 100, 256)
"""Prompts that are computed without a captured step before the first request, so that their kernels are compiled."""


@dataclass(frozen=True)
class Variant:
    """What a captured step computes."""

    tokens: int
    """Of all sequences; 0 if each decodes one."""
    sequences: int
    lora: bool
    experts: bool


@dataclass(frozen=True)
class Captured:
    """A captured step and where it puts its results."""

    graph: torch.cuda.CUDAGraph
    logits: torch.Tensor
    """[sequences, vocabulary]"""
    likeliest: torch.Tensor
    """[sequences] int64; INVALID for a row of NaN"""


class GpuRunner(Runner):
    """See Runner. Weights are NF4 (`gpu.weights`), activations bfloat16."""

    overlaps = True

    def __init__(
        self,
        sizes: Sizes,
        weights: Weights,
        *,
        blocks: int,
        max_batch: int = 24,
        adapter_slots: int = 8,
        max_lora_rank: int = 32,
        prefill_chunk: int = 1024,
    ) -> None:
        super().__init__(
            sizes,
            weights,
            blocks=blocks,
            max_batch=max_batch,
            adapter_slots=adapter_slots,
            max_lora_rank=max_lora_rank,
        )
        rows, width = self.max_batch + 1, min(self.blocks, -(-sizes.longest // BLOCK_SIZE))
        self._tables = [torch.zeros(rows, width, dtype=torch.int32, device=self.device) for _ in sizes.groups]
        self._sent: list[tuple[Sequence | None, list[int]]] = [(None, [])] * rows
        """By row, whose table is on the device and how many blocks of it in each group"""
        tokens = prefill_chunk + self.max_batch
        self._inputs = torch.zeros(tokens, 4, dtype=torch.int64, device=self.device)
        """(row, position, id or -1, adapter slot) of each token"""
        self._sequences = torch.zeros(rows, 4, dtype=torch.int64, device=self.device)
        """(row, length, first token, last token) of each sequence, where it has several tokens"""
        self._host_inputs = [torch.zeros(tokens, 4, dtype=torch.int64).pin_memory() for _ in range(STAGES)]
        self._host_sequences = [torch.zeros(rows, 4, dtype=torch.int64).pin_memory() for _ in range(STAGES)]
        self._host_chosen = [torch.zeros(rows, dtype=torch.int64).pin_memory() for _ in range(STAGES)]
        self._padding = (self.max_batch, -1, 0, -1)
        self._turn = 0
        self._captured: dict[Variant, Captured] = {}
        self._pool: tuple[int, int] | None = None
        self._buckets = [size for size in BUCKETS if size < self.max_batch] + [self.max_batch]
        self._token_buckets = [size for size in TOKEN_BUCKETS if size < tokens] + [tokens]
        self._sequence_buckets = [size for size in SEQUENCE_BUCKETS if size < self.max_batch] + [self.max_batch]

    def _operations(self, kv: torch.Tensor, rope: tuple[torch.Tensor, torch.Tensor]) -> Operations:
        sizes = self.sizes
        return TritonOperations(kv, sizes.groups, rope, self.adapters, top_k=sizes.top_k, epsilon=sizes.epsilon)

    @torch.inference_mode()
    def launch(self, parts: Sequence_[Part], cache: KvCache) -> Flight:
        """Compute the parts and choose what their sequences gain."""
        if any(part.sequence.scored for part in parts):
            return super().launch(parts, cache)
        captured = self._replay(parts)
        rows = [row for row, part in enumerate(parts) if part.complete and not part.sequence.request.prompt_only]
        gaining = [parts[row].sequence for row in rows]
        if rows == list(range(len(rows))) and all(sequence.sampler.takes_likeliest for sequence in gaining):
            return self._flight(parts, gaining, captured.logits[: len(rows)], captured.likeliest[: len(rows)], [])
        return self._choose(parts, gaining, rows, [], captured.logits)

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Compile every kernel and capture every bucket, with the base alone and with adapters of attention."""
        for tokens in WARM_UP_TOKENS:
            for slots in ((), (0,)):
                self.model.forward(self._prompt(tokens, slots))
        sizes = [(0, size) for size in self._buckets]
        sizes += [(tokens, size) for tokens in self._token_buckets for size in self._sequence_buckets if size <= tokens]
        for tokens, size in sorted(sizes, reverse=True):
            for lora in (False, True):
                self._capture(Variant(tokens, size, lora, experts=False))
        torch.cuda.synchronize()

    def pinned(self, weights: LoraWeights) -> LoraWeights:
        """The adapter in host memory that the device can copy from while it computes."""
        return LoraWeights(
            {name: LoraPair(pair.a.pin_memory(), pair.b.pin_memory()) for name, pair in weights.pairs.items()}
        )

    def close(self) -> None:
        """Let go of all tensors."""
        torch.cuda.synchronize()
        self._captured.clear()
        del self._tables, self._inputs
        super().close()

    def _replay(self, parts: Sequence_[Part]) -> Captured:
        self._send_tables(parts)
        slots = {part.sequence.slot for part in parts} - {-1}
        count, decoding = sum(part.count for part in parts), all(part.count == 1 for part in parts)
        tokens = 0 if decoding else next(size for size in self._token_buckets if size >= count)
        buckets = self._buckets if decoding else self._sequence_buckets
        size = next(size for size in buckets if size >= len(parts))
        variant = Variant(tokens, size, bool(slots), bool(slots & self.adapters.expert_slots))
        captured = self._captured.get(variant) or self._capture(variant)
        values: list[tuple[int, int, int, int]] = []
        sequences: list[tuple[int, int, int, int]] = []
        for part in parts:
            sequence, end = part.sequence, part.start + part.count
            sequences.append((sequence.row, end, len(values), len(values) + part.count - 1))
            ids = sequence.tokens[part.start : end]
            ids += [-1] * (part.count - len(ids))
            row, slot = sequence.row, sequence.slot
            values += [(row, at, token, slot) for at, token in zip(range(part.start, end), ids, strict=True)]
        self._fill(self._inputs, self._host_inputs, values, tokens or size, self._padding)
        if tokens:
            nobody = (self.max_batch, 0, len(values), 0)
            self._fill(self._sequences, self._host_sequences, sequences, size + 1, nobody)
        captured.graph.replay()
        return captured

    def _fill(
        self,
        device: torch.Tensor,
        host: list[torch.Tensor],
        values: list[tuple[int, int, int, int]],
        size: int,
        padding: tuple[int, int, int, int],
    ) -> None:
        """Write the first `size` rows of an input."""
        stage = host[self._turn][:size]
        stage.copy_(torch.tensor(values + [padding] * (size - len(values))))
        device[:size].copy_(stage, non_blocking=True)

    def _send_tables(self, parts: Sequence_[Part]) -> None:
        """Bring the device's block tables up to date."""
        for group, table in enumerate(self._tables):
            places: list[int] = []
            blocks: list[int] = []
            for part in parts:
                sequence = part.sequence
                owner, sent = self._sent[sequence.row]
                if owner is not sequence or len(sequence.tables[group]) < sent[group]:
                    sent = [0] * len(self._tables)
                    self._sent[sequence.row] = (sequence, sent)
                new = sequence.tables[group][sent[group] :]
                if new:
                    begin = sequence.row * table.shape[1] + sent[group]
                    places += range(begin, begin + len(new))
                    blocks += new
                    sent[group] += len(new)
            if places:
                at, values = torch.tensor(places), torch.tensor(blocks, dtype=torch.int32)
                table.view(-1)[at.to(self.device)] = values.to(self.device)

    def _capture(self, variant: Variant) -> Captured:
        step = self._mixed_step if variant.tokens else self._decode_step
        self._inputs[:] = torch.tensor(self._padding, device=self.device)
        self._sequences[:] = torch.tensor((self.max_batch, 0, 0, 0), device=self.device)
        step(variant)  # Triton compiles and cuBLAS allocates when they first see a size, which a capture forbids.
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            captured = Captured(graph, *step(variant))
        self._pool = graph.pool()
        self._captured[variant] = captured
        return captured

    def _decode_step(self, variant: Variant) -> tuple[torch.Tensor, torch.Tensor]:
        """One token for each sequence of `_inputs`: logits, and the likeliest tokens, which are the newest from now."""
        size = variant.sequences
        rows, positions = self._inputs[:size, 0], self._inputs[:size, 1]
        batch = replace(
            self._captured_batch(variant, size),
            tables=[table.index_select(0, rows) for table in self._tables],
            lengths=(positions + 1).int(),
            decoding=size,
            counts=[1] * size,
        )
        return self._likeliest(self.model.forward(batch), rows)

    def _mixed_step(self, variant: Variant) -> tuple[torch.Tensor, torch.Tensor]:
        """The tokens of `_inputs`, which belong to `_sequences`; for each of these the same as `_decode_step`."""
        size = variant.sequences
        rows, lengths, firsts, lasts = self._sequences[: size + 1].unbind(1)
        batch = replace(
            self._captured_batch(variant, variant.tokens),
            tables=[table.index_select(0, rows[:size]) for table in self._tables],
            lengths=lengths[:size].int(),
            offsets=firsts.int(),
            wanted=lasts[:size],
            longest=variant.tokens,
            counts=[variant.tokens] * size,
        )
        return self._likeliest(self.model.forward(batch), rows[:size])

    def _captured_batch(self, variant: Variant, tokens: int) -> Batch:
        """What both kinds of steps have in common."""
        rows, positions, known, slots = self._inputs[:tokens].unbind(1)
        at = positions.clamp(min=0)
        places = [rows * table.shape[1] + at // BLOCK_SIZE for table in self._tables]
        blocks = [table.view(-1)[place].long() for table, place in zip(self._tables, places, strict=True)]
        return Batch(
            ids=torch.where(known < 0, self._newest[rows], known),
            positions=at,
            stores=[torch.where(positions < 0, -1, block * BLOCK_SIZE + at % BLOCK_SIZE) for block in blocks],
            tables=[],
            lengths=positions,
            offsets=positions,
            wanted=None,
            adapters=slots.int(),
            decoding=0,
            longest=1,
            counts=[],
            slots=(0,) if variant.lora else (),
            experts=variant.experts,
        )

    def _likeliest(self, logits: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        best = logits.argmax(-1)
        broken = logits.gather(1, best[:, None])[:, 0].isnan()
        self._newest.index_copy_(0, rows, best)
        return logits, torch.where(broken, INVALID, best)

    def _prompt(self, tokens: int, slots: tuple[int, ...]) -> Batch:
        """A prompt that nobody asked, in the block that is nobody's."""

        def full(value: int, dtype: torch.dtype = torch.int64, size: int = tokens) -> torch.Tensor:
            return torch.full((size,), value, dtype=dtype, device=self.device)

        width = -(-tokens // BLOCK_SIZE)
        return Batch(
            ids=full(0),
            positions=torch.arange(tokens, device=self.device),
            stores=[full(-1) for _ in self._tables],
            tables=[full(0, torch.int32, width)[None] for _ in self._tables],
            lengths=full(tokens, torch.int32, 1),
            offsets=torch.tensor([0, tokens], dtype=torch.int32, device=self.device),
            wanted=full(tokens - 1, size=1),
            adapters=full(-1, torch.int32),
            decoding=0,
            longest=tokens,
            counts=[tokens],
            slots=slots,
            experts=False,
        )

    def _flight(
        self,
        parts: Sequence_[Part],
        gaining: list[Sequence],
        logits: torch.Tensor,
        chosen: torch.Tensor,
        scored: list[tuple[Part, torch.Tensor]],
    ) -> Flight:
        host = self._host_chosen[self._turn][: len(chosen)]
        self._turn = (self._turn + 1) % STAGES
        host.copy_(chosen, non_blocking=True)
        ready = torch.cuda.Event()
        ready.record()
        return replace(super()._flight(parts, gaining, logits, host, scored), ready=ready)
