"""`POST /v1/completions`: a prompt as text or token ids, scored, continued or both. Knows no chat format and no HTTP.

As much of OpenAI's older route as can be honest here, with vLLM's `prompt_logprobs`, `return_token_ids`,
`stop_token_ids` and `skip_special_tokens`: https://docs.vllm.ai (Completions API). What was trained can be scored
token by token, because ids go to the engine as they come.
"""

import asyncio
import time
import uuid
from collections.abc import Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any, Self

from openai.types import Completion, CompletionChoice, CompletionUsage
from pydantic import Field, model_validator

from actors.metrics import RequestMetrics
from configs.errors import TandemError
from models import harmony
from serve import pinned
from serve.catalog import BASE, Catalog
from serve.engine.protocol import PromptLogprobs
from serve.engine.sampling import SamplingParams
from serve.fleet import Fleet
from serve.pinned import Pinned, Pinner
from serve.wire.body import SampledRequest, checked

MOST_LIKELIEST = 20
LEAST_LOGPROB = -9999.0
"""What vLLM writes for a probability of 0, since JSON has no infinity."""

NEUTRAL = {
    "n": (1,),
    "best_of": (1,),
    "stream": (False,),
    "stream_options": (),
    "logprobs": (),
    "logit_bias": ({},),
    "suffix": ("",),
    "stop": ([], ""),
}
"""Parameters that are not supported, with the values that ask for nothing."""


class CompletionRequest(SampledRequest):
    """The body of POST /v1/completions. Make it with `parse_request`."""

    model: str = Field(min_length=1)
    prompt: Annotated[str, Field(min_length=1)] | Annotated[list[int], Field(min_length=1)]
    max_tokens: int = Field(default=16, ge=0)
    stop_token_ids: list[int] = []
    echo: bool = False
    prompt_logprobs: int | None = Field(default=None, ge=0, le=MOST_LIKELIEST)
    return_token_ids: bool = False
    skip_special_tokens: bool = True

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if self.max_tokens == 0 and not self.echo and self.prompt_logprobs is None:
            raise ValueError("max_tokens is 0, so ask for echo or prompt_logprobs")
        return self

    def sampling(self, stop_token_ids: Iterable[int]) -> SamplingParams:
        """Raises RequestError, with `param`, for values out of bounds. `stop_token_ids` are the model's own."""
        own = dict.fromkeys((*self.stop_token_ids, *stop_token_ids))
        return self.sampled(max_tokens=self.max_tokens or None, stop_token_ids=tuple(own))


def parse_request(body: bytes | str | dict[str, Any]) -> CompletionRequest:
    """A checked request; see `body.checked`."""
    return checked(body, CompletionRequest, NEUTRAL)


class Completions:
    """Completes prompts with one tokenizer, one catalog and one fleet."""

    def __init__(self, tokenizer, catalog: Catalog, fleet: Fleet, metrics: RequestMetrics) -> None:
        self._tokenizer = tokenizer
        self._stop_ids = harmony.stop_token_ids(tokenizer)
        self._pinner = Pinner(catalog, fleet, metrics)

    async def complete(self, request: CompletionRequest) -> Completion:
        """Raises what `Pinner.begin` raises, and EngineLostError if engines keep dying."""
        prompt = self._tokenizer.encode(request.prompt) if isinstance(request.prompt, str) else request.prompt

        async def answer() -> _Generated:
            begun = await self._pinner.begin(
                request.model,
                prompt,
                request.sampling(self._stop_ids),
                started=time.perf_counter(),
                prompt_logprobs=request.prompt_logprobs,
                prompt_only=request.max_tokens == 0,
            )
            return await _gather(begun)

        generated = await pinned.whole(answer)
        return await asyncio.to_thread(self._response, request, prompt, generated)  # thousands of tokens to decode

    def _response(self, request: CompletionRequest, prompt: list[int], generated: "_Generated") -> Completion:
        text = self._tokenizer.decode(
            [*(prompt if request.echo else []), *generated.ids], skip_special_tokens=request.skip_special_tokens
        )
        more: dict[str, Any] = {}
        if generated.prompt_logprobs is not None:
            more["prompt_logprobs"] = self._decoded(generated.prompt_logprobs)
        if request.return_token_ids:
            more |= {"token_ids": generated.ids, "prompt_token_ids": prompt}
        return Completion(
            id=f"cmpl-{uuid.uuid4().hex}",
            object="text_completion",
            created=int(time.time()),
            model=request.model,
            system_fingerprint=generated.fingerprint,
            choices=[
                CompletionChoice(index=0, text=text, logprobs=None, finish_reason=generated.finish_reason, **more)
            ],
            usage=CompletionUsage(
                prompt_tokens=len(prompt),
                completion_tokens=len(generated.ids),
                total_tokens=len(prompt) + len(generated.ids),
            ),
        )

    def _decoded(self, scores: PromptLogprobs) -> list[dict[str, dict[str, Any]] | None]:
        """vLLM's shape: per prompt token null or `{id: {"logprob", "rank", "decoded_token"}}`."""
        return [
            at
            and {
                str(token): {
                    "logprob": max(found.logprob, LEAST_LOGPROB),
                    "rank": found.rank,
                    "decoded_token": self._tokenizer.decode([token]),
                }
                for token, found in at.items()
            }
            for at in scores
        ]


@dataclass(frozen=True)
class _Generated:
    ids: list[int]
    finish_reason: str
    prompt_logprobs: PromptLogprobs | None
    fingerprint: str


async def _gather(begun: Pinned) -> _Generated:
    ids: list[int] = []
    scores = None
    async with aclosing(begun.chunks()) as chunks:
        async for chunk in chunks:
            ids += chunk.ids
            scores = scores or chunk.prompt_logprobs
    if chunk.finish_reason == "abort":
        raise TandemError("the generation was aborted before it was complete", hint="ask again")
    return _Generated(ids, chunk.finish_reason, scores, begun.target.version or BASE)
