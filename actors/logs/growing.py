"""A file of lines that others write to: its newest lines from the end, then what comes, through rotations and restarts.

Lines are bytes: what they hold, and what is not UTF-8 of it, is the caller's. Called by whatever tails a file: logs,
`tandem runs logs`, the curves of the dashboard.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

BLOCK = 2**16
LONGEST_LINE = 2**20


class GrowingFile:
    """One file, and older ones beside it (`.1`, `.2`, ...) where its writers rotate it; it need not exist yet.

    Raises OSError for a file that is there and cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rest = b""
        """The last line that was read, as long as its end is not written."""
        self._handle: BinaryIO | None = None

    def backwards(self) -> Iterator[bytes]:
        """All lines there are, newest first. An unfinished last one is among them, and comes again when it is whole."""
        with contextlib.suppress(FileNotFoundError):
            self._handle = self.path.open("rb")
        if self._handle:
            lines = _backwards(self._handle, self._handle.seek(0, os.SEEK_END))
            self.rest = next(lines)
            yield self.rest
            yield from lines
        for older in self._older():
            with contextlib.suppress(FileNotFoundError), older.open("rb") as handle:
                if self._handle is None or not _same(self._handle, older):
                    yield from _backwards(handle, handle.seek(0, os.SEEK_END))

    def new_lines(self) -> list[bytes]:
        """The whole lines that were written since the last call, or since `backwards`."""
        return [line for _, lines in self.new_parts() for line in lines]

    def new_parts(self) -> Iterator[tuple[bool, list[bytes]]]:
        """The same by file: whether these lines are the first of theirs, because it is new or was written anew."""
        for handle in self._handles():
            if os.fstat(handle.fileno()).st_size < handle.tell():  # somebody emptied it
                handle.seek(0)
                self.rest = b""
            begins = handle.tell() == 0
            *whole, self.rest = (self.rest + handle.read()).split(b"\n")
            if handle is not self._handle:
                handle.close()
            yield begins, whole

    def close(self) -> None:
        if self._handle is not None:
            self._handle.close()

    def _older(self) -> Iterator[Path]:
        number = 1
        while (path := self.path.with_name(f"{self.path.name}.{number}")).exists():
            yield path
            number += 1

    def _handles(self) -> Iterator[BinaryIO]:
        """What to read on from: the file that was open, whatever its name is now, then those that came after it."""
        if self._handle is not None:
            yield self._handle
            if _same(self._handle, self.path) or not self.path.exists():
                return
            yield self._handle  # what was written between the end that was read and the rename
            missed = []
            for older in self._older():
                if _same(self._handle, older):
                    break
                missed.append(older)
            else:
                missed = []  # it is deleted, and which of the others were read is not known
            self._handle.close()
            self._handle, self.rest = None, b""
            for older in reversed(missed):
                with contextlib.suppress(FileNotFoundError):
                    yield older.open("rb")
        with contextlib.suppress(FileNotFoundError):
            self._handle = self.path.open("rb")
            yield self._handle


def end_of(path: Path, size: int) -> tuple[bytes, bool]:
    """The last `size` bytes of a file, and whether more are before them. Raises OSError."""
    with path.open("rb") as handle:
        end = handle.seek(0, os.SEEK_END)
        return os.pread(handle.fileno(), size, max(0, end - size)), end > size


def _backwards(handle: BinaryIO, end: int) -> Iterator[bytes]:
    """The lines before byte `end`, newest first, in memory of a few blocks. First what follows the last newline, which
    may be nothing. The handle's place stays.
    """
    tail = b""
    while end > 0:
        start = max(0, end - BLOCK)
        tail, *lines = (os.pread(handle.fileno(), end - start, start) + tail).split(b"\n")
        yield from reversed(lines)
        if len(tail) > LONGEST_LINE:
            yield tail
            tail = b""
        end = start
    yield tail


def _same(handle: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle.fileno()), path.stat())
    except FileNotFoundError:
        return False
