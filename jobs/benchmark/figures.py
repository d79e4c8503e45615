"""What the timings of one load come to: spreads, throughputs, goodput and failures. Formulas are in docs/benchmark.md.

Latencies are milliseconds, as in vLLM's and NVIDIA's tools; rates are per second. Knows neither HTTP nor files.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from configs.errors import ConfigError
from jobs.benchmark.load import Level, Run
from jobs.benchmark.timing import Timing

LIMITS: Mapping[str, Callable[[Timing], float | None]] = {
    "ttft": lambda timing: timing.ttft,
    "itl": lambda timing: timing.itl,
    "tpot": lambda timing: timing.tpot,
    "e2e": lambda timing: timing.e2e,
}
"""What a goodput limit may be about; `itl` of a request is the mean of its gaps."""

BUSY_CPU_SHARE = 0.8
LATE_S = 0.005
"""Above either this process is part of what it measures; lateness is its 95th percentile."""


@dataclass(frozen=True)
class Distribution:
    """How values are distributed."""

    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    min: float
    max: float
    count: int


@dataclass(frozen=True)
class Errors:
    """Failures of one kind."""

    kind: str
    count: int
    message: str
    """What the first one said."""


@dataclass(frozen=True)
class Figures:
    """One cell of a benchmark: one level of load with prompts of one length."""

    level: Level
    prompt_tokens: int | None
    """As asked; None for prompts of a data set."""
    sent: int
    completed: int
    failed: int
    cut: int
    """Under way when the benchmark was interrupted."""
    errors: tuple[Errors, ...]
    duration_s: float
    """From the first request's start to the last one's last text, or failure."""
    request_throughput: float
    output_throughput: float
    """Generated tokens per second of all users together."""
    total_throughput: float | None
    """The same with prompt tokens; None if the server does not count them."""
    output_throughput_per_user: float | None
    """Mean over requests of 1 / TPOT: how fast one user sees tokens come."""
    goodput: float | None
    """Requests per second that met every limit; None without limits."""
    ttft_ms: Distribution | None
    itl_ms: Distribution | None
    """Of all gaps of all requests."""
    tpot_ms: Distribution | None
    e2e_ms: Distribution | None
    input_tokens: Distribution | None
    output_tokens: Distribution | None
    tokens_per_chunk: float | None
    """Above 1 several tokens came in one chunk, or had no text of their own: then ITL is a gap between chunks, not
    between tokens."""
    finish_reasons: dict[str, int]
    fingerprints: tuple[str, ...]
    """What answered, by its own word; several if it was swapped meanwhile."""
    tokens_counted_by: str
    """`server`, or `chunks` where it sends no usage."""
    streamed: bool
    client_cpu_share: float
    client_lag_ms: Distribution | None
    requests: tuple[dict[str, Any], ...]
    """Each completed request: start_s since the first one, ttft_ms, tpot_ms, e2e_ms, input_tokens, output_tokens."""

    def to_json(self) -> dict[str, Any]:
        cell = asdict(self)
        return cell.pop("level") | cell

    @property
    def client_was_busy(self) -> bool:
        late = self.client_lag_ms is not None and self.client_lag_ms.p95 > 1000 * LATE_S
        return late or self.client_cpu_share > BUSY_CPU_SHARE


def figures(run: Run, level: Level, prompt_tokens: int | None, limits: Mapping[str, float]) -> Figures:
    """The figures of a load; `limits` are milliseconds by name of LIMITS."""
    done = sorted((each for each in run.timings if each.failure is None), key=lambda each: each.started)
    failed = [each.failure for each in run.timings if each.failure]
    first = min((each.started for each in run.timings), default=0.0)
    duration = max((each.finished for each in run.timings), default=0.0) - first
    output = sum(each.tokens for each in done)
    prompts = [each.prompt_tokens for each in done if each.prompt_tokens is not None]
    chunks = sum(len(each.arrivals) for each in done)
    streamed = all(each.streamed for each in done)
    return Figures(
        level=level,
        prompt_tokens=prompt_tokens,
        sent=run.sent,
        completed=len(done),
        failed=len(failed),
        cut=run.cut,
        errors=tuple(
            Errors(kind, count, next(each.message for each in failed if each.kind == kind))
            for kind, count in Counter(each.kind for each in failed).most_common()
        ),
        duration_s=duration,
        request_throughput=_rate(len(done), duration),
        output_throughput=_rate(output, duration),
        total_throughput=_rate(output + sum(prompts), duration) if len(prompts) == len(done) else None,
        output_throughput_per_user=_mean([1 / each.tpot for each in done if each.tpot]),
        goodput=_rate(sum(meets(each, limits) for each in done), duration) if limits else None,
        ttft_ms=spread(_ms(each.ttft for each in done)),
        itl_ms=spread(_ms(gap for each in done for gap in each.gaps)),
        tpot_ms=spread(_ms(each.tpot for each in done)),
        e2e_ms=spread(_ms(each.e2e for each in done)),
        input_tokens=spread(prompts),
        output_tokens=spread([each.tokens for each in done]),
        tokens_per_chunk=output / chunks if chunks and streamed else None,
        finish_reasons=dict(Counter(each.finish_reason or "none" for each in done)),
        fingerprints=tuple(dict.fromkeys(each.fingerprint for each in done if each.fingerprint)),
        tokens_counted_by="chunks" if any(each.completion_tokens is None for each in done) else "server",
        streamed=streamed,
        client_cpu_share=run.cpu_share,
        client_lag_ms=spread(_ms(run.lags)),
        requests=tuple(_row(each, first) for each in done),
    )


def meets(timing: Timing, limits: Mapping[str, float]) -> bool:
    """Whether a request is within all limits; what it does not have, such as gaps of one chunk, exceeds nothing."""
    return all((LIMITS[name](timing) or 0.0) * 1000 <= limit for name, limit in limits.items())


def parse_limits(texts: Iterable[str]) -> dict[str, float]:
    """`ttft:500` and the like, in milliseconds. Raises ConfigError for anything else."""
    limits: dict[str, float] = {}
    for text in texts:
        name, _, value = text.partition(":")
        try:
            limit = float(value)
        except ValueError:
            limit = math.nan
        if name not in LIMITS or not 0 < limit < math.inf or name in limits:
            raise ConfigError(
                f"--goodput {text}: not a limit, or a second one",
                hint=f"NAME:MILLISECONDS, NAME one of {', '.join(LIMITS)}, such as ttft:500",
            )
        limits[name] = limit
    return limits


def percentile(ordered: Sequence[float], share: float) -> float:
    """Of rising values, linearly interpolated between the two nearest ones, as NumPy does."""
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def spread(values: Sequence[float]) -> Distribution | None:
    """None of no values."""
    if not values:
        return None
    ordered = sorted(values)
    middle = {f"p{number}": percentile(ordered, number / 100) for number in (50, 90, 95, 99)}
    return Distribution(
        math.fsum(ordered) / len(ordered), **middle, min=ordered[0], max=ordered[-1], count=len(ordered)
    )


def _ms(values: Iterable[float | None]) -> list[float]:
    return [1000 * value for value in values if value is not None]


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _rate(count: float, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0


def _row(timing: Timing, first: float) -> dict[str, Any]:
    latencies = {f"{name}_ms": value and 1000 * value for name, value in (
        ("ttft", timing.ttft), ("tpot", timing.tpot), ("e2e", timing.e2e))}  # fmt: skip
    counts = {"input_tokens": timing.prompt_tokens, "output_tokens": timing.tokens}
    return {"start_s": timing.started - first} | latencies | counts
