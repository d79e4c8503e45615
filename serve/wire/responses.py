"""The body of OpenAI's `POST /v1/responses`, as the chat request that it stands for. Knows formats only.

`parse_request` checks a body; `ResponsesRequest.chat` turns it into a ChatRequest, so that both routes have one way to
the model. No state is kept between requests, so everything that would need one is refused with what to send instead.
What comes out is written by `response_events`. The format: https://developers.openai.com/api/docs/api-reference/responses
"""

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator
from pydantic_core import to_json

from configs.errors import RequestError
from serve.wire import chat
from serve.wire.body import SampledRequest, checked
from serve.wire.chat import ChatRequest

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


class Part(BaseModel):
    """What all nested objects of a body share."""

    model_config = ConfigDict(strict=True, extra="forbid")


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
    input: Annotated[str | list[dict[str, Any]], BeforeValidator(_text_or_items)]
    instructions: str | None = None
    stream: bool = False
    stream_options: EventOptions = EventOptions()
    max_output_tokens: int | None = Field(default=None, ge=1)
    reasoning: ReasoningOptions = ReasoningOptions()
    text: TextOptions = TextOptions()
    tools: list[FunctionTool] = []
    tool_choice: Literal["auto", "none", "required"] | FunctionChoice | AllowedTools = "auto"
    include: list[Literal["reasoning.encrypted_content", "message.output_text.logprobs"]] = []
    """Reasoning is sent in the open anyway."""
    top_logprobs: int = Field(default=0, ge=0, le=chat.MOST_TOP_LOGPROBS)
    """Beside `include` of the logprobs."""
    metadata: dict[str, str] = {}
    user: str | None = None
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
            raise RequestError(message, hint=error.hint, param=CHAT_NAMES[name]) from error

    def _conversation(self) -> "_Conversation":
        items = [{"role": "user", "content": self.input}] if isinstance(self.input, str) else self.input
        return _Conversation(self.instructions, items)


def parse_request(body: bytes | str | dict[str, Any]) -> ResponsesRequest:
    """A checked request; see `body.checked`. Refusals say what to do instead."""
    try:
        return checked(body, ResponsesRequest, NEUTRAL)
    except RequestError as error:
        raise RequestError(error.message, hint=INSTEAD.get(error.param or "", ""), param=error.param) from error


class _Conversation:
    """Items of a Responses body as chat messages.

    What the model said between two words of others is one message there: reasoning, text and calls together.
    """

    def __init__(self, instructions: str | None, items: list[dict[str, Any]]) -> None:
        self.messages: list[dict[str, Any]] = []
        self.origins: list[int] = []
        """For each message the number of the item that began it."""
        if instructions:
            self._begin(0, {"role": "developer", "content": instructions})
        for index, item in enumerate(items):
            self._add(index, item)

    def _begin(self, index: int, message: dict[str, Any]) -> dict[str, Any]:
        self.messages.append(message)
        self.origins.append(index)
        return message

    def _add(self, index: int, item: Mapping[str, Any]) -> None:
        where = f"input[{index}]"
        match item.get("type", "message"):
            case "message" if item.get("role") == "assistant":
                self._say(index, "content", _text(item.get("content"), f"{where}.content"))
            case "message" if item.get("role") in ("user", "system", "developer"):
                text = _text(item.get("content"), f"{where}.content")
                self._begin(index, {"role": item["role"], "content": text})
            case "message":
                raise _refused(f"{where}.role {item.get('role')!r} is not one of user, assistant, system, developer")
            case "reasoning":
                self._say(index, "reasoning_content", _reasoning(item, where))
            case "function_call":
                function = {"name": _string(item, "name", where), "arguments": _string(item, "arguments", where)}
                calls = self._turn(index, calling=True).setdefault("tool_calls", [])
                calls.append({"id": _string(item, "call_id", where), "type": "function", "function": function})
            case "function_call_output":
                text = _text(item.get("output"), f"{where}.output")
                self._begin(index, {"role": "tool", "tool_call_id": _string(item, "call_id", where), "content": text})
            case "item_reference":
                raise _refused(f"{where} refers to a stored item", hint="no item is kept: send it whole")
            case kind:
                known = "message, reasoning, function_call, function_call_output"
                raise _refused(f"{where}.type {kind!r} is not one of {known}")

    def _say(self, index: int, field: str, text: str) -> None:
        turn = self._turn(index, calling=False)
        turn[field] = "\n\n".join(part for part in (turn.get(field), text) if part)

    def _turn(self, index: int, *, calling: bool) -> dict[str, Any]:
        """The assistant's message that goes on, or a new one: after a call only calls do."""
        last = self.messages[-1] if self.messages else {}
        if last.get("role") == "assistant" and (calling or "tool_calls" not in last):
            return last
        return self._begin(index, {"role": "assistant", "content": ""})


def _text(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise _refused(f"{where} is neither text nor a list of parts")
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        if kind not in ("input_text", "output_text", "text") or not isinstance(part.get("text"), str):
            raise _refused(f"{where}[{index}]: {kind!r} parts are not supported, only text")
    return "".join(part["text"] for part in content)


def _reasoning(item: Mapping[str, Any], where: str) -> str:
    """The reasoning of an item, its summary if there is nothing else."""
    parts = item.get("content") or item.get("summary") or []
    if not parts and item.get("encrypted_content"):
        raise _refused(f"{where} has encrypted reasoning only", hint="leave the item out")
    if not isinstance(parts, list) or not all(isinstance(part, Mapping) for part in parts):
        raise _refused(f"{where}.content is not a list of parts")
    return "\n\n".join(_string(part, "text", where) for part in parts)


def _string(item: Mapping[str, Any], field: str, where: str) -> str:
    value = item.get(field)
    if not isinstance(value, str):
        raise _refused(f"{where}.{field} is {value!r:.80}, not a text")
    return value


def _refused(message: str, hint: str = "") -> RequestError:
    return RequestError(message, hint=hint, param="input")


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
