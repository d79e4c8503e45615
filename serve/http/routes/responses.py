"""OpenAI's routes for responses and conversations that are kept: what comes after `POST /v1/responses`.

Errors are raised; the gateway turns them into HTTP.
"""

import json
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel

from serve.http.description.answer_schemas import response_event
from serve.http.description.openapi import documented
from serve.http.routes.generating import event_stream, read_body
from serve.http.routes.parts import Parts
from serve.openai.body import checked
from serve.openai.responses import request as responses
from serve.openai.responses.listing import PagingQuery
from serve.openai.responses.stored.conversation_bodies import ConversationCreation, ItemsCreation, MetadataUpdate

Body = TypeVar("Body", bound=BaseModel)

RESPONSE, CONVERSATION = "/responses/{response_id}", "/conversations/{conversation_id}"
ITEM = CONVERSATION + "/items/{item_id}"


def routes(gateway: Parts) -> APIRouter:
    """The routes over one `serve.gateway.Gateway`."""
    v1 = APIRouter(prefix="/v1")

    @v1.post(
        "/responses/input_tokens",
        **documented("/v1/responses/input_tokens", responses.ResponsesRequest, kind="response.input_tokens"),
    )
    async def count_input_tokens(request: Request) -> Response:
        """How many tokens the prompt of such a request has."""
        body = responses.parse_request(await read_body(request))
        tokens = await gateway.responses.count(body)
        return _whole({"object": "response.input_tokens", "input_tokens": tokens})

    @v1.get(RESPONSE, **documented("/v1" + RESPONSE, event=response_event()))
    async def retrieve_response(response_id: str, stream: bool = False, starting_after: int = -1) -> Response:
        """A stored response; `stream=true` sends the events of one that was created in the background with `stream`,
        those after the number `starting_after`."""
        if stream:
            return event_stream(await gateway.stored_responses.events(response_id, starting_after))
        return _whole(await gateway.stored_responses.retrieve(response_id))

    @v1.delete(RESPONSE, **documented("/v1" + RESPONSE))
    async def delete_response(response_id: str) -> Response:
        """Forget a response; one that is being generated ends."""
        return _whole(await gateway.stored_responses.delete(response_id))

    @v1.post(RESPONSE + "/cancel", **documented("/v1" + RESPONSE + "/cancel", kind="response"))
    async def cancel_response(response_id: str) -> Response:
        """End a response in the background; one that is over is told as it is."""
        return _whole(await gateway.stored_responses.cancel(response_id))

    @v1.get(RESPONSE + "/input_items", **documented("/v1" + RESPONSE + "/input_items", kind="list"))
    async def input_items(response_id: str, paging: PagingQuery) -> Response:
        """The items that a response answers, what it went on from included."""
        return _whole(await gateway.stored_responses.input_items(response_id, paging))

    @v1.post("/conversations", **documented("/v1/conversations", ConversationCreation, kind="conversation"))
    async def create_conversation(request: Request) -> Response:
        """A conversation that responses can go on with, and what was said in it so far."""
        return _whole(await gateway.conversations.create(await _parsed(request, ConversationCreation)))

    @v1.get(CONVERSATION, **documented("/v1" + CONVERSATION, kind="conversation"))
    async def retrieve_conversation(conversation_id: str) -> Response:
        """A conversation, less its items."""
        return _whole(await gateway.conversations.retrieve(conversation_id))

    @v1.post(CONVERSATION, **documented("/v1" + CONVERSATION, MetadataUpdate, kind="conversation"))
    async def update_conversation(conversation_id: str, request: Request) -> Response:
        """Other metadata for it."""
        body = await _parsed(request, MetadataUpdate)
        return _whole(await gateway.conversations.update(conversation_id, body))

    @v1.delete(CONVERSATION, **documented("/v1" + CONVERSATION, kind="conversation.deleted"))
    async def delete_conversation(conversation_id: str) -> Response:
        """Forget a conversation; responses that were made in it stay."""
        return _whole(await gateway.conversations.delete(conversation_id))

    @v1.get(CONVERSATION + "/items", **documented("/v1" + CONVERSATION + "/items", kind="list"))
    async def list_items(conversation_id: str, paging: PagingQuery) -> Response:
        """What was said in it."""
        return _whole(await gateway.conversations.items(conversation_id, paging))

    @v1.post(CONVERSATION + "/items", **documented("/v1" + CONVERSATION + "/items", ItemsCreation, kind="list"))
    async def create_items(conversation_id: str, request: Request) -> Response:
        """Add to the end of it."""
        body = await _parsed(request, ItemsCreation)
        return _whole(await gateway.conversations.add_items(conversation_id, body))

    @v1.get(ITEM, **documented("/v1" + ITEM, kind=""))
    async def retrieve_item(conversation_id: str, item_id: str) -> Response:
        """One of its items."""
        return _whole(await gateway.conversations.item(conversation_id, item_id))

    @v1.delete(ITEM, **documented("/v1" + ITEM, kind="conversation"))
    async def delete_item(conversation_id: str, item_id: str) -> Response:
        """The conversation without this item."""
        return _whole(await gateway.conversations.delete_item(conversation_id, item_id))

    return v1


async def _parsed(request: Request, kind: type[Body]) -> Body:
    return checked(await read_body(request), kind, {})


def _whole(told: dict[str, Any]) -> Response:
    return Response(json.dumps(told, ensure_ascii=False), media_type="application/json")
