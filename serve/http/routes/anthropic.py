"""Anthropic's routes. Bodies are parsed by `serve.anthropic.request`, not by FastAPI. Errors are raised; the gateway
writes them."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from serve.anthropic import request as anthropic
from serve.anthropic.message import Event, Message, TokenCount
from serve.http.description.openapi import documented
from serve.http.error_answer import request_id
from serve.http.routes.generating import Generating, read_body
from serve.http.routes.parts import Parts
from serve.openai.body import encode


def routes(gateway: Parts) -> APIRouter:
    """The routes over one `serve.gateway.Gateway`."""
    v1 = APIRouter(prefix="/v1/messages")
    generating = Generating(gateway)

    @v1.post("", **documented("/v1/messages", anthropic.MessagesRequest, answer=Message, event=Event))
    async def create_message(request: Request) -> Response:
        """A message in Anthropic's format; `stream: true` sends its events."""
        response = await generating.answer(request, anthropic.parse_request, gateway.messages)
        response.headers.update(request_id(request.scope))
        return response

    @v1.post("/count_tokens", **documented("/v1/messages/count_tokens", anthropic.CountRequest, answer=TokenCount))
    async def count_tokens(request: Request) -> Response:
        """How many tokens the prompt of a message has."""
        body = anthropic.parse_count(await read_body(request))
        gateway.catalog.resolve(body.model)
        counted = encode(await gateway.messages.count(body))
        return Response(counted, media_type="application/json", headers=request_id(request.scope))

    return v1
