"""Load that costs little: streams opened one after another by a number of askers, each token's arrival noted.

    python -m tests.bench.sse_load '{"url": "http://127.0.0.1:8000", "streams": 16, "tokens": 50, "gap": 0.02, ...}'

A process of its own, called by `tests.bench.gateway`. Asks either the endpoint, over HTTP/1.1 with kept connections, or
an engine in this process, which is the measure of the other. Prints JSON: per request its number, when it was sent,
and `[when, tokens]` for each arrival, in `time.monotonic` seconds; and the CPU seconds that this took.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httptools
import uvloop

OPENING_TOKENS = 3
"""The first token becomes the event that names the role, the next two are seen by nobody."""

GOLDEN = 0.6180339887
"""Its multiples fall evenly between whole numbers. A new request comes at any time of a step, not always right after
one, when the last answer's end and everybody's tokens are on their way."""

Ask = Callable[[int], Awaitable[list]]


async def load(
    asker: Callable[[], Awaitable[Ask]], *, streams: int, tokens: int, gap: float, seconds: float
) -> dict[str, Any]:
    """Keep `streams` open for `seconds` once all have begun, their beginnings spread over the length of an answer.

    `requests` are all of them, `all_open` is when the seconds begin and when they end.
    """
    found: list[dict[str, Any]] = []
    begun = time.monotonic()
    all_open = begun + tokens * gap

    async def stream(number: int) -> None:
        ask = await asker()
        await asyncio.sleep(number / streams * tokens * gap)
        while time.monotonic() < all_open + seconds:
            request = len(found)
            found.append({"number": request})
            await asyncio.sleep(request * GOLDEN % 1 * gap)
            found[request]["sent"] = time.monotonic()
            found[request]["arrivals"] = await ask(request)

    await asyncio.gather(*(stream(number) for number in range(streams)))
    return {"requests": found, "all_open": [all_open, all_open + seconds]}


class Connection(asyncio.Protocol):
    """One HTTP/1.1 connection, for one request after another while the server keeps it."""

    def __init__(self) -> None:
        self.kept = False
        self._done: asyncio.Future | None = None
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.kept = True

    def data_received(self, data: bytes) -> None:
        self._now = time.monotonic()
        self._parser.feed_data(data)

    def connection_lost(self, error: Exception | None) -> None:
        self.kept = False
        if self._done and not self._done.done():
            self._done.set_exception(error or ConnectionError("the server closed the connection"))

    def on_body(self, body: bytes) -> None:
        self._left += body
        *events, self._left = self._left.split(b"\n\n")
        tokens = 0
        for event in events:
            if event == b"data: [DONE]":
                continue
            event = json.loads(event.removeprefix(b"data: "))
            if "error" in event:
                raise RuntimeError(event["error"]["message"])
            delta = event["choices"][0]["delta"]
            tokens += 1 if "role" in delta else len(delta.get("content") or "")
        if tokens:
            self._arrivals.append([self._now, tokens])

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        self.kept = self._parser.should_keep_alive()
        self._parser = httptools.HttpResponseParser(self)
        if status == 200:
            self._done.set_result(self._arrivals)
        else:
            self._done.set_exception(RuntimeError(f"HTTP {status}: {self._left.decode()}"))

    async def ask(self, head: bytes, body: bytes) -> list:
        self._arrivals: list = []
        self._left = b""
        self._done = asyncio.get_running_loop().create_future()
        self._transport.write(head + b"content-length: %d\r\n\r\n" % len(body) + body)
        return await self._done


def over_http(url: str, tokens: int) -> Callable[[], Awaitable[Ask]]:
    host, _, port = url.removeprefix("http://").partition(":")
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-type: application/json\r\n".encode()
    body = {"model": "prod", "stream": True, "max_tokens": tokens}
    body["messages"] = [{"role": "user", "content": "Tell me a long story about a fox that lives in a forest."}]

    async def asker() -> Ask:
        connection = Connection()

        async def ask(number: int) -> list:
            nonlocal connection
            if not connection.kept:
                loop = asyncio.get_running_loop()
                _, connection = await loop.create_connection(Connection, host, int(port))
            return await connection.ask(head, json.dumps(body | {"seed": number}).encode())

        return ask

    return asker


def direct(base: str, tokens: int, gap: float) -> tuple[Any, Callable[[], Awaitable[Ask]]]:
    """The engine in this process, and how it is asked."""
    from pathlib import Path

    from serve.engine.protocol import GenerationRequest
    from serve.engine.sampling import SamplingParams
    from tests.bench.paced_engine import engine_of

    engine = engine_of(Path(base))
    engine.gap = gap

    async def ask(number: int) -> list:
        arrivals, sent = [], 0
        request = GenerationRequest(str(number), [1] * 80, SamplingParams(max_tokens=tokens, seed=number))
        async for chunk in engine.generate(request):
            visible = sum(index == 0 or index >= OPENING_TOKENS for index in range(sent, chunk.completion_tokens))
            if visible:
                arrivals.append([time.monotonic(), visible])
            sent = chunk.completion_tokens
        return arrivals

    async def asker() -> Ask:
        return ask

    return engine, asker


def main() -> None:
    options = json.loads(sys.argv[1])
    url, base = options.pop("url", None), options.pop("base", None)
    engine = None
    if url:
        asker = over_http(url, options["tokens"])
    else:
        engine, asker = direct(base, options["tokens"], options["gap"])
    started, cpu = time.monotonic(), time.process_time()
    result = uvloop.run(load(asker, **options)) | {
        "ready_at": engine.ready_at if engine else None,
        "cpu_seconds": time.process_time() - cpu,
        "seconds": time.monotonic() - started,
    }
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
