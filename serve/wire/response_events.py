"""A chat answer's stream chunks as OpenAI's Responses events, and as the whole Response. Knows formats only.

`EventWriter` folds what `chat_answer.ChunkWriter` writes: reasoning, text and function calls become output items in the
order in which the model made them. Raw reasoning is `reasoning_text`, as in OpenAI's guide to gpt-oss. The one field
beyond OpenAI's is `system_fingerprint`: what answered.
"""

import time
import uuid
from collections.abc import Sequence
from typing import Any, TypeVar

from openai.types import CompletionUsage
from openai.types.chat import ChatCompletionChunk
from openai.types.chat.chat_completion_chunk import Choice
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseContentPartAddedEvent,
    ResponseContentPartDoneEvent,
    ResponseCreatedEvent,
    ResponseError,
    ResponseFailedEvent,
    ResponseFunctionCallArgumentsDeltaEvent,
    ResponseFunctionCallArgumentsDoneEvent,
    ResponseFunctionToolCall,
    ResponseIncompleteEvent,
    ResponseInProgressEvent,
    ResponseOutputItemAddedEvent,
    ResponseOutputItemDoneEvent,
    ResponseOutputMessage,
    ResponseOutputText,
    ResponseReasoningItem,
    ResponseReasoningTextDeltaEvent,
    ResponseReasoningTextDoneEvent,
    ResponseTextDeltaEvent,
    ResponseTextDoneEvent,
    ResponseUsage,
)
from openai.types.responses.response import IncompleteDetails
from openai.types.responses.response_reasoning_item import Content
from openai.types.responses.response_usage import InputTokensDetails, OutputTokensDetails
from pydantic import BaseModel

from serve.wire.errors import error_body
from serve.wire.responses import ResponsesRequest

Event = TypeVar("Event", bound=BaseModel)

TERMINAL = {
    "completed": (ResponseCompletedEvent, "response.completed"),
    "incomplete": (ResponseIncompleteEvent, "response.incomplete"),
    "failed": (ResponseFailedEvent, "response.failed"),
}


class EventWriter:
    """One answer's events. `begin`, `write` for every chunk, and `fail` if no more chunks come."""

    def __init__(self, request: ResponsesRequest, *, fingerprint: str) -> None:
        self.id = f"resp_{uuid.uuid4().hex}"
        self.created = int(time.time())
        self._request = request
        self._fingerprint = fingerprint
        self._events = 0
        self._done: list[BaseModel] = []
        self._item: _Item | None = None
        self._status = "in_progress"
        self._usage: ResponseUsage | None = None
        self._error: ResponseError | None = None

    def begin(self) -> list[BaseModel]:
        return [
            self._event(ResponseCreatedEvent, "response.created", response=self.response()),
            self._event(ResponseInProgressEvent, "response.in_progress", response=self.response()),
        ]

    def write(self, chunk: ChatCompletionChunk) -> list[BaseModel]:
        """Events of one chunk; the one with the usage, which is the last, ends the response."""
        events: list[BaseModel] = []
        for choice in chunk.choices:
            events += self._gain(choice)
            if choice.finish_reason:
                self._status = "incomplete" if choice.finish_reason == "length" else "completed"
                events += self._close(self._status)
        if chunk.usage:
            self._usage = _usage(chunk.usage)
        return events + self._end() if self._usage else events

    def fail(self, error: Exception) -> list[BaseModel]:
        """The answer breaks off here."""
        self._error = ResponseError(code="server_error", message=error_body(error)[1]["error"]["message"])
        self._status = "failed"
        return self._close("incomplete") + self._end()

    def response(self) -> Response:
        """The response as it is now; whole once `write` has had the last chunk."""
        request = self._request
        choice = request.tool_choice
        return Response(
            id=self.id,
            object="response",
            created_at=self.created,
            completed_at=int(time.time()) if self._status == "completed" else None,
            status=self._status,
            error=self._error,
            incomplete_details=IncompleteDetails(reason="max_output_tokens") if self._status == "incomplete" else None,
            model=request.model,
            system_fingerprint=self._fingerprint,
            output=self._done,
            usage=self._usage,
            instructions=request.instructions,
            max_output_tokens=request.max_output_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            top_logprobs=request.top_logprobs,
            reasoning={"effort": request.reasoning.effort or "medium", "summary": request.reasoning.summary},
            text={"format": request.text.format or {"type": "text"}},
            tools=[tool.model_dump() for tool in request.tools],
            tool_choice=choice if isinstance(choice, str) else choice.model_dump(),
            parallel_tool_calls=False,
            metadata=request.metadata,
            user=request.user,
            background=False,
            store=False,
            previous_response_id=None,
            truncation="disabled",
        )

    def _gain(self, choice: Choice) -> list[BaseModel]:
        events: list[BaseModel] = []
        delta = choice.delta
        if text := getattr(delta, "reasoning_content", None):
            events += self._grow(_Reasoning, text)
        if delta.content:
            events += self._grow(_Message, delta.content, _logprobs(choice))
        for call in delta.tool_calls or []:
            if call.id:
                events += self._open(_Call(len(self._done) + bool(self._item), call.id, call.function.name))
            events += self._add(call.function.arguments or "")
        return events

    def _grow(self, kind: type["_Item"], text: str, logprobs: Sequence[dict] = ()) -> list[BaseModel]:
        if isinstance(self._item, kind):
            return self._add(text, logprobs)
        # The chunks set messages of one kind apart by an empty line; here they are items of their own.
        again = any(isinstance(item, kind.made) for item in self._done)
        events = self._open(kind(len(self._done) + bool(self._item)))
        return events + self._add(text.removeprefix("\n\n") if again else text, logprobs)

    def _open(self, item: "_Item") -> list[BaseModel]:
        events = self._close("completed")
        self._item = item
        opened = {"output_index": item.index, "item": item.item("in_progress")}
        events.append(self._event(ResponseOutputItemAddedEvent, "response.output_item.added", **opened))
        if part := item.part():
            events.append(
                self._event(ResponseContentPartAddedEvent, "response.content_part.added", **item.at(), part=part)
            )
        return events

    def _add(self, text: str, logprobs: Sequence[dict] = ()) -> list[BaseModel]:
        if not text:
            return []
        kind, name = self._item.delta
        more = self._item.gain(text, logprobs)
        return [self._event(kind, f"{name}.delta", **self._item.at(), **more, delta=text)]

    def _close(self, status: str) -> list[BaseModel]:
        item, self._item = self._item, None
        if item is None:
            return []
        kind, name = item.done
        events = [self._event(kind, f"{name}.done", **item.at(), **item.said())]
        if part := item.part():
            events.append(
                self._event(ResponseContentPartDoneEvent, "response.content_part.done", **item.at(), part=part)
            )
        self._done.append(item.item(status))
        ended = {"output_index": item.index, "item": self._done[-1]}
        return [*events, self._event(ResponseOutputItemDoneEvent, "response.output_item.done", **ended)]

    def _end(self) -> list[BaseModel]:
        kind, name = TERMINAL[self._status]
        return [self._event(kind, name, response=self.response())]

    def _event(self, kind: type[Event], name: str, **fields: Any) -> Event:
        event = kind(type=name, sequence_number=self._events, **fields)
        self._events += 1
        return event


class _Item:
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

    def part(self) -> dict[str, Any] | None: ...

    def item(self, status: str) -> BaseModel: ...


class _Reasoning(_Item):
    prefix, made = "rs", ResponseReasoningItem
    delta = ResponseReasoningTextDeltaEvent, "response.reasoning_text"
    done = ResponseReasoningTextDoneEvent, "response.reasoning_text"

    def part(self) -> dict[str, Any]:
        return {"type": "reasoning_text", "text": self.text}

    def item(self, status: str) -> BaseModel:
        content = [] if status == "in_progress" else [Content(type="reasoning_text", text=self.text)]
        return ResponseReasoningItem(id=self.id, type="reasoning", status=status, summary=[], content=content)


class _Message(_Item):
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


class _Call(_Item):
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


def _logprobs(choice: Choice) -> list[dict]:
    return [each.model_dump() for each in (choice.logprobs and choice.logprobs.content) or []]


def _usage(usage: CompletionUsage) -> ResponseUsage:
    prompt, completion = usage.prompt_tokens_details, usage.completion_tokens_details
    return ResponseUsage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=InputTokensDetails(
            cached_tokens=(prompt and prompt.cached_tokens) or 0, cache_write_tokens=0
        ),
        output_tokens=usage.completion_tokens,
        output_tokens_details=OutputTokensDetails(reasoning_tokens=(completion and completion.reasoning_tokens) or 0),
        total_tokens=usage.total_tokens,
    )
