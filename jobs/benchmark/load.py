"""Load on an endpoint: so many users who ask again at once (closed loop), or arrivals at random times (open loop).

Knows neither HTTP nor prompts: `send` asks one question and gives its Timing. A Run holds what was measured so far at
any moment, so an interrupted one is still worth reading. It also watches this process: a client that is late itself
measures itself.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from jobs.benchmark.timing import Timing

GIVE_UP_AFTER = 5
"""Requests in a row that found nobody listening: the endpoint is gone."""
AFTER_FAILURE_S = 0.2
"""A user's pause after a failure, so that a broken endpoint is not hammered."""
WATCH_S = 0.01


@dataclass(frozen=True)
class Level:
    """How hard an endpoint is loaded: one of the two is set."""

    concurrency: int | None = None
    """Requests in flight, always this many."""
    request_rate: float | None = None
    """Requests per second on average, with exponentially distributed times between them (a Poisson process)."""

    @property
    def name(self) -> str:
        return f"{self.request_rate:g} req/s" if self.request_rate else f"{self.concurrency} at once"


@dataclass(frozen=True)
class CellLimit:
    """When a cell has enough: one of the two is set."""

    requests: int | None = None
    duration_s: float | None = None
    """No request is sent after this time; those under way are waited for."""


@dataclass
class Run:
    """What came of one load so far."""

    send: Callable[[], Awaitable[Timing]]
    amount: CellLimit
    tell: Callable[["Run"], None] = lambda run: None
    """Called after each request."""
    timings: list[Timing] = field(default_factory=list)
    sent: int = 0
    lost: bool = False
    """The endpoint went away and the rest was not sent."""
    lags: list[float] = field(default_factory=list)
    """Seconds by which this process woke up later than it wanted to, sampled every WATCH_S."""
    cpu_share: float = 0.0
    """Seconds of CPU time that this process used per second of load; above 1 with several threads."""

    @property
    def cut(self) -> int:
        """Requests that were under way when it was interrupted."""
        return self.sent - len(self.timings)

    async def go(self, level: Level, draw: random.Random) -> None:
        """Load until it is enough. Cancelling ends all requests; what was measured stays."""
        self._started = time.perf_counter()
        async with self._watched():
            if level.request_rate is None:
                async with asyncio.TaskGroup() as users:
                    for _ in range(level.concurrency or 1):
                        users.create_task(self._user())
            else:
                await self._arrivals(level.request_rate, draw)

    async def _user(self) -> None:
        while self._more():
            await self._one()

    async def _arrivals(self, rate: float, draw: random.Random) -> None:
        due = self._started
        async with asyncio.TaskGroup() as requests:
            while self._more():
                requests.create_task(self._one())
                due += draw.expovariate(rate)
                await asyncio.sleep(max(0.0, due - time.perf_counter()))

    def _more(self) -> bool:
        if self.lost or (self.amount.requests is not None and self.sent >= self.amount.requests):
            return False
        return self.amount.duration_s is None or time.perf_counter() - self._started < self.amount.duration_s

    async def _one(self) -> None:
        self.sent += 1
        timing = await self.send()
        self.timings.append(timing)
        self.tell(self)
        last = self.timings[-GIVE_UP_AFTER:]
        gone = [each for each in last if each.failure and each.failure.kind == "connection"]
        self.lost = self.lost or len(gone) == GIVE_UP_AFTER
        if timing.failure:
            await asyncio.sleep(AFTER_FAILURE_S)

    @contextlib.asynccontextmanager
    async def _watched(self) -> AsyncIterator[None]:
        async def watch() -> None:
            while True:
                before = time.perf_counter()
                await asyncio.sleep(WATCH_S)
                self.lags.append(time.perf_counter() - before - WATCH_S)

        watching, wall, cpu = asyncio.create_task(watch()), time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            watching.cancel()
            self.cpu_share = (time.process_time() - cpu) / max(time.perf_counter() - wall, 1e-9)
