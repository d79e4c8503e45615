"""Adapters that are kept loaded although no alias points to them, so that they can be judged or tried.

A hold is loaded and verified as a swap is, and then answers under its version. It ends by its release or, if whoever
took it goes away, by itself; one that was taken by `keep` is for good, and outlives engines but not the gateway.
Several may hold one version; aliases and the ledger are left alone.
"""

import asyncio
import logging
import math
import time
import uuid
from collections.abc import Awaitable
from dataclasses import dataclass

from configs.errors import NotFoundError, StateError, TandemError
from models.lora import adapter
from serve.adapters.swap import Swapper
from serve.generation.catalog import Catalog
from serve.generation.engines import Engines

SWEEP_S = 1.0
MOST_HOLDS = 32

log = logging.getLogger(__name__)


@dataclass
class KeptAdapter:
    """One holder's claim on one version."""

    id: str
    version: str
    until: float
    """`time.monotonic()` at which it ends unless it is renewed; infinity for one that is kept."""


class KeptAdapters:
    """The holds of one gateway. Loading and dropping wait for swaps and make them wait."""

    def __init__(self, swapper: Swapper, engines: Engines, catalog: Catalog) -> None:
        self._swapper = swapper
        self._engines = engines
        self._catalog = catalog
        self._holds: dict[str, KeptAdapter] = {}
        self._undropped = False

    async def take(self, name: str, seconds: float, hold_id: str | None = None) -> KeptAdapter:
        """Hold the adapter `name` (a version or `latest`) for `seconds`; with the id of a hold, renew it.

        A hold that is unknown, because the gateway was restarted meanwhile, is taken anew under its id. Raises
        NotFoundError, AdapterError if the adapter is refused, StateError for an id that holds another version or if
        there are too many holds.
        """
        version = self._swapper.registry.resolve(name)
        hold = self._holds.get(hold_id) if hold_id else None
        if hold is None and len(self._holds) >= MOST_HOLDS:
            raise StateError(f"{MOST_HOLDS} adapters are held already", hint="release one, or wait until it expires")
        if hold and hold.version != version:
            raise StateError(f"hold {hold.id} is of {hold.version}, not of {version}", hint="take a hold of its own")
        if hold:
            hold.until = time.monotonic() + seconds  # at once: a swap may keep the rest waiting
        async with self._swapper.one_at_a_time:
            if version not in self._catalog.live() and not await self._engines.has(version):
                await self._load(version)
            hold = KeptAdapter(hold_id or f"hold-{uuid.uuid4().hex}", version, time.monotonic() + seconds)
            self._holds[hold.id] = hold
            self._tell()
        return hold

    async def keep(self, version: str) -> KeptAdapter:
        """Hold a version until `let_go`. Raises what `take` raises, and StateError if it is kept and loaded already."""
        if _kept_id(version) in self._holds and await self._engines.has(version):
            raise StateError(f"the adapter {version} has been loaded already", hint="unload it first, or just use it")
        return await self.take(version, math.inf, _kept_id(version))

    async def let_go(self, version: str) -> None:
        """End what `keep` began. Raises NotFoundError for a version that is not kept."""
        if self._holds.pop(_kept_id(version), None) is None:
            raise NotFoundError(
                f"the adapter '{version[:80]}' was not loaded by this route",
                hint="an alias or a hold may use it: see `tandem status`",
                param="lora_name",
            )
        await self._drop()

    async def _load(self, version: str) -> None:
        folder = self._swapper.registry.path(version)
        await asyncio.to_thread(adapter.validate, folder, self._swapper.fingerprint)
        await self._engines.load(version, folder)

    async def release(self, name: str, hold_id: str) -> KeptAdapter:
        """End a hold of `name`; the adapter is dropped if nothing else keeps it.

        Raises NotFoundError for a hold that there is not, or not any more.
        """
        hold = self._holds.get(hold_id)
        if hold is None or hold.version != self._swapper.registry.resolve(name):
            raise NotFoundError(
                f"no hold '{hold_id[:80]}' of {name[:80]}", hint="it has expired, or was released before"
            )
        del self._holds[hold_id]
        await self._drop()
        return hold

    def describe(self) -> list[dict[str, str | float | None]]:
        """All holds as plain values for JSON; one that is kept has no `seconds_left`."""

        def left(hold: KeptAdapter) -> float | None:
            return None if hold.until == math.inf else round(max(0.0, hold.until - time.monotonic()), 1)

        return [{"version": hold.version, "hold": hold.id, "seconds_left": left(hold)} for hold in self._holds.values()]

    async def watch(self) -> None:
        """End what has expired and bring back what a restarted engine forgot, for ever."""
        while True:
            await asyncio.sleep(SWEEP_S)
            now = time.monotonic()
            expired = [hold.id for hold in self._holds.values() if hold.until < now]
            for hold_id in expired:
                del self._holds[hold_id]
            if expired or self._undropped:
                self._undropped = not await self._try("drop", self._drop())
            for hold in [hold for hold in self._holds.values() if hold.until == math.inf]:
                await self._try("bring back", self._restore(hold))

    async def _try(self, what: str, work: Awaitable[None]) -> bool:
        """Whether `work` was done. The next sweep tries again what was not."""
        try:
            await work
        except TandemError:  # an engine that is away
            return False
        except Exception:
            log.exception("a sweep could not %s an adapter that is held, or was", what)
            return False
        return True

    async def _restore(self, hold: KeptAdapter) -> None:
        if await self._engines.has(hold.version):
            return
        async with self._swapper.one_at_a_time:
            if hold.id in self._holds:
                await self._load(hold.version)

    async def _drop(self) -> None:
        self._tell()
        async with self._swapper.one_at_a_time:
            await self._engines.retain(self._catalog.kept())

    def _tell(self) -> None:
        self._catalog.held = {hold.version for hold in self._holds.values()}


def _kept_id(version: str) -> str:
    return f"kept-{version}"
