"""Requests as people look at them: counters and latencies out of what the gateway itself counts in `/metrics`.

Knows the exposition format and the names of `actors.metrics`; fetches nothing. Called by `actors.status.overview`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

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


def parse(text: str) -> Traffic:
    """Read the gateway's `/metrics`. Raises ValueError if it is not exposition."""
    counts: dict[str, dict[str, float]] = {}
    histograms: dict[str, dict[str, dict[float, float]]] = {}
    for family in text_string_to_metric_families(text):
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
        active=total("tandem_requests_active"),
        abandoned=total("tandem_requests_abandoned_total"),
        prompt_tokens=total("tandem_prompt_tokens_total"),
        output_tokens=total("tandem_output_tokens_total"),
        latencies={
            name.removeprefix("tandem_").replace(_SUFFIX, ""): _latency(parts) for name, parts in histograms.items()
        },
    )


def _latency(parts: dict[str, dict[float, float]]) -> Latency:
    bounds = sorted(parts.get("_bucket", {}).items())
    buckets = tuple((bound, int(count)) for bound, count in bounds if math.isfinite(bound))
    return Latency(int(parts.get("_count", {}).get(0, 0)), parts.get("_sum", {}).get(0, 0.0), buckets)
