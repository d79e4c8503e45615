"""What one gateway's requests to this engine gained and the gateway has not been sent yet.

All of a gateway's requests share one stream, because Ray's cost is per item of a stream: what an engine step gives to
all of them leaves as one item. Knows an `Engine`, neither Ray nor what reads. Called by `serve.engine.replica`.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

from configs.errors import ClusterError, TandemError
from serve.engine.protocol import Engine, GenerationRequest, TokenChunk

Event = tuple[str, TokenChunk | TandemError]
"""A request's id with its next chunk, or with the error that ended it."""


class Outbox:
    """One gateway's requests, from `submit` to their last chunk. Use it from one asyncio loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._ready: list[Event] = []
        self._more = asyncio.Event()
        self._requests: dict[str, asyncio.Task] = {}

    def submit(self, request: GenerationRequest) -> None:
        """Begin a request. Whatever refuses it comes out of `batches`."""
        task = self._requests[request.request_id] = asyncio.create_task(self._generate(request))
        task.add_done_callback(lambda _: self._requests.pop(request.request_id, None))

    def abort(self, request_id: str) -> None:
        """End a request whose events nobody wants any more. Unknown ids are ignored."""
        if task := self._requests.get(request_id):
            task.cancel()

    async def batches(self) -> AsyncIterator[list[Event]]:
        """All events that are ready whenever some are, each request's in order; first an empty list, which says that
        requests may come. Closing it aborts every request.
        """
        try:
            yield []
            while True:
                await self._more.wait()
                self._more.clear()
                batch, self._ready = self._ready, []
                yield batch
        finally:
            for task in [*self._requests.values()]:
                task.cancel()

    async def _generate(self, request: GenerationRequest) -> None:
        try:
            async with aclosing(self._engine.generate(request)) as chunks:
                async for chunk in chunks:
                    self._put(request, chunk)
        except TandemError as error:
            self._put(request, error)
        except Exception as error:
            text = f"the engine failed: {type(error).__name__}: {error}"
            self._put(request, ClusterError(text, hint="see the engine's log in Ray's dashboard"))
            raise

    def _put(self, request: GenerationRequest, event: TokenChunk | TandemError) -> None:
        self._ready.append((request.request_id, event))
        self._more.set()
