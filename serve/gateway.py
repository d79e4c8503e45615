"""HTTP: OpenAI's and Anthropic's routes, health, metrics and the admin API, in front of the engines.

A deployment of its own, so that a dead engine becomes an error event or a retry and not a broken stream.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import iter_route_contexts
from fastapi_offline import FastAPIOffline
from prometheus_client import CollectorRegistry
from starlette.routing import Match

from actors import client, logs
from actors.metrics import ClusterCollector, EngineMetrics, MetricsPart, RequestMetrics
from actors.ray_edge.loopback import stay_on_loopback
from configs.errors import ClusterError, NotFoundError, RequestError, TandemError
from configs.paths import home
from configs.schema import ServeConfig
from models.base import checkpoint
from models.lora.registry import Registry
from serve.adapters.keep_loaded import KeptAdapters
from serve.adapters.swap import Swapper
from serve.anthropic.service import Messages
from serve.generation.catalog import PROD, Catalog
from serve.generation.engines import EngineClient, Engines, describe
from serve.http.description import openapi
from serve.http.error_answer import respond
from serve.http.middleware import OwnPagesOnly, PlainPaths
from serve.http.routes import admin, anthropic, health, openai, responses, tokens
from serve.openai.body import model_defaults
from serve.openai.chat.service import Chat
from serve.openai.complaints import complaint
from serve.openai.completions.service import Completions
from serve.openai.models import model
from serve.openai.responses.background import Background
from serve.openai.responses.service import Responses
from serve.openai.responses.stored.conversations import Conversations
from serve.openai.responses.stored.kept import open_kept
from serve.openai.responses.stored.responses import StoredResponses
from serve.openai.tokens.service import Tokens
from serve.request_log import RequestLog

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")


class Gateway:
    """The Serve deployment: builds its parts, then is the ASGI app."""

    def __init__(self, config: ServeConfig, base: Path, engines: "dict[str, DeploymentHandle]") -> None:
        stay_on_loopback()
        logs.begin(home(), "gateway")
        described = checkpoint.inspect(base)
        self.started = time.time()
        self.allowed_hosts = config.allowed_hosts
        self.max_context = config.max_context
        self.sampling = model_defaults(base)
        self.registry = Registry(home().models)
        self.control = client.Client(client.find())
        self.engines = Engines([EngineClient(f"engine_{slot}", handle) for slot, handle in engines.items()])
        self.catalog = Catalog(described.name, self.control.aliases, is_published=self.registry.has)
        self.metrics = {part: CollectorRegistry() for part in MetricsPart}
        self.requests = RequestMetrics(self.metrics[MetricsPart.REQUESTS])
        self.engine_metrics = EngineMetrics(self.metrics[MetricsPart.ENGINES], described.name)
        self.metrics[MetricsPart.CLUSTER].register(ClusterCollector(home()))
        tokenizer = checkpoint.load_tokenizer(base)
        parts = (tokenizer, self.catalog, self.engines, self.requests, config.max_context)
        self.chat = Chat(*parts)
        self.kept, background = open_kept(config.responses, home()), Background()
        self.responses = Responses(self.chat, self.kept, background)
        self.stored_responses = StoredResponses(self.kept, background)
        self.conversations = Conversations(self.kept)
        self.messages = Messages(self.chat)
        self.tokens = Tokens(tokenizer, self.chat)
        self.completions = Completions(*parts, end_ids=checkpoint.end_token_ids(base))
        self.swapper = Swapper(
            self.control, self.engines, self.catalog, self.registry, described.fingerprint, self.requests
        )  # fmt: skip
        self.kept_adapters = KeptAdapters(self.swapper, self.engines, self.catalog)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_app(self, in_serve=True)

    def models(self) -> list[dict[str, Any]]:
        """Every servable name as `GET /v1/models` has it."""
        published = {manifest.version: int(manifest.created_at) for manifest in self.registry.list()}
        base, context = self.catalog.base, self.max_context
        return [
            model(name, version, published.get(version or "", int(self.started)), base=base, context=context)
            for name, version in self.catalog.names().items()
        ]

    async def readiness(self) -> tuple[bool, dict[str, Any]]:
        """Whether an engine answers, and each engine's state."""
        stats = await self.engines.stats()
        ready = any(not isinstance(value, str) for value in stats.values())
        return ready, {"ready": ready, "base": self.catalog.base, "engines": describe(stats)}


def build_app(gateway: Gateway, *, in_serve: bool = False) -> FastAPI:
    """All routes over one gateway's parts. `in_serve`: Serve adds X-Request-Id to the answers."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with contextlib.suppress(ClusterError):
            await gateway.control.gateway_starts()
            await gateway.catalog.refresh()
        lasting = (gateway.catalog.follow(), gateway.kept_adapters.watch(), gateway.kept.sweep())
        background = [asyncio.create_task(each) for each in lasting]
        yield
        for task in background:
            task.cancel()

    app = FastAPIOffline(
        title="Tandem",
        summary="OpenAI-compatible chat over swappable LoRA adapters",
        description=openapi.ABOUT,
        lifespan=lifespan,
        redoc_url=None,
        swagger_ui_parameters={"defaultModelsExpandDepth": 0},
    )
    app.add_middleware(PlainPaths)
    app.add_middleware(OwnPagesOnly, allowed_hosts=gateway.allowed_hosts)
    app.openapi = lambda: openapi.openapi(app)  # type: ignore[method-assign]  # FastAPI's documented way
    app.include_router(openai.routes(gateway))
    app.include_router(anthropic.routes(gateway))
    app.include_router(tokens.routes(gateway))
    app.include_router(health.routes(gateway))
    app.include_router(responses.routes(gateway))
    app.include_router(
        admin.routes(gateway.control, gateway.engines, gateway.catalog, gateway.swapper, gateway.kept_adapters)
    )
    app.add_exception_handler(TandemError, _tandem_error)
    app.exception_handler(RequestValidationError)(_validation_error)
    app.add_exception_handler(400, _unreadable)
    app.add_exception_handler(404, _no_such_route)
    app.add_exception_handler(405, _no_such_method)
    app.add_middleware(RequestLog, respond=respond, echo=not in_serve)

    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def index() -> dict:
        """What is here, for who opens the address in a browser."""
        return {"tandem": gateway.catalog.base, "model": PROD, "api": "/v1/chat/completions", "docs": "/docs"}

    return app


async def _tandem_error(request: Request, error: Exception) -> JSONResponse:
    return respond(error, request.scope)


async def _validation_error(request: Request, error: RequestValidationError) -> JSONResponse:
    errors = [each | {"loc": each["loc"][1:]} for each in error.errors()]  # FastAPI's begin with "body"
    place, sentence = complaint(errors, error.body)
    return respond(RequestError(sentence, param=place or None), request.scope)


async def _unreadable(request: Request, error: Exception) -> JSONResponse:
    deep = isinstance(error.__cause__, RecursionError)
    error = RequestError("the body is nested too deep" if deep else "the body is not JSON in UTF-8")
    return respond(error, request.scope)


async def _no_such_route(request: Request, error: Exception) -> JSONResponse:
    return respond(NotFoundError(f"no route {request.method} {request.url.path}", hint="see /docs"), request.scope)


async def _no_such_method(request: Request, error: Exception) -> JSONResponse:
    refused = RequestError(f"{request.url.path} does not take {request.method}", hint="see /docs")
    response = respond(refused, request.scope, status=405)
    response.headers["allow"] = ", ".join(_allowed(request))
    return response


def _allowed(request: Request) -> list[str]:
    """The methods of a path: of the routes that are spelled so, or else of those that match it."""
    routes = [route for route in iter_route_contexts(request.app.routes) if route.path == request.url.path]
    spelled = {method for route in routes for method in route.methods or ()}
    return [method for method in METHODS if (method in spelled if spelled else _takes(request, method))]


def _takes(request: Request, method: str) -> bool:
    """Whether a route of the request's path does; Starlette itself asks the first one only."""
    scope = {**request.scope, "method": method}
    return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)
