"""What routes that generate have in common: the body is read, a service answers it, and the request is counted.

Knows HTTP and no format: a body's parser and a service are handed in. Errors are raised; the gateway writes them.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Protocol, Self, TypeVar

from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel

from configs.errors import BodyTooLargeError, TandemError
from serve.http import error_answer
from serve.http.routes.parts import Parts
from serve.openai.body import encode

MOST_BODY_BYTES = 8 * 2**20
SHORTEN = "shorten the question or the conversation"


class Asked(Protocol):
    """A checked body that asks for a generation."""

    @property
    def model(self) -> str: ...

    @property
    def stream(self) -> bool: ...

    def with_defaults(self, defaults: Mapping[str, float]) -> Self: ...


class Opened(Protocol):
    """An answer up to its first token."""

    def events(self) -> AsyncIterator[str]:
        """Server-sent events."""
        ...


Body = TypeVar("Body", bound=Asked)
Taken = TypeVar("Taken", bound=Asked, contravariant=True)


class Service(Protocol[Taken]):
    """Answers bodies of one kind: Chat, Completions, Responses, Messages."""

    async def open(self, request: Taken) -> Opened: ...

    async def complete(self, request: Taken) -> BaseModel: ...


class Generating:
    """Answers over one `serve.gateway.Gateway`."""

    def __init__(self, gateway: Parts) -> None:
        self._gateway = gateway

    async def answer(self, request: Request, parse: Callable[[bytes], Body], service: Service[Body]) -> Response:
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
