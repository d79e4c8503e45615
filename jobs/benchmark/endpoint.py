"""An OpenAI-compatible endpoint under the stopwatch: `/v1/chat/completions`, streamed, one Timing per request.

Spoken through aiohttp because the client must not be the limit: a chunk costs it less than half of what it costs httpx
(tests/bench/results/benchmark-client.json). Knows a URL, not who serves there. A request that fails is a Timing with a
Failure; only what makes a whole benchmark pointless is raised.
"""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import aiohttp

from actors import http_clients
from configs import http_errors
from configs.address import base_url
from configs.errors import ClusterError, NotFoundError, RequestError, TandemError
from jobs.benchmark.answer import read_events, read_whole, said
from jobs.benchmark.timing import Failure, Timing

LOADING_WAIT_S = 600.0
"""How long an endpoint may go on saying that it is not ready yet."""
POLL_S = 0.5
CONNECT_TIMEOUT_S = 10
SILENCE_TIMEOUT_S = 600
"""Between two pieces of an answer; a prompt may wait for its turn this long."""
KEEPALIVE_S = 2
"""Less than the 5 s after which uvicorn closes an idle connection, so that no request goes into a closing one."""

Messages = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Dialect:
    """What of OpenAI's format this endpoint takes."""

    limit: str = "max_completion_tokens"
    """The field that bounds an answer; older servers know `max_tokens` only."""
    stream: bool = True
    usage: bool = True
    """It takes `stream_options.include_usage`."""


class Endpoint:
    """An async context: `async with Endpoint(url, "prod") as endpoint`."""

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key: str | None = None,
        ignore_eos: bool = False,
        extra: dict[str, Any] | None = None,
    ) -> None:
        """`url` is what an OpenAI client calls base_url; without a path, /v1 is meant.

        `ignore_eos` asks for exactly as many tokens as allowed, in vLLM's words. `extra` goes into every body.
        """
        self.url = base_url(url)
        self.model = model
        self.dialect = Dialect()
        self._ignore_eos = ignore_eos
        self._extra = extra or {}
        self._names: list[str] = []
        self._server: str | None = None
        self._headers = {"accept-encoding": "identity"}  # a compressing proxy would hold chunks back
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=SILENCE_TIMEOUT_S)
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S)
        self._http = http_clients.aiohttp_session(self.url, connector, timeout, self._headers)
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self._http.close()

    # Before the load

    async def wait_ready(self, wait_s: float = 0.0) -> dict[str, Any]:
        """What the endpoint says of itself, once it is ready: loading is waited for, and is not measured.

        `wait_s` is how long nobody may listen at all. Raises ClusterError if it does not become ready.
        """
        started = time.monotonic()
        while True:
            status, body = await self._get(f"{self._root}/readyz")
            if status not in (None, 200, 502, 503):  # not one of ours
                status, _ = await self._get(f"{self.url}/models")
            if status in (401, 403):
                raise ClusterError(
                    f"{self.url} answered {status}: it wants a key", hint="name its variable: --api-key-env"
                )
            if status not in (None, 502, 503):
                return await self._about(body if isinstance(body, dict) and "ready" in body else None)
            waited = time.monotonic() - started
            if waited >= (wait_s if status is None else max(wait_s, LOADING_WAIT_S)):
                said = f"is not ready after {waited:.0f} s ({status})" if status else "does not answer"
                raise ClusterError(f"{self.url} {said}", hint="`tandem up` starts ours; --wait S waits for one")
            await asyncio.sleep(POLL_S)

    async def _about(self, ready: dict[str, Any] | None) -> dict[str, Any]:
        _, version = await self._get(f"{self._root}/version")  # vLLM, SGLang
        _, listed = await self._get(f"{self.url}/models")
        names = [each.get("id") for each in listed.get("data") or []] if isinstance(listed, dict) else []
        self._names = [str(name) for name in names]
        about = {"url": self.url, "model": self.model, "server": self._server}
        version = version.get("version") if isinstance(version, dict) else None
        return about | {"version": version, "models": names, "ready": ready}

    @property
    def _root(self) -> str:
        return self.url.removesuffix("/v1")

    async def _get(self, url: str) -> tuple[int | None, Any]:
        """Status and JSON of a page; (None, None) if nobody answers."""
        try:
            async with self._http.get(url, timeout=aiohttp.ClientTimeout(CONNECT_TIMEOUT_S)) as response:
                self._server = response.headers.get("server")
                text = await response.text(errors="replace")
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None, None
        try:
            return response.status, json.loads(text)
        except ValueError:
            return response.status, None

    async def probe(self, messages: Messages, max_tokens: int) -> Timing:
        """Ask once, finding out the dialect. Raises what the server refuses, with its own words."""
        while True:
            found = await self.ask(messages, max_tokens)
            ignored = found.completion_tokens is not None and found.completion_tokens > max_tokens
            if ignored and self.dialect.limit != "max_tokens":
                self.dialect = replace(self.dialect, limit="max_tokens")
            elif found.failure is None or found.failure.kind == "empty":  # one token of a header is not text yet
                return found
            elif (simpler := self._simpler(found.failure)) == self.dialect:
                raise self._refusal(found.failure)
            else:
                self.dialect = simpler

    def _simpler(self, failure: Failure) -> Dialect:
        """The dialect without what a refusal complains of."""
        if failure.kind not in ("http_400", "http_422"):
            return self.dialect
        if "stream_options" in failure.message:
            return replace(self.dialect, usage=False)
        if "max_completion_tokens" in failure.message:
            return replace(self.dialect, limit="max_tokens")
        return replace(self.dialect, stream=False, usage=False) if "stream" in failure.message else self.dialect

    def _refusal(self, failure: Failure) -> TandemError:
        named = next((name for name in ("ignore_eos", "min_tokens", *self._extra) if name in failure.message), None)
        if failure.kind in ("connection", "broken_off", "timeout"):
            return ClusterError(f"{self.url}: {failure.message}", hint="`tandem status`")
        kind = http_errors.kind_of(failure.status)
        if kind is NotFoundError:
            return NotFoundError(f"{failure.message}{self._listed(failure)}", hint="--model NAME", param="model")
        if kind is RequestError:
            hint = f"leave {named} out of what is asked, if this endpoint does not take it" if named else ""
            return RequestError(failure.message, hint=hint)
        return ClusterError(f"{self.url} ({failure.kind}): {failure.message}")

    def _listed(self, failure: Failure) -> str:
        """The models that there are, unless the server has named them itself."""
        names = self._names[:8]
        if names and all(name in failure.message for name in names):
            return ""
        return f"; {self.url} lists {', '.join(names) or 'no models'}"

    # Under the stopwatch

    async def ask(self, messages: Messages, max_tokens: int) -> Timing:
        """Ask and read to the end. Cancelling closes the connection, which ends the generation on the server."""
        body = {"model": self.model, "messages": list(messages), self.dialect.limit: max_tokens}
        if self.dialect.stream:
            body["stream"] = True
        if self.dialect.usage:
            body["stream_options"] = {"include_usage": True}
        if self._ignore_eos:
            body |= {"ignore_eos": True, "min_tokens": max_tokens}
        payload = json.dumps(body | self._extra).encode()
        headers = {"content-type": "application/json"}
        timing = Timing(time.perf_counter())
        try:
            async with self._http.post(f"{self.url}/chat/completions", data=payload, headers=headers) as response:
                await self._read(response, timing)
        except aiohttp.ClientConnectorError as error:
            timing.failure = Failure("connection", f"no connection ({error.strerror or type(error).__name__})")
        except TimeoutError:
            timing.failure = Failure("timeout", f"nothing came for {SILENCE_TIMEOUT_S} s")
        except (aiohttp.ClientError, OSError) as error:
            timing.failure = Failure("broken_off", f"the connection broke ({type(error).__name__})")
        timing.ended = time.perf_counter()
        return timing

    async def _read(self, response: aiohttp.ClientResponse, timing: Timing) -> None:
        if response.status != 200:
            timing.failure = Failure(f"http_{response.status}", said(await response.text(errors="replace")))
        elif response.content_type == "text/event-stream":
            await read_events(response.content, timing)
        else:
            read_whole(await response.text(errors="replace"), timing)
        if timing.failure is None and not timing.arrivals:
            timing.failure = Failure("empty", f"no text in the answer ({timing.completion_tokens} tokens)")
