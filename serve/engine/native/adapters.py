"""Adapters as data: buffers with a slot per adapter, which every row of a batch indexes for itself.

The buffers never move while captured graphs use them. What is used least recently leaves its slot when another adapter
needs one, and its copy in host memory when that is over its budget; it is then read from disk again.
"""

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch

from configs.errors import AdapterError
from serve.engine.native.lora import LoraShape, LoraWeights


@dataclass(frozen=True)
class LoraBuffer:
    """One kind of matrix for all slots: A [layers, slots, (experts,) ranks, in], B [layers, slots, (experts,) out,
    rank]."""

    a: torch.Tensor
    b: torch.Tensor
    segments: tuple[tuple[int, int, slice], ...]
    """Rows of B and the ranks of A that they take: one segment per projection of a fused one"""


@dataclass
class AdapterUse:
    """Since the start."""

    copied: int = 0
    """Adapters copied into a slot."""
    evicted: int = 0
    """Adapters that left a slot to another."""


class AdapterSlots:
    """`slots` adapters of ranks up to `rank` on one device; those of experts take memory when the first one comes."""

    def __init__(self, shape: LoraShape, *, slots: int, rank: int, dtype: torch.dtype, device: torch.device) -> None:
        self.shape, self.rank = shape, rank
        self.dtype, self.device = dtype, device
        self.use = AdapterUse()
        self._slots = slots
        self._free = list(range(slots - 1, -1, -1))
        self._slot_of: OrderedDict[str, int] = OrderedDict()
        """The one used last at the end."""
        self.expert_slots: set[int] = set()
        """Slots whose adapters change experts."""
        attention = shape.attention
        segments: list[tuple[int, int, slice]] = []
        end = 0
        for index, name in enumerate(("q_proj", "k_proj", "v_proj")):
            begin, end = end, end + attention[name][1]
            segments.append((begin, end, slice(index * rank, (index + 1) * rank)))
        self._qkv = self._buffer((), 3 * rank, attention["q_proj"][0], end, tuple(segments))
        into, out = attention["o_proj"]
        self._o = self._buffer((), rank, into, out, ((0, out, slice(0, rank)),))
        self._experts: dict[str, LoraBuffer] = {}

    def linear(self, name: str) -> LoraBuffer:
        """Of the projection "qkv" or "o"."""
        return self._qkv if name == "qkv" else self._o

    def expert(self, name: str) -> LoraBuffer:
        """Of "gate_up" or "down"; there only if some adapter changes experts."""
        return self._experts[f"{name}_proj"]

    @property
    def resident(self) -> tuple[str, ...]:
        return tuple(self._slot_of)

    def slot(self, version: str, weights: LoraWeights | None, busy: Collection[int]) -> int | None:
        """The slot of an adapter, copied there if need be; None if all slots are `busy`.

        Raises AdapterError if the device has no memory for it.
        """
        if version in self._slot_of:
            self._slot_of.move_to_end(version)
            return self._slot_of[version]
        if not self._free:
            idle = next((each for each, slot in self._slot_of.items() if slot not in busy), None)
            if idle is None:
                return None
            self.drop(idle)
            self.use.evicted += 1
        slot = self._free[-1]
        self._copy(slot, weights)
        self._slot_of[version] = self._free.pop()
        self.use.copied += 1
        return slot

    def drop(self, version: str) -> None:
        """Give the adapter's slot back; does nothing if it has none."""
        if (slot := self._slot_of.pop(version, None)) is not None:
            self._free.append(slot)
            self.expert_slots.discard(slot)

    @torch.inference_mode()
    def _copy(self, slot: int, weights: LoraWeights) -> None:
        if weights.experts and not self._experts:
            self._make_expert_buffers()
        for name, (begin, end, ranks) in zip(("q_proj", "k_proj", "v_proj"), self._qkv.segments, strict=True):
            self._fill(self._qkv.a[:, slot, ranks], self._qkv.b[:, slot, begin:end], weights, name)
        self._fill(self._o.a[:, slot], self._o.b[:, slot], weights, "o_proj")
        for name, buffer in self._experts.items():
            self._fill(buffer.a[:, slot], buffer.b[:, slot], weights, name)
        if weights.experts:
            self.expert_slots.add(slot)

    @staticmethod
    def _fill(a: torch.Tensor, b: torch.Tensor, weights: LoraWeights, name: str) -> None:
        pair = weights.pairs.get(name)
        if pair is None:
            a.zero_(), b.zero_()
            return
        a[..., pair.rank :, :].zero_(), b[..., pair.rank :].zero_()
        a[..., : pair.rank, :].copy_(pair.a, non_blocking=True)
        b[..., : pair.rank].copy_(pair.b, non_blocking=True)

    def _make_expert_buffers(self) -> None:
        try:
            for name, (into, out) in self.shape.expert.items():
                segments = ((0, out, slice(0, self.rank)),)
                self._experts[name] = self._buffer((self.shape.experts,), self.rank, into, out, segments)
        except torch.OutOfMemoryError:
            self._experts = {}
            raise AdapterError(
                f"{self._slots} slots for adapters of experts do not fit beside the model",
                hint="lower adapter_slots or max_lora_rank in serve.yaml",
            ) from None

    def _buffer(
        self, sizes: tuple[int, ...], ranks: int, into: int, out: int, segments: tuple[tuple[int, int, slice], ...]
    ) -> LoraBuffer:
        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(self.shape.layers, self._slots, *sizes, *shape, dtype=self.dtype, device=self.device)

        return LoraBuffer(zeros(ranks, into), zeros(out, self.rank), segments)


class AdapterMemory:
    """Adapters in host memory, pinned for a GPU, within `budget` bytes; beyond it the ones used last stay."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._paths: dict[str, Path] = {}
        self._weights: OrderedDict[str, LoraWeights] = OrderedDict()

    def keep(self, version: str, path: Path, weights: LoraWeights) -> None:
        self._paths[version] = path
        self._weights[version] = weights
        self._weights.move_to_end(version)
        while len(self._weights) > 1 and sum(each.bytes for each in self._weights.values()) > self._budget:
            self._weights.popitem(last=False)

    def get(self, version: str) -> LoraWeights | None:
        if version in self._weights:
            self._weights.move_to_end(version)
        return self._weights.get(version)

    def holds(self, version: str) -> bool:
        return version in self._weights

    def path(self, version: str) -> Path:
        return self._paths[version]

    def drop(self, version: str) -> None:
        self._paths.pop(version, None)
        self._weights.pop(version, None)
