"""The log files read again: the newest lines of one, then what comes, and several merged by time.

Knows the files only, so it works while the cluster is down. Called by `tandem logs`.
"""

import contextlib
import heapq
import json
import re
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from pathlib import Path
from typing import Any

from actors.logs.growing import GrowingFile
from configs.paths import Home

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
        self._file, self._parse = GrowingFile(path), parse

    def newest(self, count: int, wanted: LineFilter) -> list[Line]:
        """The newest `count` lines that are wanted, oldest first; `coming` goes on behind them."""
        found: list[Line] = []
        undated: list[Line] = []
        older = 0
        for raw in self._file.backwards():
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
        lines = [self._parse(raw) for raw in self._file.new_lines() if raw and wanted.may_hold(raw)]
        return [line for line in lines if wanted.takes(line)]


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
