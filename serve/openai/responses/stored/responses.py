"""What is asked about a response after its request: itself, its events, its input; to cancel or delete it.

Knows neither HTTP nor what generates one. `background` has those that are under way, `kept` all.
"""

import json
from collections.abc import AsyncIterator
from typing import Any

from configs.errors import RequestError
from serve.openai.body import encode
from serve.openai.responses.background import Background
from serve.openai.responses.listing import Paging
from serve.openai.responses.stored.kept import StoredRecords
from serve.openai.responses.stored.store import Record

NOT_IN_BACKGROUND = "This response cannot be streamed because it was not created with background=true."
NOT_STREAMED = "This response cannot be streamed because it was not created with stream=true."
SYNCHRONOUS = "Cannot cancel a synchronous response."


class StoredResponses:
    """The responses of one gateway. Everything raises NotFoundError for one that is not kept."""

    def __init__(self, kept: StoredRecords, background: Background) -> None:
        self._kept = kept
        self._background = background

    async def retrieve(self, response_id: str) -> dict[str, Any]:
        """The response as it is now."""
        return self._now(await self._kept.response(response_id))

    async def events(self, response_id: str, after: int = -1) -> AsyncIterator[str]:
        """Events with a number above `after`, until the last. Raises RequestError for one that was not streamed."""
        record = await self._kept.response(response_id)
        if not record.body["background"]:
            raise RequestError(NOT_IN_BACKGROUND, param="stream")
        run = self._background.get(response_id)
        if not (run.is_followed if run else record.events):
            raise RequestError(NOT_STREAMED, param="stream")
        return run.follow(after) if run else _again(record.events, after)

    async def cancel(self, response_id: str) -> dict[str, Any]:
        """The response, cancelled if it was not over. Raises RequestError for one with a client that waits."""
        record = await self._kept.response(response_id)
        if not record.body["background"]:
            raise RequestError(SYNCHRONOUS, hint="close its connection", param="response_id")
        if run := self._background.get(response_id):
            await run.cancel()
        return await self.retrieve(response_id)

    async def delete(self, response_id: str) -> dict[str, Any]:
        """End it, if it is not over, and forget it."""
        record = await self._kept.response(response_id)
        if run := self._background.get(response_id):
            await run.cancel()
        await self._kept.delete(record)
        return {"id": response_id, "object": "response", "deleted": True}

    async def input_items(self, response_id: str, paging: Paging) -> dict[str, Any]:
        """A page of the items that it answers, what it went on from included."""
        return paging.page((await self._kept.response(response_id)).input)

    def _now(self, record: Record) -> dict[str, Any]:
        if run := self._background.get(record.id):
            return json.loads(encode(run.now()))
        return record.body | {"output": record.output}


async def _again(events: list[str], after: int) -> AsyncIterator[str]:
    yield "".join(events[max(after, -1) + 1 :])
