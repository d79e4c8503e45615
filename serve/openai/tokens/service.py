"""What the tokenizer makes of a text or a conversation, and of ids. Knows no HTTP; `serve.http.routes.tokens` asks."""

import asyncio
from typing import TYPE_CHECKING, Any

from configs.errors import RequestError
from models.harmony.encoding import LONG, Encoder
from serve.openai.chat.service import Chat
from serve.openai.tokens.request import Detokenized, DetokenizeRequest, Tokenized, TokenizeRequest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Tokens:
    """One tokenizer; conversations are rendered by `chat`."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", chat: Chat) -> None:
        self._tokenizer = tokenizer
        self._encoder = Encoder(tokenizer.backend_tokenizer)
        self._chat = chat

    async def tokenize(self, request: TokenizeRequest) -> Tokenized:
        """However many there are. Raises RequestError for a conversation that cannot be rendered."""
        if request.prompt is None:
            ids = await self._chat.prompt(request.chat())
        else:
            ids = await self._encode(request.prompt, request.add_special_tokens)
        named = {"token_strs": self._tokenizer.convert_ids_to_tokens(ids)} if request.return_token_strs else {}
        return Tokenized(count=len(ids), max_model_len=self._chat.max_context or 0, tokens=ids, **named)

    async def _encode(self, text: str, add_special_tokens: bool) -> list[int]:
        if len(text) < LONG:
            return self._encoder.ids(text, add_special_tokens=add_special_tokens)
        return await asyncio.to_thread(self._encoder.ids, text, add_special_tokens=add_special_tokens)

    async def detokenize(self, request: DetokenizeRequest) -> Detokenized:
        """Special tokens by their names. Raises RequestError for an id that the tokenizer does not know."""
        known = len(self._tokenizer)
        if request.tokens and max(request.tokens) >= known:
            raise RequestError(f"tokens has ids outside 0 to {known - 1}", param="tokens")
        return Detokenized(prompt=await asyncio.to_thread(self._tokenizer.decode, request.tokens))

    def describe(self) -> dict[str, Any]:
        """The tokenizer's configuration, as its tokenizer_config.json has it, without the paths of its files."""
        told = {name: value for name, value in self._tokenizer.init_kwargs.items() if not name.endswith("_file")}
        of_class = {"tokenizer_class": type(self._tokenizer).__name__}
        return (
            {name: _plain(value) for name, value in told.items()}
            | of_class
            | {"chat_template": self._tokenizer.chat_template}
        )


def _plain(value: object) -> object:
    """Added tokens as their texts, so that JSON can hold it."""
    if isinstance(value, dict):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
