"""Stand-ins for the seams, real enough to be talked to and short enough to be read."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

from configs.errors import NotFoundError
from serve.engine.protocol import AdapterCheck, EngineStats, GenerationRequest, TokenChunk


class FakeEngine:
    """Answers with `script`, or without one echoes the prompt, one token per `delay` seconds."""

    def __init__(self, script: list[int] | None = None, *, delay: float = 0.0) -> None:
        self.script, self.delay = script, delay
        self.requests: list[GenerationRequest] = []
        self._versions: list[str] = []
        self._running: dict[str, str | None] = {}

    async def add_adapter(self, version: str, path: Path) -> None:
        self._versions = [*dict.fromkeys([*self._versions, version])]

    async def verify_adapter(self, version: str) -> AdapterCheck:
        return AdapterCheck(version, max_difference=1.0, repeat_difference=0.0, probe_tokens=1)

    def remove_adapter(self, version: str) -> None:
        self._versions.remove(version)

    def adapters(self) -> tuple[str, ...]:
        return tuple(self._versions)

    async def generate(self, request: GenerationRequest) -> AsyncIterator[TokenChunk]:
        if request.adapter is not None and request.adapter not in self._versions:
            raise NotFoundError(f"adapter {request.adapter} is not loaded", param="model")
        self.requests.append(request)
        self._running[request.request_id] = request.adapter
        answer = (request.prompt_ids if self.script is None else self.script)[: request.sampling.max_tokens]
        try:
            for count, token in enumerate(answer, start=1):
                await asyncio.sleep(self.delay)
                stopped = "stop" if token in request.sampling.stop_token_ids else None
                reason = stopped or ("length" if count == len(answer) else None)
                reason = reason if request.request_id in self._running else "abort"
                yield TokenChunk([token], reason, len(request.prompt_ids), count)
                if reason:
                    return
        finally:
            self._running.pop(request.request_id, None)

    def abort(self, request_id: str) -> None:
        self._running.pop(request_id, None)

    def stats(self) -> EngineStats:
        counts = Counter(self._running.values())
        loaded = {version: counts[version] for version in self._versions}
        return EngineStats(len(self._running), 0, 0, 1, loaded, 0, "cpu", 0)

    def check_health(self) -> None: ...

    def close(self) -> None: ...
