"""Responses that are generated without a connection, while they are: followed by any number of clients, cancelled.

Knows how events are numbered, and nothing of what generates them. Called by `responses` and `stored_responses`.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

from openai.types.responses import Response


class Run:
    """One response under way. `now` is the response as it is, `is_followed` says whether its events are kept."""

    def __init__(self, now: Callable[[], Response], *, is_followed: bool) -> None:
        self.now = now
        self.is_followed = is_followed
        self.events: list[str] = []
        """An event's number is its index."""
        self.is_cancelled = False
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    def start(self, work: Coroutine[Any, Any, None], over: Callable[[], object]) -> None:
        """Do `work`, then call `over`."""

        def ended(task: asyncio.Task[None]) -> None:
            over()
            self._tell()

        self._task = asyncio.create_task(work)
        self._task.add_done_callback(ended)

    def add(self, events: list[str]) -> None:
        if self.is_followed:
            self.events += events
            self._tell()

    async def follow(self, after: int = -1) -> AsyncGenerator[str, None]:
        """Events whose number is above `after`, until the last one."""
        told = max(after, -1) + 1
        while True:
            changed = self._changed
            if told < len(self.events):
                yield "".join(self.events[told:])
                told = len(self.events)
            elif self._task is None or self._task.done():
                return
            else:
                await changed.wait()

    async def cancel(self) -> None:
        """End it; what is kept of it is kept when this returns."""
        self.is_cancelled = True
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class Background:
    """The runs of one gateway, by their response's id."""

    def __init__(self) -> None:
        self._runs: dict[str, Run] = {}

    def start(self, response_id: str, run: Run, work: Coroutine[Any, Any, None]) -> None:
        self._runs[response_id] = run
        run.start(work, lambda: self._runs.pop(response_id, None))

    def get(self, response_id: str) -> Run | None:
        """None for a response that is over."""
        return self._runs.get(response_id)
