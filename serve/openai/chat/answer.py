"""OpenAI's chat answers, streamed and whole: choices framed as chunks, chunks folded into a ChatCompletion.

Types are the `openai` package's own; `reasoning` and `reasoning_content` beside `content` are the extensions that
other servers and their clients share, `token_ids`, `prompt_token_ids` and `stop_reason` are vLLM's.
"""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from openai.types import CompletionUsage
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessage
from openai.types.chat.chat_completion import Choice, ChoiceLogprobs
from openai.types.chat.chat_completion_chunk import Choice as ChunkChoice
from openai.types.chat.chat_completion_chunk import ChoiceDelta, ChoiceDeltaToolCallFunction
from openai.types.chat.chat_completion_message_function_tool_call import ChatCompletionMessageFunctionToolCall, Function

from serve.engine.protocol import TokenChunk
from serve.openai.chat.choice import REASONING, ChoiceWriter, Part
from serve.openai.chat.request import ChatRequest
from serve.openai.fields.logprobs import prompt_logprobs
from serve.openai.fields.usage import usage
from serve.request_log import current

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ChunkWriter:
    """A request's generations, one per choice, as OpenAI's stream chunks.

    `model` is the name to answer under, `fingerprint` what actually answered, such as the adapter version; both go out
    unchanged. `prompt_ids` go out if the request asks for token ids.
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
        prompt_ids: Sequence[int] = (),
    ) -> None:
        self.completion_id = completion_id or f"chatcmpl-{current().id}"
        self.model = model or request.model
        self.fingerprint = fingerprint
        self.created = int(time.time()) if created is None else created
        self.choices = [ChoiceWriter(tokenizer, request, prompt_ids) for _ in range(request.n)]
        self._tokenizer = tokenizer
        self._options = request.stream_options
        self._scored_prompt = request.prompt_logprobs
        self._opening: dict[str, Any] = {"prompt_token_ids": list(prompt_ids)} if request.return_token_ids else {}

    @property
    def done(self) -> bool:
        """The last chunk is out."""
        return all(choice.done for choice in self.choices)

    @property
    def usage(self) -> CompletionUsage:
        """Tokens so far: the prompt's once, the answers' together."""
        return usage(
            max(choice.prompt_tokens for choice in self.choices),
            sum(choice.completion_tokens for choice in self.choices),
            reasoning=sum(choice.reasoning_tokens for choice in self.choices),
        )

    def write(self, chunk: TokenChunk, index: int = 0) -> list[ChatCompletionChunk]:
        """Stream chunks for the next tokens of choice `index`. Raises what `ChoiceWriter.write` raises."""
        if self.choices[index].done:
            return []
        if chunk.prompt_logprobs is not None and self._scored_prompt is not None:
            scores = prompt_logprobs(self._tokenizer, chunk.prompt_logprobs, self._scored_prompt)
            self._opening["prompt_logprobs"], self._scored_prompt = scores, None
        out = [self._chunk(index, part) for part in self.choices[index].write(chunk)]
        if self.done and self._options.include_usage:
            out.append(self._bare([], {"usage": self.usage}))
        return out

    def _chunk(self, index: int, part: Part) -> ChatCompletionChunk:
        fields: dict[str, Any] = {}
        if self._options.continuous_usage_stats:
            fields["usage"] = self.usage
        elif self._options.include_usage:
            fields["usage"] = None
        more, self._opening = self._opening, {}
        extra = {"token_ids": part.token_ids, "stop_reason": part.stop_reason}
        choice = ChunkChoice(
            index=index,
            delta=part.delta,
            logprobs=part.logprobs,
            finish_reason=part.finish_reason,
            **{name: value for name, value in extra.items() if value is not None},
        )
        return self._bare([choice], fields | more)

    def _bare(self, choices: list[ChunkChoice], more: dict[str, Any]) -> ChatCompletionChunk:
        return ChatCompletionChunk(
            id=self.completion_id,
            object="chat.completion.chunk",
            created=self.created,
            model=self.model,
            system_fingerprint=self.fingerprint,
            choices=choices,
            **more,
        )


class ResponseWriter:
    """A request's generations as a whole ChatCompletion: a ChunkWriter's chunks, folded."""

    def __init__(self, chunks: ChunkWriter) -> None:
        self._chunks = chunks
        self._choices = [_Folded() for _ in chunks.choices]
        self._more: dict[str, Any] = {}

    @property
    def done(self) -> bool:
        return self._chunks.done

    def write(self, chunk: TokenChunk, index: int = 0) -> None:
        """Take the next tokens of choice `index`. Raises what ChunkWriter.write raises."""
        for part in self._chunks.write(chunk, index):
            self._more |= part.model_extra or {}
            for choice in part.choices:
                self._choices[index].fold(choice)

    def response(self) -> ChatCompletion:
        """The answer; only once `done`."""
        return ChatCompletion(
            id=self._chunks.completion_id,
            object="chat.completion",
            created=self._chunks.created,
            model=self._chunks.model,
            system_fingerprint=self._chunks.fingerprint,
            choices=[choice.whole(index) for index, choice in enumerate(self._choices)],
            usage=self._chunks.usage,
            **self._more,
        )


class _Folded:
    """One choice so far."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._calls: list[Function] = []
        self._call_ids: list[str] = []
        self._reason: str | None = None
        self._stop: dict[str, str | int] = {}
        self._logprobs: list | None = None
        self._token_ids: list[int] | None = None

    def fold(self, choice: ChunkChoice) -> None:
        self._reason = choice.finish_reason
        if (stop := getattr(choice, "stop_reason", None)) is not None:
            self._stop = {"stop_reason": stop}
        if choice.logprobs:
            self._logprobs = (self._logprobs or []) + (choice.logprobs.content or [])
        if (ids := getattr(choice, "token_ids", None)) is not None:
            self._token_ids = (self._token_ids or []) + ids
        self._fold(choice.delta)

    def whole(self, index: int) -> Choice:
        calls = [
            ChatCompletionMessageFunctionToolCall(id=call_id, type="function", function=function)
            for call_id, function in zip(self._call_ids, self._calls, strict=True)
        ]
        fields: dict[str, Any] = {"tool_calls": calls} if calls else {}
        fields |= {name: self._texts[name] for name in REASONING if name in self._texts}
        content = self._texts.get("content") or (None if calls else "")
        message = ChatCompletionMessage(role="assistant", content=content, refusal=None, **fields)
        logprobs = None if self._logprobs is None else ChoiceLogprobs(content=self._logprobs, refusal=None)
        ids = {} if self._token_ids is None else {"token_ids": self._token_ids}
        return Choice(index=index, message=message, logprobs=logprobs, finish_reason=self._reason, **ids, **self._stop)

    def _fold(self, delta: ChoiceDelta) -> None:
        for field in ("content", *REASONING):
            if text := getattr(delta, field, None):
                self._texts[field] = self._texts.get(field, "") + text
        for call in delta.tool_calls or []:
            function = call.function or ChoiceDeltaToolCallFunction()
            if call.id:
                self._call_ids.append(call.id)
                self._calls.append(Function(name=function.name or "", arguments=""))
            self._calls[call.index].arguments += function.arguments or ""
