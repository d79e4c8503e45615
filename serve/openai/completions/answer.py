"""OpenAI's older text completions, streamed and whole: text comes out as it is, no chat format is looked for.

`ChoiceWriter` turns one generation into pieces of one choice, `CompletionWriter` frames them as stream chunks or puts
them together.
"""

import time
from typing import TYPE_CHECKING, Any

from openai.types import CompletionUsage

from configs.errors import TandemError
from models import harmony
from serve.engine.protocol import PromptLogprobs, TokenChunk, TokenLogprob
from serve.engine.sampling import StopStrings
from serve.openai.completions.request import CompletionRequest
from serve.openai.completions.types import FinishReason, Piece, Scores, Text, TextChunk
from serve.openai.fields.logprobs import bounded, named_by_id, prompt_logprobs
from serve.openai.fields.usage import usage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNKNOWN = "\ufffd"
"""How a token reads that the tokenizer does not know."""


class ChoiceWriter:
    """One generation as pieces of the choice `index`; what it echoes goes before what it generates."""

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", request: CompletionRequest, index: int, prompt: list[int]
    ) -> None:
        self.prompt = prompt
        self.completion_tokens = 0
        self.begun = False
        self.done = False
        self._tokenizer = tokenizer
        self._request = request
        self._index = index
        self._text = harmony.TextStream(tokenizer, skip_special_tokens=request.skip_special_tokens)
        self._stops = StopStrings(request.stops)
        self._scores = _Scores(tokenizer, request.logprobs, by_id=request.return_tokens_as_token_ids)

    def begin(self, first: TokenChunk) -> Piece | None:
        """What comes before the first token, if anything does: the echoed prompt, its scores and ids."""
        self.begun = True
        more: dict[str, Any] = {}
        scores, most = first.prompt_logprobs, self._request.prompt_logprobs
        if scores is not None and most is not None:
            more["prompt_logprobs"] = prompt_logprobs(self._tokenizer, scores, most)
        if self._request.return_token_ids:
            more |= {"token_ids": [], "prompt_token_ids": self.prompt}
        text = self._echo(scores) if self._request.echo else ""
        return self._piece(text, None, more) if text or more else None

    def write(self, chunk: TokenChunk) -> Piece | None:
        """The next piece, None if there is nothing to say yet; after the last one `done` is set.

        Raises TandemError if the engine gave the generation up.
        """
        if chunk.finish_reason == "abort":
            raise TandemError("the generation was aborted before it was complete", hint="ask again")
        self.completion_tokens = chunk.completion_tokens
        text = self._stops.feed(self._read(chunk.ids, chunk.logprobs))
        if chunk.finish_reason:
            text += self._stops.feed(self._text.close()) + self._stops.flush()
        matched = self._stops.matched
        if matched is not None and self._request.include_stop_str_in_output:
            text += matched
        reason = chunk.finish_reason if matched is None else "stop"
        self.done = reason is not None
        more: dict[str, Any] = {"token_ids": chunk.ids} if self._request.return_token_ids else {}
        if self.done:
            more["stop_reason"] = self._request.stop_reason(chunk, matched)
        whole = bool(chunk.finish_reason) and matched is None
        return self._piece(text, reason, more, whole=whole) if text or reason or more else None

    def _echo(self, scores: PromptLogprobs | None) -> str:
        echoed = harmony.TextStream(self._tokenizer, skip_special_tokens=self._request.skip_special_tokens)
        text = ""
        for at, token in enumerate(self.prompt):
            self._scores.add(token, (scores[at] if scores else None) or None, len(text))
            text += echoed.feed([token])
        text += echoed.close()
        self._scores.read += len(text)
        return text

    def _read(self, ids: list[int], scores: list[dict[int, TokenLogprob]] | None) -> str:
        text = ""
        for at, token in enumerate(ids):
            self._scores.add(token, scores[at] if scores else None, len(text))
            text += self._text.feed([token])
        self._scores.read += len(text)
        return text

    def _piece(self, text: str, reason: FinishReason | None, more: dict[str, Any], *, whole: bool = False) -> Piece:
        return _choice(self._index, text, self._scores.leave(text, whole), reason, more)


class _Scores:
    """Tokens that wait for their text, and leave with it in OpenAI's older shape of logprobs."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", most: int | None, *, by_id: bool = False) -> None:
        self._tokenizer = tokenizer
        self._most = most
        self._by_id = by_id
        self._waiting: list[tuple[int, int, dict[int, TokenLogprob] | None]] = []
        self.read = 0
        """Characters that the tokens so far became."""
        self._left = 0

    def add(self, token: int, scores: dict[int, TokenLogprob] | None, ahead: int) -> None:
        """A token whose text begins `ahead` characters after what was read; the first of a prompt has no scores."""
        if self._most is not None:
            self._waiting.append((token, self.read + ahead, scores))

    def leave(self, text: str, whole: bool) -> Scores | None:
        """Text goes out with the tokens that began in it or before; if it is the whole rest, with all tokens."""
        self._left += len(text)
        if (most := self._most) is None:
            return None
        out = [each for each in self._waiting if whole or each[1] < self._left]
        self._waiting = self._waiting[len(out) :]
        return Scores.model_construct(
            tokens=[self._name(token) for token, _, _ in out],
            token_logprobs=[bounded(scores[token]) if scores else None for token, _, scores in out],
            top_logprobs=[self._likeliest(scores, most) if scores else None for _, _, scores in out],
            text_offset=[begin for _, begin, _ in out],
        )

    def _likeliest(self, scores: dict[int, TokenLogprob], most: int) -> dict[str, float]:
        """The likeliest tokens, and the chosen one even if it is not among them."""
        own = next(iter(scores))
        shown = [item for item in scores.items() if item[0] == own or item[1].rank <= most]
        return {self._name(token): bounded(found) for token, found in sorted(shown, key=lambda item: item[1].rank)}

    def _name(self, token: int) -> str:
        """Its text, so that no two tokens share a name: `bytes:\\xNN` for a piece of a character, as OpenAI writes it,
        and `token_id:N`, as vLLM does, for an id that stands in the model's embedding but not in its tokenizer."""
        if self._by_id:
            return named_by_id(token)
        piece = harmony.token_bytes(self._tokenizer, token)
        try:
            text = piece.decode()
            return text if text != UNKNOWN else named_by_id(token)
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


class CompletionWriter:
    """All choices of a request as one Completion, whole or in chunks."""

    def __init__(
        self, request: CompletionRequest, choices: list[ChoiceWriter], *, completion_id: str, fingerprint: str
    ) -> None:
        self.completion_id = completion_id
        self._request = request
        self._choices = choices
        self._fingerprint = fingerprint
        self._created = int(time.time())

    def chunk(self, piece: Piece) -> TextChunk:
        options = self._request.stream_options
        if options.continuous_usage_stats:
            return self._chunk([piece], {"usage": self._usage()})
        return self._chunk([piece], {"usage": None} if options.include_usage else {})

    def last_chunk(self) -> TextChunk | None:
        """The usage, if it was asked for."""
        return self._chunk([], {"usage": self._usage()}) if self._request.stream_options.include_usage else None

    def whole(self, pieces: list[Piece]) -> Text:
        """The answer from all pieces of all choices."""
        of_choice = [[piece for piece in pieces if piece.index == index] for index in range(len(self._choices))]
        return Text.model_construct(None, **self._fields([_folded(each) for each in of_choice]), usage=self._usage())

    def _chunk(self, choices: list[Piece], more: dict[str, Any]) -> TextChunk:
        return TextChunk.model_construct(None, **self._fields(choices), **more)

    def _fields(self, choices: list[Piece]) -> dict[str, Any]:
        return {
            "id": self.completion_id,
            "object": "text_completion",
            "created": self._created,
            "model": self._request.model,
            "system_fingerprint": self._fingerprint,
            "choices": choices,
        }

    def _usage(self) -> CompletionUsage:
        """A prompt that is continued n times counts once."""
        prompt = sum(len(choice.prompt) for choice in self._choices[:: self._request.n])
        return usage(prompt, sum(choice.completion_tokens for choice in self._choices))


def _folded(pieces: list[Piece]) -> Piece:
    """One choice from all its pieces."""
    more = {name: value for piece in pieces for name, value in (piece.model_extra or {}).items()}
    if "token_ids" in more:
        more["token_ids"] = [token for piece in pieces for token in (piece.model_extra or {})["token_ids"]]
    text, last = "".join(piece.text for piece in pieces), pieces[-1]
    return _choice(last.index, text, _joined([piece.logprobs for piece in pieces]), last.finish_reason, more)


def _joined(parts: list[Scores | None]) -> Scores | None:
    if parts[0] is None:
        return None
    lists: dict[str, list[Any]] = {
        name: [each for part in parts for each in getattr(part, name)] for name in Scores.model_fields
    }
    return Scores.model_construct(None, **lists)


def _choice(index: int, text: str, logprobs: Scores | None, reason: FinishReason | None, more: dict[str, Any]) -> Piece:
    """A choice; while it streams its finish_reason is null, for which OpenAI's type has no room."""
    return Piece.model_construct(None, index=index, text=text, logprobs=logprobs, finish_reason=reason, **more)
