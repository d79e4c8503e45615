"""Every request's id, and one line of the log for each that has ended. The gateway's middleware;
`serve.generation.generation` tells it of generations.

The answer's headers also name what a request asked for in vain, see `serve.openai.no_effect`.

The id is the client's `X-Request-Id`, or made here. It is in the answer's header, in its id behind `chatcmpl-`, `cmpl-`
or `resp_`, in error bodies, and in the lines of gateway and engine. No text of prompts or answers is logged, no query
string and no header.
"""

import logging
import re
import time
import uuid
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from actors.logs import REQUEST
from actors.ray_edge.proxy import REQUEST_ID

LONGEST_ROUTE = 200
LONGEST_NAME = 100
IGNORED, MAPPED = b"x-tandem-ignored", b"x-tandem-mapped"
READY = ("/readyz", "/health", "/ping")
"""Answer 503 to whoever waits for them, `tandem up` first of all: nothing to warn of."""
_SANE_ID = re.compile(REQUEST_ID.encode())
_EXCHANGE: ContextVar["Exchange | None"] = ContextVar("tandem_exchange", default=None)

log = logging.getLogger(__name__)


@dataclass
class Exchange:
    """One request and what became of it. Several generations of one request add up."""

    id: str
    started: float = field(default_factory=time.perf_counter)
    status: int | None = None
    model: str | None = None
    version: str | None = None
    first_token_s: float | None = None
    prompt_tokens: int = 0
    output_tokens: int = 0
    ended: str | None = None
    """`abandoned` by its client, or `broken` off by an engine's error."""
    error: Exception | None = None
    ignored: list[str] = field(default_factory=list)
    """Parameters that were accepted without effect."""
    mapped: dict[str, str] = field(default_factory=dict)
    """Parameters whose value stands for another one, as `minimal->low`."""

    @property
    def concessions(self) -> list[tuple[bytes, bytes]]:
        """The headers that name what was asked for and is not done."""
        named = {IGNORED: self.ignored, MAPPED: [f"{name}={value}" for name, value in self.mapped.items()]}
        return [(header, ", ".join(map(_printable, names)).encode()) for header, names in named.items() if names]

    def began(self, model: str, version: str | None, seconds: float | None) -> None:
        """A generation's first token came after `seconds`; None if it only scores its prompt."""
        self.model, self.version, self.ended = model, version or "base", None
        if self.first_token_s is None and seconds is not None:
            self.first_token_s = round(seconds, 4)

    def gained(self, prompt_tokens: int, output_tokens: int) -> None:
        self.prompt_tokens += prompt_tokens
        self.output_tokens += output_tokens


def current() -> Exchange:
    """The request that this task answers; outside one, an exchange that nobody reads."""
    return _EXCHANGE.get() or Exchange(uuid.uuid4().hex)


def current_id() -> str | None:
    return REQUEST.get()


def generation_id() -> str:
    """An id for an engine, unique also where a client uses its own twice: `<request>/<number>`."""
    return f"{current().id}/{uuid.uuid4().hex[:12]}"


class RequestLog:
    """ASGI middleware. `respond` makes the answer to an error that nothing else caught.

    `echo` adds X-Request-Id to answers. Serve's own middleware around a deployment does that itself: it makes an id
    where the client sent none, before this one sees the request, and repeats it (RequestIdMiddleware in Ray 2.60).
    """

    def __init__(self, app: ASGIApp, respond: Callable[[Exception, Scope], Response], *, echo: bool) -> None:
        self._app, self._respond, self._echo = app, respond, echo

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        sent = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        exchange = Exchange(sent.decode() if _SANE_ID.fullmatch(sent) else uuid.uuid4().hex)
        _EXCHANGE.set(exchange)  # for good: a request has a task, and so a context, of its own
        REQUEST.set(exchange.id)
        names = [(b"x-request-id", exchange.id.encode())] if self._echo or exchange.id.encode() != sent else []
        whole = False

        async def watched(message: Message) -> None:
            nonlocal whole
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), *names, *exchange.concessions]}
            elif not message.get("more_body"):
                whole = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            exchange.error = error
            if exchange.status is not None:
                raise
            await self._respond(error, scope)(scope, receive, watched)
        finally:
            if not whole and exchange.error is None:
                exchange.ended = exchange.ended or "abandoned"
            _log(scope, exchange)
        return None


def _printable(name: str) -> str:
    """As a header may hold it: clients choose some names."""
    return re.sub(r"[^!-+\--~]", "?", name[:LONGEST_NAME])


def _log(scope: Scope, exchange: Exchange) -> None:
    route = getattr(scope.get("route"), "path", scope["path"])[:LONGEST_ROUTE]
    fields: dict[str, Any] = {
        "event": "request",
        "method": scope["method"],
        "route": route,
        "status": exchange.status,
        "seconds": round(time.perf_counter() - exchange.started, 4),
        "ended": exchange.ended,
    }
    if exchange.model is not None:
        fields |= {name: getattr(exchange, name) for name in ("model", "version", "prompt_tokens", "output_tokens")}
        fields["first_token_s"] = exchange.first_token_s
    words = f"{scope['method']} {route} {exchange.ended or exchange.status}"
    log.log(_level(scope["method"], route, exchange), words, extra=fields, exc_info=exchange.error)


def _level(method: str, route: str, exchange: Exchange) -> int:
    if exchange.error is not None or exchange.status == 500:
        return logging.ERROR
    if exchange.ended == "broken" or ((exchange.status or 0) > 500 and route not in READY):
        return logging.WARNING
    looks = method in ("GET", "HEAD") and (route in READY or (exchange.status or 0) < 400)
    return logging.DEBUG if looks else logging.INFO
