"""A chat answer's stream chunks as OpenAI's Responses events, and as the whole Response. Knows formats only.

`EventWriter` folds what `chat_answer.ChunkWriter` writes: reasoning, text and function calls become output items in the
order in which the model made them. Raw reasoning is `reasoning_text`, as in OpenAI's guide to gpt-oss. The one field
beyond OpenAI's is `system_fingerprint`: what answered.
"""

import time
from collections.abc import Iterable, Sequence
from typing import Any

from openai.types import CompletionUsage
from openai.types.chat import ChatCompletionChunk
from openai.types.chat.chat_completion_chunk import Choice, ChoiceDeltaToolCallFunction
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseCreatedEvent,
    ResponseError,
    ResponseFailedEvent,
    ResponseIncompleteEvent,
    ResponseInProgressEvent,
    ResponseQueuedEvent,
    ResponseStreamEvent,
    ResponseUsage,
)
from openai.types.responses.response import IncompleteDetails
from openai.types.responses.response_usage import InputTokensDetails, OutputTokensDetails
from pydantic import BaseModel

from configs.errors import OverloadError, RequestError
from serve.openai.errors import error_body
from serve.openai.responses.output import (
    Call,
    EventKind,
    Message,
    OutputItem,
    Reasoning,
    ResponseEvent,
    SummarisedReasoning,
)
from serve.openai.responses.request import ENCRYPTED, ResponsesRequest

TERMINAL: dict[str, tuple[EventKind, str]] = {
    "completed": (ResponseCompletedEvent, "response.completed"),
    "incomplete": (ResponseIncompleteEvent, "response.incomplete"),
    "failed": (ResponseFailedEvent, "response.failed"),
    "cancelled": (ResponseFailedEvent, "response.failed"),
}
"""OpenAI has no event for a response that is cancelled."""


class EventWriter:
    """One answer's events: `queue` in the background, `begin`, `write` for every chunk, `fail` or `cancel` if no more
    chunks come, and `end`."""

    def __init__(self, request: ResponsesRequest, response_id: str, *, stored: bool) -> None:
        self.id = response_id
        self.stored = stored
        """Whether the response can be asked for by its id."""
        self.created = int(time.time())
        self.output: list[BaseModel] = []
        """Items that are done."""
        self._request = request
        self._events = 0
        self._item: OutputItem | None = None
        self.status = "queued" if request.background else "in_progress"
        self._completed: int | None = None
        self._fingerprint: str | None = None
        self._usage: ResponseUsage | None = None
        self._error: ResponseError | None = None

    def queue(self) -> list[ResponseStreamEvent]:
        """The request waits for an engine, and its client does not."""
        return [
            self._event(ResponseCreatedEvent, "response.created", {"response": self.response()}),
            self._event(ResponseQueuedEvent, "response.queued", {"response": self.response()}),
        ]

    def begin(self, fingerprint: str) -> list[ResponseStreamEvent]:
        """The first token is here; `fingerprint` is what answers, such as the adapter version."""
        self.status, self._fingerprint = "in_progress", fingerprint
        begun: list[tuple[EventKind, str]] = [
            (ResponseCreatedEvent, "response.created"),
            (ResponseInProgressEvent, "response.in_progress"),
        ]
        return [self._event(kind, name, {"response": self.response()}) for kind, name in begun[bool(self._events) :]]

    def write(self, chunk: ChatCompletionChunk) -> list[ResponseStreamEvent]:
        """Events of one chunk."""
        events: list[ResponseStreamEvent] = []
        for choice in chunk.choices:
            events += self._gain(choice)
            if choice.finish_reason:
                events += self._finish("incomplete" if choice.finish_reason == "length" else "completed")
        if chunk.usage:
            self._usage = _usage(chunk.usage)
        return events

    def fail(self, error: Exception) -> list[ResponseStreamEvent]:
        """The answer breaks off here."""
        code = "server_error"
        if isinstance(error, OverloadError | RequestError):
            code = "rate_limit_exceeded" if isinstance(error, OverloadError) else "invalid_prompt"
        self._error = ResponseError(code=code, message=error_body(error)[1]["error"]["message"])
        return self._finish("failed")

    def cancel(self) -> list[ResponseStreamEvent]:
        """Nothing of the answer is kept, as at OpenAI."""
        self.status, self._item, self.output = "cancelled", None, []
        return []

    def end(self) -> list[ResponseStreamEvent]:
        """The last event, with the whole response."""
        kind, name = TERMINAL[self.status]
        return [self._event(kind, name, {"response": self.response()})]

    def response(self) -> Response:
        """The response as it is now; whole once `write` has had the last chunk."""
        request = self._request
        more: dict[str, object] = {}
        if request.conversation_id:
            more["conversation"] = {"id": request.conversation_id}
        if self._fingerprint:
            more["system_fingerprint"] = self._fingerprint
        choice = request.tool_choice
        return Response(
            id=self.id,
            object="response",
            created_at=self.created,
            completed_at=self._completed,
            status=self.status,
            error=self._error,
            incomplete_details=IncompleteDetails(reason="max_output_tokens") if self.status == "incomplete" else None,
            model=request.model,
            output=self.output,
            usage=self._usage,
            instructions=request.instructions,
            max_output_tokens=request.max_output_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            top_logprobs=request.top_logprobs,
            reasoning={"effort": request.effort or "medium", "summary": request.summary},
            text={"format": request.text.format or {"type": "text"}, "verbosity": "medium"},
            tools=[tool.model_dump() for tool in request.tools],
            tool_choice=choice if isinstance(choice, str) else choice.model_dump(),
            parallel_tool_calls=False,
            metadata=request.metadata,
            user=request.user,
            safety_identifier=request.safety_identifier,
            prompt_cache_key=request.prompt_cache_key,
            max_tool_calls=request.max_tool_calls,
            background=request.background,
            store=self.stored,
            previous_response_id=request.previous_response_id,
            truncation=request.truncation,
            **more,
        )

    def _gain(self, choice: Choice) -> list[ResponseStreamEvent]:
        events: list[ResponseStreamEvent] = []
        delta = choice.delta
        if text := getattr(delta, "reasoning_content", None):
            events += self._grow(Reasoning, text)
        if delta.content:
            events += self._grow(Message, delta.content, _logprobs(choice))
        for call in delta.tool_calls or []:
            function = call.function or ChoiceDeltaToolCallFunction()
            if call.id:
                events += self._open(Call(self._next, call.id, function.name or ""))
            events += self._add(function.arguments or "")
        return events

    def _grow(self, kind: type[OutputItem], text: str, logprobs: Sequence[dict] = ()) -> list[ResponseStreamEvent]:
        if isinstance(self._item, kind):
            return self._add(text, logprobs)
        # The chunks set messages of one kind apart by an empty line; here they are items of their own.
        again = any(isinstance(item, kind.made) for item in self.output)
        events = self._open(Message(self._next) if kind is Message else self._reasoning())
        return events + self._add(text.removeprefix("\n\n") if again else text, logprobs)

    def _reasoning(self) -> Reasoning:
        kind = SummarisedReasoning if self._request.summary else Reasoning
        return kind(self._next, sealed=ENCRYPTED in self._request.include)

    @property
    def _next(self) -> int:
        """The index of the next item, which ends the one that grows."""
        return len(self.output) + bool(self._item)

    def _open(self, item: OutputItem) -> list[ResponseStreamEvent]:
        events = self._close("completed")
        self._item = item
        return events + self._numbered(item.begin())

    def _add(self, text: str, logprobs: Sequence[dict] = ()) -> list[ResponseStreamEvent]:
        return self._numbered(self._item.grow(text, logprobs)) if text and self._item else []

    def _close(self, status: str) -> list[ResponseStreamEvent]:
        item, self._item = self._item, None
        if item is None:
            return []
        self.output.append(item.item(status))
        return self._numbered(item.end(status))

    def _finish(self, status: str) -> list[ResponseStreamEvent]:
        self.status = status
        self._completed = int(time.time()) if status == "completed" else None
        return self._close("completed" if status == "completed" else "incomplete")

    def _numbered(self, told: Iterable[ResponseEvent]) -> list[ResponseStreamEvent]:
        return [self._event(each.kind, each.type, each.fields) for each in told]

    def _event(self, kind: EventKind, name: str, fields: dict[str, Any]) -> ResponseStreamEvent:
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
