"""The way of one chat request: resolve and pin, render, generate, parse, write. Knows no HTTP and no Ray."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from openai.types.chat import ChatCompletion, ChatCompletionChunk

from actors.metrics import RequestMetrics
from configs.errors import TandemError
from models import harmony
from models.harmony.encoding import LONG, Encoder, characters
from serve.engine.grammar import Constraint
from serve.engine.protocol import TokenChunk
from serve.engine.sampling import SamplingParams
from serve.generation import generation
from serve.generation.catalog import BASE, Catalog, Target
from serve.generation.engines import Engines
from serve.generation.generation import GenerationOptions, Generations, PinnedGeneration
from serve.generation.merged import merged
from serve.openai.body import encode
from serve.openai.chat.answer import ChunkWriter, ResponseWriter
from serve.openai.chat.choice import ChoiceWriter
from serve.openai.chat.request import ChatRequest, in_own_words
from serve.openai.errors import error_body

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Chat:
    """Answers chat requests with one tokenizer, one catalog and engines that take `max_context` tokens."""

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        catalog: Catalog,
        engines: Engines,
        metrics: RequestMetrics,
        max_context: int | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._encode = Encoder(tokenizer.backend_tokenizer).ids
        self.max_context = max_context
        self._stop_ids = harmony.stop_token_ids(tokenizer)
        self._generations = Generations(catalog, engines, metrics)

    async def prepare(self, request: ChatRequest) -> "Prepared":
        """All that can refuse the request without an engine. Raises RequestError."""
        started = time.perf_counter()
        truncates = request.truncate_prompt_tokens is not None
        whole = await self.prompt(request, None if truncates else self.max_context)
        prompt = request.truncated(whole, self.max_context, request.most_tokens)
        samplings = request.samplings(self._stop_ids, self._encode)
        return Prepared(request, prompt, samplings, request.constraint(), started)

    async def begin(self, ready: "Prepared") -> "Answer":
        """The answer up to the first token of each choice. Raises what `Generations.begin` raises."""
        asked = [(ready.prompt, sampling) for sampling in ready.samplings]
        request = ready.request
        options = GenerationOptions(ready.constraint, logprobs=request.scored, prompt_logprobs=request.prompt_logprobs)
        with in_own_words():
            begun = await self._generations.begin_all(request.model, asked, options, started=ready.started)
        return Answer(self._tokenizer, request, ready.prompt, begun)

    async def open(self, request: ChatRequest) -> "Answer":
        """Both. Raises what `prepare` and `begin` raise."""
        return await self.begin(await self.prepare(request))

    async def prompt(self, request: ChatRequest, most_tokens: int | None = None) -> list[int]:
        """Its token ids, however many; one of surely more than `most_tokens` is refused. Raises RequestError."""
        long = characters([request.messages, request.offered_tools]) >= LONG
        return (
            await asyncio.to_thread(self._render, request, most_tokens) if long else self._render(request, most_tokens)
        )

    def _render(self, request: ChatRequest, most_tokens: int | None) -> list[int]:
        ids = harmony.render(
            self._tokenizer,
            request.messages,
            tools=request.offered_tools,
            reasoning_effort=request.reasoning_effort,
            response_format=request.format_description,
            most_tokens=most_tokens,
            answered=True,
            add_generation_prompt=request.add_generation_prompt and not request.continue_final_message,
        )
        return ids[:-1] if request.continue_final_message else ids  # less the token that ends its last message

    async def complete(self, request: ChatRequest) -> ChatCompletion:
        """A whole answer. Raises what `open` raises, and EngineLostError if engines keep dying."""

        async def answer() -> ChatCompletion:
            return await (await self.open(request)).complete()

        return await generation.whole(answer)


@dataclass(frozen=True)
class Prepared:
    """A chat request that nothing but an engine can refuse any more."""

    request: ChatRequest
    prompt: list[int]
    """Token ids."""
    samplings: list[SamplingParams]
    """One per choice."""
    constraint: Constraint | None
    started: float
    """`time.perf_counter()` when the request came."""


class Answer:
    """One answer being generated, pinned to one adapter version: a generation per choice."""

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        request: ChatRequest,
        prompt: list[int],
        begun: list[PinnedGeneration],
    ) -> None:
        self._begun = begun
        fingerprint = begun[0].target.version or BASE
        self._writer = ChunkWriter(tokenizer, request, fingerprint=fingerprint, prompt_ids=prompt)

    @property
    def id(self) -> str:
        return self._writer.completion_id

    @property
    def target(self) -> Target:
        return self._begun[0].target

    async def parts(self) -> AsyncGenerator[list[ChatCompletionChunk], None]:
        """OpenAI's chunks as they come; those ready together leave together. Raises TandemError if it breaks off."""
        async with aclosing(self._chunks()) as ready:
            async for chunks in ready:
                if parts := [part for index, chunk in chunks for part in self._writer.write(chunk, index)]:
                    yield parts

    async def events(self) -> AsyncGenerator[str, None]:
        """Server-sent events: chunks and `[DONE]`, or an error event in its place."""
        try:
            async with aclosing(self.parts()) as ready:
                async for parts in ready:
                    yield "".join(f"data: {encode(part)}\n\n" for part in parts)
            yield "data: [DONE]\n\n"
        except TandemError as error:
            _, body = error_body(error)
            yield f"data: {json.dumps(body)}\n\n"

    async def complete(self) -> ChatCompletion:
        writer = ResponseWriter(self._writer)
        async with aclosing(self._chunks()) as ready:
            async for chunks in ready:
                for index, chunk in chunks:
                    writer.write(chunk, index)
        return writer.response()

    def _chunks(self) -> AsyncGenerator[list[tuple[int, TokenChunk]], None]:
        """All choices' chunks as they come."""
        choices = zip(self._begun, self._writer.choices, strict=True)
        return merged([begun.chunks(partial(_is_done, choice)) for begun, choice in choices])


def _is_done(choice: ChoiceWriter) -> bool:
    return choice.done
