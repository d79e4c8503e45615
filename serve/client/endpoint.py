"""A chat endpoint as a person's program uses it: one question, one answer that grows while it is generated.

Talks to any OpenAI-compatible server through OpenAI's own client; reasoning, `top_k` and usage in every chunk
(`continuous_usage_stats`, as in vLLM) are used where the server has them. Knows a URL, not who serves there.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import httpx2
import openai
from openai.types.chat import ChatCompletionChunk
from pydantic import BaseModel, ConfigDict, Field

from actors import http_clients
from configs import http_errors
from configs.errors import ClusterError, TandemError

Effort = Literal["low", "medium", "high"]

REASONING = ("reasoning", "reasoning_content")
"""What servers call it; those that send both send the same."""
READY_POLL_S = 0.5
CONNECT_TIMEOUT_S = 5
LEAST_ARRIVALS, LEAST_SECONDS = 4, 0.05
"""Below these an answer came in a burst, and the time between its first and last token says nothing."""
ANSWER_TIMEOUT_S = 600
"""Between two pieces of an answer; a prompt may wait for its turn this long."""


class Settings(BaseModel):
    """How an answer is generated; what is None is left to the server, which takes the model's own values."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    model: str = Field("prod", min_length=1)
    """The base, an alias or an adapter version."""
    reasoning_effort: Effort = "medium"
    temperature: float | None = Field(None, ge=0, le=2)
    """0 always takes the likeliest token."""
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0)
    """0 keeps all tokens."""
    max_tokens: int | None = Field(None, ge=1)
    """Longest answer, thinking included; None is what the context has left."""
    seed: int | None = None


@dataclass
class Reply:
    """An answer so far. `Endpoint.reply` gives the same object again, grown, after each arrival."""

    text: str = ""
    thinking: str = ""
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    """OpenAI's tool calls, arguments complete only once `finish_reason` is set."""
    finish_reason: str | None = None
    version: str | None = None
    """The adapter version that answers, or `base`: the server's `system_fingerprint`."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    """Counted by the server, thinking included."""
    first_token_s: float | None = None
    """Seconds from the question to the first token."""
    seconds: float = 0.0
    """From the question to the last arrival."""
    arrivals: int = 0
    """How often something came."""
    _calls: dict[Any, dict[str, Any]] = field(default_factory=dict, repr=False)
    """`tool_calls` by the server's index, which may be any number."""

    @property
    def tokens_per_s(self) -> float | None:
        """Speed of generation, the wait for the first token left out; with it for an answer that came in a burst. None
        before the second token."""
        if self.first_token_s is None or self.completion_tokens < 2 or self.seconds <= 0:
            return None
        generating = self.seconds - self.first_token_s
        if self.arrivals < LEAST_ARRIVALS or generating < LEAST_SECONDS:
            return self.completion_tokens / self.seconds
        return (self.completion_tokens - 1) / generating

    @property
    def came(self) -> bool:
        """There is anything of an answer."""
        return bool(self.text or self.thinking or self.tool_calls)

    @property
    def cut(self) -> bool:
        """The answer ended at the token limit, so it may be incomplete or empty."""
        return self.finish_reason == "length"

    def take(self, chunk: ChatCompletionChunk, elapsed_s: float) -> bool:
        """Add a chunk; whether it changed anything that a person sees."""
        self.version = chunk.system_fingerprint or self.version
        if chunk.usage:
            self.prompt_tokens, self.completion_tokens = chunk.usage.prompt_tokens, chunk.usage.completion_tokens
        grew = False
        for choice in chunk.choices:
            delta = choice.delta
            thinking = next((text for name in REASONING if (text := getattr(delta, name, None))), "")
            self.text += delta.content or ""
            self.thinking += thinking
            for call in delta.tool_calls or []:
                self._take_call(call)
            self.finish_reason = choice.finish_reason or self.finish_reason
            grew = grew or bool(delta.content or thinking or delta.tool_calls)
        if grew:
            self.first_token_s = elapsed_s if self.first_token_s is None else self.first_token_s
            self.seconds = elapsed_s
            self.arrivals += 1
        return grew or bool(chunk.usage) or any(choice.finish_reason for choice in chunk.choices)

    def _take_call(self, call: Any) -> None:
        """An index that is none, as some servers have it, means the call that came last."""
        index = call.index if isinstance(call.index, int) else next(reversed(self._calls), 0)
        if index not in self._calls:
            self._calls[index] = {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
            self.tool_calls.append(self._calls[index])
        known = self._calls[index]
        known["id"] = call.id or known["id"]
        known["function"]["name"] += (call.function and call.function.name) or ""
        known["function"]["arguments"] += (call.function and call.function.arguments) or ""


@dataclass(frozen=True)
class Generation:
    """Tokens as the model read and generated them, its stop token included."""

    prompt_ids: list[int]
    ids: list[int]
    finish_reason: str
    version: str | None
    """The adapter version that generated, or `base`."""


class Endpoint:
    """An async context: `async with Endpoint("http://127.0.0.1:8000/v1") as endpoint`."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str = "none",
        http_client: httpx2.AsyncClient | None = None,
        address: Callable[[], str | None] | None = None,
    ) -> None:
        """`url` is what an OpenAI client calls base_url. `address` says before every request where that is now, for an
        endpoint that may come back elsewhere; None means that it is not known."""
        self.url = url.rstrip("/")
        self._address = address
        timeout = httpx2.Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        self._client = http_clients.async_openai_client(self.url, api_key, timeout, http_client)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self._client.close()

    async def models(self) -> list[str]:
        """Names that `model` may have now. Raises ClusterError if nothing answers."""
        return [*await self.contexts()]

    async def contexts(self) -> dict[str, int | None]:
        """What `model` may be now, with the tokens that prompt and answer together may have there; None where the
        server does not say. Raises ClusterError if nothing answers."""
        try:
            served = (await self._found().models.list()).data
        except openai.OpenAIError as error:
            raise self._translated(error) from None
        lengths = {model.id: getattr(model, "max_model_len", None) for model in served}
        return {name: length if isinstance(length, int) else None for name, length in lengths.items()}

    async def wait_ready(self) -> None:
        """Return once the endpoint answers again, whatever it answers; the caller sets the time limit."""
        while True:
            try:
                await self.models()
                return
            except ClusterError:
                await asyncio.sleep(READY_POLL_S)
            except TandemError:
                return

    async def reply(self, messages: Sequence[dict[str, Any]], settings: Settings, **more: Any) -> AsyncIterator[Reply]:
        """Ask, and give the growing answer after each arrival; the last one has `finish_reason`.

        `messages` are OpenAI's; `more` goes into the request's body, such as `tools` or `response_format`. Closing the
        iterator ends the generation on the server. Raises ClusterError if the endpoint is not there, is being restarted
        or was lost (what came until then stays in the Reply), NotFoundError for an unknown model, OverloadError,
        RequestError for what the server refuses, TandemError if the server failed.
        """
        started, answer, stream = time.perf_counter(), Reply(), None
        try:
            stream = await self._found().chat.completions.create(**self._body(messages, settings, more))
            async with aclosing(stream.__aiter__()) as chunks, stream:
                async for chunk in chunks:
                    if answer.take(chunk, time.perf_counter() - started):
                        yield answer
        except openai.APIConnectionError as error:  # the client wraps what httpx raises in mid-stream, too
            raise (self._broken_off(error.__cause__) if stream else self._translated(error)) from None
        except (openai.OpenAIError, httpx2.HTTPError, json.JSONDecodeError) as error:
            raise self._translated(error) from None
        if answer.finish_reason is None:
            raise self._broken_off()

    async def generate(self, messages: Sequence[dict[str, Any]], settings: Settings) -> Generation:
        """A whole answer in tokens, with the prompt as the server rendered it.

        Raises what `reply` raises, and ClusterError if the server has no `return_token_ids`, vLLM's extension.
        """
        asked = self._body(messages, settings, {"return_token_ids": True}) | {"stream": False}
        del asked["stream_options"]
        try:
            done = await self._found().chat.completions.create(**asked)
        except (openai.OpenAIError, httpx2.HTTPError, json.JSONDecodeError) as error:
            raise self._translated(error) from None
        prompt, generated = getattr(done, "prompt_token_ids", None), getattr(done.choices[0], "token_ids", None)
        if not isinstance(prompt, list) or not isinstance(generated, list):
            raise ClusterError(f"{self.url} gave no token ids", hint="it must speak vLLM's return_token_ids")
        return Generation(prompt, generated, done.choices[0].finish_reason, done.system_fingerprint)

    def _found(self) -> openai.AsyncOpenAI:
        """The client, pointed to where the endpoint is now."""
        if self._address and (url := self._address()):
            self._client.base_url = self.url = url.rstrip("/")
        return self._client

    def _body(self, messages: Sequence[dict[str, Any]], settings: Settings, more: dict[str, Any]) -> dict[str, Any]:
        asked = settings.model_dump(exclude_none=True, exclude={"max_tokens", "top_k"})
        if settings.max_tokens is not None:
            asked["max_completion_tokens"] = settings.max_tokens
        extra = dict(more)
        if settings.top_k is not None:
            extra["top_k"] = settings.top_k
        options = {"include_usage": True, "continuous_usage_stats": True}
        return {"messages": list(messages), "stream": True, "stream_options": options, "extra_body": extra} | asked

    def _translated(self, error: Exception) -> TandemError:
        """OpenAI's exception as ours, with the server's own words where it has some."""
        match error:
            case openai.APIConnectionError():
                ours = "`tandem up` starts it, `tandem status` shows it"
                theirs = "is the address right, and does its server run?"
                return ClusterError(f"no answer from {self.url}", hint=ours if self._address else theirs)
            # Ray's proxy before it knows its applications; a server of ours under another path
            case openai.NotFoundError() if not http_errors.fields(error.body) or error.code == "not_found":
                return ClusterError(
                    f"{self.url} answers 404: no OpenAI API is there", hint="it is starting, or the URL lacks its /v1"
                )
            case openai.APIError():
                body = error.body if http_errors.fields(error.body) else {"message": str(error)}
                return http_errors.error_of(getattr(error, "status_code", None), body, who=self.url)
        return self._broken_off(error)

    def _broken_off(self, error: BaseException | None = None) -> ClusterError:
        why = f" ({type(error).__name__})" if error else ""
        return ClusterError(f"{self.url} broke off in the middle of an answer{why}", hint="ask again")
