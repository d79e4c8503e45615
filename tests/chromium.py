"""A real headless Chromium: the one on PATH, or Debian's as `tests/debian.sh` unpacks it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

from tests.debian import UNPACKED, program

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@contextmanager
def launched() -> Iterator[Browser]:
    """Skips the test where there is none. While it runs, its event loop is this thread's."""
    executable = program(*NAMES)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS, env=_environment(executable))
        yield browser
        browser.close()


def _environment(executable: str) -> dict[str, str]:
    """The libraries that were unpacked beside it, those of PulseAudio in a folder of their own."""
    if not executable.startswith(str(UNPACKED)):
        return dict(os.environ)
    folders = [str(each) for each in (UNPACKED / "usr" / "lib").glob("*-linux-gnu")]
    folders += [f"{each}/pulseaudio" for each in folders]
    return os.environ | {"LD_LIBRARY_PATH": os.pathsep.join(folders)}
