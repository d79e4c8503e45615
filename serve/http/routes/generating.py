"""What routes that generate have in common: the body is read, a service answers it, and the request is counted.

Knows HTTP and no format: a body's parser and a service are handed in. Errors are raised; the gateway writes them.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from configs.errors import BodyTooLargeError, TandemError
from serve.http import error_answer
from serve.openai.body import encode

MOST_BODY_BYTES = 8 * 2**20
SHORTEN = "shorten the question or the conversation"


class Generating:
    """Answers over one `serve.gateway.Gateway`."""

    def __init__(self, gateway: Any) -> None:
        self._gateway = gateway

    async def answer(self, request: Request, parse: Callable[[bytes], Any], service: Any) -> Response:
        """Whole, or with `stream` as server-sent events; whatever refuses it does so before the status line."""
        with self._counted(request) as resolve:
            body = parse(await read_body(request)).with_defaults(self._gateway.sampling)
            resolve(body.model)
            if not body.stream:
                return Response(encode(await service.complete(body)), media_type="application/json")
            events = (await service.open(body)).events()
        return event_stream(events)

    @contextlib.contextmanager
    def _counted(self, request: Request) -> Iterator[Callable[[str], None]]:
        """Count a request by target and status; the function that it gives resolves the model, once it is known."""
        label, requests = "none", self._gateway.requests.requests

        def resolve(model: str) -> None:
            nonlocal label
            label = self._gateway.catalog.resolve(model).kind

        try:
            yield resolve
        except TandemError as error:
            status, _ = error_answer.body(error, request.scope)
            requests.labels(label, status).inc()
            raise
        requests.labels(label, 200).inc()


def event_stream(events: AsyncIterator[str]) -> StreamingResponse:
    return StreamingResponse(events, media_type="text/event-stream", headers={"cache-control": "no-cache"})


async def read_body(request: Request) -> bytes:
    """Raises BodyTooLargeError."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MOST_BODY_BYTES:
            raise BodyTooLargeError(f"the body is larger than {MOST_BODY_BYTES / 2**20:g} MiB", hint=SHORTEN)
    return body
