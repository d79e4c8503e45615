"""The gateway's routes for whoever watches it: its own two, vLLM's three, which other programs ask, and the metrics."""

import asyncio
import importlib.metadata
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from actors.metrics import MetricsPart
from serve.generation.engines import describe
from serve.http.description.openapi import READINESS
from serve.http.routes.parts import Parts

ALL = tuple(MetricsPart)
EMPTY: dict[int | str, dict[str, Any]] = {
    200: {"description": "An engine answers."},
    503: {"description": "None does."},
}


def routes(gateway: Parts) -> APIRouter:
    """The routes over one `serve.gateway.Gateway`."""
    health = APIRouter(tags=["health"])

    @health.head("/healthz", include_in_schema=False)
    @health.get("/healthz")
    async def healthz() -> dict:
        """The gateway itself lives."""
        return {"ok": True}

    @health.head("/readyz", include_in_schema=False)
    @health.get("/readyz", responses=READINESS)
    async def readyz() -> JSONResponse:
        """An engine answers; 503 while none does."""
        ready, state = await gateway.readiness()
        return JSONResponse(state, status_code=200 if ready else 503)

    @health.head("/health", include_in_schema=False)
    @health.get("/health", response_class=Response, responses=EMPTY)
    async def answers() -> Response:
        """The same without a body, as in vLLM."""
        ready, _ = await gateway.readiness()
        return Response(status_code=200 if ready else 503)

    @health.post("/ping", response_class=Response, responses=EMPTY)
    @health.get("/ping", response_class=Response, responses=EMPTY)
    async def ping() -> Response:
        """The same, as SageMaker asks."""
        return await answers()

    @health.get("/version")
    async def version() -> dict:
        """Tandem's version."""
        return {"version": importlib.metadata.version("tandem")}

    @health.get("/metrics", response_class=PlainTextResponse)
    async def metrics(parts: Annotated[tuple[MetricsPart, ...], Query(alias="collect[]")] = ALL) -> Response:
        """Prometheus metrics of requests, engines, slots, queue, runs, adapters and GPUs, or of the parts asked for."""
        if MetricsPart.ENGINES in parts:
            for name, stats in describe(await gateway.engines.stats()).items():
                gateway.engine_metrics.update(name, None if "error" in stats else stats)
        wanted = [gateway.metrics[part] for part in ALL if part in parts]
        text = await asyncio.to_thread(lambda: b"".join(map(generate_latest, wanted)))  # collecting reads files
        return PlainTextResponse(text, media_type=CONTENT_TYPE_LATEST)

    return health
