"""vLLM's routes for the tokenizer. Bodies are parsed by `serve.openai.tokens`. Errors are raised; the gateway writes
them."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from serve.http.description.openapi import documented
from serve.http.routes.generating import read_body
from serve.http.routes.parts import Parts
from serve.openai.body import encode
from serve.openai.tokens.request import (
    Detokenized,
    DetokenizeRequest,
    Tokenized,
    TokenizeRequest,
    parse_detokenize,
    parse_tokenize,
)


def routes(gateway: Parts) -> APIRouter:
    """The routes over one `serve.gateway.Gateway`."""
    tokens = APIRouter()

    @tokens.post("/tokenize", **documented("/tokenize", TokenizeRequest, answer=Tokenized))
    async def tokenize(request: Request) -> Response:
        """The token ids of a text, or of a conversation as a chat would render it."""
        body = parse_tokenize(await read_body(request))
        gateway.catalog.resolve(body.model)
        return Response(encode(await gateway.tokens.tokenize(body)), media_type="application/json")

    @tokens.post("/detokenize", **documented("/detokenize", DetokenizeRequest, answer=Detokenized))
    async def detokenize(request: Request) -> Response:
        """The text of token ids."""
        body = parse_detokenize(await read_body(request))
        gateway.catalog.resolve(body.model)
        return Response(encode(await gateway.tokens.detokenize(body)), media_type="application/json")

    @tokens.get("/tokenizer_info", tags=["openai"])
    async def tokenizer_info() -> dict:
        """The tokenizer's configuration, its chat template included."""
        return gateway.tokens.describe()

    return tokens
