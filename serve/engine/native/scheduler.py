"""What the next step computes: which sequences run, and how many tokens of each. Host side; knows no tensors."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from serve.engine.native.kv_cache import KvCache
from serve.engine.native.sequence import Sequence
from serve.engine.scoring import SCORED_CHUNK


@dataclass(frozen=True)
class Part:
    """`count` tokens of a sequence from its token `start` on."""

    sequence: Sequence
    start: int
    count: int

    @property
    def last(self) -> bool:
        """It ends the sequence's prompt."""
        return self.start < len(self.sequence.request.prompt_ids) <= self.start + self.count

    @property
    def complete(self) -> bool:
        """After it the sequence has nothing pending and gains a token."""
        return self.start + self.count == len(self.sequence.tokens) + self.sequence.flying


class Scheduler:
    """First come, first served. Decoding goes before prefill, and prefill shares `prefill_chunk` tokens a step.

    A sequence that finds no block takes those of the one that came last, which computes them again later.
    """

    def __init__(
        self,
        cache: KvCache,
        waiting: deque[Sequence],
        *,
        max_batch: int,
        prefill_chunk: int,
        adapter_slot: Callable[[Sequence], int | None],
    ) -> None:
        self._cache = cache
        self._waiting = waiting
        self._max_batch = max_batch
        self._prefill_chunk = prefill_chunk
        self._adapter_slot = adapter_slot
        self._rows = list(range(max_batch - 1, -1, -1))
        self.running: list[Sequence] = []
        """In the order in which they came."""

    def schedule(self, *, preempt: bool = True) -> list[Part]:
        """The parts of the next step, decoding ones first. Empty if nothing can be done, or not without `preempt`."""
        parts: list[Part] = []
        for sequence in [each for each in self.running if each.decoding and not each.full]:
            if sequence in self.running and self._make_room(sequence, 1):
                parts.append(Part(sequence, sequence.computed, 1))
        self._admit()
        room = self._prefill_chunk
        prefilling = [each for each in self.running if each.pending and not each.decoding]
        for sequence in sorted(prefilling, key=lambda each: each.scored):
            room = min(room, SCORED_CHUNK) if sequence.scored else room
            count = min(room, sequence.pending)
            if count > 0 and self._cache.extend(sequence, sequence.computed + count):
                parts.append(Part(sequence, sequence.computed, count))
                room -= count
        if not parts and prefilling and preempt:
            parts = self._preempt_for(prefilling[0])
        return parts

    @property
    def growth(self) -> int:
        """Blocks that the next step may need for decoding alone."""
        return len(self.running) * len(self._cache.windows)

    def finish(self, sequence: Sequence) -> None:
        """The sequence holds nothing any more."""
        self.running.remove(sequence)
        self._cache.release(sequence)
        self._rows.append(sequence.row)
        sequence.row = sequence.slot = -1

    def _admit(self) -> None:
        while self._waiting and len(self.running) < self._max_batch:
            sequence = self._waiting[0]
            slot = self._adapter_slot(sequence)
            if slot is None:
                return
            self._cache.admit(sequence)
            promised = sum(self._missing(each) for each in self.running)
            if self.running and self._missing(sequence) + promised > self._cache.pool.free:
                self._cache.release(sequence)
                return
            self._waiting.popleft()
            if not sequence.admitted:
                sequence.prefix_hit = sequence.computed
                self._cache.use.prompt += len(sequence.request.prompt_ids)
                self._cache.use.hit += sequence.prefix_hit
            sequence.admit()
            sequence.slot, sequence.row = slot, self._rows.pop()
            self.running.append(sequence)

    def _missing(self, sequence: Sequence) -> int:
        return self._cache.missing(sequence, len(sequence.tokens) + sequence.flying, self._prefill_chunk)

    def _make_room(self, sequence: Sequence, count: int) -> bool:
        """Blocks for `count` more tokens, if need be of sequences that came later; False if it had to go itself."""
        while not self._cache.extend(sequence, sequence.computed + count):
            last = self.running[-1]
            self._preempt(last)
            if last is sequence:
                return False
        return True

    def _preempt_for(self, sequence: Sequence) -> list[Part]:
        """One part of the sequence, at the cost of those that came later."""
        count = min(self._prefill_chunk, sequence.pending)
        if not self._make_room(sequence, count):
            return []
        return [Part(sequence, sequence.computed, count)]

    def _preempt(self, sequence: Sequence) -> None:
        self.finish(sequence)
        self._cache.use.preemptions += 1
        self._waiting.appendleft(sequence)
