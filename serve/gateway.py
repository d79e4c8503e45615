"""HTTP: OpenAI's chat routes, health, metrics and the admin API, in front of the engines.

A deployment of its own, so that a dead engine becomes an error event or a retry and not a broken stream. The one place
where errors become HTTP.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from openai.types import Completion
from openai.types.chat import ChatCompletion
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from actors import control
from actors.metrics import ClusterCollector, EngineMetrics, RequestMetrics
from configs.errors import ClusterError, NotFoundError, OverloadError, RequestError, TandemError
from configs.paths import home
from configs.schema import ServeConfig
from models.registry import Registry
from serve import admin, completions
from serve.catalog import PROD, Catalog
from serve.chat import Chat
from serve.completions import Completions
from serve.fleet import Fleet, Remote, describe
from serve.holds import Holds
from serve.loopback import stay_on_loopback
from serve.swap import Swapper
from serve.wire import chat as chat_wire
from serve.wire.body import encode
from serve.wire.errors import error_body
from serve.wire.models import model_list

RETRY_AFTER_S = 2
MOST_BODY_BYTES = 8 * 2**20


class Gateway:
    """The Serve deployment: builds its parts, then is the ASGI app."""

    def __init__(self, config: ServeConfig, base: Path, engines: dict[str, Any]) -> None:
        from models import checkpoint

        stay_on_loopback()
        described = checkpoint.inspect(base)
        self.started = time.time()
        self.registry = Registry(home().models)
        self.control = control.Client(control.find())
        self.fleet = Fleet([Remote(f"engine_{slot}", handle) for slot, handle in engines.items()])
        self.catalog = Catalog(described.name, self.control.aliases)
        self.scrape = CollectorRegistry()
        self.requests = RequestMetrics(self.scrape)
        self.engine_metrics = EngineMetrics(self.scrape)
        self.scrape.register(ClusterCollector(home()))
        tokenizer = checkpoint.load_tokenizer(base)
        self.chat = Chat(tokenizer, self.catalog, self.fleet, self.requests)
        self.completions = Completions(tokenizer, self.catalog, self.fleet, self.requests)
        self.swapper = Swapper(
            self.control, self.fleet, self.catalog, self.registry, described.fingerprint, self.requests
        )  # fmt: skip
        self.holds = Holds(self.swapper, self.fleet, self.catalog)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_app(self)

    def created(self) -> dict[str, int]:
        """Every servable name with its creation time in Unix seconds."""
        published = {manifest.version: int(manifest.created_at) for manifest in self.registry.list()}
        return {name: published.get(version or "", int(self.started)) for name, version in self.catalog.names().items()}

    async def readiness(self) -> tuple[bool, dict[str, Any]]:
        """Whether an engine answers, and each engine's state."""
        stats = await self.fleet.stats()
        ready = any(not isinstance(value, str) for value in stats.values())
        return ready, {"ready": ready, "base": self.catalog.base, "engines": describe(stats)}


def build_app(gateway: Gateway) -> FastAPI:
    """All routes over one gateway's parts."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with contextlib.suppress(ClusterError):
            await gateway.catalog.refresh()
        background = [asyncio.create_task(each) for each in (gateway.catalog.follow(), gateway.holds.watch())]
        yield
        for task in background:
            task.cancel()

    app = FastAPI(title="Tandem", summary="OpenAI-compatible chat over swappable LoRA adapters", lifespan=lifespan)
    app.include_router(admin.routes(gateway.control, gateway.fleet, gateway.catalog, gateway.swapper, gateway.holds))
    app.add_exception_handler(TandemError, _tandem_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(404, _no_such_route)
    app.add_exception_handler(405, _no_such_method)
    app.add_exception_handler(Exception, _unexpected)

    @contextlib.contextmanager
    def counted() -> Iterator[Callable[[str], None]]:
        """Count a request by target and status; the function that it gives resolves the model, once it is known."""
        label = "none"

        def resolve(model: str) -> None:
            nonlocal label
            label = gateway.catalog.resolve(model).kind

        try:
            yield resolve
        except TandemError as error:
            status, _ = error_body(error)
            gateway.requests.requests.labels(label, status).inc()
            raise
        gateway.requests.requests.labels(label, 200).inc()

    @app.post("/v1/chat/completions", tags=["openai"])
    async def chat_completions(request: Request) -> Response:
        """A chat completion; `stream: true` sends server-sent events."""
        with counted() as resolve:
            body = chat_wire.parse_request(await _body(request))
            resolve(body.model)
            if not body.stream:
                return _whole(await gateway.chat.complete(body))
            answer = await gateway.chat.open(body)
        headers = {"cache-control": "no-cache", "x-request-id": answer.id}
        return StreamingResponse(answer.events(), media_type="text/event-stream", headers=headers)

    @app.post("/v1/completions", tags=["openai"])
    async def text_completions(request: Request) -> Response:
        """A prompt as text or token ids: scored with `prompt_logprobs`, continued by `max_tokens`, or both."""
        with counted() as resolve:
            body = completions.parse_request(await _body(request))
            resolve(body.model)
            return _whole(await gateway.completions.complete(body))

    @app.get("/v1/models", tags=["openai"])
    async def models() -> dict:
        """The base, the aliases and the live adapter versions."""
        return model_list(gateway.created())

    @app.get("/v1/models/{name:path}", tags=["openai"])
    async def model(name: str) -> dict:
        gateway.catalog.resolve(name)
        created = gateway.created()
        return model_list({name: created.get(name, int(gateway.started))})["data"][0]

    @app.get("/healthz", tags=["health"])
    async def healthz() -> dict:
        """The gateway itself lives."""
        return {"ok": True}

    @app.get("/readyz", tags=["health"])
    async def readyz() -> JSONResponse:
        """An engine answers; 503 while none does."""
        ready, state = await gateway.readiness()
        return JSONResponse(state, status_code=200 if ready else 503)

    @app.get("/metrics", tags=["health"])
    async def metrics() -> Response:
        """Prometheus metrics of requests, engines, slots, queue, runs, adapters and GPUs."""
        for name, stats in describe(await gateway.fleet.stats()).items():
            gateway.engine_metrics.update(name, None if "error" in stats else stats)
        return PlainTextResponse(
            await asyncio.to_thread(generate_latest, gateway.scrape), media_type=CONTENT_TYPE_LATEST
        )

    @app.get("/", include_in_schema=False)
    async def index() -> dict:
        """What is here, for who opens the address in a browser."""
        return {"tandem": gateway.catalog.base, "model": PROD, "api": "/v1/chat/completions", "docs": "/docs"}

    return app


async def _body(request: Request) -> bytes:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MOST_BODY_BYTES:
            raise RequestError(f"the body is larger than {MOST_BODY_BYTES} bytes", hint="shorten the conversation")
    return body


def _whole(done: Completion | ChatCompletion) -> Response:
    return Response(encode(done), media_type="application/json", headers={"x-request-id": done.id})


def _respond(error: Exception) -> JSONResponse:
    status, body = error_body(error)
    headers = {"retry-after": str(RETRY_AFTER_S)} if isinstance(error, (OverloadError, ClusterError)) else None
    return JSONResponse(body, status_code=status, headers=headers)


async def _tandem_error(request: Request, error: Exception) -> JSONResponse:
    return _respond(error)


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"] if part != "body")
    return _respond(RequestError(f"{field or 'body'}: {first['msg']}", param=field or None))


async def _no_such_route(request: Request, error: Exception) -> JSONResponse:
    return _respond(NotFoundError(f"no route {request.method} {request.url.path}", hint="see /docs"))


async def _no_such_method(request: Request, error: Exception) -> JSONResponse:
    _, body = error_body(RequestError(f"{request.url.path} does not take {request.method}", hint="see /docs"))
    return JSONResponse(body, status_code=405, headers=getattr(error, "headers", None))


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    return _respond(error)
