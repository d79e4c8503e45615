"""The gateway's `/v1` routes: OpenAI's, and vLLM's two for adapters. Bodies are parsed by `serve.wire`, not by FastAPI.

Routes that generate count their requests by target and status. Errors are raised; the gateway turns them into HTTP.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response, StreamingResponse
from pydantic import BaseModel

from configs.errors import RequestError, TandemError
from serve.reference import documented
from serve.wire import chat, completions, lora, responses
from serve.wire.body import encode
from serve.wire.errors import error_body
from serve.wire.models import model_list

MOST_BODY_BYTES = 8 * 2**20
SHORTEN = "shorten the question or the conversation"


def routes(gateway: Any) -> APIRouter:
    """The routes over one `serve.gateway.Gateway`."""
    v1 = APIRouter(prefix="/v1")

    @contextlib.contextmanager
    def counted() -> Iterator[Callable[[str], None]]:
        """Count a request by target and status; the function that it gives resolves the model, once it is known."""
        label = "none"

        def resolve(model: str) -> None:
            nonlocal label
            label = gateway.catalog.resolve(model).kind

        try:
            yield resolve
        except TandemError as error:
            status, _ = error_body(error)
            gateway.requests.requests.labels(label, status).inc()
            raise
        gateway.requests.requests.labels(label, 200).inc()

    async def answer(request: Request, parse: Callable[[bytes], Any], service: Any) -> Response:
        """Whole, or with `stream` as server-sent events; whatever refuses it does so before the status line."""
        with counted() as resolve:
            body = parse(await _body(request)).with_defaults(gateway.sampling)
            resolve(body.model)
            if not body.stream:
                return _whole(await service.complete(body))
            opened = await service.open(body)
        return _stream(opened.events())

    @v1.post("/chat/completions", **documented("/v1/chat/completions", chat.ChatRequest, streams=True))
    async def chat_completions(request: Request) -> Response:
        """A chat completion; `stream: true` sends server-sent events."""
        return await answer(request, chat.parse_request, gateway.chat)

    @v1.post("/responses", **documented("/v1/responses", responses.ResponsesRequest, streams=True))
    async def create_response(request: Request) -> Response:
        """OpenAI's newer form of a chat: items in, items out; `stream: true` sends its events."""
        return await answer(request, responses.parse_request, gateway.responses)

    @v1.post("/completions", **documented("/v1/completions", completions.CompletionRequest, streams=True))
    async def text_completions(request: Request) -> Response:
        """Prompts as text or token ids: scored with `prompt_logprobs`, continued by `max_tokens`, or both."""
        return await answer(request, completions.parse_request, gateway.completions)

    @v1.get("/models", **documented("/v1/models"))
    async def models() -> dict:
        """The base under its own name (`root`) and as `base`, the aliases and the loaded adapter versions."""
        return model_list(gateway.created(), root=gateway.catalog.base)

    @v1.get("/models/{name:path}", **documented("/v1/models/{name}"))
    async def model(name: str) -> dict:
        """One of them."""
        gateway.catalog.resolve(name)
        created = gateway.created()
        return model_list({name: created.get(name, int(gateway.started))}, root=gateway.catalog.base)["data"][0]

    @v1.post("/load_lora_adapter", **documented("/v1/load_lora_adapter", lora.LoadRequest, text=True))
    async def load_lora_adapter(request: Request) -> PlainTextResponse:
        """Keep a published adapter loaded, and answering under its version, until it is unloaded."""
        body = lora.parse_load(await _body(request))
        await gateway.holds.keep(lora.published(body, gateway.registry))
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")

    @v1.post("/unload_lora_adapter", **documented("/v1/unload_lora_adapter", lora.UnloadRequest, text=True))
    async def unload_lora_adapter(request: Request) -> PlainTextResponse:
        """Undo `load_lora_adapter`; requests that are running with it end with it."""
        body = lora.parse_unload(await _body(request))
        await gateway.holds.let_go(body.lora_name)
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")

    return v1


async def _body(request: Request) -> bytes:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MOST_BODY_BYTES:
            raise RequestError(f"the body is larger than {MOST_BODY_BYTES / 2**20:g} MiB", hint=SHORTEN)
    return body


def _whole(done: BaseModel) -> Response:
    return Response(encode(done), media_type="application/json")


def _stream(events: AsyncIterator[str]) -> StreamingResponse:
    return StreamingResponse(events, media_type="text/event-stream", headers={"cache-control": "no-cache"})
