"""Keys and values in blocks, shared by sequences with the same beginning. Host side: which block holds what.

All layers with the same window form a group; a sequence has one block table per group. Every group takes its blocks
from one pool, because a block holds one layer's share for each layer of a group, and the groups of gpt-oss have equally
many. A sliding group gives blocks back when its window has passed them. Released blocks keep their contents and can be
found again by the tokens (and the adapter version) that led to them, until somebody else needs the block, the one
released longest ago first. After vLLM's hybrid cache: https://docs.vllm.ai/en/latest/design/hybrid_kv_cache_manager
"""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence as Sequence_
from dataclasses import dataclass

from serve.engine.native.sequence import Sequence

BLOCK_SIZE = 16
"""Tokens in a block."""
NO_BLOCK = 0
"""A block that no sequence owns: padding is written there, and tables name it where a window has passed."""

Key = tuple[int, bytes]
"""A group and the SHA-256 of a block's tokens with all that came before: a collision would show one user's text to
another."""


class BlockPool:
    """`count` blocks, of which NO_BLOCK is never handed out. A block is taken, shared by some, or free; free ones are
    in the order in which they will be taken."""

    def __init__(self, count: int) -> None:
        self.count = count - 1
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(1, count))
        self._holders = [0] * count
        self._key_of: dict[int, Key] = {}
        self._block_of: dict[Key, int] = {}

    @property
    def free(self) -> int:
        return len(self._free)

    def take(self) -> int:
        """A block with nothing of worth in it. Raises KeyError if none is free."""
        block, _ = self._free.popitem(last=False)
        self._holders[block] = 1
        if (key := self._key_of.pop(block, None)) is not None:
            del self._block_of[key]
        return block

    def find(self, key: Key) -> int | None:
        return self._block_of.get(key)

    def share(self, key: Key) -> int:
        """The block that was found under `key`, with one holder more."""
        block = self._block_of[key]
        if not self._holders[block]:
            del self._free[block]
        self._holders[block] += 1
        return block

    def release(self, block: int) -> None:
        """One holder less; nameless blocks are taken again first, named ones last."""
        self._holders[block] -= 1
        if not self._holders[block]:
            self._free[block] = None
            if block not in self._key_of:
                self._free.move_to_end(block, last=False)

    def publish(self, block: int, key: Key) -> None:
        """Let others find what is in the block; of two blocks with the same contents the first is found."""
        if key not in self._block_of and block not in self._key_of:
            self._block_of[key], self._key_of[block] = block, key

    def forget(self) -> None:
        """Nothing that is in a free or shared block is found any more."""
        self._key_of.clear()
        self._block_of.clear()


@dataclass
class CacheUse:
    """Since the start, in tokens."""

    prompt: int = 0
    """Of admitted requests' prompts."""
    hit: int = 0
    """Of these, found in the cache."""
    preemptions: int = 0


class KvCache:
    """Block tables of sequences over one pool of `blocks` blocks.

    `windows` has one entry per group: the tokens that a query sees, itself included; None is all. Raises ValueError
    for a pool that cannot hold one block per group.
    """

    def __init__(self, blocks: int, windows: Sequence_[int | None]) -> None:
        if blocks <= len(windows):
            raise ValueError(f"a KV cache of {blocks} blocks holds no sequence")
        self.pool = BlockPool(blocks)
        self.windows = tuple(windows)
        self.use = CacheUse()

    @staticmethod
    def blocks_for(tokens: int, windows: Sequence_[int | None], chunk: int) -> int:
        """Blocks that one sequence of so many tokens holds at most, computed in parts of `chunk`."""

        return sum(_most_blocks(tokens, window, chunk) for window in windows)

    def admit(self, sequence: Sequence) -> None:
        """Give a sequence its tables, with as much of its tokens as is in the cache; one is always left to compute."""
        self._hash(sequence, len(sequence.tokens))
        found = 0 if sequence.scored else self._longest_prefix(sequence)
        sequence.tables = []
        for group, window in enumerate(self.windows):
            first = self._first_seen(found * BLOCK_SIZE, window)
            table = [NO_BLOCK] * min(first, found)
            for index in range(first, found):
                table.append(self.pool.share((group, sequence.hashes[index])))
            sequence.tables.append(table)
        sequence.computed, sequence.published = found * BLOCK_SIZE, found

    def missing(self, sequence: Sequence, tokens: int, chunk: int) -> int:
        """Blocks that the sequence needs beyond its own to come to `tokens` tokens, computed in parts of `chunk`."""
        left = -(-tokens // BLOCK_SIZE)
        pairs = zip(self.windows, sequence.tables, strict=True)
        return sum(max(0, min(left - len(table), _most_blocks(tokens, window, chunk))) for window, table in pairs)

    def extend(self, sequence: Sequence, tokens: int) -> bool:
        """Make room for the sequence's first `tokens` tokens; False, and nothing changed, if the pool is too empty."""
        needed = -(-tokens // BLOCK_SIZE)
        if sum(max(0, needed - len(table)) for table in sequence.tables) > self.pool.free:
            return False
        for table in sequence.tables:
            table += [self.pool.take() for _ in range(needed - len(table))]
        return True

    def settle(self, sequence: Sequence) -> None:
        """Publish the blocks that are full of known tokens, and release those that no later query sees."""
        self._hash(sequence, sequence.known)
        for index in range(sequence.published, sequence.known // BLOCK_SIZE):
            for group, table in enumerate(sequence.tables):
                if table[index] != NO_BLOCK:
                    self.pool.publish(table[index], (group, sequence.hashes[index]))
        sequence.published = max(sequence.published, sequence.known // BLOCK_SIZE)
        for window, table in zip(self.windows, sequence.tables, strict=True):
            for index in range(min(self._first_seen(sequence.known, window), len(table)) - 1, -1, -1):
                if table[index] == NO_BLOCK:
                    break
                self.pool.release(table[index])
                table[index] = NO_BLOCK

    def release(self, sequence: Sequence) -> None:
        """Give all blocks back; the end of a text is forgotten before its beginning."""
        for table in sequence.tables:
            for block in reversed(table):
                if block != NO_BLOCK:
                    self.pool.release(block)
        sequence.tables, sequence.computed = [], 0

    @staticmethod
    def _first_seen(position: int, window: int | None) -> int:
        """The first block that a query at `position` or later sees."""
        return 0 if window is None else max(0, position - window + 1) // BLOCK_SIZE

    def _hash(self, sequence: Sequence, tokens: int) -> None:
        """Name the full blocks of the first `tokens` tokens. An adapter changes what a token's key is, so it counts."""
        hashes = sequence.hashes
        for index in range(len(hashes), tokens // BLOCK_SIZE):
            past = hashes[-1] if hashes else (sequence.request.adapter or "").encode()
            part = array("i", sequence.tokens[index * BLOCK_SIZE : (index + 1) * BLOCK_SIZE])
            hashes.append(hashlib.sha256(past + part.tobytes()).digest())

    def _longest_prefix(self, sequence: Sequence) -> int:
        """The most blocks at the beginning that every group still has, as far as later queries see them."""
        most, longest = (len(sequence.tokens) - 1) // BLOCK_SIZE, 0
        runs = [0] * len(self.windows)
        for index, name in enumerate(sequence.hashes[:most]):
            for group, window in enumerate(self.windows):
                found = self.pool.find((group, name)) is not None
                if window is None and not found:
                    return longest
                runs[group] = runs[group] + 1 if found else 0
            seen = [index + 1 - self._first_seen((index + 1) * BLOCK_SIZE, window) for window in self.windows]
            if all(run >= needed for run, needed in zip(runs, seen, strict=True)):
                longest = index + 1
        return longest


def _most_blocks(tokens: int, window: int | None, chunk: int) -> int:
    seen = tokens if window is None else min(tokens, window + chunk + BLOCK_SIZE)
    return -(-seen // BLOCK_SIZE)
