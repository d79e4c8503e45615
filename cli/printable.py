"""Text of others as a terminal may be given it: every control character becomes a sign that shows it.

An answer, a saved conversation or a server's error can hold escape sequences, and a terminal that receives them obeys.
`printable` works character by character, so that text may be cut anywhere. Used by every command that shows such text.

`folded` breaks side talk at words, where a terminal would break inside them.
"""

import os
import re
import sys

REVERSING = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
"""Marks that change the direction of text, so that it reads differently from what it says."""

_LONE_SURROGATES = dict.fromkeys(range(0xD800, 0xE000), "\ufffd")

_SIGNS: dict[int, int | str | None] = {
    **{code: 0x2400 + code for code in range(0x20)},  # Unicode's control pictures
    0x7F: 0x2421,
    **dict.fromkeys((*range(0x80, 0xA0), *REVERSING), "\ufffd"),
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


_PIECES = re.compile(r"`[^`\n]*`\S*|(?:\.venv/bin/)?\btandem [^\n,;()`]*[^\s,;()`][,;)]*|\S+")
"""What a line is never broken inside of: a command, which is there to be copied, or a word."""


def folded(text: str, width: int | None = None) -> str:
    """`text` in lines of at most `width` columns, by default those of the terminal on stderr; as it is in a pipe.

    What is longer than a line by itself stays whole, for the terminal to break: it is copied as one line then.
    """
    if width is None and (width := _columns_of_stderr()) is None:
        return text
    return "\n".join(_fold(line, width) for line in text.split("\n"))


def _columns_of_stderr() -> int | None:
    try:
        return (os.get_terminal_size(sys.stderr.fileno()).columns or None) if sys.stderr.isatty() else None
    except (OSError, ValueError):
        return None


def _fold(line: str, width: int) -> str:
    lines = [""]
    if len(line) <= width:
        return line
    for piece in _PIECES.findall(line):
        if lines[-1] and len(lines[-1]) + 1 + len(piece) > width:
            lines.append("")
        lines[-1] += f" {piece}" if lines[-1] else piece
    return "\n".join(lines)
