"""Rates out of two looks: requests, errors and tokens per second, and each process's share of a core.

Pure arithmetic over `Overview`s; the screens keep a `Rates` and show it every look.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from actors.status.overview import Overview
from actors.status.processes import ProcessReading
from actors.status.request_stats import Latency, Traffic


@dataclass(frozen=True)
class Rate:
    """Between two looks, `seconds` apart. `latencies` are of the requests in between, empty if there were none."""

    seconds: float
    requests_per_s: float
    errors_per_s: float
    prompt_tokens_per_s: float
    output_tokens_per_s: float
    latencies: Mapping[str, Latency] = field(default_factory=dict)
    cpu: Mapping[int, float] = field(default_factory=dict)
    """Share of one core by pid."""


class Rates:
    """Looks of the last `window_s` seconds; `see` compares the newest with the oldest of them."""

    def __init__(self, window_s: float = 15) -> None:
        self.window_s = window_s
        self._seen: deque[Overview] = deque()

    def see(self, overview: Overview) -> Rate | None:
        """The rate up to this look; None at the first one, after the gateway's counters began again, and after the
        clock was set back."""
        if self._seen and (overview.at <= self._seen[-1].at or _began_again(self._seen[-1].traffic, overview.traffic)):
            self._seen.clear()
        self._seen.append(overview)
        while len(self._seen) > 2 and self._seen[1].at <= overview.at - self.window_s:
            self._seen.popleft()
        return _rate(self._seen[0], overview) if len(self._seen) > 1 else None


def _began_again(before: Traffic | None, now: Traffic | None) -> bool:
    return (before is None) != (now is None) or bool(before and now and now.answered < before.answered)


def _rate(first: Overview, last: Overview) -> Rate:
    seconds = last.at - first.at
    a, b = first.traffic, last.traffic
    figures = [0.0] * 4
    if a and b:
        pairs = ((a.answered, b.answered), (a.errors, b.errors))
        pairs += ((a.prompt_tokens, b.prompt_tokens), (a.output_tokens, b.output_tokens))
        figures = [max(0, after - before) / seconds for before, after in pairs]
    latencies = {name: latency.since(a.latencies.get(name)) for name, latency in b.latencies.items()} if a and b else {}
    shown = {name: one for name, one in latencies.items() if one.count > 0}
    return Rate(seconds, *figures, shown, dict(_shares(first.processes, last.processes, seconds)))


def _shares(
    first: Iterable[ProcessReading], last: Iterable[ProcessReading], seconds: float
) -> Iterator[tuple[int, float]]:
    """Pid and share of one core, of every process that was there at both looks."""
    before = {process.pid: process for process in first if process.cpu_seconds is not None}
    for process in last:
        was = before.get(process.pid)
        if was is not None and process.cpu_seconds is not None and abs(process.started - was.started) < 1:
            yield process.pid, max(0.0, process.cpu_seconds - was.cpu_seconds) / seconds
