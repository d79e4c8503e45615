"""What is kept of responses and conversations, asked for in OpenAI's terms. The store itself is `response_store`'s.

Called by `responses`, `stored_responses` and `conversations`.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from configs.errors import NotFoundError, PreviousResponseError, RequestError
from configs.paths import Home
from configs.schema import ResponsesConfig
from serve.openai.responses.items import Item, is_reference
from serve.openai.responses.stored.store import CONVERSATION, RESPONSE, Record, ResponseStore

SWEEP_S = 60
PERSISTED = (
    "Items are not persisted when `store` is set to false. Try again with `store` set to true, or remove this item "
    "from your input."
)
RESTARTED = {"code": "server_error", "message": "the gateway was restarted while the response was generated"}


class StoredRecords:
    """The records of one store; without one nothing is kept. `why_not` says why a record may be missing."""

    def __init__(self, store: ResponseStore | None, why_not: str) -> None:
        self._store = store
        self.why_not = why_not

    @property
    def keeps(self) -> bool:
        return self._store is not None

    async def put(self, record: Record) -> bool:
        """Whether it is kept."""
        return self._store is not None and await asyncio.to_thread(self._store.put, record)

    async def response(self, record_id: str) -> Record:
        """Raises NotFoundError."""
        return await self._get(RESPONSE, record_id)

    async def conversation(self, record_id: str) -> Record:
        """Raises NotFoundError."""
        return await self._get(CONVERSATION, record_id)

    async def previous(self, record_id: str) -> Record:
        """The response that a request goes on from. Raises PreviousResponseError, and RequestError if it is running."""
        try:
            record = await self.response(record_id)
        except NotFoundError as error:
            message = f"Previous response with id '{record_id}' not found."
            raise PreviousResponseError(message, hint=error.hint, param="previous_response_id") from error
        if record.running:
            message = f"the previous response '{record_id}' is {record.body['status']}"
            raise RequestError(message, hint="wait until it is over", param="previous_response_id")
        return record

    async def whole(self, item: Item) -> Item:
        """The item, or the kept one that it refers to. Raises NotFoundError."""
        if not is_reference(item):
            return item
        found = await asyncio.to_thread(self._store.item, str(item.get("id"))) if self._store else None
        if found is None:
            message = f"Item with id '{item.get('id')}' not found. {PERSISTED}"
            raise NotFoundError(message, hint=self.why_not, param="input")
        return found

    async def change_conversation(self, record_id: str, edit: Callable[[Record], None]) -> Record:
        """Let `edit` change it while nobody else does. Raises NotFoundError, and RequestError if it grows too large."""
        await self.conversation(record_id)
        if self._store and (changed := await asyncio.to_thread(self._store.change, CONVERSATION, record_id, edit)):
            return changed
        raise RequestError(f"the conversation '{record_id}' can no longer be kept", hint=self.why_not)

    async def delete(self, record: Record) -> None:
        if self._store:
            await asyncio.to_thread(self._store.delete, record.kind, record.id)

    async def is_taken(self, record_id: str) -> bool:
        return self._store is not None and await asyncio.to_thread(self._store.has, record_id)

    async def sweep(self) -> None:
        """Forget for ever what has outlived its time."""
        while self._store:
            await asyncio.sleep(SWEEP_S)
            await asyncio.to_thread(self._store.sweep)

    async def _get(self, kind: str, record_id: str) -> Record:
        if self._store and (record := await asyncio.to_thread(self._store.get, kind, record_id)):
            return record
        raise NotFoundError(f"{kind.capitalize()} with id '{record_id}' not found.", hint=self.why_not)


def open_kept(config: ResponsesConfig, home: Home) -> StoredRecords:
    """What `config` says, in the gateway's memory or in `home`. Responses that a restart broke off are failed ones."""
    if config.keep == "nothing":
        return StoredRecords(None, "this server keeps no responses (`responses.keep`): send the items themselves")
    store = ResponseStore(
        home.responses if config.keep == "disk" else None,
        life_s=config.hours * 3600,
        most=config.most,
        most_bytes=config.max_mib * 2**20,
    )
    for record in store.running():
        store.put(replace(record, body=record.body | {"status": "failed", "error": RESTARTED}, running=False))
    until = ", at most until the gateway is restarted" if config.keep == "memory" else ""
    return StoredRecords(store, f"they are kept for {config.hours:g} h after their last use{until}")
