"""The body of OpenAI's `POST /v1/responses`, as the chat request that it stands for. Knows formats only.

`parse_request` checks a body; `ResponsesRequest.chat` turns it into a ChatRequest, so that both routes have one way to
the model. No state is kept between requests, so everything that would need one is refused with what to send instead.
What comes out is written by `response_events`. The format: https://developers.openai.com/api/docs/api-reference/responses
"""

import contextlib
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator
from pydantic_core import to_json

from configs.errors import RequestError
from serve.wire import chat
from serve.wire.body import Part, SampledRequest, checked
from serve.wire.chat import ChatRequest
from serve.wire.response_input import Conversation

NEUTRAL = {
    "background": (False,),
    "previous_response_id": (),
    "conversation": (),
    "prompt": (),
    "truncation": ("disabled",),
    "max_tool_calls": (),
    "context_management": ([],),
}
"""Parameters that are not supported, with the values that ask for nothing."""

INSTEAD = {
    "background": "keep the connection, or set stream",
    "previous_response_id": "no answer is kept: send the earlier items, output included, in input",
    "conversation": "no conversation is kept: send the earlier items, output included, in input",
    "prompt": "no prompt is kept: send its text as instructions or input",
    "truncation": "shorten input; only 'disabled' is supported",
    "tools": "functions only: {'type': 'function', 'name': ..., 'parameters': ...}",
}
"""What to do about a parameter that is refused."""

LOGPROBS = "message.output_text.logprobs"

CHAT_NAMES = {
    "messages": "input",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "max_completion_tokens": "max_output_tokens",
}
"""Chat parameters that errors may name, and what they are called here."""


class ReasoningOptions(Part):
    effort: Literal["low", "medium", "high"] | None = None
    summary: Literal["auto"] | None = None
    """`auto` is whatever there is: the reasoning itself."""


class TextOptions(Part):
    format: dict[str, Any] | None = None
    """`{"type": "text"}`, `{"type": "json_object"}` or `{"type": "json_schema", "name": ..., "schema": ...}`."""
    verbosity: Literal["medium"] | None = None


class FunctionTool(Part):
    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionChoice(Part):
    type: Literal["function"]
    name: str


class AllowedTools(Part):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[FunctionChoice]


class EventOptions(Part):
    include_obfuscation: Literal[False] | None = None


def _text_or_items(value: Any) -> Any:
    if not isinstance(value, str) and not (isinstance(value, list) and all(isinstance(each, dict) for each in value)):
        raise ValueError("is neither a text nor a list of items")
    if not value:
        raise ValueError("is empty")
    return value


class ResponsesRequest(SampledRequest):
    """The body of POST /v1/responses. Make it with `parse_request`, which refuses what is not listed here."""

    model: str = Field(min_length=1)
    """`prod`, `base`, the base's name or a loaded adapter version."""
    input: Annotated[str | list[dict[str, Any]], BeforeValidator(_text_or_items)]
    """A text, or a list of items: messages, `reasoning`, `function_call`, `function_call_output`."""
    instructions: str | None = None
    """A text that goes before `input`."""
    stream: bool = False
    """True: server-sent events, each with its name."""
    stream_options: EventOptions = EventOptions()
    """How they are framed."""
    max_output_tokens: int | None = Field(default=None, ge=1)
    """How long the answer may be, reasoning included; what the context has left by default."""
    reasoning: ReasoningOptions = ReasoningOptions()
    """How much the model thinks before it answers."""
    text: TextOptions = TextOptions()
    """Text, any JSON object, or JSON of a schema, which the answer always follows."""
    tools: list[FunctionTool] = []
    """Functions that the model may call."""
    tool_choice: Literal["auto", "none", "required"] | FunctionChoice | AllowedTools = "auto"
    """Whether it calls one of them, and which."""
    include: list[Literal["reasoning.encrypted_content", "message.output_text.logprobs"]] = []
    """Reasoning is sent in the open anyway."""
    top_logprobs: int = Field(default=0, ge=0, le=chat.MOST_TOP_LOGPROBS)
    """Beside `include` of the logprobs."""
    metadata: dict[str, str] = {}
    """Told back in the answer."""
    user: str | None = None
    """Told back in the answer."""
    store: bool = False
    """Nothing is stored either way, and the answer says so."""

    @field_validator("text", "tools")
    @classmethod
    def _can_be_told_back(cls, value: Any) -> Any:
        try:
            to_json(value)
        except ValueError as error:  # pydantic writes about 250 levels
            raise ValueError("is nested too deep") from error
        return value

    def chat(self) -> ChatRequest:
        """The same as a chat request that streams its usage. Raises RequestError in this route's words."""
        body: dict[str, Any] = self.model_dump(include=set(SampledRequest.model_fields))
        body |= {"model": self.model, "messages": self._conversation().messages, "stream": True}
        body |= {
            "stream_options": {"include_usage": True},
            "max_completion_tokens": self.max_output_tokens,
            "reasoning_effort": self.reasoning.effort,
            "response_format": _response_format(self.text.format),
            "tools": [_nested(tool) for tool in self.tools],
            "tool_choice": _tool_choice(self.tool_choice),
        }
        if LOGPROBS in self.include:
            body |= {"logprobs": True, "top_logprobs": self.top_logprobs}
        with self.in_own_words():
            return chat.parse_request(body)

    @contextlib.contextmanager
    def in_own_words(self) -> Iterator[None]:
        """A RequestError that names chat's parameters names this route's instead, and items of `input` by number."""
        try:
            yield
        except RequestError as error:
            name = (error.param or "").split(".")[0]
            if name not in CHAT_NAMES:
                raise
            origins = self._conversation().origins
            message = re.sub(r"messages\[(\d+)\]", lambda at: f"input[{origins[int(at[1])]}]", error.message)
            message = message.replace(name, CHAT_NAMES[name], 1) if message.startswith(name) else message
            raise type(error)(message, hint=error.hint, param=CHAT_NAMES[name]) from error

    def _conversation(self) -> Conversation:
        items = [{"role": "user", "content": self.input}] if isinstance(self.input, str) else self.input
        return Conversation(self.instructions, items)


def parse_request(body: bytes | str | dict[str, Any]) -> ResponsesRequest:
    """A checked request; see `body.checked`. Refusals say what to do instead."""
    try:
        return checked(body, ResponsesRequest, NEUTRAL)
    except RequestError as error:
        raise RequestError(error.message, hint=INSTEAD.get(error.param or "", ""), param=error.param) from error


def _nested(tool: FunctionTool | FunctionChoice) -> dict[str, Any]:
    """Chat's form of a function or of its name: one level deeper."""
    return {"type": "function", "function": tool.model_dump(exclude={"type"}, exclude_none=True)}


def _tool_choice(choice: str | FunctionChoice | AllowedTools) -> str | dict[str, Any]:
    if isinstance(choice, AllowedTools):
        allowed = {"mode": choice.mode, "tools": [_nested(tool) for tool in choice.tools]}
        return {"type": "allowed_tools", "allowed_tools": allowed}
    return choice if isinstance(choice, str) else _nested(choice)


def _response_format(text_format: dict[str, Any] | None) -> dict[str, Any] | None:
    """Chat's form of `text.format`: a schema is one level deeper there."""
    if text_format is None or text_format.get("type") != "json_schema":
        return text_format
    return {"type": "json_schema", "json_schema": {k: v for k, v in text_format.items() if k != "type"}}
