"""What one step computes, as tensors: the tokens of many sequences one after the other, and where their past is."""

from collections.abc import Sequence as Sequence_
from dataclasses import dataclass, field

import torch

from serve.engine.native.kv_cache import BLOCK_SIZE, KvCache
from serve.engine.native.scheduler import Part


@dataclass
class Batch:
    """T tokens of S sequences. The first `decoding` sequences have one token each; the others follow with several."""

    ids: torch.Tensor
    """[T] int64"""
    positions: torch.Tensor
    """[T] int64, in their own sequences"""
    stores: list[torch.Tensor]
    """Per cache group [T] int64: where a token's keys and values go, block x block size + offset"""
    tables: list[torch.Tensor]
    """Per cache group [S, M] int32: the sequences' blocks"""
    lengths: torch.Tensor
    """[S] int32: tokens of the sequence up to its last one here"""
    offsets: torch.Tensor
    """[S + 1] int32: where the sequences' tokens begin"""
    wanted: torch.Tensor | None
    """[W] int64: tokens whose logits are wanted; None is all of them"""
    adapters: torch.Tensor
    """[T] int32: adapter slots, -1 is the base"""
    decoding: int
    longest: int
    """Tokens of the sequence that has most of them here"""
    counts: list[int]
    """[S] on the host"""
    slots: tuple[int, ...]
    """Adapter slots that occur"""
    experts: bool
    """Whether one of them changes the experts"""
    memo: dict = field(default_factory=dict)
    """What operations keep from one layer to the next"""

    @property
    def tokens(self) -> int:
        return len(self.ids)


def build(parts: Sequence_[Part], newest: torch.Tensor, cache: KvCache, expert_slots: set[int]) -> Batch:
    """The batch of `parts`, on the device of `newest` [rows] int64, which holds tokens that the host does not know."""
    device = newest.device
    ids: list[int] = []
    positions: list[int] = []
    adapters: list[int] = []
    wanted: list[int] = []
    counts: list[int] = []
    offsets = [0]
    stores: list[list[int]] = [[] for _ in cache.windows]
    for part in parts:
        sequence, end = part.sequence, part.start + part.count
        known = sequence.tokens[part.start : end]
        ids += known + [-1 - sequence.row] * (part.count - len(known))
        span = range(part.start, end)
        positions += span
        adapters += [sequence.slot] * part.count
        for store, table in zip(stores, sequence.tables, strict=True):
            store += [table[at // BLOCK_SIZE] * BLOCK_SIZE + at % BLOCK_SIZE for at in span]
        offsets.append(offsets[-1] + part.count)
        counts.append(part.count)
        if sequence.scored:
            wanted += range(offsets[-2], offsets[-1])
        elif part.complete:
            wanted.append(offsets[-1] - 1)
    width = max(len(table) for part in parts for table in part.sequence.tables)
    tables = [
        [part.sequence.tables[group] + [0] * (width - len(part.sequence.tables[group])) for part in parts]
        for group in range(len(cache.windows))
    ]

    def tensor(values: list, dtype: torch.dtype = torch.int64) -> torch.Tensor:
        return torch.tensor(values, dtype=dtype).to(device, non_blocking=True)

    slots = tuple(sorted({part.sequence.slot for part in parts} - {-1}))
    tokens = tensor(ids)
    return Batch(
        ids=torch.where(tokens < 0, newest[(-1 - tokens).clamp(min=0)], tokens),
        positions=tensor(positions),
        stores=[tensor(store) for store in stores],
        tables=[tensor(table, torch.int32) for table in tables],
        lengths=tensor([part.start + part.count for part in parts], torch.int32),
        offsets=tensor(offsets, torch.int32),
        wanted=tensor(wanted),
        adapters=tensor(adapters, torch.int32),
        decoding=next((i for i, count in enumerate(counts) if count > 1), len(counts)),
        longest=max(counts),
        counts=counts,
        slots=slots,
        experts=bool(expert_slots & set(slots)),
    )
