"""The output items of a Responses answer while they grow: reasoning, a message, a function call. Knows formats only.

Each says what kinds of events tell of it and what they hold. Called by `response_events`.
"""

import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from openai.types.responses import (
    ResponseFunctionCallArgumentsDeltaEvent,
    ResponseFunctionCallArgumentsDoneEvent,
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseOutputText,
    ResponseReasoningItem,
    ResponseReasoningTextDeltaEvent,
    ResponseReasoningTextDoneEvent,
    ResponseTextDeltaEvent,
    ResponseTextDoneEvent,
)
from openai.types.responses.response_reasoning_item import Content
from pydantic import BaseModel


class Item(ABC):
    """One output item while it grows."""

    prefix: str
    made: type[BaseModel]
    delta: tuple[type[BaseModel], str]
    done: tuple[type[BaseModel], str]

    def __init__(self, index: int) -> None:
        self.index = index
        self.id = f"{self.prefix}_{uuid.uuid4().hex}"
        self.text = ""

    def at(self) -> dict[str, Any]:
        """Where in the output an event belongs."""
        return {"item_id": self.id, "output_index": self.index, "content_index": 0}

    def gain(self, text: str, logprobs: Sequence[dict]) -> dict[str, Any]:
        """Grow; what the event says beside the text."""
        self.text += text
        return {}

    def said(self) -> dict[str, Any]:
        """What the event says that ends it."""
        return {"text": self.text}

    def part(self) -> dict[str, Any] | None:
        """Its one content part, with the text so far; None for an item that has no parts."""
        return None

    @abstractmethod
    def item(self, status: str) -> BaseModel:
        """The item as OpenAI's type, in this `status`."""


class Reasoning(Item):
    prefix, made = "rs", ResponseReasoningItem
    delta = ResponseReasoningTextDeltaEvent, "response.reasoning_text"
    done = ResponseReasoningTextDoneEvent, "response.reasoning_text"

    def part(self) -> dict[str, Any]:
        return {"type": "reasoning_text", "text": self.text}

    def item(self, status: str) -> BaseModel:
        content = [] if status == "in_progress" else [Content(type="reasoning_text", text=self.text)]
        return ResponseReasoningItem(id=self.id, type="reasoning", status=status, summary=[], content=content)


class Message(Item):
    prefix, made = "msg", ResponseOutputMessage
    delta = ResponseTextDeltaEvent, "response.output_text"
    done = ResponseTextDoneEvent, "response.output_text"

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.logprobs: list[dict] = []

    def gain(self, text: str, logprobs: Sequence[dict]) -> dict[str, Any]:
        self.text += text
        self.logprobs += logprobs
        return {"logprobs": list(logprobs)}

    def said(self) -> dict[str, Any]:
        return {"text": self.text, "logprobs": self.logprobs}

    def part(self) -> dict[str, Any]:
        return {"type": "output_text", "text": self.text, "annotations": [], "logprobs": self.logprobs}

    def item(self, status: str) -> BaseModel:
        content = [] if status == "in_progress" else [ResponseOutputText(**self.part())]
        return ResponseOutputMessage(id=self.id, type="message", role="assistant", status=status, content=content)


class Call(Item):
    prefix, made = "fc", ResponseFunctionToolCall
    delta = ResponseFunctionCallArgumentsDeltaEvent, "response.function_call_arguments"
    done = ResponseFunctionCallArgumentsDoneEvent, "response.function_call_arguments"

    def __init__(self, index: int, call_id: str, name: str) -> None:
        super().__init__(index)
        self.call_id, self.name = call_id, name

    def said(self) -> dict[str, Any]:
        return {"arguments": self.text}

    def at(self) -> dict[str, Any]:
        return {"item_id": self.id, "output_index": self.index}

    def item(self, status: str) -> BaseModel:
        return ResponseFunctionToolCall(
            id=self.id, type="function_call", call_id=self.call_id, name=self.name, arguments=self.text, status=status
        )
