"""One generation as the parts of one choice: OpenAI's deltas. Knows the format and the harmony parser, no framing.

`chat_answer` feeds it an engine's TokenChunks and puts its parts into chunks.
"""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from openai.types.chat.chat_completion_chunk import (
    ChoiceDelta,
    ChoiceDeltaToolCall,
    ChoiceDeltaToolCallFunction,
    ChoiceLogprobs,
)

from configs.errors import TandemError
from models.harmony import ANALYSIS, COMMENTARY, START, Delta, StreamParser
from serve.engine.protocol import TokenChunk, TokenLogprob
from serve.engine.sampling import StopStrings
from serve.openai.chat.request import ChatRequest
from serve.openai.fields.logprobs import Entries, LogprobTrack

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
    stop_reason: str | int | None = None
    """The stop text that ended the choice, or the id."""


class ChoiceWriter:
    """One generation as parts.

    Analysis becomes `reasoning` and the same again as `reasoning_content`; final text and commentary to the user become
    `content`; commentary to a function becomes a tool call with streamed arguments. Separate messages of one kind are
    set apart by an empty line. Stop strings end final text only. The log-probabilities of a part with
    content are those of its content, all others are in other parts. `prompt_ids` are what the generation goes on from.
    """

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", request: ChatRequest, prompt_ids: Sequence[int] = ()
    ) -> None:
        self.done = False
        """The last part is out; whatever still generates may be closed."""
        self.prompt_tokens = self.completion_tokens = 0
        self._tools = {tool.get("function", {}).get("name") for tool in request.offered_tools}
        self._parser = StreamParser(tokenizer)
        self._stops = StopStrings(request.stops)
        self._request = request
        by_id = request.return_tokens_as_token_ids
        self._track = LogprobTrack(tokenizer, request.top_logprobs, by_id=by_id) if request.logprobs else None
        self._scored: Iterator[tuple[int, dict[int, TokenLogprob]]] = iter(())
        """Tokens of the engine's chunk that are not parsed yet, with their scores."""
        self._ids: list[int] | None = [] if request.return_token_ids else None
        self._opened = False
        self._last_message: dict[str, int] = {}
        self._calls: dict[int, int] = {}
        if request.continue_final_message:
            self._parser.feed(_last_message(tokenizer, prompt_ids))
        self._thought_before = self._parser.reasoning_tokens

    @property
    def reasoning_tokens(self) -> int:
        """Tokens of reasoning text so far."""
        return self._parser.reasoning_tokens - self._thought_before

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
        return [Part(ChoiceDelta(role="assistant", content=self._request.echoed))]

    def _parts(self, chunk: TokenChunk) -> Iterator[Part]:
        for delta in self._deltas(chunk):
            yield from self._gain(delta)
            if self._stops.matched is not None:
                yield self._closing(chunk, "stop")
                return
        if chunk.finish_reason:
            yield from self._content(self._last_message.get("content", 0), self._stops.flush())
            called = self._calls and chunk.finish_reason == "stop"
            yield self._closing(chunk, "tool_calls" if called else chunk.finish_reason)

    def _deltas(self, chunk: TokenChunk) -> Iterator[Delta]:
        """What the chunk's tokens say; token by token only where log-probabilities are matched with text."""
        if self._track is None:
            yield from self._parser.feed(chunk.ids)
        else:
            self._scored = zip(chunk.ids, chunk.logprobs or [], strict=True)
            for token, scores in self._scored:
                deltas, message = self._parser.feed([token]), self._parser.message
                content = message is not None and message[0] != ANALYSIS and message[1] is None
                self._track.add(token, scores, content=content)
                yield from deltas
        if chunk.finish_reason:
            yield from self._parser.close()

    def _closing(self, chunk: TokenChunk, reason: str) -> Part:
        self.done = True
        logprobs = None
        if self._track:
            for token, scores in self._scored:
                self._track.add(token, scores, content=False)
            logprobs = _logprobs(self._track.rest())
        return Part(ChoiceDelta(), reason, logprobs, stop_reason=self._request.stop_reason(chunk, self._stops.matched))

    def _gain(self, delta: Delta) -> Iterator[Part]:
        name = self._function_name(delta)
        if name:
            yield from self._call(delta, name)
        elif delta.recipient or delta.channel == ANALYSIS:
            text = self._apart("reasoning", delta.message, delta.text)
            if text and self._request.include_reasoning:
                yield Part(ChoiceDelta(**dict.fromkeys(REASONING, text)), logprobs=self._others())
        else:
            if self._track:
                self._track.read(delta.text)
            text = delta.text
            if delta.channel != COMMENTARY:
                text = self._stops.feed(text)
                text += self._stops.flush() if delta.ended else ""
                if self._stops.matched is not None and self._request.include_stop_str_in_output:
                    text += self._stops.matched
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
        if before := self._others():
            yield Part(ChoiceDelta(), logprobs=before)
        logprobs = _logprobs(self._track.leave(text)) if self._track else None
        yield Part(ChoiceDelta(content=self._apart("content", message, text)), logprobs=logprobs)

    def _others(self) -> ChoiceLogprobs | None:
        """The log-probabilities that belong to no content."""
        return _logprobs(self._track.others()) if self._track else None

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
            yield Part(ChoiceDelta(tool_calls=[call]), logprobs=self._others())


def _last_message(tokenizer: "PreTrainedTokenizerBase", prompt_ids: Sequence[int]) -> Sequence[int]:
    """The ids of the message that a prompt ends in, behind its `<|start|>`."""
    start = tokenizer.convert_tokens_to_ids(START)
    return prompt_ids[max((at + 1 for at, token in enumerate(prompt_ids) if token == start), default=0) :]


def _logprobs(entries: Entries) -> ChoiceLogprobs | None:
    return ChoiceLogprobs(content=entries, refusal=None) if entries else None
