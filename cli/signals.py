"""Signals as the commands that run until they are left want them."""

import contextlib
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM, and SIGHUP of a terminal that is closed, end it as Ctrl-C does. In the main thread alone."""

    def interrupt(number, frame) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
