"""One generation as the parts of one choice: OpenAI's deltas. Knows the format and the harmony parser, no framing.

`chat_answer` feeds it an engine's TokenChunks and puts its parts into chunks.
"""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from openai.types.chat.chat_completion_chunk import (
    ChoiceDelta,
    ChoiceDeltaToolCall,
    ChoiceDeltaToolCallFunction,
    ChoiceLogprobs,
)

from configs.errors import TandemError
from models.harmony import ANALYSIS, COMMENTARY, Delta, StreamParser
from serve.engine.protocol import TokenChunk, TokenLogprob
from serve.engine.sampling import StopStrings
from serve.wire.chat import ChatRequest
from serve.wire.logprobs import LogprobTrack

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


REASONING = ("reasoning", "reasoning_content")
"""Both of its names: vLLM's and OpenRouter's, and the older one of DeepSeek, SGLang and vLLM before 0.12."""


@dataclass
class Part:
    """What a choice gained, for one chunk."""

    delta: ChoiceDelta
    finish_reason: str | None = None
    logprobs: ChoiceLogprobs | None = None
    token_ids: list[int] | None = None
    """If asked for, the ids since the last part; some ids give no part."""
    stop_reason: str | None = None
    """The stop text that ended the choice."""


class ChoiceWriter:
    """One generation as parts.

    Analysis becomes `reasoning` and the same again as `reasoning_content`; final text and commentary to the user become
    `content`; commentary to a function becomes a tool call with streamed arguments. Separate messages of one kind are
    set apart by an empty line. Stop strings end final text only. Log-probabilities are those of content tokens.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", request: ChatRequest) -> None:
        self.done = False
        """The last part is out; whatever still generates may be closed."""
        self.prompt_tokens = self.completion_tokens = 0
        self._tools = {tool.get("function", {}).get("name") for tool in request.offered_tools}
        self._parser = StreamParser(tokenizer)
        self._stops = StopStrings(request.stops)
        self._track = LogprobTrack(tokenizer, request.top_logprobs) if request.logprobs else None
        self._ids: list[int] | None = [] if request.return_token_ids else None
        self._opened = False
        self._last_message: dict[str, int] = {}
        self._calls: dict[int, int] = {}

    @property
    def reasoning_tokens(self) -> int:
        """Tokens of reasoning text so far."""
        return self._parser.reasoning_tokens

    def write(self, chunk: TokenChunk) -> list[Part]:
        """Parts for the engine's next tokens; after the last one, `done` is set and nothing more comes.

        Raises TandemError if the engine gave the generation up, because OpenAI's format has no word for that.
        """
        if self.done:
            return []
        if chunk.finish_reason == "abort":
            raise TandemError("the generation was aborted before it was complete", hint="ask again")
        self.prompt_tokens, self.completion_tokens = chunk.prompt_tokens, chunk.completion_tokens
        parts = [*self._opening(), *self._parts(chunk)]
        if self._ids is not None:
            self._ids += chunk.ids
            if parts:
                parts[0].token_ids, self._ids = self._ids, []
        return parts

    def _opening(self) -> list[Part]:
        if self._opened:
            return []
        self._opened = True
        return [Part(ChoiceDelta(role="assistant", content=""))]

    def _parts(self, chunk: TokenChunk) -> Iterator[Part]:
        for delta in self._deltas(chunk):
            yield from self._gain(delta)
            if self._stops.matched is not None:
                yield self._closing("stop")
                return
        if chunk.finish_reason:
            yield from self._content(self._last_message.get("content", 0), self._stops.flush())
            called = self._calls and chunk.finish_reason == "stop"
            yield self._closing("tool_calls" if called else chunk.finish_reason)

    def _deltas(self, chunk: TokenChunk) -> Iterator[Delta]:
        """What the chunk's tokens say; token by token only where log-probabilities are matched with text."""
        if self._track is None:
            yield from self._parser.feed(chunk.ids)
        else:
            for token, scores in zip(chunk.ids, chunk.logprobs, strict=True):
                yield from self._scored(token, scores)
        if chunk.finish_reason:
            yield from self._parser.close()

    def _scored(self, token: int, scores: dict[int, TokenLogprob]) -> list[Delta]:
        deltas = self._parser.feed([token])
        message = self._parser.message
        if message and message[0] != ANALYSIS and message[1] is None:
            self._track.add(token, scores)
        return deltas

    def _closing(self, reason: str) -> Part:
        self.done = True
        return Part(ChoiceDelta(), reason, stop_reason=self._stops.matched)

    def _gain(self, delta: Delta) -> Iterator[Part]:
        name = self._function_name(delta)
        if name:
            yield from self._call(delta, name)
        elif delta.recipient or delta.channel == ANALYSIS:
            if text := self._apart("reasoning", delta.message, delta.text):
                yield Part(ChoiceDelta(**dict.fromkeys(REASONING, text)))
        else:
            if self._track:
                self._track.read(delta.text)
            text = delta.text
            if delta.channel != COMMENTARY:
                text = self._stops.feed(text)
                text += self._stops.flush() if delta.ended else ""
            yield from self._content(delta.message, text)

    def _function_name(self, delta: Delta) -> str | None:
        """The tool that a message calls; models leave the namespace out at times."""
        recipient = delta.recipient or ""
        if recipient.startswith("functions."):
            return recipient.removeprefix("functions.")
        return recipient if recipient in self._tools else None

    def _content(self, message: int, text: str) -> Iterator[Part]:
        if not text:
            return
        scored = self._track.leave(text) if self._track else []
        logprobs = ChoiceLogprobs(content=scored, refusal=None) if scored else None
        yield Part(ChoiceDelta(content=self._apart("content", message, text)), logprobs=logprobs)

    def _apart(self, field: str, message: int, text: str) -> str:
        """`text`, after an empty line if it begins another message of its kind."""
        if text and self._last_message.setdefault(field, message) != message:
            self._last_message[field] = message
            return "\n\n" + text
        return text

    def _call(self, delta: Delta, name: str) -> Iterator[Part]:
        if delta.message in self._calls:
            function, opening = ChoiceDeltaToolCallFunction(arguments=delta.text), {}
        else:
            self._calls[delta.message] = len(self._calls)
            arguments = delta.text or ("{}" if delta.ended else "")
            function = ChoiceDeltaToolCallFunction(name=name, arguments=arguments)
            opening = {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function"}
        if function.arguments or opening:
            call = ChoiceDeltaToolCall(index=self._calls[delta.message], function=function, **opening)
            yield Part(ChoiceDelta(tool_calls=[call]))
