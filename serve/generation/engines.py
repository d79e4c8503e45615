"""The engines behind the gateway: one per serving slot, each loaded with the same adapters.

A request goes to the engine with the fewest of ours. An engine that dies before the first token costs nothing but time;
after it, the stream ends in an error that says so. Knows engines only through `EngineClient`.
"""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from configs.errors import ClusterError, TandemError
from serve.engine.protocol import AdapterCheck, EngineStats, GenerationRequest, TokenChunk
from serve.generation.engine_client import EngineClient, EngineLostError

T = TypeVar("T")

ENGINE_RETURN_S = 120
"""How long a request that got no token yet waits for a dead engine to come back."""
PROBE_S = 5
STATS_S = 0.8
"""What waits for statistics is itself waited for: the dashboard gives the gateway 2 s for its status."""


class Engines:
    """All engines. Loading means loading on every one of them."""

    def __init__(self, engines: list[EngineClient]) -> None:
        self.clients = engines
        self._mine: Counter[str] = Counter()

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenChunk, None]:
        """The request's tokens from one engine; tries again while no token has come.

        Raises what `Engine.generate` raises, and EngineLostError.
        """
        deadline = time.monotonic() + ENGINE_RETURN_S
        lost: Counter[str] = Counter()
        while True:
            engine = min(self.clients, key=lambda engine: (lost[engine.name], self._mine[engine.name]))
            self._mine[engine.name] += 1
            begun = False
            try:
                async with aclosing(engine.generate(request)) as stream:
                    async for chunk in stream:
                        begun = True
                        yield chunk
                return
            except EngineLostError:
                if begun or time.monotonic() > deadline:
                    raise
                lost[engine.name] += 1
                await asyncio.sleep(0.5 if len(lost) == len(self.clients) else 0)
            finally:
                self._mine[engine.name] -= 1

    async def load(
        self, version: str, path: Path, *, on_loaded: Callable[[], Awaitable[None]] | None = None
    ) -> list[AdapterCheck]:
        """Load `version` on every engine and verify that it changes the answers. Whatever fails, none keeps it.

        `on_loaded` is awaited between the two. Raises AdapterError, and what `on_loaded` raises.
        """
        try:
            await self._all(lambda engine: engine.add_adapter(version, path))
            if on_loaded:
                await on_loaded()
            return await self._all(lambda engine: engine.verify_adapter(version))
        except TandemError:
            with contextlib.suppress(EngineLostError):  # a dead engine keeps nothing; the first reason counts
                await self.unload(version)
            raise

    async def has(self, version: str) -> bool:
        """Whether every engine has `version` loaded. Raises ClusterError if one does not answer."""
        return all(version in loaded for loaded in await self._loaded())

    async def unload(self, version: str) -> None:
        """Drop `version` everywhere once its last request has ended; not loaded is not an error."""
        await self._all(lambda engine: engine.drop_adapter(version))

    async def retain(self, versions: set[str]) -> None:
        """Drop every adapter that is not one of `versions`. Raises ClusterError if an engine does not answer."""
        for loaded in {version for each in await self._loaded() for version in each} - versions:
            await self.unload(loaded)

    async def _loaded(self) -> list[tuple[str, ...]]:
        """Each engine's versions. An engine that is being started does not answer, so this waits only so long."""
        try:
            return await asyncio.wait_for(self._all(lambda engine: engine.adapters()), PROBE_S)
        except TimeoutError:
            text = f"not every engine said within {PROBE_S} s which adapters it has"
            raise ClusterError(text, hint="one is loading its model, or restarting: see `tandem status`") from None

    async def stats(self) -> dict[str, EngineStats | str]:
        """Each engine's statistics, or in words why it does not answer."""

        async def one(engine: EngineClient) -> EngineStats | str:
            try:
                return await asyncio.wait_for(engine.stats(), STATS_S)
            except TimeoutError:
                return f"no answer within {STATS_S} s: loading its model, or restarting"
            except TandemError as error:
                return error.message

        return dict(zip((e.name for e in self.clients), await asyncio.gather(*map(one, self.clients)), strict=True))

    async def _all(self, ask: Callable[[EngineClient], Awaitable[T]]) -> list[T]:
        """Every engine's answer, once all have answered. Raises the first error, a refusal before a lost engine."""
        answers = await asyncio.gather(*map(ask, self.clients), return_exceptions=True)
        errors = sorted(
            (answer for answer in answers if isinstance(answer, BaseException)),
            key=lambda error: isinstance(error, EngineLostError),
        )
        if errors:
            raise errors[0]
        return [answer for answer in answers if not isinstance(answer, BaseException)]


def describe(stats: dict[str, EngineStats | str]) -> dict[str, Any]:
    """Statistics as plain values for JSON."""
    return {name: {"error": value} if isinstance(value, str) else asdict(value) for name, value in stats.items()}
