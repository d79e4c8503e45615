"""An engine that costs nothing: every running request gains one token per step, and steps come on an absolute schedule.

What a GPU engine looks like to the gateway, without the GPU: all rows of a step together, none of them waiting for a
slow reader. It notes when each token was ready, so that what comes after can be measured by itself.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

from actors.hardware.placement import die_with_parent
from actors.ray_edge.loopback import stay_on_loopback
from configs.errors import NotFoundError
from configs.schema import ServeConfig, Slot
from models.base import checkpoint
from serve.engine.protocol import EngineStats, GenerationRequest, TokenChunk
from serve.engine.replica import EngineReplica

OPENING = "<|channel|>final<|message|>"


class PacedEngine:
    """Answers every request with `opening`, then `letter` until `max_tokens`. `seed` numbers the requests."""

    def __init__(self, opening: list[int], letter: int) -> None:
        self.gap = 0.02
        self._opening, self._letter = opening, letter
        self._rows: dict[str, _Row] = {}
        self._stepping: asyncio.Task | None = None
        self.ready_at: dict[int, list[float]] = {}
        """By the request's seed: when it came, then when each token was ready. `time.monotonic` seconds."""

    async def generate(self, request: GenerationRequest) -> AsyncIterator[TokenChunk]:
        row = self._rows[request.request_id] = _Row(request)
        self.ready_at[request.sampling.seed] = row.times
        if self._stepping is None:
            self._stepping = asyncio.create_task(self._step_forever())
        sent = 0
        try:
            while sent < row.limit:
                await row.more.wait()
                row.more.clear()
                ready = row.ready
                ids = [*self._opening, *[self._letter] * row.limit][sent:ready]
                sent = ready
                yield TokenChunk(ids, "length" if sent == row.limit else None, len(request.prompt_ids), sent)
        finally:
            self._rows.pop(request.request_id, None)

    async def _step_forever(self) -> None:
        at = time.monotonic()
        while self._rows:
            at = max(at + self.gap, time.monotonic() - 1)
            await asyncio.sleep(max(0, at - time.monotonic()))
            now = time.monotonic()
            for row in self._rows.values():
                if row.ready < row.limit:
                    row.times.append(now)
                    row.more.set()
        self._stepping = None

    def abort(self, request_id: str) -> None: ...

    def adapters(self) -> tuple[str, ...]:
        return ()

    def remove_adapter(self, version: str) -> None:
        raise NotFoundError(f"adapter {version} is not loaded", param="model")

    def stats(self) -> EngineStats:
        return EngineStats(len(self._rows), 0, 0, 1, {}, 0, "cpu", 0)

    def check_health(self) -> None: ...

    def close(self) -> None: ...


class _Row:
    def __init__(self, request: GenerationRequest) -> None:
        self.limit = request.sampling.max_tokens
        self.times = [time.monotonic()]
        self.more = asyncio.Event()

    @property
    def ready(self) -> int:
        return len(self.times) - 1


class PacedReplica(EngineReplica):
    """The engine's replica as it is, on a CPU slot of no lease, with a PacedEngine in it."""

    async def __init__(self, config: ServeConfig, base: Path, slot: Slot) -> None:
        die_with_parent()
        stay_on_loopback()
        self._muxes = {}
        self._engine = engine_of(base)

    async def pace(self, gap: float) -> None:
        self._engine.gap = gap

    async def ready_at(self) -> dict[int, list[float]]:
        """What `PacedEngine.ready_at` holds, which is forgotten then."""
        found, self._engine.ready_at = self._engine.ready_at, {}
        return found


def engine_of(base: Path) -> PacedEngine:
    ids = checkpoint.load_tokenizer(base).encode(f"{OPENING}a")
    return PacedEngine(ids[:-1], ids[-1])
