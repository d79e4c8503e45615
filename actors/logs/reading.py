"""The log files read again: the newest lines of one, then what comes, and several merged by time.

Reads from the end in blocks, through rotations and restarts of the writers. Knows the files only, so it works while
the cluster is down. Called by `tandem logs`.
"""

import contextlib
import heapq
import json
import os
import re
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO

from configs.paths import Home

BLOCK = 2**16
LONGEST_LINE = 2**20
OLDER_IN_A_ROW = 1000
"""So many lines before the wanted time end the search; one alone may be the clock's fault."""
LEVELS = ("debug", "info", "warning", "error", "critical")
_TIME = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) ")


@dataclass(frozen=True)
class Line:
    """One line of a log."""

    actor: str
    text: str
    """As it is in the file."""
    values: dict[str, Any] | None = None
    """The fields; None for text that is not a record."""
    at: float | None = None
    """Unix seconds; None if the line does not say."""
    run: str | None = None
    """Whose own log it is from."""


@dataclass(frozen=True)
class LineFilter:
    """Which lines to show; None lets everything pass."""

    run: str | None = None
    request: str | None = None
    """Its id, or that of its answer."""
    level: str | None = None
    since: float | None = None
    """Unix seconds."""

    def may_hold(self, raw: bytes) -> bool:
        """False for lines that need not be parsed."""
        return self.request is None or json.dumps(_bare(self.request))[1:-1].encode() in raw

    def takes(self, line: Line) -> bool:
        """Whether to show it, whenever it was written."""
        values = line.values
        if values is None:
            return self.request is None and self.level is None and self.run in (None, line.run)
        if self.level is not None and _rank(values.get("level")) < _rank(self.level):
            return False
        if self.run is not None and values.get("run") != self.run:
            return False
        return self.request is None or not _requests(values).isdisjoint({self.request, _bare(self.request)})

    def is_old(self, line: Line) -> bool:
        return self.since is not None and line.at is not None and line.at < self.since


class Source:
    """One log: a file with the older ones beside it, from which `parse` makes lines."""

    def __init__(self, path: Path, parse: Callable[[bytes], Line]) -> None:
        self._path, self._parse = path, parse
        self._handle: BinaryIO | None = None
        self._rest = b""

    def newest(self, count: int, wanted: LineFilter) -> list[Line]:
        """The newest `count` lines that are wanted, oldest first; `coming` goes on behind them."""
        found: list[Line] = []
        undated: list[Line] = []
        older = 0
        for raw in self._backwards():
            if not raw or not wanted.may_hold(raw):
                continue
            undated.append(line := self._parse(raw))
            if line.at is None and wanted.since is not None:
                continue  # it is as old as the one before it
            older = older + 1 if wanted.is_old(line) else 0
            found += [] if older else filter(wanted.takes, undated)
            undated = []
            if len(found) >= count or older > OLDER_IN_A_ROW:
                break
        return found[:count][::-1]

    def coming(self, wanted: LineFilter) -> list[Line]:
        """What was written since the last call, or since `newest`."""
        lines = [self._parse(raw) for raw in self._new_lines() if raw and wanted.may_hold(raw)]
        return [line for line in lines if wanted.takes(line)]

    def _backwards(self) -> Iterator[bytes]:
        """All lines there are, newest first. An unfinished last one is among them, and comes again when it is whole."""
        with contextlib.suppress(FileNotFoundError):
            self._handle = self._path.open("rb")
        if self._handle:
            lines = _backwards(self._handle, self._handle.seek(0, os.SEEK_END))
            self._rest = next(lines)
            yield self._rest
            yield from lines
        for older in self._older():
            with contextlib.suppress(FileNotFoundError), older.open("rb") as handle:
                if self._handle is None or not _same(self._handle, older):
                    yield from _backwards(handle, handle.seek(0, os.SEEK_END))

    def _older(self) -> Iterator[Path]:
        number = 1
        while (path := self._path.with_name(f"{self._path.name}.{number}")).exists():
            yield path
            number += 1

    def _new_lines(self) -> list[bytes]:
        lines = []
        for handle in self._handles():
            if os.fstat(handle.fileno()).st_size < handle.tell():  # somebody emptied it
                handle.seek(0)
            *whole, self._rest = (self._rest + handle.read()).split(b"\n")
            lines += whole
            if handle is not self._handle:
                handle.close()
        return lines

    def _handles(self) -> Iterator[BinaryIO]:
        """What to read on from: the file that was open, whatever its name is now, then those that came after it."""
        if self._handle is not None:
            yield self._handle
            if _same(self._handle, self._path) or not self._path.exists():
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
            self._handle, self._rest = None, b""
            for older in reversed(missed):
                with contextlib.suppress(FileNotFoundError):
                    yield older.open("rb")
        with contextlib.suppress(FileNotFoundError):
            self._handle = self._path.open("rb")
            yield self._handle


def actors(home: Home) -> list[str]:
    """Who has logged, by name."""
    return sorted(path.stem for path in home.logs.glob("*.jsonl"))


def of_actor(home: Home, actor: str) -> Source:
    return Source(home.logs / f"{actor}.jsonl", lambda raw: record(raw, actor))


def of_run(home: Home, run_id: str) -> Source:
    """What a run's trainer printed, its libraries' output and tracebacks included."""
    return Source(home.run(run_id) / "log.txt", lambda raw: printed(raw, run_id))


def record(raw: bytes, actor: str) -> Line:
    """A line of JSON; a damaged one is text."""
    try:
        values = json.loads(raw)
        return Line(actor, raw.decode(), values, datetime.fromisoformat(values["at"]).timestamp())
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return Line(actor, raw.decode(errors="replace"))


def printed(raw: bytes, run_id: str) -> Line:
    """A line of a run's log.txt, which may begin with its local time."""
    text = raw.decode(errors="replace")
    at = None
    if found := _TIME.match(text):
        with contextlib.suppress(ValueError, OverflowError):
            at = time.mktime(time.strptime(found[1], "%Y-%m-%d %H:%M:%S"))
    return Line("trainer", text, at=at, run=run_id)


def merged(logs: Iterable[list[Line]]) -> list[Line]:
    """All lines by time, those of one log in the order in which they were written, whatever its clock did."""
    keyed = (zip(settled([line.at for line in log]), log, strict=True) for log in logs)
    return [line for _, line in heapq.merge(*keyed, key=itemgetter(0))]


def settled(times: list[float | None]) -> list[float]:
    """Times that never go back: those that most of them agree on; the others take the one before them.

    That is a longest subsequence that does not fall, so a clock that jumps and comes back moves its own lines only.
    """
    ends: list[float] = []
    lasts: list[int] = []
    before: dict[int, int | None] = {}
    for index, at in enumerate(times):
        if at is None:
            continue
        place = bisect_right(ends, at)
        before[index] = lasts[place - 1] if place else None
        ends[place : place + 1], lasts[place : place + 1] = [at], [index]
    agreed = set()
    last = lasts[-1] if lasts else None
    while last is not None:
        agreed.add(last)
        last = before[last]
    now = times[min(agreed)] if agreed else 0.0
    found = []
    for index, at in enumerate(times):
        now = at if index in agreed else now
        found.append(now)
    return found


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


def _rank(level: Any) -> int:
    return LEVELS.index(level) if level in LEVELS else len(LEVELS)


def _bare(request: str) -> str:
    """The request's id in that of its answer."""
    return re.sub(r"^(chatcmpl-|cmpl-|resp_)", "", request)


def _requests(values: dict[str, Any]) -> set[str]:
    """The requests that a line is about. An engine's own id of a generation is `<request>/<its number>`."""
    told = values.get("requests")
    named = [values.get("request"), *(told if isinstance(told, list) else [])]
    ids = {each for each in named if isinstance(each, str)}
    return ids | {each.rpartition("/")[0] for each in ids if "/" in each}
