"""OpenAI's chat wire format to and from engine terms. Knows the format and the harmony parser, neither HTTP nor Ray.

Inwards, `parse_request` checks a body and gives a ChatRequest: what changes the answer is honoured or refused by name,
never ignored. Outwards, `ChunkWriter` turns an engine's TokenChunks into OpenAI's stream chunks, and `ResponseWriter`
folds those same chunks into a whole answer. Types are the `openai` package's own; `reasoning_content` beside `content`
is the extension that vLLM, SGLang and DeepSeek share.
"""

import time
import uuid
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from openai.types import CompletionUsage
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessage
from openai.types.chat.chat_completion import Choice
from openai.types.chat.chat_completion_chunk import Choice as ChunkChoice
from openai.types.chat.chat_completion_chunk import ChoiceDelta, ChoiceDeltaToolCall, ChoiceDeltaToolCallFunction
from openai.types.chat.chat_completion_message_function_tool_call import ChatCompletionMessageFunctionToolCall, Function
from pydantic import Field

from configs.errors import TandemError
from models.harmony import ANALYSIS, COMMENTARY, Delta, StreamParser
from serve.engine.protocol import TokenChunk
from serve.engine.sampling import SamplingParams, StopStrings
from serve.wire.body import SampledRequest, StreamOptions, checked

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NEUTRAL = {
    "n": (1,),
    "response_format": ({"type": "text"},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "verbosity": ("medium",),
}
"""Parameters that are not supported, with the values that ask for nothing."""


class ChatRequest(SampledRequest):
    """The body of POST /v1/chat/completions. Make it with `parse_request`, which refuses what is not listed here."""

    model: str = Field(min_length=1)
    messages: list[dict[str, Any]] = Field(min_length=1)
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    stop: str | list[str] = []
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    reasoning_effort: Literal["low", "medium", "high"] = "medium"
    tools: list[dict[str, Any]] = []
    tool_choice: Literal["auto", "none"] = "auto"

    @property
    def offered_tools(self) -> list[dict[str, Any]]:
        """The tools that the model is told about."""
        return self.tools if self.tool_choice == "auto" else []

    def sampling(self, stop_token_ids: Iterable[int]) -> SamplingParams:
        """Raises RequestError, with `param`, for values out of bounds."""
        return self.sampled(
            max_tokens=self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop),
            stop_token_ids=tuple(stop_token_ids),
        )


def parse_request(body: bytes | str | dict[str, Any]) -> ChatRequest:
    """A checked chat request; see `body.checked`."""
    return checked(body, ChatRequest, NEUTRAL)


class ChunkWriter:
    """One generation as OpenAI's stream chunks.

    Analysis becomes `reasoning_content`; final text and commentary to the user become `content`; commentary to a
    function becomes a tool call with streamed arguments. Separate messages of one kind are set apart by an empty line.
    Stop strings end final text only. `model` is the name to answer under, `fingerprint` what actually answered, such as
    the adapter version; both go out unchanged.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        request: ChatRequest,
        *,
        model: str | None = None,
        fingerprint: str | None = None,
        completion_id: str | None = None,
        created: int | None = None,
    ) -> None:
        self.completion_id = completion_id or f"chatcmpl-{uuid.uuid4().hex}"
        self.model = model or request.model
        self.fingerprint = fingerprint
        self.created = int(time.time()) if created is None else created
        self.done = False
        """The last chunk is out; whatever still generates may be closed."""
        self.usage = CompletionUsage(prompt_tokens=0, completion_tokens=0, total_tokens=0)
        self._include_usage = request.stream_options.include_usage
        self._tools = {tool.get("function", {}).get("name") for tool in request.offered_tools}
        self._parser = StreamParser(tokenizer)
        self._stops = StopStrings((request.stop,) if isinstance(request.stop, str) else request.stop)
        self._opened = False
        self._last_message: dict[str, int] = {}
        self._calls: dict[int, int] = {}

    def write(self, chunk: TokenChunk) -> list[ChatCompletionChunk]:
        """Stream chunks for the engine's next tokens; after the last one, `done` is set and nothing more comes.

        Raises TandemError if the engine gave the generation up, because OpenAI's format has no word for that.
        """
        if self.done:
            return []
        if chunk.finish_reason == "abort":
            raise TandemError("the generation was aborted before it was complete", hint="ask again")
        self._count(chunk)
        out = self._opening()
        deltas = self._parser.feed(chunk.ids) + (self._parser.close() if chunk.finish_reason else [])
        for delta in deltas:
            out += self._gain(delta)
            if self._stops.matched is not None:
                return out + self._closing("stop")
        if chunk.finish_reason:
            out += self._text("content", self._last_message.get("content", 0), self._stops.flush())
            called = self._calls and chunk.finish_reason == "stop"
            out += self._closing("tool_calls" if called else chunk.finish_reason)
        return out

    def _count(self, chunk: TokenChunk) -> None:
        self.usage = CompletionUsage(
            prompt_tokens=chunk.prompt_tokens,
            completion_tokens=chunk.completion_tokens,
            total_tokens=chunk.prompt_tokens + chunk.completion_tokens,
        )

    def _opening(self) -> list[ChatCompletionChunk]:
        if self._opened:
            return []
        self._opened = True
        return [self._chunk(ChoiceDelta(role="assistant", content=""))]

    def _closing(self, reason: str) -> list[ChatCompletionChunk]:
        self.done = True
        last = self._chunk(ChoiceDelta(), reason)
        return [last, self._bare(choices=[], usage=self.usage)] if self._include_usage else [last]

    def _gain(self, delta: Delta) -> list[ChatCompletionChunk]:
        name = self._function_name(delta)
        if name:
            return self._call(delta, name)
        if delta.recipient or delta.channel == ANALYSIS:
            return self._text("reasoning_content", delta.message, delta.text)
        if delta.channel == COMMENTARY:
            return self._text("content", delta.message, delta.text)
        text = self._stops.feed(delta.text)
        return self._text("content", delta.message, text + self._stops.flush() if delta.ended else text)

    def _function_name(self, delta: Delta) -> str | None:
        """The tool that a message calls; models leave the namespace out at times."""
        recipient = delta.recipient or ""
        if recipient.startswith("functions."):
            return recipient.removeprefix("functions.")
        return recipient if recipient in self._tools else None

    def _text(self, field: str, message: int, text: str) -> list[ChatCompletionChunk]:
        if not text:
            return []
        if self._last_message.setdefault(field, message) != message:
            self._last_message[field] = message
            text = "\n\n" + text
        return [self._chunk(ChoiceDelta(**{field: text}))]

    def _call(self, delta: Delta, name: str) -> list[ChatCompletionChunk]:
        if delta.message in self._calls:
            function, opening = ChoiceDeltaToolCallFunction(arguments=delta.text), {}
        else:
            self._calls[delta.message] = len(self._calls)
            arguments = delta.text or ("{}" if delta.ended else "")
            function = ChoiceDeltaToolCallFunction(name=name, arguments=arguments)
            opening = {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function"}
        if not function.arguments and not opening:
            return []
        call = ChoiceDeltaToolCall(index=self._calls[delta.message], function=function, **opening)
        return [self._chunk(ChoiceDelta(tool_calls=[call]))]

    def _chunk(self, delta: ChoiceDelta, reason: str | None = None) -> ChatCompletionChunk:
        usage = {"usage": None} if self._include_usage else {}
        return self._bare(choices=[ChunkChoice(index=0, delta=delta, logprobs=None, finish_reason=reason)], **usage)

    def _bare(self, **fields: Any) -> ChatCompletionChunk:
        return ChatCompletionChunk(
            id=self.completion_id,
            object="chat.completion.chunk",
            created=self.created,
            model=self.model,
            system_fingerprint=self.fingerprint,
            **fields,
        )


class ResponseWriter:
    """One generation as a whole ChatCompletion: a ChunkWriter's chunks, folded."""

    def __init__(self, chunks: ChunkWriter) -> None:
        self._chunks = chunks
        self._texts: dict[str, str] = {}
        self._calls: list[Function] = []
        self._call_ids: list[str] = []
        self._reason: str | None = None

    @property
    def done(self) -> bool:
        return self._chunks.done

    def write(self, chunk: TokenChunk) -> None:
        """Take the engine's next tokens. Raises what ChunkWriter.write raises."""
        for part in self._chunks.write(chunk):
            for choice in part.choices:
                self._reason = choice.finish_reason
                self._fold(choice.delta)

    def response(self) -> ChatCompletion:
        """The answer; only once `done`."""
        calls = [
            ChatCompletionMessageFunctionToolCall(id=call_id, type="function", function=function)
            for call_id, function in zip(self._call_ids, self._calls, strict=True)
        ]
        fields: dict[str, Any] = {"tool_calls": calls} if calls else {}
        if "reasoning_content" in self._texts:
            fields["reasoning_content"] = self._texts["reasoning_content"]
        content = self._texts.get("content") or (None if calls else "")
        message = ChatCompletionMessage(role="assistant", content=content, refusal=None, **fields)
        return ChatCompletion(
            id=self._chunks.completion_id,
            object="chat.completion",
            created=self._chunks.created,
            model=self._chunks.model,
            system_fingerprint=self._chunks.fingerprint,
            choices=[Choice(index=0, message=message, logprobs=None, finish_reason=self._reason)],
            usage=self._chunks.usage,
        )

    def _fold(self, delta: ChoiceDelta) -> None:
        for field in ("content", "reasoning_content"):
            if text := getattr(delta, field, None):
                self._texts[field] = self._texts.get(field, "") + text
        for call in delta.tool_calls or []:
            if call.id:
                self._call_ids.append(call.id)
                self._calls.append(Function(name=call.function.name, arguments=""))
            self._calls[call.index].arguments += call.function.arguments
