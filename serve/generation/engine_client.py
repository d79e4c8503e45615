"""One engine replica by its Serve handle. Ray's exceptions end here; `serve.generation.engines` knows engines only
through `EngineClient`.

All requests to an engine share one stream of it, the line (see `serve.engine.mux`): it is opened with the first
request, again after it broke, and what comes on it is given to whom it belongs. Nobody waits for a slow reader. While
a line is open the engine is told so again and again, because it would not notice the end of this process.
"""

import asyncio
import contextlib
import contextvars
import copy
import logging
import uuid
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import ClusterError, StateError, TandemError
from serve.engine.mux import SIGN_S, Event
from serve.engine.protocol import AdapterCheck, EngineStats, GenerationRequest, TokenChunk

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle, DeploymentResponse

    from serve.engine.replica import EngineReplica

OPENING_S = 5
"""How long a request waits for an engine that is away, before `Engines` may ask another one or this one again."""

AT_ONCE = 32
"""Tokens that a turn gives out. Beside those of 199 other streams a first token waits 3.0 ms of the process's time, 7.9
if all are given at once (`tests/bench/first_tokens.py`)."""

log = logging.getLogger(__name__)


class EngineLostError(ClusterError):
    """The engine's process died while it was answering."""


class EngineClient:
    """The engine of one slot. Use it from one asyncio loop."""

    def __init__(self, name: str, handle: "DeploymentHandle[EngineReplica]") -> None:
        self.name = name
        self._handle = handle
        self._line = _Line()
        self._line.close(EngineLostError("not opened yet"))
        self._leaving: set[asyncio.Task[None]] = set()

    async def add_adapter(self, version: str, path: Path) -> None:
        """Raises what the method of EngineReplica raises, or EngineLostError; so do those below."""
        await self._call(lambda engine: engine.add_adapter.remote(version, path))

    async def verify_adapter(self, version: str) -> AdapterCheck:
        return await self._call(lambda engine: engine.verify_adapter.remote(version))

    async def drop_adapter(self, version: str) -> None:
        await self._call(lambda engine: engine.drop_adapter.remote(version))

    async def adapters(self) -> tuple[str, ...]:
        return await self._call(lambda engine: engine.adapters.remote())

    async def stats(self) -> EngineStats:
        return await self._call(lambda engine: engine.stats.remote())

    async def _call(self, call: "Callable[[DeploymentHandle[EngineReplica]], DeploymentResponse]") -> Any:
        """What the engine answers, whose type Serve's handles do not know. Raises the TandemError that the method
        raised, or EngineLostError."""
        from ray.exceptions import RayActorError, RayTaskError

        try:
            return await call(self._handle)
        except RayTaskError as error:
            raise _cause(error) from None
        except RayActorError as error:
            raise EngineLostError(f"engine {self.name} died: {type(error).__name__}", hint="it is restarted") from None

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenChunk, None]:
        """The request's chunks. Closing it aborts. Raises what `Engine.generate` raises, and EngineLostError."""
        line = self._opened_line()
        reader = line.readers[request.request_id] = _Reader()
        submitted = _task(self._submit(line, request))
        ended = False
        try:
            while not ended:
                event = await reader.next()
                ended = isinstance(event, TandemError) or event.finish_reason is not None
                if isinstance(event, TandemError):
                    raise event
                yield event
        finally:
            del line.readers[request.request_id]
            if not ended:
                self._leave(line, request, submitted)

    def _opened_line(self) -> "_Line":
        if self._line.closed:
            self._line = _Line()
            self._line.task = _task(self._read(self._line))
        return self._line

    async def _read(self, line: "_Line") -> None:
        """Give out what comes on the line until it breaks."""
        from ray.exceptions import RayActorError, RayTaskError

        stream = self._handle.options(stream=True).stream.remote(line.id)
        signs = asyncio.create_task(self._keep_telling(line))
        lost = EngineLostError(f"engine {self.name} died while answering", hint="the answer is incomplete; ask again")
        try:
            async for batch in stream:
                line.opened.set()
                await line.give_out(batch)
            silent = f"engine {self.name} gave the answer up, because it did not hear from the gateway"
            line.close(EngineLostError(silent, hint=lost.hint))
            log.warning("engine %s gave up, because it did not hear from this gateway", self.name)
        except RayActorError as error:
            log.warning("engine %s died with %d requests: %s", self.name, len(line.readers), type(error).__name__)
            line.close(lost)
        except RayTaskError as error:
            line.close(_cause(error))
        except Exception as error:
            line.close(ClusterError(f"engine {self.name} cannot be reached: {error}", hint="`tandem status`"))
            raise
        finally:
            line.close(lost)
            signs.cancel()
            stream.cancel()

    async def _keep_telling(self, line: "_Line") -> None:
        await line.opened.wait()
        while not line.closed:
            with contextlib.suppress(Exception):  # whatever is wrong with the engine, the line itself says it
                await self._call(lambda engine: engine.listening.remote(line.id))
            await asyncio.sleep(SIGN_S)

    async def _submit(self, line: "_Line", request: GenerationRequest) -> None:
        try:
            await asyncio.wait_for(line.opened.wait(), OPENING_S)
        except TimeoutError:
            away = f"engine {self.name} has not answered for {OPENING_S} s: loading its model, or restarting"
            line.give(request.request_id, EngineLostError(away, hint="ask again; `tandem status` shows the engines"))
            return
        if line.closed:
            return
        try:
            await self._call(lambda engine: engine.submit.remote(line.id, request))
        except StateError:  # another process than the line's, which is ending or dead
            line.give(request.request_id, EngineLostError(f"engine {self.name} died", hint="it is restarted"))
        except TandemError as error:
            line.give(request.request_id, error)
        except Exception as error:  # Ray's own, and there are many: whatever it is, nobody may wait for ever
            log.exception("a request could not be given to engine %s", self.name)
            text = f"engine {self.name} cannot be reached: {type(error).__name__}: {error}"
            line.give(request.request_id, ClusterError(text, hint="`tandem status`"))

    def _leave(self, line: "_Line", request: GenerationRequest, submitted: "asyncio.Task[None]") -> None:
        """Abort the request once the engine has it: calls may overtake each other."""

        async def abort() -> None:
            await submitted
            with contextlib.suppress(TandemError):  # a dead engine runs nothing
                await self._call(lambda engine: engine.abort.remote(line.id, request.request_id))

        task = _task(abort())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)


class _Line:
    """One stream from one engine's process, and who waits for what comes on it."""

    def __init__(self) -> None:
        self.id = uuid.uuid4().hex
        self.readers: dict[str, _Reader] = {}
        self.opened = asyncio.Event()
        """The engine knows this line, or it is closed."""
        self.closed = False
        self.task: asyncio.Task[None] | None = None

    async def give_out(self, batch: list[Event]) -> None:
        """Give every event to its reader, AT_ONCE of them in a turn of the loop, those first whose readers had nothing.

        A first token takes its reader about ten turns, and a turn is as long as all that readers do in it.
        """
        readers = self.readers
        batch = sorted(batch, key=lambda event: event[0] in readers and readers[event[0]].begun)
        for begin in range(0, len(batch), AT_ONCE):
            if begin:
                await asyncio.sleep(0)
            for request_id, event in batch[begin : begin + AT_ONCE]:
                self.give(request_id, event)

    def give(self, request_id: str, event: TokenChunk | TandemError) -> None:
        if reader := self.readers.get(request_id):
            reader.put(event)

    def close(self, error: TandemError) -> None:
        """Nothing more comes: every reader gets an `error` of its own after what it has. The first one counts."""
        if self.closed:
            return
        self.closed = True
        self.opened.set()
        for reader in self.readers.values():
            reader.put(copy.copy(error))


class _Reader:
    """What came for one request and was not taken yet."""

    def __init__(self) -> None:
        self._events: deque[TokenChunk | TandemError] = deque()
        self._more = asyncio.Event()
        self.begun = False

    def put(self, event: TokenChunk | TandemError) -> None:
        self.begun = True
        self._events.append(event)
        self._more.set()

    async def next(self) -> TokenChunk | TandemError:
        """All chunks that are there as one, or the first to come, or the error behind them."""
        await self._more.wait()
        event = self._events.popleft()
        while isinstance(event, TokenChunk) and self._events and isinstance(later := self._events[0], TokenChunk):
            self._events.popleft()
            event = event.followed_by(later)
        if not self._events:
            self._more.clear()
        return event


def _task(work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
    """`work` outside its request: when a client disconnects, Serve cancels whatever was called in the context of its
    request, and a line belongs to all requests, an abort to one that has ended."""
    return asyncio.create_task(work, context=contextvars.Context())


def _cause(error: Exception) -> TandemError:
    """The TandemError that an engine raised, not Ray's wrapper of it."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, TandemError):
        return cause
    return ClusterError(f"the engine failed: {str(error).strip().splitlines()[-1]}", hint="see `tandem logs`")
