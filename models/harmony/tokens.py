"""Harmony's special tokens, and one tokenizer seen from both sides: text to ids, an id to the bytes it stands for.

Knows neither conversations nor messages. Called by `rendering` and `parsing`, and by whoever shows single tokens.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any

from configs.errors import CheckpointError
from models.harmony.encoding import Encoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

START, END, MESSAGE, CHANNEL, CONSTRAIN = "<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>"
RETURN, CALL = "<|return|>", "<|call|>"

STOP_TOKENS = (RETURN, CALL)
"""What ends a generation. `<|end|>` only ends a message: stopping there cuts the answer off after its reasoning."""

ANALYSIS, COMMENTARY, FINAL = "analysis", "commentary", "final"


def stop_token_ids(tokenizer: "PreTrainedTokenizerBase") -> tuple[int, ...]:
    """Ids of STOP_TOKENS, in that order.

    Raises CheckpointError if the tokenizer lacks one, because then nothing would end a generation.
    """
    specials = vocabulary_of(tokenizer).specials
    missing = [token for token in STOP_TOKENS if token not in specials]
    if missing:
        raise CheckpointError(
            f"the tokenizer has no {' and no '.join(missing)}; it does not speak harmony",
            hint="serve a gpt-oss checkpoint with its own tokenizer",
        )
    return tuple(specials[token] for token in STOP_TOKENS)


def token_bytes(tokenizer: "PreTrainedTokenizerBase", token_id: int) -> bytes:
    """What one token adds to a text; a special token its name."""
    return vocabulary_of(tokenizer).piece(token_id)


Piece = tuple[str, str]
"""Ordinary text and the name of the special token behind it; either may be empty."""


@dataclass(frozen=True)
class Token:
    """One token as people read it."""

    id: int
    text: str
    """Bytes that are not UTF-8 by themselves appear as `\\xNN`."""
    special: bool


def describe(tokenizer: "PreTrainedTokenizerBase", token_id: int) -> Token:
    """What `token_id` stands for; U+FFFD for an id that the tokenizer does not know."""
    text = token_bytes(tokenizer, token_id).decode("utf-8", "backslashreplace")
    return Token(token_id, text, token_id in vocabulary_of(tokenizer).special_names)


class Vocabulary:
    """One tokenizer seen from both sides: text with special tokens to ids, and an id to the bytes it stands for."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        from tokenizers import Tokenizer
        from transformers.convert_slow_tokenizer import bytes_to_unicode

        self._tokenizer = tokenizer
        # A copy of its own: the flag is state of the tokenizer, which other threads use with its default.
        plain = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        plain.encode_special_tokens = True
        self._plain = Encoder(plain)
        self._byte_of = {character: value for value, character in bytes_to_unicode().items()}
        added = tokenizer.added_tokens_decoder
        self._added = {index: token.content for index, token in added.items() if not token.special}
        self.special_names = {index: token.content for index, token in added.items() if token.special}
        self.specials = {name: index for index, name in self.special_names.items()}
        longest_first = sorted(map(re.escape, self.specials), key=len, reverse=True)
        self._special = re.compile(f"({'|'.join(longest_first)})" if longest_first else r"(?!)()")

    def shielded(self, value: Any, shield: str) -> Any:
        """A copy of nested lists, dicts and strings in which no string contains a special token's text.

        `shield` goes in after the first character of each occurrence; `encode` takes it out again.
        """
        if isinstance(value, str):
            return self._special.sub(lambda found: found[0][0] + shield + found[0][1:], value)
        if isinstance(value, Mapping):
            return {self.shielded(key, shield): self.shielded(item, shield) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.shielded(item, shield) for item in value]
        return value

    def encode(self, text: str, shield: str, most_tokens: int | None = None) -> list[int]:
        """Ids of a rendered template: special tokens outside a shield by id, all else as ordinary text.

        Raises RequestError for text that surely has more than `most_tokens`.
        """
        parts = [*self._special.split(text), ""]
        pairs = zip(parts[::2], parts[1::2], strict=True)
        return self.join([(part.replace(shield, ""), special) for part, special in pairs], most_tokens)

    def join(self, pieces: Sequence[Piece], most_tokens: int | None = None) -> list[int]:
        """Ids of ordinary texts with special tokens between them; a text never becomes a special token.

        Half a surrogate pair, which JSON can spell and UTF-8 cannot, becomes U+FFFD. Raises RequestError for
        text that surely has more than `most_tokens`.
        """
        whole = [(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"), after) for text, after in pieces]
        self._plain.refuse_hopeless(["".join(chain.from_iterable(whole))], most_tokens, "messages")
        ids: list[int] = []
        for text, special in whole:
            if text:
                ids.extend(self._plain.ids(text))
            if special:
                ids.append(self.specials[special])
        return ids

    def piece(self, token_id: int) -> bytes:
        """Bytes of an ordinary token; U+FFFD in UTF-8 for an id that the tokenizer does not know."""
        if token_id in self._added:
            return self._added[token_id].encode()
        token = self._tokenizer.convert_ids_to_tokens(token_id) if 0 <= token_id < 2**31 else None
        if token is None:
            return "\ufffd".encode()
        try:
            return bytes(self._byte_of[character] for character in token)
        except KeyError:
            return token.encode()


@lru_cache(maxsize=8)
def vocabulary_of(tokenizer: "PreTrainedTokenizerBase") -> Vocabulary:
    return Vocabulary(tokenizer)
