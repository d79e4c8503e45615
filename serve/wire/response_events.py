"""A chat answer's stream chunks as OpenAI's Responses events, and as the whole Response. Knows formats only.

`EventWriter` folds what `chat_answer.ChunkWriter` writes: reasoning, text and function calls become output items in the
order in which the model made them. Raw reasoning is `reasoning_text`, as in OpenAI's guide to gpt-oss. The one field
beyond OpenAI's is `system_fingerprint`: what answered.
"""

import time
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
    ResponseIncompleteEvent,
    ResponseInProgressEvent,
    ResponseOutputItemAddedEvent,
    ResponseOutputItemDoneEvent,
    ResponseUsage,
)
from openai.types.responses.response import IncompleteDetails
from openai.types.responses.response_usage import InputTokensDetails, OutputTokensDetails
from pydantic import BaseModel

from serve.request_log import current
from serve.wire.errors import error_body
from serve.wire.response_output import Call, Item, Message, Reasoning
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
        self.id = f"resp_{current().id}"
        self.created = int(time.time())
        self._request = request
        self._fingerprint = fingerprint
        self._events = 0
        self._done: list[BaseModel] = []
        self._item: Item | None = None
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
            events += self._grow(Reasoning, text)
        if delta.content:
            events += self._grow(Message, delta.content, _logprobs(choice))
        for call in delta.tool_calls or []:
            if call.id:
                events += self._open(Call(len(self._done) + bool(self._item), call.id, call.function.name))
            events += self._add(call.function.arguments or "")
        return events

    def _grow(self, kind: type[Item], text: str, logprobs: Sequence[dict] = ()) -> list[BaseModel]:
        if isinstance(self._item, kind):
            return self._add(text, logprobs)
        # The chunks set messages of one kind apart by an empty line; here they are items of their own.
        again = any(isinstance(item, kind.made) for item in self._done)
        events = self._open(kind(len(self._done) + bool(self._item)))
        return events + self._add(text.removeprefix("\n\n") if again else text, logprobs)

    def _open(self, item: Item) -> list[BaseModel]:
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
