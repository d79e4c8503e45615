"""One engine as a Serve replica on its slot: takes the lease, loads the base and the live adapters, then generates."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

from actors import client, logs
from actors.hardware.placement import check_slot, die_with_parent
from actors.home.process_id import ProcessId
from actors.ray_edge.loopback import stay_on_loopback
from actors.runs.event import EventKind
from actors.runs.ledger import PREVIOUS
from configs.errors import NotFoundError, StateError, TandemError
from configs.paths import home
from configs.schema import ServeConfig, Slot
from serve.engine.mux import EngineMux, Event
from serve.engine.protocol import AdapterCheck, Engine, EngineStats, GenerationRequest

log = logging.getLogger(__name__)


class EngineReplica:
    """The methods of `Engine` as a Serve deployment offers them, with all generations of a gateway on one stream, and a
    start that finds its own adapters.
    """

    async def __init__(self, config: ServeConfig, base: Path, slot: Slot) -> None:  # type: ignore[misc]  # Serve awaits
        die_with_parent()
        stay_on_loopback()
        logs.begin(home(), holder := f"engine_{slot.name}")
        self._base = base
        self._muxes: dict[str, EngineMux] = {}
        device = check_slot(slot)
        control = client.BlockingClient()
        await asyncio.to_thread(control.take_serve_slot, slot.name, holder, ProcessId.own())
        self._engine = await asyncio.to_thread(_ENGINES[config.engine], config, base, device, 1 / len(slot.roles))
        aliases = await asyncio.to_thread(control.aliases)
        for version in {version for alias, version in aliases.items() if alias != PREVIOUS and version}:
            await self._bring_back(control, version)
        await asyncio.to_thread(control.engine_is_up, slot.name, ProcessId.own())
        log.info("the engine is up on %s", device)

    async def _bring_back(self, control: client.BlockingClient, version: str) -> None:
        """Load what an alias points to. One that fails must not keep the base from answering; requests for it fail."""
        from models.base import checkpoint
        from models.lora import adapter
        from models.lora.registry import Registry

        try:
            folder = Registry(home().models).path(version)
            await asyncio.to_thread(adapter.validate, folder, checkpoint.inspect(self._base).fingerprint)
            await self._engine.add_adapter(version, folder)
        except TandemError as error:
            text = f"{version} could not be loaded after a restart: {error.message}"
            log.warning("%s", text)
            await asyncio.to_thread(control.note, EventKind.ERROR, text)

    async def stream(self, line: str) -> AsyncGenerator[list[Event], None]:
        """What the requests of one gateway gain, for as long as it reads; see `EngineMux.batches`. `line` is its id."""
        mux = self._muxes[line] = EngineMux(self._engine)
        try:
            async with aclosing(mux.batches()) as batches:
                async for batch in batches:
                    yield batch
        finally:
            del self._muxes[line]

    async def submit(self, line: str, request: GenerationRequest) -> None:
        """Begin a request whose chunks and errors go out on `line`. Raises StateError if nobody reads that here."""
        if line not in self._muxes:
            raise StateError(f"no line {line} leads from this process", hint="open it with `stream`")
        self._muxes[line].submit(request)

    async def listening(self, line: str) -> None:
        """The sign of life of the gateway that reads `line`; see `serve.engine.mux`."""
        if line in self._muxes:
            self._muxes[line].listening()

    async def abort(self, line: str, request_id: str) -> None:
        if line in self._muxes:
            self._muxes[line].abort(request_id)

    async def add_adapter(self, version: str, path: Path) -> None:
        await self._engine.add_adapter(version, path)

    async def verify_adapter(self, version: str) -> AdapterCheck:
        return await self._engine.verify_adapter(version)

    async def drop_adapter(self, version: str) -> None:
        """`Engine.remove_adapter`, but a version that is not loaded is not an error."""
        try:
            self._engine.remove_adapter(version)
        except NotFoundError:
            return

    async def adapters(self) -> tuple[str, ...]:
        return self._engine.adapters()

    async def stats(self) -> EngineStats:
        return self._engine.stats()

    async def check_health(self) -> None:
        """Serve replaces this replica if it raises."""
        self._engine.check_health()

    def __del__(self) -> None:
        if engine := getattr(self, "_engine", None):
            engine.close()


def _transformers(config: ServeConfig, base: Path, device: str, share: float) -> Engine:
    from models.base import checkpoint, loading

    model = loading.load_for_inference(base, device, max_seq_length=config.max_context)
    from serve.engine.transformers import TransformersEngine  # imports Transformers, which Unsloth must come before

    return TransformersEngine(
        model,
        checkpoint.load_tokenizer(base),
        max_batch=config.max_batch,
        max_context=config.max_context,
        max_waiting=config.max_waiting,
    )


def _native(config: ServeConfig, base: Path, device: str, share: float) -> Engine:
    from serve.engine.native.loading import load_engine

    return load_engine(config, base, device, share)


_ENGINES = {"transformers": _transformers, "native": _native}
"""By the name that serve.yaml gives each."""
