"""The bodies of vLLM's `/tokenize` and `/detokenize`, checked, and their answers. Knows formats only.

https://docs.vllm.ai (Tokenizer API)
"""

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from serve.generation.catalog import PROD
from serve.openai.body import checked
from serve.openai.chat import request as chat
from serve.openai.chat.request import ChatRequest
from serve.openai.chat.tools import Tool

OF_A_CHAT = ("messages", "tools", "add_generation_prompt", "continue_final_message", "chat_template_kwargs")
"""Fields that a chat has too."""


class Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", use_attribute_docstrings=True)

    model: str = Field(default=PROD, min_length=1)
    """Any name that a chat may have: all share one tokenizer."""


class TokenizeRequest(Body):
    """The body of POST /tokenize: a text, or a conversation. Make it with `parse_tokenize`."""

    prompt: str | None = None
    """A text."""
    add_special_tokens: bool = True
    """False: its ids without the special tokens that the tokenizer puts around a text."""
    messages: list[dict[str, Any]] | None = None
    """A conversation instead, rendered as a chat would."""
    tools: list[Tool] | None = None
    """Functions that its prompt declares."""
    add_generation_prompt: bool | None = None
    """False: the prompt ends with the last message."""
    continue_final_message: bool | None = None
    """True: the last message, an assistant's, stays open."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Its `reasoning_effort`."""
    return_token_strs: bool = False
    """True: the tokens as the tokenizer spells them, too."""

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("send prompt or messages, one of the two")
        return self

    def chat(self) -> ChatRequest:
        """The chat whose prompt is asked for. Raises RequestError."""
        asked = {name: value for name in OF_A_CHAT if (value := getattr(self, name)) is not None}
        if self.tools is not None:
            asked["tools"] = [tool.as_dict() for tool in self.tools]
        return chat.parse_request({"model": self.model, **asked})


class DetokenizeRequest(Body):
    """The body of POST /detokenize. Make it with `parse_detokenize`."""

    tokens: list[Annotated[int, Field(ge=0)]]
    """Token ids."""


class Tokenized(BaseModel):
    count: int
    max_model_len: int
    """How many tokens prompt and answer may have together."""
    tokens: list[int]
    token_strs: list[str] | None = None


class Detokenized(BaseModel):
    prompt: str


def parse_tokenize(body: bytes) -> TokenizeRequest:
    """A checked request; see `body.checked`."""
    request = checked(body, TokenizeRequest, {"chat_template": ()})
    if request.messages is not None:
        request.chat()
    return request


def parse_detokenize(body: bytes) -> DetokenizeRequest:
    """A checked request; see `body.checked`."""
    return checked(body, DetokenizeRequest, {})
