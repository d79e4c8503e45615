"""The end of the output that may still change: rows at the bottom of the terminal, redrawn in place.

Rows that become final scroll up and are never touched again. Only rows from the first changed one on are written, in
one piece, so that nothing flickers. Knows rows of text, not what they mean; the screen calls it while an answer grows.
"""

import re

from rich.cells import cell_len
from rich.console import Console, RenderableType

_STYLES = re.compile(r"\x1b\[[\d;]*m")


def rows(console: Console, renderable: RenderableType, width: int | None = None) -> list[str]:
    """`renderable` as the console shows it, one string with its escape sequences per row.

    Empty rows before and after it are left out.
    """
    with console.capture() as captured:
        console.print(renderable, width=width)
    found = [row.rstrip(" ") for row in captured.get().split("\n")]
    filled = [index for index, row in enumerate(found) if unstyled(row).strip()]
    return found[filled[0] : filled[-1] + 1] if filled else []


def unstyled(row: str) -> str:
    """Its characters without their styles."""
    return _STYLES.sub("", row)


class Tail:
    """Owns the rows above the cursor; nothing else may write while it has any."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rows: list[str] = []
        self._width = console.width

    def update(self, final: list[str], live: list[str]) -> None:
        """Replace the changeable rows by `final`, which stay, and `live`, which may change again.

        Rows that have scrolled out of the window cannot be changed. If they turn out different once they are final,
        all of `final` is written anew below.
        """
        shown, wanted = self._rows, final + live
        reachable = max(len(shown) - self._reach(), 0)
        same = _common(shown, wanted)
        if same < reachable and same < len(final):
            same = 0
        elif same < reachable:
            same = reachable
            live = [*shown[len(final) : reachable], *wanted[reachable:]]
        if same < max(len(shown), len(wanted)):
            up = self._height(shown[max(same, reachable) :])
            self._write(up, wanted[same:])
        self._rows, self._width = live, self._console.width

    def _reach(self) -> int:
        """How many rows above the cursor are in the window."""
        return max(self._console.height - 1, 1)

    def _height(self, shown: list[str]) -> int:
        """Rows that these take up now: a terminal that became narrower has wrapped them."""
        width = self._console.width
        if width >= self._width:
            return len(shown)
        return sum(max(1, -(-cell_len(unstyled(row)) // width)) for row in shown)

    def _write(self, up: int, new: list[str]) -> None:
        back = f"\x1b[{up}A" if up else ""
        self._console.file.write(f"{back}\r\x1b[J" + "".join(f"{row}\n" for row in new))
        self._console.file.flush()


def _common(one: list[str], other: list[str]) -> int:
    for index, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return index
    return min(len(one), len(other))
