"""Answers while they are generated: the newest state at a pace that a page can show, and a way to stop each.

Knows no Gradio. Leaving `Answer.states`, for whatever reason, ends the generation on the server.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from configs.errors import StateError
from serve.client.endpoint import Reply

PERIOD_S = 0.04
"""Between two states of one answer; a screen of 60 Hz shows no text faster than eyes read it."""


class Answer:
    """One answer: `reply` is what came so far, `stopped` says that a person ended it.

    `after` is what the page shows next if the person went elsewhere; whoever shows the answer shows it last, so that
    two events never race for the page.
    """

    def __init__(self, replies: AsyncIterator[Reply]) -> None:
        self.reply = Reply()
        self.stopped = False
        self.after: dict[Any, Any] | None = None
        self._replies = replies
        self._news = asyncio.Event()

    def stop(self) -> None:
        self.stopped = True
        self._news.set()

    async def states(self) -> AsyncIterator[Reply]:
        """The reply so far, at most once per PERIOD_S, its end always. Raises what `Endpoint.reply` does."""
        reading = asyncio.create_task(self._read())
        reading.add_done_callback(lambda _: self._news.set())
        try:
            while not self.stopped:
                await self._news.wait()
                self._news.clear()
                ended = reading.done()
                yield self.reply
                if ended:
                    break
                await asyncio.sleep(PERIOD_S)
        finally:
            reading.cancel()
            await asyncio.wait([reading])
        if not self.stopped:
            reading.result()

    async def _read(self) -> None:
        async with aclosing(self._replies) as replies:
            async for reply in replies:
                self.reply = reply
                self._news.set()


class Answers:
    """The answers that are being generated, by what they belong to, and whose browser session asked."""

    def __init__(self) -> None:
        self._running: dict[str, tuple[str, Answer]] = {}

    def begin(self, key: str, session: str, replies: AsyncIterator[Reply]) -> Answer:
        """Raises StateError if `key` has an answer coming already."""
        if key in self._running:
            raise StateError(
                "an answer to this conversation is still being written", hint="wait for it, or stop it where it began"
            )
        answer = Answer(replies)
        self._running[key] = (session, answer)
        return answer

    def end(self, key: str) -> None:
        self._running.pop(key, None)

    def stop(self, session: str, under: str = "") -> list[Answer]:
        """Stop what this browser session asked for, all of it or the keys that begin with `under`; what was stopped."""
        found = [answer for key, (owner, answer) in self._running.items() if owner == session and key.startswith(under)]
        for answer in found:
            answer.stop()
        return found
