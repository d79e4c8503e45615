"""Programs that the tests need and pip does not bring: those on PATH, or Debian's as `tests/debian.sh` unpacks them."""

import os
import shutil

import pytest

from configs.paths import SOURCE

UNPACKED = SOURCE / ".venv" / "debian"
FOLDERS = (UNPACKED / "usr" / "lib" / "chromium", UNPACKED / "usr" / "bin")
"""Chromium itself first: Debian's script of that name looks for its settings in /etc."""


def program(*names: str) -> str:
    """The path of the first of these that is there; skips the test where none is, and fails it with CI set."""
    path = os.pathsep.join([os.environ.get("PATH", ""), *map(str, FOLDERS)])
    found = [each for name in names if (each := shutil.which(name, path=path))]
    if not found:
        missing = f"no {names[0]} here: tests/debian.sh unpacks Debian's, or install it"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    return found[0]
