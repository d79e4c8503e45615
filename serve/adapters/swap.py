"""Changing what an alias answers with, under load: validate, load beside, verify, flip, retire.

A running request keeps the version that it was pinned to. Whatever is wrong with the new adapter, the old one goes on.
"""

import asyncio
import contextlib
import contextvars
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from actors.client import Client
from actors.home.process_id import ProcessId
from actors.metrics import RequestMetrics
from actors.runs.adapter_state import AdapterState
from configs.errors import AdapterError, ClusterError, NotFoundError, StateError, TandemError
from models.lora import adapter
from models.lora.registry import Registry
from serve.generation.catalog import BASE, PREVIOUS, PROD, Catalog
from serve.generation.engines import Engines

T = TypeVar("T")

RETRY_S = 1
"""Until the control actor, which did not answer, is told again that an attempt is over."""


@dataclass(frozen=True)
class SwapResult:
    alias: str
    old: str | None
    """Version before; None is the base model."""
    new: str | None
    seconds: float
    max_difference: float | None
    """Largest difference from the base's logits on the probe prompts; None when swapping to the base."""


class Swapper:
    """Swaps of one gateway, one at a time."""

    def __init__(
        self, control: Client, engines: Engines, catalog: Catalog, registry: Registry, fingerprint: str,
        metrics: RequestMetrics,
    ) -> None:  # fmt: skip
        self._control = control
        self._engines = engines
        self._catalog = catalog
        self.registry = registry
        self.fingerprint = fingerprint
        self._metrics = metrics
        self.one_at_a_time = asyncio.Lock()
        """Held by whoever loads or drops adapters."""
        self._process = ProcessId.own()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def swap(self, alias: str, name: str | None, *, back: bool = False, force: bool = False) -> SwapResult:
        """Point `alias` at the adapter `name` (a version, `latest` or `base`), or with `back` at the previous one.

        What has begun comes to its end, even if whoever asked leaves. Raises NotFoundError, StateError if nothing would
        change, if another gateway is loading the adapter, or if it is suspect and this is neither the way back nor
        `force`, AdapterError if the adapter is refused.
        """
        if alias != PROD:
            raise NotFoundError(f"no alias '{alias[:80]}'", hint=f"aliases: {PROD}")
        return await asyncio.shield(self._start(self._swap(alias, name, back, force)))

    def _start(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """`work` as nobody's: Serve cancels what was called in the context of a request whose client left."""
        task = asyncio.create_task(work, context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _swap(self, alias: str, name: str | None, back: bool, force: bool) -> SwapResult:
        async with self.one_at_a_time:
            started = time.monotonic()
            aliases = await self._control.aliases()
            old, new = aliases.get(alias), self._target(aliases, name, back)
            if new == old:
                raise StateError(f"{alias} answers with {new or 'the base'} already", hint="see `tandem adapters list`")
            doubts = self.registry.doubts(new)
            if doubts and not (back or force):
                hint = f'`tandem swap {new} --force`, or "force": true in the body, swaps it in all the same'
                raise StateError(f"{doubts}; {alias} goes on answering with {old or 'the base'}", hint=hint)
            difference = None
            if new is not None:
                try:
                    difference = await self._bring_in(new)
                except Exception as error:  # whatever it is, the attempt is over
                    await self._refuse(alias, new, error, time.monotonic() - started)
                    raise
            seconds = time.monotonic() - started
            reason = "back to the previous one" if back else f"by force: {doubts}" if doubts else "by request"
            try:
                await self._control.flip(alias, new, expected=old, reason=reason, seconds=seconds)
            except Exception as error:
                await self._withdraw(new, error)
                raise
            self._catalog.update(await self._control.aliases())
            await self._engines.retain(self._catalog.kept())
            self._metrics.swap_seconds.labels("done").observe(seconds)
            return SwapResult(alias, old, new, seconds, difference)

    def _target(self, aliases: dict[str, str | None], name: str | None, back: bool) -> str | None:
        if not back:
            return None if name == BASE else self.registry.resolve(name or "latest")
        if PREVIOUS not in aliases:
            raise StateError("nothing was swapped yet, so there is no way back", hint="`tandem swap ADAPTER` first")
        return aliases[PREVIOUS]

    async def _bring_in(self, version: str) -> float:
        """Validate the files, load beside the live one, compare with the base. Returns the largest difference."""
        await self._enter(version, AdapterState.LOADING, "loading beside the live one")
        folder = self.registry.path(version)
        await asyncio.to_thread(adapter.validate, folder, self.fingerprint)

        async def verifying() -> None:
            await self._enter(version, AdapterState.VERIFYING, "comparing its answers with the base's")

        checks = await self._engines.load(version, folder, on_loaded=verifying)
        return max(check.max_difference for check in checks)

    async def _enter(self, version: str, state: AdapterState, reason: str) -> None:
        await self._control.set_adapter_state(version, state, reason, self._process)

    async def _withdraw(self, version: str | None, error: Exception) -> None:
        """The alias was not moved, or nobody knows whether it was: drop what no alias points to."""
        if version is not None:
            await self._give_up(version, f"not swapped in: {_words(error)}")
        with contextlib.suppress(ClusterError):  # the next swap drops it; the first reason counts
            self._catalog.update(await self._control.aliases())
            await self._engines.retain(self._catalog.kept())

    async def _refuse(self, alias: str, version: str, error: Exception, seconds: float) -> None:
        if isinstance(error, AdapterError):
            with contextlib.suppress(TandemError):  # the caller hears what is wrong with the adapter in any case
                await self._control.refuse_swap(alias, version, reason=error.message, seconds=seconds)
        await self._give_up(version, f"could not be loaded: {_words(error)}")
        self._metrics.swap_seconds.labels("refused").observe(seconds)

    async def _give_up(self, version: str, reason: str) -> None:
        """End the attempt, if it is still open: at once, or as soon as the control actor answers again."""
        try:
            await self._control.end_attempt(version, reason, self._process)
        except ClusterError:
            self._start(self._give_up_later(version, reason))

    async def _give_up_later(self, version: str, reason: str) -> None:
        while True:
            await asyncio.sleep(RETRY_S)
            async with self.one_at_a_time:  # so that no later attempt is meant
                with contextlib.suppress(ClusterError):
                    return await self._control.end_attempt(version, reason, self._process)


def _words(error: Exception) -> str:
    return error.message if isinstance(error, TandemError) else f"{type(error).__name__}: {error}"


def as_json(result: SwapResult) -> dict[str, Any]:
    return {**vars(result), "old": result.old or BASE, "new": result.new or BASE}
