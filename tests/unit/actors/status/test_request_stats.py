"""Requests out of a real exposition, and the rate between two looks."""

from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from actors.metrics import RequestMetrics
from actors.status import request_stats
from actors.status.rates import Rates
from actors.status.request_stats import Latency


@pytest.fixture
def metrics():
    registry = CollectorRegistry()
    made = RequestMetrics(registry)
    made.text = lambda: generate_latest(registry).decode()
    return made


def look(at: float, text: str | None, processes=()):
    """As much of an Overview as Rates reads."""
    return SimpleNamespace(at=at, traffic=request_stats.parse(text) if text is not None else None, processes=processes)


def test_requests_are_counted_over_targets_and_statuses(metrics):
    for target, status in (("prod", "200"), ("prod", "200"), ("base", "200"), ("prod", "503"), ("prod", "404")):
        metrics.requests.labels(target, status).inc()
    metrics.active.set(2)
    metrics.abandoned.inc()
    metrics.prompt_tokens.labels("prod").inc(120)
    metrics.output_tokens.labels("prod").inc(30)
    metrics.output_tokens.labels("base").inc(12)
    seen = request_stats.parse(metrics.text())
    assert seen.by_status == {"200": 3, "503": 1, "404": 1}
    assert (seen.answered, seen.errors, seen.active, seen.abandoned) == (5, 1, 2, 1)
    assert (seen.prompt_tokens, seen.output_tokens) == (120, 42)


def test_a_gateway_that_has_answered_nothing_yet_has_only_zeros(metrics):
    seen = request_stats.parse(metrics.text())
    assert (seen.answered, seen.errors, seen.output_tokens) == (0, 0, 0)


def test_latencies_are_over_all_targets_with_quantiles_between_the_bounds(metrics):
    for target, seconds in (("prod", 0.15), ("prod", 0.15), ("base", 0.3), ("base", 0.4)):
        metrics.began(target, seconds)
    found = request_stats.parse(metrics.text()).latencies["time_to_first_token"]
    assert (found.count, found.sum, found.mean) == (4, pytest.approx(1.0), pytest.approx(0.25))
    assert found.quantile(0.5) == pytest.approx(0.2)
    assert found.quantile(0.25) == pytest.approx(0.15)
    assert found.quantile(0.75) == pytest.approx(0.35)


def test_a_quantile_beyond_the_last_bound_is_that_bound_and_of_nothing_there_is_none():
    assert Latency(2, 99.0, ((1.0, 0), (5.0, 0))).quantile(0.5) == 5.0
    assert Latency(0, 0.0, ((1.0, 0),)).quantile(0.5) is None


def milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:g} ms"


def test_a_quantile_is_told_as_what_buckets_know_of_it():
    found = Latency(100, 9.0, ((0.001, 50), (0.5, 90), (1.0, 96)))
    assert [found.told(part, milliseconds) for part in (0.1, 0.5, 0.7, 0.95, 0.99)] == [
        "< 1 ms", "< 1 ms", "≈ 250.5 ms", "≈ 916.667 ms", "> 1000 ms",
    ]  # fmt: skip


def test_of_few_requests_no_quantile_is_told():
    buckets = lambda count: ((1.0, 0), (2.0, count))  # noqa: E731
    assert Latency(19, 37.2, buckets(19)).told(0.5, milliseconds) is None
    assert Latency(20, 39.2, buckets(20)).told(0.5, milliseconds) == "≈ 1500 ms"
    assert Latency(0, 0.0, ()).told(0.5, milliseconds) is None


def test_every_histogram_of_seconds_is_found_by_its_own_name():
    text = 'tandem_queue_seconds_bucket{le="1"} 3\ntandem_queue_seconds_bucket{le="+Inf"} 4\n'
    text = f"# TYPE tandem_queue_seconds histogram\n{text}tandem_queue_seconds_count 4\ntandem_queue_seconds_sum 9\n"
    assert request_stats.parse(text).latencies == {"queue": Latency(4, 9.0, ((1.0, 3),))}


def test_parts_of_a_first_token_stay_apart(metrics):
    metrics.began("prod", 1.0, queue=0.25, prefill=0.5)
    metrics.began("base", 1.0, queue=0.25, prefill=0.25)
    found = request_stats.parse(metrics.text()).latencies
    sums = {part: found[f"time_to_first_token_part_{part}"].sum for part in ("gateway", "queue", "prefill")}
    assert sums == {"gateway": 0.75, "queue": 0.5, "prefill": 0.75}
    assert found["time_to_first_token"].sum == 2.0


def test_a_page_that_is_no_exposition_is_an_error():
    with pytest.raises(ValueError):
        request_stats.parse("tandem_requests_total{ 1 2 3")


def test_two_looks_make_a_rate_of_what_came_in_between(metrics):
    rates = Rates()
    metrics.requests.labels("prod", "200").inc(10)
    metrics.began("prod", 9)
    assert rates.see(look(100, metrics.text())) is None
    metrics.requests.labels("prod", "200").inc(6)
    metrics.requests.labels("prod", "500").inc(2)
    metrics.output_tokens.labels("prod").inc(400)
    metrics.began("prod", 0.15)
    rate = rates.see(look(104, metrics.text()))
    assert (rate.seconds, rate.requests_per_s, rate.errors_per_s, rate.output_tokens_per_s) == (4, 2, 0.5, 100)
    parts = {f"time_to_first_token_part_{part}" for part in ("gateway", "queue", "prefill")}
    assert set(rate.latencies) == {"time_to_first_token"} | parts
    assert rate.latencies["time_to_first_token"].quantile(0.5) == pytest.approx(0.15)


def test_a_rate_is_over_the_window_and_not_longer(metrics):
    rates, counter = Rates(window_s=10), metrics.requests.labels("prod", "200")
    for at in range(0, 40, 2):
        counter.inc(1 if at < 30 else 4)
        rate = rates.see(look(at, metrics.text()))
    assert (rate.seconds, rate.requests_per_s) == (10, 2)


def test_a_gateway_that_began_again_and_a_clock_that_went_back_begin_a_new_window(metrics):
    rates, empty = Rates(), metrics.text()
    metrics.requests.labels("prod", "200").inc(10)
    rates.see(look(0, metrics.text()))
    assert rates.see(look(1, empty)) is None
    assert rates.see(look(2, empty)).requests_per_s == 0
    assert rates.see(look(1, empty)) is None
    assert rates.see(look(2, None)) is None
    assert rates.see(look(3, None)).requests_per_s == 0


def test_a_process_has_its_share_of_a_core():
    rates = Rates()
    one = lambda seconds, pid=7, started=1.0: (  # noqa: E731
        SimpleNamespace(pid=pid, cpu_seconds=seconds, started=started),
    )
    rates.see(look(0, None, one(3.0)))
    assert rates.see(look(4, None, one(5.0))).cpu == {7: 0.5}
    assert rates.see(look(8, None, one(0.1, pid=8))).cpu == {}, "another process has another clock"
    assert rates.see(look(9, None, one(9.0, started=8.5))).cpu == {}, "also if it has the number of one that is gone"
