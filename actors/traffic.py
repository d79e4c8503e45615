"""Requests as people look at them: counters and latencies out of the gateway's `/metrics`, and rates out of two looks.

Knows the exposition format and the names of `actors.metrics`; fetches nothing. Called by `actors.overview`; the screens
keep a `Rates` and show it every look.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from actors.processes import ProcessReading

if TYPE_CHECKING:
    from actors.overview import Overview

_NAMES = ("tandem_requests", "tandem_prompt_tokens", "tandem_output_tokens")
_SUFFIX = "_seconds"
FEWEST = 20
"""Observations below which no quantile is told: buckets would place it beside the few values that there were."""


@dataclass(frozen=True)
class Latency:
    """One histogram over all its labels but `part`. `buckets` is (upper bound in seconds, observations up to it),
    rising, without the infinite one."""

    count: int
    sum: float
    """Seconds."""
    buckets: tuple[tuple[float, int], ...]

    @property
    def mean(self) -> float | None:
        return self.sum / self.count if self.count else None

    def quantile(self, part: float) -> float | None:
        """Seconds below which this part (0 to 1) lies, straight between two bounds as Prometheus' histogram_quantile;
        above the last finite bound that bound. None without observations."""
        if not self.count or not self.buckets:
            return None
        wanted, low, below = part * self.count, 0.0, 0
        for bound, upto in self.buckets:
            if upto >= wanted and upto > below:
                return low + (bound - low) * (wanted - below) / (upto - below)
            low, below = bound, upto
        return low

    def told(self, part: float, figure: Callable[[float], str]) -> str | None:
        """The quantile as people read it, `figure` saying seconds: `≈`, because it lies between two bounds, `<` in the
        first bucket, `>` above the last. None below FEWEST observations."""
        found = self.quantile(part)
        if self.count < FEWEST or found is None:
            return None
        (first, _), (last, upto) = self.buckets[0], self.buckets[-1]
        sign = "<" if found <= first else ">" if part * self.count > upto else "≈"
        return f"{sign} {figure(first if sign == '<' else last if sign == '>' else found)}"

    def since(self, earlier: "Latency | None") -> "Latency":
        """What was observed after `earlier`."""
        if earlier is None:
            return self
        before = dict(earlier.buckets)
        buckets = tuple((bound, upto - before.get(bound, 0)) for bound, upto in self.buckets)
        return Latency(self.count - earlier.count, self.sum - earlier.sum, buckets)


@dataclass(frozen=True)
class Traffic:
    """The gateway's counters since it started."""

    by_status: Mapping[str, int]
    """Answered requests by HTTP status."""
    by_target: Mapping[str, int]
    """Answered requests by alias, `base` or `version`."""
    active: int
    abandoned: int
    prompt_tokens: int
    output_tokens: int
    latencies: Mapping[str, Latency]
    """By the metric's name without `tandem_` and `_seconds`: time_to_first_token, inter_token_latency, ...; where it
    has parts, by name and part: time_to_first_token_part_queue."""

    @property
    def answered(self) -> int:
        return sum(self.by_status.values())

    @property
    def errors(self) -> int:
        """Answers with a status of 500 or more."""
        return sum(count for status, count in self.by_status.items() if status >= "500")


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

    def see(self, overview: "Overview") -> Rate | None:
        """The rate up to this look; None at the first one, after the gateway's counters began again, and after the
        clock was set back."""
        if self._seen and (overview.at <= self._seen[-1].at or _began_again(self._seen[-1].traffic, overview.traffic)):
            self._seen.clear()
        self._seen.append(overview)
        while len(self._seen) > 2 and self._seen[1].at <= overview.at - self.window_s:
            self._seen.popleft()
        return _rate(self._seen[0], overview) if len(self._seen) > 1 else None


def parse(text: str) -> Traffic:
    """Read the gateway's `/metrics`. Raises ValueError if it is no exposition."""
    wanted = (line for line in text.splitlines() if _is_wanted(line))
    counts: dict[str, dict[str, float]] = {}
    histograms: dict[str, dict[str, dict[float, float]]] = {}
    for family in text_string_to_metric_families("\n".join((*wanted, ""))):
        for name, labels, value, *_ in family.samples:
            if family.type == "histogram":
                whole = f"{family.name}_{labels['part']}" if "part" in labels else family.name
                bounds = histograms.setdefault(whole, {}).setdefault(name.removeprefix(family.name), {})
                bound = float(labels.get("le", 0))
                bounds[bound] = bounds.get(bound, 0) + value
            else:
                for label, key in (*labels.items(), ("", "")):
                    tally = counts.setdefault(f"{name} {label}".strip(), {})
                    tally[key] = tally.get(key, 0) + value
    total = lambda name: int(counts.get(name, {}).get("", 0))  # noqa: E731
    tally = lambda name: {key: int(value) for key, value in counts.get(name, {}).items()}  # noqa: E731
    return Traffic(
        by_status=tally("tandem_requests_total status"),
        by_target=tally("tandem_requests_total target"),
        active=total("tandem_requests_active"),
        abandoned=total("tandem_requests_abandoned_total"),
        prompt_tokens=total("tandem_prompt_tokens_total"),
        output_tokens=total("tandem_output_tokens_total"),
        latencies={
            name.removeprefix("tandem_").replace(_SUFFIX, ""): _latency(parts) for name, parts in histograms.items()
        },
    )


def _is_wanted(line: str) -> bool:
    """The lines of our counters and histograms of seconds; the parser is slow on the rest."""
    name = line.removeprefix("# HELP ").removeprefix("# TYPE ").partition(" ")[0].partition("{")[0]
    return name.startswith(_NAMES) or (name.startswith("tandem_") and _SUFFIX in name)


def _latency(parts: dict[str, dict[float, float]]) -> Latency:
    bounds = sorted(parts.get("_bucket", {}).items())
    buckets = tuple((bound, int(count)) for bound, count in bounds if math.isfinite(bound))
    return Latency(int(parts.get("_count", {}).get(0, 0)), parts.get("_sum", {}).get(0, 0.0), buckets)


def _began_again(before: Traffic | None, now: Traffic | None) -> bool:
    return (before is None) != (now is None) or bool(before and now and now.answered < before.answered)


def _rate(first: "Overview", last: "Overview") -> Rate:
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
