"""Plain text to token ids, however long it is. Knows no chat format; `harmony` and raw completions encode with it.

Long text is encoded while other threads run, and text that cannot fit is refused before it is encoded: megabytes take
seconds.
"""

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from configs.errors import PromptTooLongError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


LONG = 20_000
"""Characters from which text is better encoded in a thread: about 10 ms of work."""


class Encoder:
    """One tokenizer that nobody else changes. Its truncation and padding are switched off."""

    def __init__(self, tokenizer: "Tokenizer") -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._longest = _longest_token(tokenizer)

    def ids(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        if len(text) < LONG:
            return self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        # tokenizers 0.23: `encode` holds the GIL from beginning to end, this does not.
        return self._tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids

    def refuse_hopeless(self, texts: Iterable[str], most_tokens: int | None, param: str) -> None:
        """Raises PromptTooLongError for texts, special tokens included, of surely more than `most_tokens` each."""
        if most_tokens is None or self._longest is None:
            return
        for text in texts:
            fewest = -(-len(text.encode("utf-8", "replace")) // self._longest)
            if fewest > most_tokens:
                raise PromptTooLongError.of(fewest, most_tokens, param=param, least=True)


def characters(value: Any) -> int:
    """Of all strings in nested lists and dicts, keys not counted."""
    found, left = 0, [value]
    while left:
        each = left.pop()
        if isinstance(each, str):
            found += len(each)
        elif isinstance(each, Mapping):
            left.extend(each.values())
        elif isinstance(each, list | tuple):
            left.extend(each)
    return found


def _longest_token(tokenizer: "Tokenizer") -> int | None:
    """Bytes of text that no token exceeds; None where text may be changed or left out before it becomes tokens."""
    from tokenizers.decoders import ByteLevel

    added = tokenizer.get_added_tokens_decoder().values()
    whole = isinstance(tokenizer.decoder, ByteLevel) and tokenizer.normalizer is None and _only_cuts(tokenizer)
    if not whole or any(token.lstrip or token.rstrip for token in added):
        return None
    # A token's name has one character per byte, an added token's is its text: its UTF-8 is at least as long as either.
    return max(len(name.encode()) for name in tokenizer.get_vocab(with_added_tokens=True))


def _only_cuts(tokenizer: "Tokenizer") -> bool:
    """Whether what comes before the merges is known to lose nothing."""
    if tokenizer.pre_tokenizer is None:
        return False
    state = json.loads(tokenizer.pre_tokenizer.__getstate__())
    steps = state["pretokenizers"] if state["type"] == "Sequence" else [state]
    return all(step["type"] == "ByteLevel" or step.get("behavior", "Removed") != "Removed" for step in steps)
