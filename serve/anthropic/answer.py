"""A chat answer's stream chunks as Anthropic's events, and as the whole message. Knows formats only.

`EventWriter` folds what `chat_answer.ChunkWriter` writes into blocks, in the order in which the model made them:
reasoning (if it is asked for), text, a call.
"""

import time
from typing import Any

from openai.types import CompletionUsage
from openai.types.chat import ChatCompletionChunk
from openai.types.chat.chat_completion_chunk import Choice
from pydantic_core import from_json

from serve.anthropic.input import seal
from serve.anthropic.message import (
    AnswerText,
    AnswerThinking,
    AnswerToolUse,
    Block,
    ContentBlockDelta,
    ContentBlockStart,
    ContentBlockStop,
    Event,
    InputJsonDelta,
    Message,
    MessageDelta,
    MessageStart,
    MessageStop,
    MessageUsage,
    Ping,
    SignatureDelta,
    Stopped,
    TextDelta,
    ThinkingDelta,
    ThinkingTokens,
)
from serve.anthropic.request import MessagesRequest
from serve.request_log import current

PING_EVERY_S = 5
"""While the model reasons and nothing of it is shown."""
SHOWN = "tandem"
"""The signature of reasoning that is shown: nothing has to be proved."""
REASONS = {"stop": "end_turn", "tool_calls": "tool_use", "length": "max_tokens"}


class EventWriter:
    """One answer's events: `write` for every chunk. The last chunk's end the message."""

    def __init__(self, request: MessagesRequest) -> None:
        self.id = f"msg_{current().id}"
        self._request = request
        self._blocks: list[Block] = []
        self._block: Block | None = None
        self._written = ""
        """Of the block that is open."""
        self._stopped: Stopped | None = None
        self._usage = CompletionUsage(prompt_tokens=0, completion_tokens=0, total_tokens=0)
        self._begun = False
        self._told = time.monotonic()

    def write(self, chunk: ChatCompletionChunk) -> list[Event]:
        self._usage = chunk.usage or self._usage
        events = self._opening()
        for choice in chunk.choices:
            events += self._gain(choice)
            if choice.finish_reason:
                events += self._ending(choice)
        if not events and time.monotonic() - self._told > PING_EVERY_S:
            events = [Ping()]
        if events:
            self._told = time.monotonic()
        return events

    def message(self) -> Message:
        """As it is now; whole once `write` has had the last chunk."""
        return Message(
            id=self.id,
            model=self._request.model,
            content=self._blocks,
            stop_reason=self._stopped and self._stopped.stop_reason,
            stop_sequence=self._stopped and self._stopped.stop_sequence,
            usage=self._usage_so_far(),
        )

    def _opening(self) -> list[Event]:
        if self._begun:
            return []
        self._begun = True
        return [MessageStart(message=self.message()), Ping()]

    def _gain(self, choice: Choice) -> list[Event]:
        events: list[Event] = []
        delta = choice.delta
        thought = getattr(delta, "reasoning_content", None)
        if thought and self._request.shows_thinking:
            events += self._grow(AnswerThinking(thinking="", signature=""), thought)
        if delta.content:
            events += self._grow(AnswerText(text=""), delta.content)
        for call in delta.tool_calls or []:
            if call.id:
                name = f"toolu_{call.id.removeprefix('call_')}"
                events += self._open(AnswerToolUse(id=name, name=call.function.name, input={}))
            events += self._add(call.function.arguments or "")
        return events

    def _grow(self, block: Block, text: str) -> list[Event]:
        if type(self._block) is type(block):
            return self._add(text)
        # The chunks set messages of one kind apart by an empty line; here they are blocks of their own.
        again = any(type(other) is type(block) for other in self._blocks)
        return self._open(block) + self._add(text.removeprefix("\n\n") if again else text)

    def _open(self, block: Block) -> list[Event]:
        events = self._close()
        self._block = block
        return [*events, ContentBlockStart(index=len(self._blocks), content_block=block)]

    def _add(self, text: str) -> list[Event]:
        self._written += text
        match self._block:
            case AnswerThinking():
                delta = None if self._hides else ThinkingDelta(thinking=text)
            case AnswerText():
                delta = TextDelta(text=text)
            case _:
                delta = InputJsonDelta(partial_json=text)
        return [self._delta(delta)] if delta and text else []

    def _close(self) -> list[Event]:
        """Close the open block, and put what it holds into the message."""
        if self._block is None:
            return []
        events: list[Event] = []
        match self._block:
            case AnswerThinking():
                thinking, signature = ("", seal(self._written)) if self._hides else (self._written, SHOWN)
                events.append(self._delta(SignatureDelta(signature=signature)))
                whole: Block = AnswerThinking(thinking=thinking, signature=signature)
            case AnswerText():
                whole = AnswerText(text=self._written)
            case AnswerToolUse(id=call, name=name):
                whole = AnswerToolUse(id=call, name=name, input=_input(self._written))
        events.append(ContentBlockStop(index=len(self._blocks)))
        self._blocks.append(whole)
        self._block, self._written = None, ""
        return events

    def _ending(self, choice: Choice) -> list[Event]:
        text = getattr(choice, "stop_reason", None)
        reason = "stop_sequence" if text is not None else REASONS[choice.finish_reason]
        if reason == "max_tokens" and self._usage.completion_tokens < self._request.max_tokens:
            reason = "model_context_window_exceeded"
        self._stopped = Stopped(stop_reason=reason, stop_sequence=text)
        return [*self._close(), MessageDelta(delta=self._stopped, usage=self._usage_so_far()), MessageStop()]

    @property
    def _hides(self) -> bool:
        return self._request.thinking is not None and self._request.thinking.display == "omitted"

    def _delta(self, delta: Any) -> ContentBlockDelta:
        return ContentBlockDelta(index=len(self._blocks), delta=delta)

    def _usage_so_far(self) -> MessageUsage:
        read, written = self._usage.prompt_tokens_details, self._usage.completion_tokens_details
        cached = (read and read.cached_tokens) or 0
        return MessageUsage(
            input_tokens=self._usage.prompt_tokens - cached,
            cache_read_input_tokens=cached,
            output_tokens=self._usage.completion_tokens,
            output_tokens_details=ThinkingTokens(thinking_tokens=(written and written.reasoning_tokens) or 0),
        )


def _input(arguments: str) -> dict[str, Any]:
    """A call's arguments as the object that clients expect: one that was cut off as far as it goes."""
    try:
        value = from_json(arguments, allow_partial="trailing-strings")
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {}
