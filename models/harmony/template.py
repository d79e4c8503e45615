"""Prompts of models that do not speak harmony, by their tokenizers' own chat templates.

Such models are loaded, probed and merged, not served. Called by `rendering`.
"""

import secrets
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from configs.errors import RequestError
from models.harmony.tokens import vocabulary_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def apply(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None,
    *,
    current_date: date | None,
    most_tokens: int | None,
    **options: Any,
) -> list[int]:
    """Token ids of what the template makes of the messages as they are; `options` are the template's.

    `current_date` reaches templates that read a `current_date` variable and those that call `strftime_now`; None leaves
    the date to the template. Raises RequestError for a conversation that the template refuses.
    """
    pinned = {"current_date": current_date.isoformat(), "strftime_now": current_date.strftime} if current_date else {}
    vocabulary, shield = vocabulary_of(tokenizer), secrets.token_hex(8)
    try:
        text = tokenizer.apply_chat_template(
            vocabulary.shielded(list(messages), shield),
            tools=vocabulary.shielded(list(tools or ()), shield) or None,
            tokenize=False,
            **options,
            **pinned,
        )
    except Exception as error:
        raise RequestError(f"the chat template refused the conversation: {error}", param="messages") from error
    return vocabulary.encode(text, shield, most_tokens)
