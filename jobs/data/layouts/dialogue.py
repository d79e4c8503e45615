"""One row of a data set in the one shape that everything after reading it knows.

`of` puts loosely shaped messages and tools into that shape and says what is wrong with them. Knows neither files nor
tokenizers; called by `jobs.data.layouts.formats`.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from configs.errors import DataError
from jobs.data.layouts import markup, messages, tools, values
from jobs.data.layouts.keys import RowNotes

MAX_BYTES = 8 * 2**20
"""UTF-8 bytes of one row. The longest context, 131,072 tokens, is about 0.6 MB of text."""


@dataclass(frozen=True)
class Dialogue:
    """OpenAI-shaped messages (those of the assistant may carry `thinking`, and `weight: 0` if they are not learned),
    the tools, and where they came from."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    where: str
    """`file:line`, or `name[row]` where rows have no lines."""
    expect: dict[str, Any] | None = None
    """What the answer to this row has to be, where the data says it; see `jobs.data.layouts.expectation`. The
    fingerprint is without it."""
    remarks: tuple[str, ...] = ()
    """What reading it did besides taking it as it stands, each once."""
    unused: tuple[str, ...] = ()
    """What has no effect, as "column `x`" and "key `x`", each once."""

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 in hex of messages and tools; the same wherever the row stands."""
        return hashlib.sha256(_canonical(self.messages, self.tools)).hexdigest()


def of(entries: Any, offered: Any, where: str, notes: RowNotes | None = None, *, keep_tokens: bool = False) -> Dialogue:
    """The dialogue that these messages and tools make; with `keep_tokens` tags in the assistant's text stay text.

    Raises DataError that begins with `where`.
    """
    notes = notes or RowNotes()
    try:
        declared = tools.offered(offered, notes)
        said = messages.read(values.listed(entries, "messages"), notes, keep_tokens=keep_tokens)
        if not any(message["role"] == "assistant" for message in said):
            raise DataError("no assistant message, so nothing to learn")
        if not declared and not keep_tokens:
            declared = tools.offered(_in_system(said, notes), notes)
        _remark(said, declared, notes)
        _check_text(_canonical(said, declared or None))
    except DataError as error:
        raise DataError(f"{where}: {error.message}") from None
    about = {"remarks": tuple(dict.fromkeys(notes.remarks)), "unused": tuple(dict.fromkeys(notes.unused))}
    return Dialogue(said, declared or None, where, **about)


def _in_system(said: list[dict[str, Any]], notes: RowNotes) -> list[Any]:
    return [
        tool
        for message in said
        if message["role"] in ("system", "developer")
        for tool in markup.tools_in(message["content"], notes)
    ]


def _remark(said: list[dict[str, Any]], declared: list[dict[str, Any]], notes: RowNotes) -> None:
    """What is allowed and seldom meant."""
    for name in tools.not_offered(said, declared):
        notes.remarks.append(f"`{values.one_line(name, values.MAX_NAME)}` is called and not offered in `tools`")
    if said[-1]["role"] != "assistant":
        notes.remarks.append(
            "the last message is not the assistant's: what stands behind its last answer teaches nothing"
        )
    if any(message["role"] == "user" and not message["content"].strip() for message in said):
        notes.remarks.append("a message of the user is empty")


def _canonical(said: list, offered: list | None) -> bytes:
    """UTF-8 JSON with sorted keys. Raises DataError for what is neither."""
    try:
        text = json.dumps(
            values.check_depth({"messages": said, "tools": offered}),
            ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False,
        )  # fmt: skip
    except (TypeError, ValueError) as error:
        raise DataError(f"a value that JSON cannot hold: {error}") from None
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        if "\udc80" <= text[error.start] <= "\udcff":
            raise DataError(
                "bytes that are not UTF-8; if the file has another encoding, as from Excel: --set data.encoding=cp1252"
            ) from None
        raise DataError(f"a lone surrogate: {text[error.start]!a}") from None


def _check_text(content: bytes) -> None:
    if len(content) > MAX_BYTES:
        raise DataError(f"{len(content)} bytes, more than the {MAX_BYTES} of the longest row")
    if b"\\u0000" in content.replace(b"\\\\", b""):
        raise DataError("a NUL character")
