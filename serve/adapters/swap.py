"""Changing what an alias answers with, under load: validate, load beside, verify, flip, retire.

A running request keeps the version that it was pinned to. Whatever is wrong with the new adapter, the old one goes on.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Protocol

from actors.metrics import RequestMetrics
from actors.runs.ledger import AdapterState
from configs.errors import AdapterError, NotFoundError, StateError, TandemError
from models.lora import adapter
from models.lora.registry import Registry
from serve.generation.catalog import BASE, PREVIOUS, PROD, Catalog
from serve.generation.engines import Fleet


class ControlLink(Protocol):
    """What of `actors.control.Control` a swap needs."""

    async def aliases(self) -> dict[str, str | None]: ...
    async def set_adapter_state(self, version: str, state: AdapterState, reason: str) -> None: ...
    async def flip(
        self, alias: str, version: str | None, *, expected: str | None, reason: str, seconds: float
    ) -> None: ...
    async def refuse_swap(self, alias: str, version: str, *, reason: str, seconds: float) -> None: ...


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
        self, control: ControlLink, fleet: Fleet, catalog: Catalog, registry: Registry, fingerprint: str,
        metrics: RequestMetrics,
    ) -> None:  # fmt: skip
        self._control = control
        self._fleet = fleet
        self._catalog = catalog
        self.registry = registry
        self.fingerprint = fingerprint
        self._metrics = metrics
        self.one_at_a_time = asyncio.Lock()
        """Held by whoever loads or drops adapters."""

    async def swap(self, alias: str, name: str | None, *, back: bool = False, force: bool = False) -> SwapResult:
        """Point `alias` at the adapter `name` (a version, `latest` or `base`), or with `back` at the previous one.

        Raises NotFoundError, StateError if nothing would change or the adapter is suspect and this is neither the way
        back nor `force`, AdapterError if the adapter is refused.
        """
        if alias != PROD:
            raise NotFoundError(f"no alias '{alias[:80]}'", hint=f"aliases: {PROD}")
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
            try:
                difference = await self._bring_in(new) if new is not None else None
            except TandemError as error:
                await self._refuse(alias, new, error, time.monotonic() - started)
                raise
            seconds = time.monotonic() - started
            reason = "back to the previous one" if back else f"by force: {doubts}" if doubts else "by request"
            try:
                await self._control.flip(alias, new, expected=old, reason=reason, seconds=seconds)
            except StateError as error:
                await self._withdraw(new, error)
                raise
            self._catalog.update(await self._control.aliases())
            await self._fleet.retain(self._catalog.kept())
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
        await self._control.set_adapter_state(version, AdapterState.LOADING, "loading beside the live one")
        folder = self.registry.path(version)
        await asyncio.to_thread(adapter.validate, folder, self.fingerprint)
        await self._control.set_adapter_state(version, AdapterState.VERIFYING, "comparing its answers with the base's")
        checks = await self._fleet.load(version, folder)
        return max(check.max_difference for check in checks)

    async def _withdraw(self, version: str | None, error: StateError) -> None:
        """Somebody else moved the alias: drop what was loaded for nothing, unless it is what the alias moved to."""
        self._catalog.update(await self._control.aliases())
        await self._fleet.retain(self._catalog.kept())
        if version is not None and version not in self._catalog.live():
            await self._control.set_adapter_state(version, AdapterState.PUBLISHED, f"not swapped in: {error.message}")

    async def _refuse(self, alias: str, version: str, error: TandemError, seconds: float) -> None:
        reason = error.message
        if isinstance(error, AdapterError):
            await self._control.refuse_swap(alias, version, reason=reason, seconds=seconds)
        else:
            await self._control.set_adapter_state(version, AdapterState.PUBLISHED, f"could not be loaded: {reason}")
        self._metrics.swap_seconds.labels("refused").observe(seconds)


def as_json(result: SwapResult) -> dict[str, Any]:
    return {**vars(result), "old": result.old or BASE, "new": result.new or BASE}
