"""The gateway's `/api` routes: what the command line asks for and changes. OpenAI clients never need them."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from typing import Annotated, Any, Self

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from actors.client import Client
from actors.hardware import gpus
from actors.runs.ledger import SlotStatus
from actors.runs.run import RunKind, Submission
from configs.schema import ExportConfig, RunConfig
from serve.adapters.keep_loaded import KeptAdapters
from serve.adapters.swap import Swapper, as_json
from serve.generation.catalog import Catalog
from serve.generation.engines import Engines, describe
from serve.openai.body import whole, writable

Priority = Annotated[int, Field(ge=-(2**31), lt=2**31)]


def _whole(value: object) -> object:
    """Parsed JSON whose numbers without a fraction are ints."""
    if isinstance(value, dict):
        return {name: _whole(each) for name, each in value.items()}
    return [_whole(each) for each in value] if isinstance(value, list) else whole(value)


def _as_json(kind: type[BaseModel]) -> BeforeValidator:
    """Values of JSON's own types for a section of the configuration, which takes texts for numbers elsewhere."""
    return BeforeValidator(lambda value: kind.model_validate_json(json.dumps(value), strict=True))


class Body(BaseModel):
    """What all bodies share: no unknown fields, values of JSON's types, texts that can be stored and told back."""

    model_config = ConfigDict(strict=True, extra="forbid", use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _writable(cls, value: object) -> object:
        try:
            return _whole(writable(value))
        except RecursionError as error:
            raise ValueError("the body is nested too deep") from error


class SwapRequest(Body):
    """Body of `POST /api/aliases/{alias}`: an adapter, or the way back."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {
                    "required": ["adapter"],
                    "properties": {"adapter": {"type": "string", "minLength": 1}, "back": {"const": False}},
                },
                {"required": ["back"], "properties": {"back": {"const": True}, "adapter": {"enum": ["", None]}}},
            ]
        }
    )

    adapter: str | None = None
    """A version, `latest` or `base`."""
    back: bool = False
    """Return to what the alias pointed to before the last swap."""
    force: bool = False
    """Swap in an adapter that is suspect, too."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if self.back == bool(self.adapter):
            raise ValueError("name an adapter or back, one of the two")
        return self


class LoadRequest(Body):
    """Body of `POST /api/adapters/{version}/load`."""

    seconds: float = Field(60, gt=0, le=3600)
    """The hold ends by itself after this long unless it is renewed."""
    hold: str | None = Field(None, min_length=1, max_length=80)
    """The hold to renew; without it a new one is taken."""


class UnloadRequest(Body):
    """Body of `POST /api/adapters/{version}/unload`."""

    hold: str
    """What `load` answered with."""


class RunRequest(Body):
    """Body of `POST /api/runs`: a resolved configuration and how to queue it."""

    run_id: str
    """The caller's: lower-case letters, digits, `-` and `_`; the same one again queues nothing new."""
    config: Annotated[RunConfig, _as_json(RunConfig)]
    """What `tandem train --dry-run --json` shows."""
    priority: Priority = 0
    """Higher ones go first."""
    slot_wanted: str | None = None
    """The one slot that it may have; any by default."""
    parent: str | None = None
    """The run whose checkpoint is continued."""


class ExportRequest(Body):
    """Body of `POST /api/exports`: what to export, and how to queue it."""

    run_id: str
    """The caller's, as for a run."""
    config: Annotated[ExportConfig, _as_json(ExportConfig)]
    """Which adapter, to which format and where."""
    priority: Priority = 0
    """Higher ones go first."""
    slot_wanted: str | None = None
    """The one slot that it may have; any by default."""


class QuarantineRequest(Body):
    """Body of `POST /api/slots/{slot}/quarantine`."""

    reason: str = Field(min_length=1, max_length=500)
    """Shown wherever the slot is shown."""


class JsonRoute(APIRoute):
    """Reads every body as JSON: `curl -d` says that it is a form. Web pages are kept out by `serve.http.middleware`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_json(request: Request) -> Response:
            others = [(name, value) for name, value in request.scope["headers"] if name != b"content-type"]
            headers = [*others, (b"content-type", b"application/json")]
            return await handle(Request({**request.scope, "headers": headers}, request.receive))

        return handle_json


def routes(
    control: Client, engines: Engines, catalog: Catalog, swapper: Swapper, kept_adapters: KeptAdapters
) -> APIRouter:
    api = APIRouter(prefix="/api", tags=["admin"], route_class=JsonRoute)

    @api.get("/status")
    async def status() -> dict:
        """Slots with their leases and quarantines, engines, aliases, holds, GPUs and the host."""
        return {
            "base": catalog.base,
            "slots": [_slot_as_json(each) for each in await control.describe_slots()],
            "engines": describe(await engines.stats()),
            "aliases": await control.aliases(),
            "holds": kept_adapters.describe(),
            "gpus": [asdict(gpu) for gpu in await asyncio.to_thread(gpus.readings)],  # a lost one takes seconds
            "host": asdict(gpus.host()),
        }

    @api.post("/aliases/{alias}")
    async def swap(alias: str, body: SwapRequest) -> dict:
        """Point an alias at another adapter without dropping a request."""
        return as_json(await swapper.swap(alias, body.adapter, back=body.back, force=body.force))

    @api.post("/adapters/{version}/load")
    async def load(version: str, body: LoadRequest) -> dict:
        """Keep an adapter loaded, and answering under its version, without pointing an alias at it."""
        hold = await kept_adapters.take(version, body.seconds, body.hold)
        return {"version": hold.version, "hold": hold.id, "seconds": body.seconds}

    @api.post("/adapters/{version}/unload")
    async def unload(version: str, body: UnloadRequest) -> dict:
        """End a hold; the adapter is dropped if nothing else keeps it."""
        return {"version": (await kept_adapters.release(version, body.hold)).version, "hold": body.hold}

    @api.post("/runs", status_code=201)
    async def submit(body: RunRequest) -> dict:
        """Queue a training run."""
        config = body.config
        wanted = Submission(
            body.run_id,
            RunKind.TRAIN,
            config.profile,
            config.model_dump(mode="json"),
            max_steps=config.training.max_steps,
            priority=body.priority,
            slot_wanted=body.slot_wanted,
            parent=body.parent,
        )
        return asdict(await control.submit(wanted))

    @api.post("/exports", status_code=201)
    async def export(body: ExportRequest) -> dict:
        """Queue an export of a published adapter."""
        wanted = Submission(
            body.run_id,
            RunKind.EXPORT,
            body.config.to,
            body.config.model_dump(mode="json"),
            priority=body.priority,
            slot_wanted=body.slot_wanted,
        )
        return asdict(await control.submit(wanted))

    @api.post("/runs/{run_id}/stop")
    async def stop(run_id: str) -> dict:
        """Stop a run wherever it is; running training writes a checkpoint first."""
        return asdict(await control.stop(run_id))

    @api.post("/slots/{slot}/quarantine")
    async def quarantine(slot: str, body: QuarantineRequest) -> dict:
        """Give a slot to nobody until it is released; what holds it goes on."""
        return asdict(await control.quarantine(slot, body.reason))

    @api.post("/slots/{slot}/release")
    async def release(slot: str) -> dict:
        """Let a slot in quarantine be given again."""
        return {"slot": slot, "accepted": await control.release_quarantine(slot)}

    return api


def _slot_as_json(status: SlotStatus) -> dict[str, Any]:
    shown = ("slot", "role", "holder", "pid", "granted_at")
    return {
        "slot": status.slot.model_dump(),
        "leases": [{name: getattr(lease, name) for name in shown} for lease in status.leases],
        "quarantine": asdict(status.quarantine) if status.quarantine else None,
    }
