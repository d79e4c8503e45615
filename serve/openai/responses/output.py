"""The output items of a Responses answer while they grow: reasoning, a message, a function call. Knows formats only.

Each says what events tell of it and what it holds. Called by `response_events`, which numbers the events.
"""

import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from openai.types.responses import (
    ResponseContentPartAddedEvent,
    ResponseContentPartDoneEvent,
    ResponseFunctionCallArgumentsDeltaEvent,
    ResponseFunctionCallArgumentsDoneEvent,
    ResponseFunctionToolCall,
    ResponseOutputItemAddedEvent,
    ResponseOutputItemDoneEvent,
    ResponseOutputMessage,
    ResponseOutputText,
    ResponseReasoningItem,
    ResponseReasoningSummaryPartAddedEvent,
    ResponseReasoningSummaryPartDoneEvent,
    ResponseReasoningSummaryTextDeltaEvent,
    ResponseReasoningSummaryTextDoneEvent,
    ResponseReasoningTextDeltaEvent,
    ResponseReasoningTextDoneEvent,
    ResponseStreamEvent,
    ResponseTextDeltaEvent,
    ResponseTextDoneEvent,
)
from openai.types.responses.response_reasoning_item import Content, Summary
from pydantic import BaseModel

from serve.openai.responses.items import seal

EventKind = Callable[..., ResponseStreamEvent]
"""A class of OpenAI's events, called with its fields."""


class ResponseEvent(NamedTuple):
    """An event, less its number."""

    kind: EventKind
    type: str
    fields: dict[str, Any]


class OutputItem(ABC):
    """One output item while it grows."""

    prefix: str
    made: type[BaseModel]
    delta: tuple[EventKind, str]
    done: tuple[EventKind, str]

    def __init__(self, index: int) -> None:
        self.index = index
        self.id = f"{self.prefix}_{uuid.uuid4().hex}"
        self.text = ""

    def begin(self) -> list[ResponseEvent]:
        return [self._whole(ResponseOutputItemAddedEvent, "added", "in_progress"), *self._part("added")]

    def grow(self, text: str, logprobs: Sequence[dict] = ()) -> list[ResponseEvent]:
        self.text += text
        kind, name = self.delta
        return [ResponseEvent(kind, f"{name}.delta", self._at() | self._delta(logprobs) | {"delta": text})]

    def end(self, status: str) -> list[ResponseEvent]:
        kind, name = self.done
        said = ResponseEvent(kind, f"{name}.done", self._at() | self._said())
        return [said, *self._part("done"), self._whole(ResponseOutputItemDoneEvent, "done", status)]

    @abstractmethod
    def item(self, status: str) -> BaseModel:
        """The item as OpenAI's type, in this `status`."""

    def _at(self) -> dict[str, Any]:
        """Where in the output an event belongs."""
        return {"item_id": self.id, "output_index": self.index, "content_index": 0}

    def _delta(self, logprobs: Sequence[dict]) -> dict[str, Any]:
        """What the event says beside more text."""
        return {}

    def _said(self) -> dict[str, Any]:
        """What the event says that ends its text."""
        return {"text": self.text}

    def _content(self) -> dict[str, Any] | None:
        """Its one content part, with the text so far; None for an item that has no parts."""
        return None

    def _part(self, what: str) -> list[ResponseEvent]:
        kind = ResponseContentPartAddedEvent if what == "added" else ResponseContentPartDoneEvent
        part = self._content()
        return (
            [] if part is None else [ResponseEvent(kind, f"response.content_part.{what}", self._at() | {"part": part})]
        )

    def _whole(self, kind: EventKind, what: str, status: str) -> ResponseEvent:
        return ResponseEvent(
            kind, f"response.output_item.{what}", {"output_index": self.index, "item": self.item(status)}
        )


class Reasoning(OutputItem):
    prefix, made = "rs", ResponseReasoningItem
    delta = ResponseReasoningTextDeltaEvent, "response.reasoning_text"
    done = ResponseReasoningTextDoneEvent, "response.reasoning_text"

    def __init__(self, index: int, *, sealed: bool = False) -> None:
        """`sealed`: with its opaque form beside its text."""
        super().__init__(index)
        self._sealed = sealed

    def item(self, status: str) -> BaseModel:
        over = status != "in_progress"
        more = {"encrypted_content": seal(self.text)} if over and self._sealed else {}
        content = [Content(type="reasoning_text", text=self.text)] if over else []
        summary = self._summary() if over else []
        return ResponseReasoningItem(
            id=self.id, type="reasoning", status=status, summary=summary, content=content, **more
        )

    def _content(self) -> dict[str, Any]:
        return {"type": "reasoning_text", "text": self.text}

    def _summary(self) -> list[Summary]:
        return []


class SummarisedReasoning(Reasoning):
    """Reasoning for a client that asks for its summary: the same text a second time, because many show nothing else."""

    def begin(self) -> list[ResponseEvent]:
        part = {"type": "summary_text", "text": ""}
        added = ResponseEvent(
            ResponseReasoningSummaryPartAddedEvent, f"{SUMMARY}_part.added", self._beside("part", part)
        )
        return [*super().begin(), added]

    def grow(self, text: str, logprobs: Sequence[dict] = ()) -> list[ResponseEvent]:
        more = ResponseEvent(
            ResponseReasoningSummaryTextDeltaEvent, f"{SUMMARY}_text.delta", self._beside("delta", text)
        )
        return [*super().grow(text), more]

    def end(self, status: str) -> list[ResponseEvent]:
        part = {"type": "summary_text", "text": self.text}
        *before, last = super().end(status)
        return [
            *before,
            ResponseEvent(
                ResponseReasoningSummaryTextDoneEvent, f"{SUMMARY}_text.done", self._beside("text", self.text)
            ),
            ResponseEvent(ResponseReasoningSummaryPartDoneEvent, f"{SUMMARY}_part.done", self._beside("part", part)),
            last,
        ]

    def _summary(self) -> list[Summary]:
        return [Summary(type="summary_text", text=self.text)]

    def _beside(self, name: str, value: object) -> dict[str, Any]:
        return {"item_id": self.id, "output_index": self.index, "summary_index": 0, name: value}


SUMMARY = "response.reasoning_summary"


class Message(OutputItem):
    prefix, made = "msg", ResponseOutputMessage
    delta = ResponseTextDeltaEvent, "response.output_text"
    done = ResponseTextDoneEvent, "response.output_text"

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.logprobs: list[dict] = []

    def item(self, status: str) -> BaseModel:
        content = [] if status == "in_progress" else [ResponseOutputText(**self._content())]
        return ResponseOutputMessage(id=self.id, type="message", role="assistant", status=status, content=content)

    def _delta(self, logprobs: Sequence[dict]) -> dict[str, Any]:
        self.logprobs += logprobs
        return {"logprobs": list(logprobs)}

    def _said(self) -> dict[str, Any]:
        return {"text": self.text, "logprobs": self.logprobs}

    def _content(self) -> dict[str, Any]:
        return {"type": "output_text", "text": self.text, "annotations": [], "logprobs": self.logprobs}


class Call(OutputItem):
    prefix, made = "fc", ResponseFunctionToolCall
    delta = ResponseFunctionCallArgumentsDeltaEvent, "response.function_call_arguments"
    done = ResponseFunctionCallArgumentsDoneEvent, "response.function_call_arguments"

    def __init__(self, index: int, call_id: str, name: str) -> None:
        super().__init__(index)
        self.call_id, self.name = call_id, name

    def item(self, status: str) -> BaseModel:
        return ResponseFunctionToolCall(
            id=self.id, type="function_call", call_id=self.call_id, name=self.name, arguments=self.text, status=status
        )

    def _at(self) -> dict[str, Any]:
        return {"item_id": self.id, "output_index": self.index}

    def _said(self) -> dict[str, Any]:
        return {"arguments": self.text}
