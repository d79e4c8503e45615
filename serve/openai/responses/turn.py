"""A Responses request and what came before it, as the chat request that both stand for. Knows formats only."""

import contextlib
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Self

from configs.errors import RequestError
from serve.openai.body import SampledRequest
from serve.openai.chat import request as chat
from serve.openai.chat.request import ChatRequest
from serve.openai.responses.input import Conversation
from serve.openai.responses.items import Item, resource
from serve.openai.responses.request import LOGPROBS, AllowedTools, FunctionChoice, FunctionTool, ResponsesRequest

CHAT_NAMES = {
    "messages": "input",
    "tools": "tools",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "max_completion_tokens": "max_output_tokens",
}
"""Chat parameters that errors may name, and what they are called here."""


@dataclass(frozen=True)
class Turn:
    """What one response answers."""

    request: ResponsesRequest
    earlier: list[Item] = field(default_factory=list)
    """The items of the response or the conversation that the request goes on from."""
    own: list[Item] = field(default_factory=list)
    """Those of the request's `input`, references replaced by what they refer to."""

    def chat(self) -> ChatRequest:
        """A chat request that streams its usage. Raises RequestError in this route's words."""
        asked = self.request
        body: dict[str, Any] = asked.model_dump(include=set(SampledRequest.model_fields))
        body |= {"model": asked.model, "messages": self._conversation().messages, "stream": True}
        body |= {
            "stream_options": {"include_usage": True},
            "max_completion_tokens": asked.max_output_tokens,
            "reasoning_effort": asked.effort,
            "response_format": _response_format(asked.text.format),
            "tools": [_nested(tool) for tool in asked.tools],
            "tool_choice": _tool_choice(asked.tool_choice),
        }
        if LOGPROBS in asked.include:
            body |= {"logprobs": True, "top_logprobs": asked.top_logprobs}
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
            message = re.sub(r"messages\[(\d+)\]", lambda at: origins[int(at[1])], error.message)
            message = re.sub(r"(tools\[\d+\])\.function", r"\1", message)
            message = message.replace(name, CHAT_NAMES[name], 1) if message.startswith(name) else message
            raise type(error)(message, hint=error.hint, param=CHAT_NAMES[name]) from error

    @functools.cached_property
    def own_items(self) -> list[Item]:
        """`own` as it is kept, each with its id."""
        return [resource(item) for item in self.own]

    @property
    def items(self) -> list[Item]:
        """All that the response answers, as it is kept."""
        return [*self.earlier, *self.own_items]

    def shortened(self) -> Iterator[Self]:
        """The same without its oldest turns, one more at a time; instructions and the last turn always stay."""
        items = [*self.earlier, *self.own]
        for at in [at for at, item in enumerate(items) if item.get("role") == "user"][1:]:
            instructions = [item for item in items[:at] if item.get("role") in ("system", "developer")]
            own = self.own[max(0, at - len(self.earlier)) :]
            yield replace(self, earlier=[*instructions, *self.earlier[at:]], own=own)

    def _conversation(self) -> Conversation:
        return Conversation(self.request.instructions, self.earlier, self.own)


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
