"""Writing so that a crash or a power cut leaves the old file or the new one, never half of one, and so that what is
below TANDEM_HOME is its owner's alone, whatever the umask is.
"""

import fcntl
import os
from pathlib import Path
from typing import BinaryIO

FOLDER_MODE, FILE_MODE = 0o700, 0o600


def fsync(path: Path) -> None:
    """Force a file's content, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def private_folder(path: Path) -> None:
    """Make a folder below TANDEM_HOME, with those above it that are missing, for its owner alone."""
    for folder in (*reversed(path.parents), path):
        if not folder.exists():
            folder.mkdir(mode=FOLDER_MODE, exist_ok=True)


def private(path: str, flags: int) -> int:
    """An opener for `open(..., opener=private)`: a file that this makes is its owner's alone."""
    return os.open(path, flags, FILE_MODE)


def write_text(path: Path, text: str, *, shared: bool = False) -> None:
    """Replace `path` by `text`: written aside, fsynced, renamed.

    `shared` is for what a person asked for outside TANDEM_HOME: its mode is as the umask says.
    """
    aside = path.with_name(f".{path.name}.part")
    with open(aside, "w", encoding="utf-8", opener=None if shared else private) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    fsync(path.parent)


def append_line(path: Path, line: str) -> None:
    """Add `line` to a file of lines; on the disk when this returns. Writers in several processes take turns.

    What a crash left of an earlier line, at the end and without its newline, is cut off first.
    """
    with open(path, "ab+", opener=private) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(_whole_lines(file))
        file.write(line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    fsync(path.parent)


def _whole_lines(file: BinaryIO) -> int:
    """Bytes up to and with the last newline."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - 65536)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
