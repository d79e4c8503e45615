"""The way of one chat request: resolve and pin, render, generate, parse, write. Knows no HTTP and no Ray."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

from openai.types.chat import ChatCompletion

from actors.metrics import RequestMetrics
from configs.errors import ClusterError, TandemError
from models import harmony
from serve import pinned
from serve.catalog import BASE, Catalog, Target
from serve.engine.protocol import TokenChunk
from serve.fleet import Fleet
from serve.pinned import Pinned, Pinner
from serve.wire.body import encode
from serve.wire.chat import ChatRequest
from serve.wire.chat_answer import ChunkWriter, ResponseWriter
from serve.wire.errors import error_body


class Chat:
    """Answers chat requests with one tokenizer, one catalog and one fleet."""

    def __init__(self, tokenizer, catalog: Catalog, fleet: Fleet, metrics: RequestMetrics) -> None:
        self._tokenizer = tokenizer
        self._stop_ids = harmony.stop_token_ids(tokenizer)
        self._pinner = Pinner(catalog, fleet, metrics)

    async def open(self, request: ChatRequest) -> "Answer":
        """The answer up to the first token of each choice. Raises what `Pinner.begin` raises."""
        started = time.perf_counter()
        prompt = harmony.render(
            self._tokenizer,
            request.messages,
            tools=request.offered_tools,
            reasoning_effort=request.reasoning_effort,
            response_format=request.response_format.description,
        )
        begun = await self._begin(request, prompt, started)
        return Answer(self._tokenizer, request, prompt, begun)

    async def complete(self, request: ChatRequest) -> ChatCompletion:
        """A whole answer. Raises what `open` raises, and EngineLostError if engines keep dying."""

        async def answer() -> ChatCompletion:
            return await (await self.open(request)).complete()

        return await pinned.whole(answer)

    async def _begin(self, request: ChatRequest, prompt: list[int], started: float) -> list[Pinned]:
        """One generation per choice, all of one version. If one is refused, none goes on."""
        how = {"started": started, "constraint": request.constraint(), "logprobs": request.scored}
        begins = (
            self._pinner.begin(request.model, prompt, sampling, **how) for sampling in request.samplings(self._stop_ids)
        )
        answers = await asyncio.gather(*begins, return_exceptions=True)
        begun = [answer for answer in answers if isinstance(answer, Pinned)]
        errors = [answer for answer in answers if isinstance(answer, BaseException)]
        if len({each.target.version for each in begun}) > 1:
            errors.append(ClusterError(f"'{request.model}' was swapped while its answers began", hint="ask again"))
        if errors:
            for each in begun:
                await each.close()
            raise errors[0]
        return begun


class Answer:
    """One answer being generated, pinned to one adapter version: a generation per choice."""

    def __init__(self, tokenizer, request: ChatRequest, prompt: list[int], begun: list[Pinned]) -> None:
        self._begun = begun
        fingerprint = begun[0].target.version or BASE
        self._writer = ChunkWriter(tokenizer, request, fingerprint=fingerprint, prompt_ids=prompt)

    @property
    def id(self) -> str:
        return self._writer.completion_id

    @property
    def target(self) -> Target:
        return self._begun[0].target

    async def events(self) -> AsyncIterator[str]:
        """Server-sent events: chunks and `[DONE]`, or an error event in its place."""
        try:
            async with aclosing(self._chunks()) as chunks:
                async for index, chunk in chunks:
                    if parts := self._writer.write(chunk, index):
                        yield "".join(f"data: {encode(part)}\n\n" for part in parts)
            yield "data: [DONE]\n\n"
        except TandemError as error:
            _, body = error_body(error)
            yield f"data: {json.dumps(body)}\n\n"

    async def complete(self) -> ChatCompletion:
        writer = ResponseWriter(self._writer)
        async with aclosing(self._chunks()) as chunks:
            async for index, chunk in chunks:
                writer.write(chunk, index)
        return writer.response()

    def _chunks(self) -> AsyncIterator[tuple[int, TokenChunk]]:
        """All choices' chunks as they come."""
        return _merged(
            [
                begun.chunks(lambda choice=choice: choice.done)
                for begun, choice in zip(self._begun, self._writer.choices, strict=True)
            ]
        )


async def _merged(streams: Sequence[AsyncIterator[TokenChunk]]) -> AsyncIterator[tuple[int, TokenChunk]]:
    """The streams' chunks as they come, each with its stream's index. All are closed when one fails or this is."""
    if len(streams) == 1:
        async with aclosing(streams[0]) as chunks:
            async for chunk in chunks:
                yield 0, chunk
        return
    arrived: asyncio.Queue = asyncio.Queue()

    async def drain(index: int) -> None:
        try:
            async with aclosing(streams[index]) as chunks:
                async for chunk in chunks:
                    arrived.put_nowait((index, chunk))
            arrived.put_nowait(None)
        except Exception as error:
            arrived.put_nowait(error)

    tasks = [asyncio.create_task(drain(index)) for index in range(len(streams))]
    left = len(tasks)
    try:
        while left:
            item = await arrived.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                left -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
