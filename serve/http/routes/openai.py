"""The gateway's `/v1` routes: OpenAI's, and vLLM's two for adapters. Bodies are parsed by `serve.openai`, not by
FastAPI.

Routes that generate count their requests by target and status. Errors are raised; the gateway turns them into HTTP.
"""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from serve.anthropic import models as anthropic_models
from serve.http.description.answer_schemas import response_event
from serve.http.description.openapi import documented
from serve.http.error_answer import speaks_anthropic
from serve.http.routes.generating import Generating, read_body
from serve.http.routes.parts import Parts
from serve.openai import models as model_bodies
from serve.openai.chat import request as chat
from serve.openai.completions import request as completions
from serve.openai.completions.types import Text, TextChunk
from serve.openai.responses import request as responses


def routes(gateway: Parts) -> APIRouter:
    """The routes over one `serve.gateway.Gateway`."""
    v1 = APIRouter(prefix="/v1")
    generating = Generating(gateway)

    @v1.post(
        "/chat/completions",
        **documented("/v1/chat/completions", chat.ChatRequest, answer=ChatCompletion, event=ChatCompletionChunk),
    )
    async def chat_completions(request: Request) -> Response:
        """A chat completion; `stream: true` sends server-sent events."""
        return await generating.answer(request, chat.parse_request, gateway.chat)

    @v1.post(
        "/responses",
        **documented("/v1/responses", responses.ResponsesRequest, event=response_event()),
    )
    async def create_response(request: Request) -> Response:
        """OpenAI's newer form of a chat: items in, items out; `stream: true` sends its events."""
        return await generating.answer(request, responses.parse_request, gateway.responses)

    @v1.post(
        "/completions", **documented("/v1/completions", completions.CompletionRequest, answer=Text, event=TextChunk)
    )
    async def text_completions(request: Request) -> Response:
        """Prompts as text or token ids: scored with `prompt_logprobs`, continued by `max_tokens`, or both."""
        return await generating.answer(request, completions.parse_request, gateway.completions)

    @v1.get("/models", **documented("/v1/models"))
    async def models(request: Request) -> Any:
        """The base under its own name and as `base`, the aliases and the loaded adapter versions.

        `root` is what answers, `max_model_len` the tokens that prompt and answer may have together. With the header
        `anthropic-version` the answer has Anthropic's shape.
        """
        if speaks_anthropic(request.scope):
            return anthropic_models.page(gateway.models(), request.query_params)
        return {"object": "list", "data": gateway.models()}

    @v1.get("/models/{name:path}", **documented("/v1/models/{name}"))
    async def model(request: Request, name: str) -> Any:
        """One of them."""
        gateway.catalog.resolve(name)
        found = next(each for each in gateway.models() if each["id"] == name)
        return anthropic_models.model_info(found) if speaks_anthropic(request.scope) else found

    @v1.post("/load_lora_adapter", **documented("/v1/load_lora_adapter", model_bodies.LoadRequest, text=True))
    async def load_lora_adapter(request: Request) -> PlainTextResponse:
        """Keep a published adapter loaded, and answering under its version, until it is unloaded."""
        body = model_bodies.parse_load(await read_body(request))
        await gateway.kept_adapters.keep(model_bodies.published(body, gateway.registry))
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")

    @v1.post("/unload_lora_adapter", **documented("/v1/unload_lora_adapter", model_bodies.UnloadRequest, text=True))
    async def unload_lora_adapter(request: Request) -> PlainTextResponse:
        """Undo `load_lora_adapter`; requests that are running with it end with it."""
        body = model_bodies.parse_unload(await read_body(request))
        await gateway.kept_adapters.let_go(body.lora_name)
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")

    return v1
