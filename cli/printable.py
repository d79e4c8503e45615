"""Text of others as a terminal may be given it: every control character becomes a sign that shows it.

An answer, a saved conversation or a server's error can hold escape sequences, and a terminal that receives them obeys.
Works character by character, so that text may be cut anywhere. Used by every command that shows such text.
"""

_REVERSING = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
"""Marks that change the direction of text, so that it reads differently from what it says."""

_LONE_SURROGATES = dict.fromkeys(range(0xD800, 0xE000), "\ufffd")

_SIGNS: dict[int, int | str | None] = {
    **{code: 0x2400 + code for code in range(0x20)},  # Unicode's control pictures
    0x7F: 0x2421,
    **dict.fromkeys((*range(0x80, 0xA0), *_REVERSING), "\ufffd"),
    **_LONE_SURROGATES,
    ord("\n"): "\n",
    ord("\t"): "\t",
    ord("\r"): None,
}


def printable(text: str) -> str:
    """`text` with control characters as pictures, lone surrogates as U+FFFD; lines and tabs stay."""
    return text.translate(_SIGNS)


def sendable(text: str) -> str:
    """`text` as UTF-8 can carry it: what was no UTF-8 when it was read becomes U+FFFD."""
    return text.translate(_LONE_SURROGATES)
