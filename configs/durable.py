"""Writing so that a crash or a power cut leaves the old file or the new one, never half of one."""

import fcntl
import os
from pathlib import Path
from typing import BinaryIO


def fsync(path: Path) -> None:
    """Force a file's content, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text`: written aside, fsynced, renamed."""
    aside = path.with_name(f".{path.name}.part")
    aside.write_text(text)
    fsync(aside)
    aside.replace(path)
    fsync(path.parent)


def append_line(path: Path, line: str) -> None:
    """Add `line` to a file of lines; on the disk when this returns. Writers in several processes take turns.

    What a crash left of an earlier line, at the end and without its newline, is cut off first.
    """
    with path.open("ab+") as file:
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
