"""An OpenAI-compatible endpoint as evaluation uses it: `/v1/completions` with token ids and vLLM's extra parameters.

Knows a URL, not who serves there. Requests run concurrently up to a limit; what passes by itself (overload, a restart)
is waited for. Cancelling closes the connections, which ends the requests on the server.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import httpx

from actors import http_clients
from configs import http_errors
from configs.errors import ClusterError

TRIES = 30
WAIT_S = 2.0
"""Between tries, unless the server names another time."""
MOST_WAIT_S = 30.0
ANSWER_TIMEOUT_S = 600.0
PASSING = (429, *http_errors.RESTARTING)


@dataclass(frozen=True)
class Score:
    """How likely one token was, given those before it."""

    logprob: float
    rank: int


@dataclass(frozen=True)
class Continuation:
    """What a model generated after a prompt, its stop token included."""

    ids: list[int]
    finish_reason: str


class Endpoint:
    """An async context: `async with Endpoint(url) as endpoint`."""

    def __init__(self, url: str, *, concurrency: int = 8, transport: httpx.AsyncBaseTransport | None = None) -> None:
        """`url` is what an OpenAI client calls base_url, such as http://127.0.0.1:8000/v1."""
        self.url = url.rstrip("/")
        self._room = asyncio.Semaphore(concurrency)
        self._http = http_clients.async_client(self.url, httpx.Timeout(30, read=ANSWER_TIMEOUT_S, pool=None), transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self._http.aclose()

    async def score(self, model: str, ids: Sequence[int]) -> list[Score | None]:
        """One entry per token; None for the first, which has no past.

        Raises ClusterError, NotFoundError for an unknown model, RequestError for a prompt that the server refuses.
        """
        body = {"prompt": list(ids), "max_tokens": 0, "echo": True, "prompt_logprobs": 0}
        given = (await self._complete(model, body)).get("prompt_logprobs")
        if not isinstance(given, list) or len(given) != len(ids):
            raise ClusterError(f"{self.url} gave no prompt_logprobs", hint="it must speak vLLM's extra parameters")
        scores: list[Score | None] = [None]
        for token, at in zip(ids[1:], given[1:], strict=True):
            scores.append(Score(at[str(token)]["logprob"], at[str(token)]["rank"]))
        return scores

    async def generate(self, model: str, ids: Sequence[int], *, max_tokens: int, stop: Sequence[int]) -> Continuation:
        """The most likely tokens after `ids`, up to a `stop` token. Raises what `score` raises."""
        body = {"prompt": list(ids), "max_tokens": max_tokens, "temperature": 0, "stop_token_ids": list(stop)}
        choice = await self._complete(model, body | {"return_token_ids": True})
        if not isinstance(choice.get("token_ids"), list):
            raise ClusterError(f"{self.url} gave no token_ids", hint="it must speak vLLM's extra parameters")
        return Continuation(choice["token_ids"], choice["finish_reason"])

    async def _complete(self, model: str, body: dict[str, Any]) -> dict[str, Any]:
        """The one choice of a completion."""
        async with self._room:
            response = await self._patiently({"model": model} | body)
        if response.is_success:
            return response.json()["choices"][0]
        raise http_errors.error_of(response.status_code, response.text, who="the endpoint", otherwise=ClusterError)

    async def _patiently(self, body: dict[str, Any]) -> httpx.Response:
        for left in reversed(range(TRIES)):
            wait = WAIT_S
            try:
                response = await self._http.post(f"{self.url}/completions", json=body)
                if response.status_code not in PASSING or not left:
                    return response
                wait = _seconds(response.headers.get("retry-after"))
            except httpx.HTTPError as error:
                if not left:
                    raise ClusterError(
                        f"no answer from {self.url} ({type(error).__name__})", hint="`tandem status`"
                    ) from None
            await asyncio.sleep(wait)
        raise AssertionError("unreachable")


def _seconds(retry_after: str | None) -> float:
    try:
        return min(float(retry_after or WAIT_S), MOST_WAIT_S)
    except ValueError:
        return WAIT_S
