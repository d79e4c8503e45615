"""Generated token ids as the messages that a model wrote, while they come: `StreamParser`, and `parse` for a whole.

`TextStream` is the text alone. Knows nothing of prompts; broken output is text, never an error.
"""

import codecs
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from models.harmony.tokens import (
    ANALYSIS,
    CHANNEL,
    COMMENTARY,
    CONSTRAIN,
    END,
    FINAL,
    MESSAGE,
    START,
    STOP_TOKENS,
    vocabulary_of,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Delta:
    """Text that one message of a generation gained."""

    message: int
    """Index of the message within this generation, from 0."""
    channel: str
    """`analysis`, `commentary`, `final`, or whatever else the model wrote."""
    recipient: str | None
    """Whom the message is for, such as `functions.get_weather`; None is the user."""
    text: str
    ended: bool = False
    """The message is complete; absent on a message that the generation's end cut off."""


@dataclass(frozen=True)
class Message:
    """One whole message of a generation; the fields are Delta's."""

    channel: str
    recipient: str | None
    text: str
    ended: bool


_IMPLIED_ROLE = re.compile(r"\s*(?:assistant)?\s*(?:to=(?P<recipient>[\w.\-]*))?\s*")
_ROLE = re.compile(r"\s*(?P<role>[\w.\-]*)(?:\s+to=(?P<recipient>[\w.\-]*))?\s*")
_CHANNEL = re.compile(r"\s*(?P<channel>[\w\-]*)(?:\s+to=(?P<recipient>[\w.\-]*))?(?:\s+(?P<type>[\w/+\-]+))?\s*")
_CONTENT_TYPE = re.compile(r"\s*[\w/+\-]*\s*")


class StreamParser:
    """Incremental parser over generated token ids, starting right after the prompt's `<|start|>assistant`.

    Works on ids, so a `<|end|>` spelled in ordinary tokens is text. Malformed output neither raises nor loses text:
    text where a header should be, or a header without `<|message|>`, becomes the message's text, of channel `final`
    unless the header named another; special tokens out of place are dropped; whatever follows a stop token is
    ignored. The result does not depend on how the ids are cut into `feed` calls. UTF-8 sequences that span tokens
    are held until complete; broken ones come out as U+FFFD.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._vocabulary = vocabulary_of(tokenizer)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._message = -1
        self._stopped = False
        self.message: tuple[str, str | None] | None = None
        """Channel and recipient of the message whose text the last token belongs to; None if it was no text."""
        self.reasoning_tokens = 0
        """Tokens of the text of analysis messages so far."""
        self._out: list[Delta] = []
        self._begin_header(explicit=False)

    @property
    def stopped(self) -> bool:
        """A stop token has been seen."""
        return self._stopped

    def feed(self, ids: Iterable[int]) -> list[Delta]:
        """What these ids add, in order; neighbouring gains of one message come as one Delta."""
        for token_id in ids:
            if self._stopped:
                break
            special = self._vocabulary.special_names.get(token_id)
            if special is None:
                self._take_text(self._decoder.decode(self._vocabulary.piece(token_id)))
                self.message = self._fields if self._section == "body" else None
                self.reasoning_tokens += self.message is not None and self.message[0] == ANALYSIS
            else:
                self._take_text(self._decoder.decode(b"", final=True))
                self._take_special(special)
                self.message = None
        return self._taken()

    def close(self) -> list[Delta]:
        """What was held back when the generation ended without a stop token."""
        if not self._stopped:
            self._take_text(self._decoder.decode(b"", final=True))
            self._give_up_header()
            self._stopped = True
        return self._taken()

    def _taken(self) -> list[Delta]:
        out, self._out = self._out, []
        return out

    def _take_text(self, text: str) -> None:
        if self._section == "body":
            self._emit(text)
        elif text:
            self._header[self._section] += text
            self._end_header_at_text()

    def _take_special(self, special: str) -> None:
        if special in STOP_TOKENS or special == END:
            self._end_message()
            self._stopped = special in STOP_TOKENS
        elif special == START:
            self._end_message()
            self._begin_header(explicit=True)
        elif special == CHANNEL:
            if self._section != "role":
                self._end_message()
            self._section = "channel"
        elif special == CONSTRAIN and self._section != "body":
            self._section = "type"
        elif special == MESSAGE and self._section != "body":
            self._open(self._channel_fields())

    def _begin_header(self, *, explicit: bool) -> None:
        self._section = "role"
        self._explicit = explicit
        self._header = {"role": "", "channel": "", "type": ""}

    def _channel_fields(self) -> tuple[str, str | None]:
        """Channel and recipient that the header so far stands for."""
        role = (_ROLE if self._explicit else _IMPLIED_ROLE).match(self._header["role"])
        channel = _CHANNEL.match(self._header["channel"])
        recipient = channel["recipient"] or role["recipient"] or None
        if channel["channel"]:
            return channel["channel"], recipient
        author = role["role"] if self._explicit else "assistant"
        if author not in ("", "assistant"):
            return author, recipient
        return (COMMENTARY if recipient else FINAL), recipient

    def _end_header_at_text(self) -> None:
        """If what stands in the header's place cannot be a header, open a message with it as text."""
        text = self._header[self._section]
        if self._section == "role":
            found = (_ROLE if self._explicit else _IMPLIED_ROLE).match(text)
            rest = text[found.end() :]
            if "to".startswith(rest) or (not self._explicit and "assistant".startswith(text.strip())):
                return
            if found["recipient"] or (self._explicit and found["role"] == "assistant"):
                self._header["role"] = text[: found.end()]
            else:
                self._header["role"], rest = "", text
        elif self._section == "channel":
            found = _CHANNEL.match(text)
            if found.end() == len(text):
                return
            start = found.start("type") if found["type"] not in (None, "json") else found.end()
            rest = text[start:]
            self._header["channel"] = text[:start]
        else:
            rest = text[_CONTENT_TYPE.match(text).end() :]
            if not rest:
                return
        self._open(self._channel_fields())
        self._emit(rest)

    def _give_up_header(self, *, complete: bool = False) -> None:
        """The header ends without `<|message|>`: keep what may have been meant as text.

        `complete` says that a token ended the message, so that a bare recipient is a call without arguments.
        """
        if self._section == "body":
            return
        text = ""
        channel, recipient = self._channel_fields()
        if self._section == "role" and not self._explicit and recipient is None:
            text = self._header["role"] if self._header["role"].strip() else ""
        elif self._section == "channel":
            word = _CHANNEL.match(self._header["channel"])["type"] or ""
            text = "" if "json".startswith(word) or "to".startswith(word) else word
        if text or (complete and recipient):
            self._open((channel, recipient))
            self._emit(text)

    def _open(self, fields: tuple[str, str | None]) -> None:
        self._message += 1
        self._fields = fields
        self._section = "body"

    def _end_message(self) -> None:
        self._give_up_header(complete=True)
        if self._section == "body":
            self._emit("", ended=True)
        self._begin_header(explicit=False)

    def _emit(self, text: str, *, ended: bool = False) -> None:
        if not text and not ended:
            return
        last = self._out[-1] if self._out else None
        if last and last.message == self._message:
            self._out[-1] = replace(last, text=last.text + text, ended=ended)
        else:
            self._out.append(Delta(self._message, *self._fields, text, ended))


def parse(tokenizer: "PreTrainedTokenizerBase", ids: Iterable[int]) -> list[Message]:
    """The messages of a whole generation, in order; see StreamParser for what `ids` start at."""
    parser = StreamParser(tokenizer)
    messages: dict[int, Message] = {}
    for delta in [*parser.feed(ids), *parser.close()]:
        so_far = messages.get(delta.message)
        text = (so_far.text if so_far else "") + delta.text
        messages[delta.message] = Message(delta.channel, delta.recipient, text, delta.ended)
    return list(messages.values())


class TextStream:
    """The text of token ids as they come, without looking for messages; the same as decoding all of them at once.

    Special tokens are left out or written by name. UTF-8 sequences that span tokens are held until complete.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", *, skip_special_tokens: bool = True) -> None:
        self._vocabulary = vocabulary_of(tokenizer)
        self._skip = skip_special_tokens
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, ids: Iterable[int]) -> str:
        return "".join(map(self._one, ids))

    def close(self) -> str:
        """What was held when the tokens ended."""
        return self._decoder.decode(b"", final=True)

    def _one(self, token_id: int) -> str:
        special = self._vocabulary.special_names.get(token_id)
        if special is None:
            return self._decoder.decode(self._vocabulary.piece(token_id))
        return "" if self._skip else self.close() + special
