"""A screen of its own that is drawn again and again until somebody leaves it: `tandem top`, `tandem runs watch`.

Knows the terminal: its keys, its size, the screen that was there before. Does not know what is drawn.
"""

import contextlib
import os
import select
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console, RenderableType
from rich.live import Live

from cli.signals import terminated_as_interrupted

KEYS_S = 0.2
"""Between two looks at the keyboard and at the terminal's size."""
LEAVE = (b"q", b"Q", b"\x03", b"\x1b")


def is_screen() -> bool:
    """Whether there is a terminal to draw on."""
    return sys.stdout.isatty() and os.environ.get("TERM") not in (None, "dumb")


def run(look: Callable[[], bool], draw: Callable[[int, int], RenderableType], interval_s: float) -> bool:
    """`look` every `interval_s` seconds and `draw(columns, lines)` what was seen, also when the size changes.

    Ends with True when `look` says that there is nothing more to see, with False when q, Escape or Ctrl-C is pressed,
    or SIGTERM comes; the terminal is then as it was before.
    """
    console = Console(highlight=False)
    shown = Live(console=console, screen=True, auto_refresh=False)
    with terminated_as_interrupted(), _keys() as pressed, shown as live:
        try:
            while True:
                due = time.monotonic() + interval_s
                done = look()
                live.update(draw(*console.size), refresh=True)
                if done:
                    return True
                size = console.size
                while (left := due - time.monotonic()) > 0:
                    if pressed(min(left, KEYS_S)):
                        return False
                    if console.size != size:
                        size = console.size
                        live.update(draw(*size), refresh=True)
        except KeyboardInterrupt:
            return False


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], bool]]:
    """A function that waits for at most so many seconds and says whether a key to leave was pressed."""
    if not sys.stdin.isatty():
        yield lambda seconds: bool(time.sleep(seconds))
        return
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def pressed(seconds: float) -> bool:
        if not select.select([descriptor], [], [], seconds)[0]:
            return False
        read = os.read(descriptor, 64)
        return read in LEAVE or not read  # an arrow is Escape and more

    tty.setcbreak(descriptor)
    try:
        yield pressed
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
