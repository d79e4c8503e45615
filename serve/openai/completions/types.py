"""OpenAI's types of a text completion, with the nulls that its answers have and its types do not."""

from typing import Literal

from openai.types import Completion, CompletionChoice
from openai.types.completion_choice import Logprobs

FinishReason = Literal["stop", "length", "content_filter"]


class Scores(Logprobs):
    """Null stands for a prompt's first token, which has no past."""

    token_logprobs: list[float | None]  # type: ignore[assignment]  # null in answers, not in OpenAI's type
    top_logprobs: list[dict[str, float] | None]  # type: ignore[assignment]  # null in answers, not in OpenAI's type


class Piece(CompletionChoice):
    """A choice as it grows: `finish_reason` is null until it ends."""

    finish_reason: FinishReason | None  # type: ignore[assignment]  # null in answers, not in OpenAI's type
    logprobs: Scores | None


class Choice(Piece):
    """A whole choice."""

    finish_reason: FinishReason


class TextChunk(Completion):
    """What one event of a stream holds."""

    choices: list[Piece]  # type: ignore[assignment]  # a list of narrower choices, which nobody adds to


class Text(Completion):
    """A whole answer."""

    choices: list[Choice]  # type: ignore[assignment]  # a list of narrower choices, which nobody adds to
