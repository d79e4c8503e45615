"""OpenAI's `logprobs`: the tokens of a choice's content, each leaving together with the text that it became.

Text may wait for the rest of a character or of a possible stop text; its tokens wait with it. `chat_choice` tells what
happens to tokens and text, this keeps them in step. Knows neither channels nor chunks.
"""

from typing import TYPE_CHECKING

from openai.types.chat.chat_completion_token_logprob import ChatCompletionTokenLogprob, TopLogprob

from models import harmony
from serve.engine.protocol import TokenLogprob

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LEAST_LOGPROB = -9999.0
"""What OpenAI writes for a probability of 0, since JSON has no infinity."""


class LogprobTrack:
    """Content tokens that wait for their text. `most` of the likeliest tokens are shown beside each."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", most: int) -> None:
        self._tokenizer = tokenizer
        self._most = most
        self._waiting: list[tuple[ChatCompletionTokenLogprob, int]] = []
        self._read = self._left = 0

    def add(self, token_id: int, scores: dict[int, TokenLogprob]) -> None:
        """A content token was generated; its text, if it completes any, comes with the next `read`."""
        likeliest = sorted(scores.items(), key=lambda item: item[1].rank)[: self._most]
        entry = ChatCompletionTokenLogprob(
            **self._fields(token_id, scores[token_id]),
            top_logprobs=[TopLogprob(**self._fields(token, found)) for token, found in likeliest],
        )
        self._waiting.append((entry, self._read))

    def read(self, text: str) -> None:
        """Text that the tokens so far became."""
        self._read += len(text)

    def leave(self, text: str) -> list[ChatCompletionTokenLogprob]:
        """Text goes out: the tokens that began in it, or in what went out before."""
        self._left += len(text)
        out = [entry for entry, begin in self._waiting if begin < self._left]
        self._waiting = self._waiting[len(out) :]
        return out

    def _fields(self, token_id: int, found: TokenLogprob) -> dict:
        piece = harmony.token_bytes(self._tokenizer, token_id)
        return {
            "token": piece.decode("utf-8", "replace"),
            "bytes": list(piece),
            "logprob": max(found.logprob, LEAST_LOGPROB),
        }
