"""Log-probabilities as answers show them: OpenAI's of generated tokens, vLLM's of a prompt's.

`LogprobTrack` keeps tokens and text in step: text may wait for the rest of a character or of a possible stop text, and
its tokens wait with it. `chat_choice` tells it what happens to both; nothing here knows channels or chunks.
"""

from typing import TYPE_CHECKING, Any

from openai.types.chat.chat_completion_token_logprob import ChatCompletionTokenLogprob, TopLogprob

from models import harmony
from serve.engine.protocol import PromptLogprobs, TokenLogprob

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LEAST_LOGPROB = -9999.0
"""What OpenAI writes for a probability of 0, since JSON has no infinity."""

Entries = list[ChatCompletionTokenLogprob]


class LogprobTrack:
    """All tokens of a choice, in order, until they leave. `most` of the likeliest tokens are shown beside each.

    Those of content leave with the content that they became; the others, of reasoning, calls and the format, leave by
    themselves. `by_id` names every token `token_id:N`.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", most: int, *, by_id: bool = False) -> None:
        self._tokenizer = tokenizer
        self._most = most
        self._by_id = by_id
        self._waiting: list[tuple[ChatCompletionTokenLogprob, int | None]] = []
        """Each with where its text begins in the content; None is not content."""
        self._read = self._left = 0

    def add(self, token_id: int, scores: dict[int, TokenLogprob], *, content: bool) -> None:
        """A token was generated; the text of content, if the token completes any, comes with the next `read`."""
        likeliest = sorted(scores.items(), key=lambda item: item[1].rank)[: self._most]
        entry = ChatCompletionTokenLogprob(
            **self._fields(token_id, scores[token_id]),
            top_logprobs=[TopLogprob(**self._fields(token, found)) for token, found in likeliest],
        )
        self._waiting.append((entry, self._read if content else None))

    def read(self, text: str) -> None:
        """Content that the tokens so far became."""
        self._read += len(text)

    def others(self) -> Entries:
        """The tokens that leave without content: those before the next one of it."""
        content = (at for at, (_, begin) in enumerate(self._waiting) if begin is not None)
        return self._take(next(content, len(self._waiting)))

    def leave(self, text: str) -> Entries:
        """Content goes out, and with it the tokens that began in it, or in what went out before."""
        self._left += len(text)
        later = (at for at, (_, begin) in enumerate(self._waiting) if begin is None or begin >= self._left)
        return self._take(next(later, len(self._waiting)))

    def rest(self) -> Entries:
        """All that are left."""
        return self._take(len(self._waiting))

    def _take(self, count: int) -> Entries:
        out, self._waiting = self._waiting[:count], self._waiting[count:]
        return [entry for entry, _ in out]

    def _fields(self, token_id: int, found: TokenLogprob) -> dict[str, Any]:
        piece = harmony.token_bytes(self._tokenizer, token_id)
        return {
            "token": named_by_id(token_id) if self._by_id else piece.decode("utf-8", "replace"),
            "bytes": list(piece),
            "logprob": bounded(found),
        }


def prompt_logprobs(tokenizer: "PreTrainedTokenizerBase", scores: PromptLogprobs, most: int) -> list[dict | None]:
    """vLLM's shape: `{id: {"logprob", "rank", "decoded_token"}}` for each token, itself first; null for the first."""
    return [at and _decoded(tokenizer, at, most) for at in scores]


def _decoded(tokenizer: "PreTrainedTokenizerBase", scores: dict[int, TokenLogprob], most: int) -> dict[str, dict]:
    (own, *others) = scores.items()
    shown = [own, *(each for each in sorted(others, key=lambda item: item[1].rank) if each[1].rank <= most)]
    return {
        str(token): {"logprob": bounded(found), "rank": found.rank, "decoded_token": tokenizer.decode([token])}
        for token, found in shown
    }


def bounded(found: TokenLogprob) -> float:
    return max(found.logprob, LEAST_LOGPROB)


def named_by_id(token_id: int) -> str:
    """As vLLM names tokens that no text stands for."""
    return f"token_id:{token_id}"
