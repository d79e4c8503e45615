"""Formulas against values worked out by hand."""

import json

import pytest

from configs.errors import ConfigError
from jobs.benchmark import figures
from jobs.benchmark.figures import spread
from jobs.benchmark.load import CellLimit, Level, Run
from jobs.benchmark.timing import Failure, Timing


def done(started: float, *arrivals: float, tokens: int | None = None, prompt: int | None = 10, **more) -> Timing:
    return Timing(started, list(arrivals), arrivals[-1], prompt_tokens=prompt, completion_tokens=tokens, **more)


def run_of(*timings: Timing) -> Run:
    run = Run(None, CellLimit(requests=len(timings)))
    run.timings, run.sent = list(timings), len(timings)
    return run


def test_one_request_is_timed_from_its_start_to_its_last_text():
    timing = done(10.0, 10.5, 10.6, 11.0, tokens=6)
    assert timing.ttft == pytest.approx(0.5)
    assert timing.e2e == pytest.approx(1.0)
    assert timing.gaps == pytest.approx([0.1, 0.4])
    assert timing.itl == pytest.approx(0.25)
    assert timing.tpot == pytest.approx(0.5 / 5)


def test_what_a_request_does_not_have_is_none():
    one = done(1.0, 2.0, tokens=1)
    assert (one.ttft, one.e2e, one.gaps, one.itl, one.tpot) == (1.0, 1.0, [], None, None)
    whole = done(1.0, 2.0, tokens=50, streamed=False)
    assert (whole.ttft, whole.e2e, whole.tpot, whole.tokens) == (None, 1.0, None, 50)
    uncounted = done(1.0, 2.0, 3.0, 4.0)
    assert uncounted.tokens == 3


def test_percentiles_are_interpolated_between_the_two_nearest_values():
    found = spread([40.0, 10.0, 20.0, 30.0])
    assert (found.mean, found.p50, found.min, found.max, found.count) == (25.0, 25.0, 10.0, 40.0, 4)
    assert (found.p90, found.p95, found.p99) == pytest.approx((37.0, 38.5, 39.7))
    assert spread([7.0]).p99 == 7.0
    assert spread([]) is None


def test_figures_of_a_load_are_what_a_pencil_gives():
    run = run_of(
        done(0.0, 1.0, 2.0, 3.0, tokens=3, finish_reason="stop", fingerprint="v1"),
        done(0.0, 0.5, 4.0, tokens=8, finish_reason="length", fingerprint="v2"),
        Timing(1.0, [1.5], 5.0, failure=Failure("broken_off", "gone")),
        Timing(1.0, [], 2.0, failure=Failure("http_429", "full")),
        Timing(2.0, [], 3.0, failure=Failure("http_429", "still full")),
    )
    run.sent += 1
    cell = figures.figures(run, Level(concurrency=2), 10, {"ttft": 800, "tpot": 1000})
    assert (cell.sent, cell.completed, cell.failed, cell.cut) == (6, 2, 3, 1)
    assert [(each.kind, each.count, each.message) for each in cell.errors] == [
        ("http_429", 2, "full"),
        ("broken_off", 1, "gone"),
    ]
    assert cell.duration_s == 5.0
    assert cell.request_throughput == pytest.approx(2 / 5)
    assert cell.output_throughput == pytest.approx(11 / 5)
    assert cell.total_throughput == pytest.approx(31 / 5)
    assert cell.output_throughput_per_user == pytest.approx((1 / 1.0 + 7 / 3.5) / 2)
    assert cell.goodput == pytest.approx(1 / 5)
    assert cell.ttft_ms.mean == pytest.approx(750)
    assert (cell.itl_ms.count, cell.itl_ms.max) == (3, pytest.approx(3500))
    assert cell.tpot_ms.mean == pytest.approx((1000 + 500) / 2)
    assert cell.e2e_ms.p50 == pytest.approx(3500)
    assert cell.tokens_per_chunk == pytest.approx(11 / 5)
    assert cell.finish_reasons == {"stop": 1, "length": 1}
    assert cell.fingerprints == ("v1", "v2")
    assert (cell.tokens_counted_by, cell.streamed) == ("server", True)
    json.dumps(cell.to_json())


def test_without_usage_chunks_are_counted_and_a_load_of_failures_has_no_figures():
    cell = figures.figures(run_of(done(0.0, 1.0, 2.0, prompt=None)), Level(concurrency=1), None, {})
    assert (cell.tokens_counted_by, cell.output_throughput, cell.total_throughput) == ("chunks", 1.0, None)
    assert cell.goodput is None
    failed = figures.figures(run_of(Timing(0.0, failure=Failure("empty", "x"))), Level(concurrency=1), 10, {})
    assert (failed.completed, failed.failed, failed.ttft_ms, failed.output_throughput) == (0, 1, None, 0.0)


@pytest.mark.parametrize(
    ("limits", "met"),
    [({"ttft": 500}, True), ({"ttft": 499}, False), ({"itl": 250}, True), ({"itl": 249}, False), ({"e2e": 999}, False)]
    + [({"tpot": 100, "e2e": 1000}, True), ({"ttft": 600, "tpot": 99}, False)],
)
def test_goodput_counts_what_is_within_all_limits(limits, met):
    assert figures.meets(done(10.0, 10.5, 10.625, 11.0, tokens=6), limits) is met


def test_limits_are_read_as_milliseconds_by_name():
    assert figures.parse_limits(["ttft:500", "itl:12.5", "e2e:1e4"]) == {"ttft": 500, "itl": 12.5, "e2e": 10000}


@pytest.mark.parametrize("text", ["ttft", "ttft:", "ttft:fast", "latency:5", "ttft:0", "ttft:-1", "ttft:nan", ":5"])
def test_a_limit_that_is_none_is_refused_by_name(text):
    with pytest.raises(ConfigError, match=f"--goodput {text}: not a limit") as raised:
        figures.parse_limits([text])
    assert "ttft, itl, tpot, e2e" in raised.value.hint
    with pytest.raises(ConfigError, match="second"):
        figures.parse_limits(["ttft:5", "ttft:6"])
