"""The way of one chat request: resolve and pin, render, generate, parse, write. Knows no HTTP and no Ray."""

import json
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing

from openai.types.chat import ChatCompletion

from actors.metrics import RequestMetrics
from configs.errors import ClusterError, NotFoundError, TandemError
from models import harmony
from serve import wire
from serve.catalog import BASE, Catalog, Target
from serve.engine.protocol import GenerationRequest, TokenChunk
from serve.fleet import EngineLostError, Fleet

WHOLE_ANSWER_TRIES = 2
"""An answer that is not streamed starts again if its engine dies: nothing of it was sent."""


class Chat:
    """Answers chat requests with one tokenizer, one catalog and one fleet."""

    def __init__(self, tokenizer, catalog: Catalog, fleet: Fleet, metrics: RequestMetrics) -> None:
        self._tokenizer = tokenizer
        self._stop_ids = harmony.stop_token_ids(tokenizer)
        self._catalog = catalog
        self._fleet = fleet
        self._metrics = metrics

    async def open(self, request: wire.ChatRequest) -> "Answer":
        """The answer up to its first token, so that whatever refuses it still has a status code.

        Raises RequestError, NotFoundError, OverloadError or ClusterError.
        """
        started = time.perf_counter()
        prompt = harmony.render(
            self._tokenizer,
            request.messages,
            tools=request.offered_tools,
            reasoning_effort=request.reasoning_effort,
        )
        sampling = request.sampling(self._stop_ids)
        target = self._catalog.resolve(request.model)
        for last_try in (False, True):
            pinned = GenerationRequest(uuid.uuid4().hex, prompt, sampling, target.version)
            stream = self._fleet.generate(pinned)
            try:
                return Answer(self._tokenizer, request, target, stream, await anext(stream), self._metrics, started)
            except NotFoundError:
                target = await self._again(target, last_try)
        raise AssertionError("unreachable")

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

    async def complete(self, request: wire.ChatRequest) -> ChatCompletion:
        """A whole answer. Raises what `open` raises, and EngineLostError if engines keep dying."""
        for last_try in (*[False] * (WHOLE_ANSWER_TRIES - 1), True):
            try:
                return await (await self.open(request)).complete()
            except EngineLostError:
                if last_try:
                    raise
        raise AssertionError("unreachable")


class Answer:
    """One answer being generated, pinned to one adapter version."""

    def __init__(
        self,
        tokenizer,
        request: wire.ChatRequest,
        target: Target,
        stream: AsyncIterator[TokenChunk],
        first: TokenChunk,
        metrics: RequestMetrics,
        started: float,
    ) -> None:
        self.target = target
        self._stream = stream
        self._first = first
        self._metrics = metrics
        self._started = started
        self._writer = wire.ChunkWriter(tokenizer, request, fingerprint=target.version or BASE)
        metrics.first_token.labels(target.kind).observe(time.perf_counter() - started)

    @property
    def id(self) -> str:
        return self._writer.completion_id

    async def events(self) -> AsyncIterator[str]:
        """Server-sent events: chunks and `[DONE]`, or an error event in its place."""
        try:
            async with aclosing(self._chunks()) as chunks:
                async for chunk in chunks:
                    if parts := self._writer.write(chunk):
                        yield "".join(f"data: {wire.encode(part)}\n\n" for part in parts)
                    if self._writer.done:
                        break
            yield "data: [DONE]\n\n"
        except TandemError as error:
            _, body = wire.error_body(error)
            yield f"data: {json.dumps(body)}\n\n"

    async def complete(self) -> ChatCompletion:
        writer = wire.ResponseWriter(self._writer)
        async with aclosing(self._chunks()) as chunks:
            async for chunk in chunks:
                writer.write(chunk)
                if writer.done:
                    break
        return writer.response()

    async def _chunks(self) -> AsyncIterator[TokenChunk]:
        kind, last = self.target.kind, time.perf_counter()
        chunk = self._first
        self._metrics.active.inc()
        try:
            async with aclosing(self._stream):
                yield chunk
                async for chunk in self._stream:
                    now = time.perf_counter()
                    if chunk.ids:
                        self._metrics.between_tokens.labels(kind).observe((now - last) / len(chunk.ids))
                    last = now
                    yield chunk
                    if chunk.finish_reason:
                        return
        finally:
            self._metrics.active.dec()
            if not (chunk.finish_reason or self._writer.done):
                self._metrics.abandoned.inc()
            self._metrics.prompt_tokens.labels(kind).inc(chunk.prompt_tokens)
            self._metrics.output_tokens.labels(kind).inc(chunk.completion_tokens)
            self._metrics.duration.labels(kind).observe(time.perf_counter() - self._started)
