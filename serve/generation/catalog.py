"""The names that a client may put into `model`, and the adapter version behind each at this moment.

Aliases are the control actor's; this keeps a copy fresh by a long poll, so that answering needs no extra hop and goes
on while the control actor is being restarted.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from actors.runs.ledger import PREVIOUS, PROD
from configs.errors import NotFoundError

BASE = "base"
RETRY_S = 1


@dataclass(frozen=True)
class Target:
    """What one request is pinned to for its whole life."""

    name: str
    """As the client wrote it."""
    version: str | None
    """Adapter version; None is the base model."""
    kind: str
    """`base`, `version` or the alias: bounded, for metrics."""


class Catalog:
    """Names of one base model. `poll(known)` is `Control.aliases`."""

    def __init__(
        self,
        base: str,
        poll: Callable[..., Awaitable[dict[str, str | None]]],
        *,
        is_published: Callable[[str], bool] = lambda name: False,
    ) -> None:
        self.base = base
        self._poll = poll
        self._is_published = is_published
        self._told: dict[str, str | None] | None = None
        self._aliases: dict[str, str | None] = {PROD: None}
        self.held: set[str] = set()
        """Versions that are kept loaded without an alias; `KeptAdapters` sets it."""

    async def refresh(self) -> None:
        self.update(await self._poll())

    async def follow(self) -> None:
        """Stay up to date for ever; a control actor that does not answer is asked again."""
        while True:
            with contextlib.suppress(Exception):  # whatever Ray raises, the known aliases go on being served
                self.update(await self._poll(self._told))
                continue
            await asyncio.sleep(RETRY_S)

    def update(self, aliases: dict[str, str | None]) -> None:
        self._told = aliases
        self._aliases = {PROD: None, **aliases}

    @property
    def aliases(self) -> dict[str, str | None]:
        return dict(self._aliases)

    def live(self) -> set[str]:
        """Versions that an alias which clients use points to."""
        return {version for alias, version in self._aliases.items() if alias != PREVIOUS and version is not None}

    def kept(self) -> set[str]:
        """Versions that engines have to have loaded."""
        return self.live() | self.held

    def names(self) -> dict[str, str | None]:
        """Every name that a request may use, to its version; the base first."""
        public = {alias: version for alias, version in self._aliases.items() if alias != PREVIOUS}
        versions = {version: version for version in sorted(self.kept())}
        return {self.base: None, BASE: None, **public, **versions}

    def resolve(self, name: str) -> Target:
        """Raises NotFoundError(param="model"), with the names that exist or how to load what is not loaded."""
        if name in (self.base, BASE):
            return Target(name, None, BASE)
        names = self.names()
        if name not in names and self._is_published(name):
            raise NotFoundError(
                f"the adapter '{name}' is published, but not loaded",
                hint=f'POST /v1/load_lora_adapter {{"lora_name": "{name}"}}, or `tandem swap {name}`',
                param="model",
            )
        if name not in names:
            known = ", ".join(names)
            raise NotFoundError(f"the model '{name[:100]}' does not exist", hint=f"models: {known}", param="model")
        return Target(name, names[name], name if name in self._aliases else "version")
