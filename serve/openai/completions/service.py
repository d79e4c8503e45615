"""The way of one completion request: every prompt, n times, through the engines at once. Knows no chat format, no HTTP.

What was trained can be scored token by token, because ids go to the engine as they come.
"""

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

from actors.metrics import RequestMetrics
from configs.errors import TandemError
from models import harmony
from models.harmony.encoding import LONG, Encoder, characters
from serve.generation import generation
from serve.generation.catalog import BASE, Catalog
from serve.generation.engines import Engines
from serve.generation.generation import GenerationOptions, Generations, PinnedGeneration
from serve.generation.merged import merged
from serve.openai.body import encode
from serve.openai.completions.answer import ChoiceWriter, CompletionWriter
from serve.openai.completions.request import CompletionRequest
from serve.openai.completions.types import Piece, Text
from serve.openai.errors import error_body
from serve.request_log import current

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Completions:
    """Completes prompts with one tokenizer, one catalog and engines that take `max_context` tokens.

    Generations end where chat's do, and at `end_ids`, the model's own.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        catalog: Catalog,
        engines: Engines,
        metrics: RequestMetrics,
        max_context: int | None = None,
        *,
        end_ids: tuple[int, ...] = (),
    ) -> None:
        self._tokenizer = tokenizer
        self._encoder = Encoder(tokenizer.backend_tokenizer)
        self._max_context = max_context
        self._stop_ids = tuple(dict.fromkeys((*harmony.stop_token_ids(tokenizer), *end_ids)))
        self._generations = Generations(catalog, engines, metrics)

    async def open(self, request: CompletionRequest) -> "Continuation":
        """All choices up to their first tokens, of one adapter version. Raises what `Generations.begin` raises."""
        started = time.perf_counter()
        long = characters(request.prompts) >= LONG
        prompts = await asyncio.to_thread(self._encode, request) if long else self._encode(request)
        samplings = request.samplings(self._stop_ids, self._encoder.ids)
        asked = [(prompt, sampling) for prompt in prompts for sampling in samplings]
        begun = await self._generations.begin_all(
            request.model,
            asked,
            GenerationOptions(
                request.constraint(),
                logprobs=request.logprobs,
                prompt_logprobs=request.scored_prompt,
                prompt_only=request.max_tokens == 0,
            ),
            started=started,
        )
        writers = [ChoiceWriter(self._tokenizer, request, index, prompt) for index, (prompt, _) in enumerate(asked)]
        return Continuation(request, list(zip(writers, begun, strict=True)))

    def _encode(self, request: CompletionRequest) -> list[list[int]]:
        if request.truncate_prompt_tokens is None:
            self._encoder.refuse_hopeless(request.texts, self._max_context, "prompt")
        ids = [self._encoder.ids(each, add_special_tokens=request.add_special_tokens) for each in request.texts]
        return [request.truncated(each, self._max_context, request.max_tokens) for each in ids or request.id_lists]

    async def complete(self, request: CompletionRequest) -> Text:
        """Raises what `open` raises, and EngineLostError if engines keep dying."""

        async def answer() -> Text:
            return await (await self.open(request)).complete()

        return await generation.whole(answer)


class Continuation:
    """All choices of one request being generated."""

    def __init__(self, request: CompletionRequest, choices: list[tuple[ChoiceWriter, PinnedGeneration]]) -> None:
        self._choices = choices
        self._writer = CompletionWriter(
            request,
            [writer for writer, _ in choices],
            completion_id=f"cmpl-{current().id}",
            fingerprint=choices[0][1].target.version or BASE,
        )

    @property
    def id(self) -> str:
        return self._writer.completion_id

    async def events(self) -> AsyncGenerator[str, None]:
        """Server-sent events: pieces of choices and `[DONE]`, or an error event in its place."""
        try:
            async with aclosing(self._pieces()) as ready:
                async for pieces in ready:
                    yield "".join(f"data: {encode(self._writer.chunk(piece))}\n\n" for _, piece in pieces)
            if last := self._writer.last_chunk():
                yield f"data: {encode(last)}\n\n"
            yield "data: [DONE]\n\n"
        except TandemError as error:
            _, body = error_body(error)
            yield f"data: {json.dumps(body)}\n\n"

    async def complete(self) -> Text:
        async with aclosing(self._pieces()) as ready:
            return self._writer.whole([piece async for pieces in ready for _, piece in pieces])

    def _pieces(self) -> AsyncGenerator[list[tuple[int, Piece]], None]:
        return merged([_written(writer, begun) for writer, begun in self._choices])


async def _written(writer: ChoiceWriter, begun: PinnedGeneration) -> AsyncGenerator[Piece, None]:
    async with aclosing(begun.chunks(lambda: writer.done)) as chunks:
        async for chunk in chunks:
            if not writer.begun:  # thousands of tokens to decode
                piece = await asyncio.to_thread(writer.begin, chunk)
                if piece:
                    yield piece
            if piece := writer.write(chunk):
                yield piece
