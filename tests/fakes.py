"""Stand-ins for the seams, real enough to be talked to and short enough to be read."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, nullcontext, suppress
from inspect import isawaitable
from pathlib import Path
from typing import Any

from ray.exceptions import ActorDiedError

from actors.ray_edge.jobs import JobState
from actors.runs.run import RunKind
from configs.errors import NotFoundError
from serve.engine.protocol import (
    AdapterCheck,
    EngineStats,
    FirstToken,
    GenerationRequest,
    PromptLogprobs,
    TokenChunk,
    TokenLogprob,
)
from serve.engine.replica import EngineReplica
from serve.generation.engines import EngineLostError


class FakeAdapters:
    """Adapters that an engine holds: every one loads, differs from the base and repeats itself."""

    def __init__(self) -> None:
        self._versions: list[str] = []

    async def add_adapter(self, version: str, path: Path) -> None:
        self._versions = [*dict.fromkeys([*self._versions, version])]

    async def verify_adapter(self, version: str) -> AdapterCheck:
        return AdapterCheck(version, max_difference=1.0, repeat_difference=0.0)

    def remove_adapter(self, version: str) -> None:
        self._require(version)
        self._versions.remove(version)

    def adapters(self) -> tuple[str, ...]:
        return tuple(self._versions)

    def _require(self, version: str) -> None:
        if version not in self._versions:
            raise NotFoundError(f"adapter {version} is not loaded", param="model")


class FakeEngine(FakeAdapters):
    """Answers with `script`, or without one echoes the prompt, one token per `delay` seconds. To it, token N has the
    log-probability -N / 1000, or with an adapter half of that, and rank 1."""

    def __init__(self, script: list[int] | None = None, *, delay: float = 0.0) -> None:
        super().__init__()
        self.script, self.delay = script, delay
        self.requests: list[GenerationRequest] = []
        self._running: dict[str, str | None] = {}

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenChunk, None]:
        if request.adapter is not None:
            self._require(request.adapter)
        self.requests.append(request)
        self._running[request.request_id] = request.adapter
        answer = (request.prompt_ids if self.script is None else self.script)[: request.sampling.max_tokens]
        scores = _prompt_scores(request)
        try:
            if request.prompt_only:
                yield TokenChunk([], "length", len(request.prompt_ids), 0, scores)
                return
            for count, token in enumerate(answer, start=1):
                await asyncio.sleep(self.delay)
                stopped = token in request.sampling.stop_token_ids
                reason = "stop" if stopped else "length" if count == len(answer) else None
                reason = reason if request.request_id in self._running else "abort"
                own = None if request.logprobs is None else [{token: _score(request, token)}]
                first = (scores, own, FirstToken(0.0, self.delay)) if count == 1 else (None, own)
                yield TokenChunk([token], reason, len(request.prompt_ids), count, *first)
                if reason:
                    return
        finally:
            self._running.pop(request.request_id, None)

    def abort(self, request_id: str) -> None:
        self._running.pop(request_id, None)

    def stats(self) -> EngineStats:
        loaded = {version: list(self._running.values()).count(version) for version in self._versions}
        return EngineStats(len(self._running), 0, 0, 1, loaded, 0, "cpu", 0)

    def check_health(self) -> None: ...

    def close(self) -> None: ...


def _prompt_scores(request: GenerationRequest) -> PromptLogprobs | None:
    if request.prompt_logprobs is None:
        return None
    return [None, *({token: _score(request, token)} for token in request.prompt_ids[1:])]


def _score(request: GenerationRequest, token: int) -> TokenLogprob:
    return TokenLogprob(token / (-1000 if request.adapter is None else -2000), 1)


class FakeJobs:
    """Ray's job API in memory. A submitted job is alive until a test says otherwise; `stopped` is what was ended."""

    def __init__(self) -> None:
        self.states: dict[str, JobState] = {}
        self.messages: dict[str, str] = {}
        self.submitted: list[tuple[str, str]] = []
        self.kinds: dict[str, RunKind] = {}
        self.stopped: list[str] = []
        self.refuses = ""
        self.on_stop: Callable[[], None] = lambda: None

    def submit(self, job_id: str, run_id: str, kind: RunKind) -> None:
        if self.refuses:
            raise RuntimeError(self.refuses)
        self.kinds[job_id] = kind
        self.submitted.append((job_id, run_id))
        self.states[job_id] = JobState.ALIVE

    def state(self, job_id: str) -> JobState:
        return self.states.get(job_id, JobState.UNKNOWN)

    def message(self, job_id: str) -> str:
        return self.messages.get(job_id, "")

    def stop(self, job_id: str) -> None:
        self.stopped.append(job_id)
        self.on_stop()


class FakeHandle:
    """A Serve handle to an EngineReplica around `engine` in this process. `kill` ends that process, `restart` begins
    another, with another engine."""

    def __init__(self, engine: FakeEngine) -> None:
        self.lines: list[list] = []
        """Each stream that was opened, with the batches that it gave."""
        self.restart(engine)

    def restart(self, engine: FakeEngine) -> None:
        self.replica = EngineReplica.__new__(EngineReplica)
        self.replica._engine, self.replica._muxes = engine, {}
        self.died = asyncio.Event()

    def kill(self) -> None:
        self.died.set()

    def options(self, **options: Any) -> "FakeHandle":
        return self

    def __getattr__(self, method: str) -> "FakeMethod":
        return FakeMethod(self, method)


class FakeMethod:
    """One call of a FakeHandle's method; like Ray's, it is made when awaited or iterated."""

    def __init__(self, handle: FakeHandle, method: str, args: tuple = ()) -> None:
        self.handle, self.method, self.args = handle, method, args
        self.replica, self.died = handle.replica, handle.died

    def remote(self, *args: Any) -> "FakeMethod":
        return FakeMethod(self.handle, self.method, args)

    def cancel(self) -> None: ...

    def __await__(self):
        return self._within_life(getattr(self.replica, self.method)(*self.args)).__await__()

    async def __aiter__(self):
        batches: list = []
        self.handle.lines.append(batches)
        async with aclosing(getattr(self.replica, self.method)(*self.args)) as stream:
            with suppress(StopAsyncIteration):
                while True:
                    batches.append(await self._within_life(anext(stream)))
                    yield batches[-1]

    async def _within_life(self, work: Any) -> Any:
        """What `work` gives. Raises ActorDiedError if the process ends first, or has ended."""
        task, death = asyncio.ensure_future(work), asyncio.create_task(self.died.wait())
        try:
            await asyncio.wait([task, death], return_when=asyncio.FIRST_COMPLETED)
            if not self.died.is_set():
                return await task
            raise ActorDiedError
        finally:
            death.cancel()
            task.cancel()
            await asyncio.wait([task])


class FakeRemote:
    """An engine of this process where a Serve handle would be; its process is gone while `dead`."""

    def __init__(self, name: str, engine: FakeEngine, *, dies_after: int | None = None) -> None:
        self.name, self.engine, self.dies_after = name, engine, dies_after
        self.dead = False

    async def add_adapter(self, version: str, path: Path) -> None:
        await self.call("add_adapter", version, path)

    async def verify_adapter(self, version: str) -> AdapterCheck:
        return await self.call("verify_adapter", version)

    async def drop_adapter(self, version: str) -> None:
        await self.call("drop_adapter", version)

    async def adapters(self) -> tuple[str, ...]:
        return await self.call("adapters")

    async def stats(self) -> EngineStats:
        return await self.call("stats")

    async def call(self, method: str, *args: Any) -> Any:
        if self.dead:
            raise EngineLostError(f"engine {self.name} died")
        with suppress(NotFoundError) if method == "drop_adapter" else nullcontext():
            result = getattr(self.engine, method.replace("drop_", "remove_"))(*args)
            return await result if isawaitable(result) else result

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenChunk, None]:
        if self.dead:
            raise EngineLostError(f"engine {self.name} died")
        count = 0
        async with aclosing(self.engine.generate(request)) as stream:
            async for chunk in stream:
                if count == self.dies_after:
                    self.dies_after = None
                    raise EngineLostError(f"engine {self.name} died while answering")
                count += 1
                yield chunk
