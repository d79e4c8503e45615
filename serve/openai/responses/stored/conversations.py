"""Conversations that clients keep here and answer into: made, read, changed, deleted. Knows no HTTP."""

import time
import uuid
from typing import Any

from configs.errors import NotFoundError, RequestError
from serve.openai.responses.items import Item
from serve.openai.responses.listing import Paging
from serve.openai.responses.stored.conversation_bodies import ConversationCreation, ItemsCreation, MetadataUpdate
from serve.openai.responses.stored.kept import StoredRecords
from serve.openai.responses.stored.store import CONVERSATION, Record


class Conversations:
    """The conversations of one gateway. Everything but `create` raises NotFoundError for one that is not kept."""

    def __init__(self, kept: StoredRecords) -> None:
        self._kept = kept

    async def create(self, body: ConversationCreation) -> dict[str, Any]:
        """Raises RequestError where it cannot be kept."""
        about = {"created_at": int(time.time()), "metadata": body.metadata or {}}
        record = Record(f"conv_{uuid.uuid4().hex}", CONVERSATION, about, body.resources())
        if not await self._kept.put(record):
            raise RequestError("the conversation cannot be kept", hint=self._kept.why_not)
        return _told(record)

    async def retrieve(self, conversation_id: str) -> dict[str, Any]:
        return _told(await self._kept.conversation(conversation_id))

    async def update(self, conversation_id: str, body: MetadataUpdate) -> dict[str, Any]:
        def edit(record: Record) -> None:
            record.body["metadata"] = body.metadata

        return _told(await self._kept.change_conversation(conversation_id, edit))

    async def delete(self, conversation_id: str) -> dict[str, Any]:
        await self._kept.delete(await self._kept.conversation(conversation_id))
        return {"id": conversation_id, "object": "conversation.deleted", "deleted": True}

    async def add_items(self, conversation_id: str, body: ItemsCreation) -> dict[str, Any]:
        """The items that were added, as a list."""
        added = body.resources()
        await self._kept.change_conversation(conversation_id, lambda record: record.input.extend(added))
        return Paging(order="asc", limit=len(added)).page(added)

    async def items(self, conversation_id: str, paging: Paging) -> dict[str, Any]:
        return paging.page((await self._kept.conversation(conversation_id)).input)

    async def item(self, conversation_id: str, item_id: str) -> Item:
        record = await self._kept.conversation(conversation_id)
        return record.input[_position(record, item_id)]

    async def delete_item(self, conversation_id: str, item_id: str) -> dict[str, Any]:
        """The conversation without it."""

        def edit(record: Record) -> None:
            del record.input[_position(record, item_id)]

        return _told(await self._kept.change_conversation(conversation_id, edit))


def _position(record: Record, item_id: str) -> int:
    for position, item in enumerate(record.input):
        if item["id"] == item_id:
            return position
    raise NotFoundError(f"Item with id '{item_id}' not found in conversation '{record.id}'.")


def _told(record: Record) -> dict[str, Any]:
    return {"id": record.id, "object": "conversation"} | record.body
