"""What one gateway's requests to this engine gained and the gateway has not been sent yet.

All of a gateway's requests share one stream, because Ray's cost is per item of a stream: what an engine step gives to
all of them leaves as one item. Knows an `Engine`, neither Ray nor what reads. Called by `serve.engine.replica`.

Ray does not tell a streaming method that its caller's process is gone: what is given to it goes nowhere. So a gateway
says every SIGN_S that it listens, and one that says nothing MOST_SILENT times in a row is given up.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from configs.errors import ClusterError, RequestError, TandemError
from serve.engine.protocol import Engine, GenerationRequest, TokenChunk

SIGN_S = 1.0
MOST_SILENT = 5
"""Intervals without a sign, as this process counts them: while it is busy itself, no time passes for the gateway."""

Event = tuple[str, TokenChunk | TandemError]
"""A request's id with its next chunk, or with the error that ended it."""

log = logging.getLogger(__name__)


class EngineMux:
    """One gateway's requests, from `submit` to their last chunk. Use it from one asyncio loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._ready: list[Event] = []
        self._more = asyncio.Event()
        self._requests: dict[str, asyncio.Task] = {}
        self._heard = False
        self._deserted = False

    def submit(self, request: GenerationRequest) -> None:
        """Begin a request. Whatever refuses it comes out of `batches`."""
        task = self._requests[request.request_id] = asyncio.create_task(self._generate(request))
        task.add_done_callback(lambda _: self._requests.pop(request.request_id, None))

    def abort(self, request_id: str) -> None:
        """End a request whose events nobody wants any more. Unknown ids are ignored."""
        if task := self._requests.get(request_id):
            task.cancel()

    def listening(self) -> None:
        """The gateway's sign of life."""
        self._heard = True

    async def batches(self) -> AsyncGenerator[list[Event], None]:
        """All events that are ready whenever some are, each request's in order; first an empty list, which says that
        requests may come. Closing it aborts every request; so does a silent gateway, which ends it.
        """
        watch = asyncio.create_task(self._watch())
        try:
            yield []
            while True:
                await self._more.wait()
                if self._deserted:
                    return
                self._more.clear()
                batch, self._ready = self._ready, []
                yield batch
        finally:
            watch.cancel()
            self._abort_all()

    async def _watch(self) -> None:
        silent = 0
        while silent < MOST_SILENT:
            self._heard = False
            await asyncio.sleep(SIGN_S)
            silent = 0 if self._heard else silent + 1
        self._abort_all()
        self._deserted = True
        self._more.set()

    def _abort_all(self) -> None:
        for task in [*self._requests.values()]:
            task.cancel()

    async def _generate(self, request: GenerationRequest) -> None:
        began, last = time.perf_counter(), TokenChunk([])
        how, trouble = "aborted", None
        try:
            async with aclosing(self._engine.generate(request)) as chunks:
                async for chunk in chunks:
                    last = chunk
                    self._put(request, chunk)
            how = last.finish_reason or how
        except TandemError as error:
            # What a client asked for may be quoted in a refusal, and is not for the log.
            how = type(error).__name__ + ("" if isinstance(error, RequestError) else f": {error.message}")
            self._put(request, error)
        except Exception as error:
            how, trouble = f"{type(error).__name__}: {error}", error
            text = f"the engine failed: {type(error).__name__}: {error}"
            self._put(request, ClusterError(text, hint="see `tandem logs`"))
        finally:
            fields = {
                "request": request.request_id,
                "version": request.adapter or "base",
                "prompt_tokens": len(request.prompt_ids),
                "output_tokens": last.completion_tokens,
                "event": "generation",
                "seconds": round(time.perf_counter() - began, 4),
            }
            level = logging.ERROR if trouble else logging.INFO
            log.log(level, "generation ended: %s", how, extra=fields, exc_info=trouble)

    def _put(self, request: GenerationRequest, event: TokenChunk | TandemError) -> None:
        self._ready.append((request.request_id, event))
        self._more.set()
