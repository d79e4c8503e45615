"""The way of one chat request: resolve and pin, render, generate, parse, write. Knows no HTTP and no Ray."""

import json
import time
from collections.abc import AsyncIterator
from contextlib import aclosing

from openai.types.chat import ChatCompletion

from actors.metrics import RequestMetrics
from configs.errors import TandemError
from models import harmony
from serve import pinned
from serve.catalog import BASE, Catalog, Target
from serve.fleet import Fleet
from serve.pinned import Pinned, Pinner
from serve.wire.body import encode
from serve.wire.chat import ChatRequest, ChunkWriter, ResponseWriter
from serve.wire.errors import error_body


class Chat:
    """Answers chat requests with one tokenizer, one catalog and one fleet."""

    def __init__(self, tokenizer, catalog: Catalog, fleet: Fleet, metrics: RequestMetrics) -> None:
        self._tokenizer = tokenizer
        self._stop_ids = harmony.stop_token_ids(tokenizer)
        self._pinner = Pinner(catalog, fleet, metrics)

    async def open(self, request: ChatRequest) -> "Answer":
        """The answer up to its first token. Raises what `Pinner.begin` raises."""
        started = time.perf_counter()
        prompt = harmony.render(
            self._tokenizer,
            request.messages,
            tools=request.offered_tools,
            reasoning_effort=request.reasoning_effort,
        )
        begun = await self._pinner.begin(request.model, prompt, request.sampling(self._stop_ids), started=started)
        return Answer(self._tokenizer, request, begun)

    async def complete(self, request: ChatRequest) -> ChatCompletion:
        """A whole answer. Raises what `open` raises, and EngineLostError if engines keep dying."""

        async def answer() -> ChatCompletion:
            return await (await self.open(request)).complete()

        return await pinned.whole(answer)


class Answer:
    """One answer being generated, pinned to one adapter version."""

    def __init__(self, tokenizer, request: ChatRequest, begun: Pinned) -> None:
        self._begun = begun
        self._writer = ChunkWriter(tokenizer, request, fingerprint=begun.target.version or BASE)

    @property
    def id(self) -> str:
        return self._writer.completion_id

    @property
    def target(self) -> Target:
        return self._begun.target

    async def events(self) -> AsyncIterator[str]:
        """Server-sent events: chunks and `[DONE]`, or an error event in its place."""
        try:
            async with aclosing(self._begun.chunks(self._done)) as chunks:
                async for chunk in chunks:
                    if parts := self._writer.write(chunk):
                        yield "".join(f"data: {encode(part)}\n\n" for part in parts)
            yield "data: [DONE]\n\n"
        except TandemError as error:
            _, body = error_body(error)
            yield f"data: {json.dumps(body)}\n\n"

    async def complete(self) -> ChatCompletion:
        writer = ResponseWriter(self._writer)
        async with aclosing(self._begun.chunks(self._done)) as chunks:
            async for chunk in chunks:
                writer.write(chunk)
        return writer.response()

    def _done(self) -> bool:
        return self._writer.done
