"""A file of lines that several processes append to and that never outgrows its bound: PATH, PATH.1, PATH.2 and so on.

Every append is one `write` to a file opened for appending, which the kernel does not mix with another's. Whoever finds
the file full renames it, and all others notice by its inode. Called by the thread of `actors.logs.handler`.

Not concurrent-log-handler (0.9.31): after a full disk it leaves half a line that nothing ends and loses the next one,
it keeps the older files of a larger setting, and it locks, opens and flushes for every record, 49 us of CPU each
where a batch of 100 lines costs 0.3 us a line here.
"""

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from configs import durable


class RotatingFile:
    """`path` and at most `files - 1` older ones, each of about `limit` bytes. `write` is `os.write`, or a test's."""

    def __init__(self, path: Path, limit: int, files: int, write: Callable[[int, bytes], int] = os.write) -> None:
        self.path = path
        self._limit, self._files, self._write = limit, files, write
        self._descriptor: int | None = None
        self._torn = b""

    def append(self, lines: bytes) -> None:
        """Raises OSError if not all of it was written; half a line is ended before the next one."""
        descriptor = self._opened(len(lines))
        whole = self._torn + lines
        written = self._write(descriptor, whole)
        if written < len(whole):
            self._torn = b"\n"
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        self._torn = b""

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _opened(self, coming: int) -> int:
        """The descriptor of the file that has the name now, rotated first if `coming` bytes more are too many."""
        if self._is_full(coming):
            self._rotate(coming)
        if self._descriptor is not None and not self._is_current():
            self.close()
        if self._descriptor is None:
            durable.private_folder(self.path.parent)
            self._descriptor = durable.private(str(self.path), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        return self._descriptor

    def _is_full(self, coming: int) -> bool:
        try:
            size = self.path.stat().st_size
        except FileNotFoundError:
            return False
        return size > 0 and size + coming > self._limit

    def _is_current(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._descriptor), self.path.stat())
        except FileNotFoundError:
            return False

    def _rotate(self, coming: int) -> None:
        """Nobody waits for a turn: while another process rotates, this one appends once more to what it has."""
        with _turn(self.path.parent) as mine:
            if not mine or not self._is_full(coming):
                return
            for number in range(self._files - 1, 0, -1):
                older = self._older(number - 1)
                with contextlib.suppress(FileNotFoundError):
                    older.replace(self._older(number))
            if self._files == 1:
                self.path.unlink(missing_ok=True)
            number = self._files
            while (left := self._older(number)).exists():  # of a larger setting
                left.unlink()
                number += 1

    def _older(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}") if number else self.path


@contextlib.contextmanager
def _turn(folder: Path) -> Iterator[bool]:
    """Whether this process may rename files of `folder` now."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(descriptor)
