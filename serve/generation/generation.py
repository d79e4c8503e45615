"""One generation, pinned to one adapter version from its first token to its last, and counted. Knows token ids, neither
formats nor HTTP; chat and completions write what comes out."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar

from actors.metrics import RequestMetrics
from configs.errors import ClusterError, NotFoundError, TandemError
from serve.engine.grammar import Constraint
from serve.engine.protocol import FirstToken, GenerationRequest, TokenChunk
from serve.engine.sampling import SamplingParams
from serve.generation.catalog import Catalog, Target
from serve.generation.engines import EngineLostError, Engines
from serve.request_log import current, generation_id

WHOLE_ANSWER_TRIES = 2
"""An answer that is not streamed starts again if its engine dies: nothing of it was sent."""
TRIES_OF_ONE_VERSION = 3

T = TypeVar("T")


async def whole(answer: Callable[[], Awaitable[T]]) -> T:
    """What `answer()` gives, asked again if its engine dies. Raises EngineLostError if engines keep dying."""
    for last_try in (*[False] * (WHOLE_ANSWER_TRIES - 1), True):
        try:
            return await answer()
        except EngineLostError:
            if last_try:
                raise
    raise AssertionError("unreachable")


@dataclass(frozen=True)
class GenerationOptions:
    """What a request wants of each of its generations, whatever their prompts; see GenerationRequest."""

    constraint: Constraint | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    prompt_only: bool = False


class Generations:
    """Begins generations with one catalog and its engines."""

    def __init__(self, catalog: Catalog, engines: Engines, metrics: RequestMetrics) -> None:
        self._catalog = catalog
        self._engines = engines
        self._metrics = metrics

    async def begin(
        self,
        model: str,
        prompt: list[int],
        sampling: SamplingParams,
        options: GenerationOptions,
        *,
        started: float,
        again: bool = False,
    ) -> "PinnedGeneration":
        """The generation up to its first chunk, so that whatever refuses it still has a status code.

        `started` is `time.perf_counter()` when the request came, `again` says that the request's prompt is counted
        already. Raises RequestError, NotFoundError, OverloadError or ClusterError.
        """
        target = self._catalog.resolve(model)
        for last_try in (False, True):
            request = GenerationRequest(
                generation_id(),
                prompt,
                sampling,
                target.version,
                prompt_logprobs=options.prompt_logprobs,
                prompt_only=options.prompt_only,
                constraint=options.constraint,
                logprobs=options.logprobs,
            )
            stream = self._engines.generate(request)
            try:
                return PinnedGeneration(target, stream, await anext(stream), self._metrics, started, again)
            except NotFoundError:
                target = await self._again(target, last_try)
        raise AssertionError("unreachable")

    async def begin_all(
        self,
        model: str,
        asked: Sequence[tuple[list[int], SamplingParams]],
        options: GenerationOptions,
        *,
        started: float,
    ) -> list["PinnedGeneration"]:
        """Several generations at once, all of one version. Raises what `begin` raises; then none of them goes on."""
        if len(asked) == 1:
            ((prompt, sampling),) = asked
            return [await self.begin(model, prompt, sampling, options, started=started)]
        repeated = [any(prompt is other for other, _ in asked[:index]) for index, (prompt, _) in enumerate(asked)]
        for _ in range(TRIES_OF_ONE_VERSION):
            begun = await _all_or_none(
                asyncio.create_task(self.begin(model, prompt, sampling, options, started=started, again=again))
                for (prompt, sampling), again in zip(asked, repeated, strict=True)
            )
            if len({each.target.version for each in begun}) == 1:
                return begun
            await _close(begun)
        raise ClusterError(f"'{model}' was swapped while its answers began", hint="ask again")

    async def _again(self, target: Target, last_try: bool) -> Target:
        """The alias moved on between resolving and generating: resolve anew, once."""
        await self._catalog.refresh()
        now = self._catalog.resolve(target.name)
        if last_try or now.version == target.version:
            raise ClusterError(
                f"'{target.name}' is {target.version}, which the engine has not loaded",
                hint="`tandem status` says why; `tandem swap` to another adapter, or to base",
            )
        return now


async def _all_or_none(begins: Iterable["asyncio.Task[PinnedGeneration]"]) -> list["PinnedGeneration"]:
    tasks = list(begins)
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        await _close([each for each in ended if isinstance(each, PinnedGeneration)])
        raise


async def _close(begun: Iterable["PinnedGeneration"]) -> None:
    for each in begun:
        await each.close()


class PinnedGeneration:
    """A generation under way."""

    def __init__(
        self,
        target: Target,
        stream: AsyncGenerator[TokenChunk, None],
        first: TokenChunk,
        metrics: RequestMetrics,
        started: float,
        again: bool,
    ) -> None:
        self.target = target
        self._stream = stream
        self._first = first
        self._metrics = metrics
        self._started = started
        self._again = again
        self._exchange = current()
        seconds = time.perf_counter() - started
        self._exchange.began(target.name, target.version, seconds if first.ids else None)
        if first.ids:
            inside = first.first_token or FirstToken(0.0, 0.0)
            metrics.began(target.kind, seconds, queue=inside.queue, prefill=inside.prefill)

    async def close(self) -> None:
        """Abandon it before anything of it was read."""
        await self._stream.aclose()

    async def chunks(self, enough: Callable[[], bool] = lambda: False) -> AsyncGenerator[TokenChunk, None]:
        """All chunks, the first included, until the last one or until `enough()` after one. Close it to abandon."""
        kind, last = self.target.kind, time.perf_counter()
        chunk = self._first
        self._metrics.active.inc()
        try:
            async with aclosing(self._stream):
                yield chunk
                if chunk.finish_reason or enough():
                    return
                async for chunk in self._stream:
                    now = time.perf_counter()
                    if chunk.ids:
                        self._metrics.between_tokens.labels(kind).observe((now - last) / len(chunk.ids))
                    last = now
                    yield chunk
                    if chunk.finish_reason or enough():
                        return
        except TandemError:
            self._metrics.broken.inc()
            self._exchange.ended = "broken"
            raise
        except (GeneratorExit, asyncio.CancelledError):
            if not (chunk.finish_reason or enough()):
                self._metrics.abandoned.inc()
                self._exchange.ended = "abandoned"
            raise
        finally:
            self._metrics.active.dec()
            read = 0 if self._again else chunk.prompt_tokens
            self._exchange.gained(read, chunk.completion_tokens)
            self._metrics.prompt_tokens.labels(kind).inc(read)
            self._metrics.output_tokens.labels(kind).inc(chunk.completion_tokens)
            self._metrics.duration.labels(kind).observe(time.perf_counter() - self._started)
