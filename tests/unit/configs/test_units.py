"""Figures in words: every unit at its edges."""

import pytest

from configs import units


@pytest.mark.parametrize(
    ("number", "text"),
    [(None, "-"), (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (234_400, "228.9 KiB"), (2**30, "1.0 GiB"),
     (12_509_000_000, "11.6 GiB"), (5 * 2**40, "5120.0 GiB")],
)  # fmt: skip
def test_bytes_are_in_binary_units(number, text):
    assert units.size(number) == text


@pytest.mark.parametrize(
    ("seconds", "long", "short"),
    [(None, "-", "-"), (0, "0 s", "0s"), (59.4, "59 s", "59s"), (60, "1 min", "1.0m"), (440, "7 min", "7.3m"),
     (5400, "1.5 h", "1.5h"), (36_000, "10 h", "10.0h"), (86_400 * 12, "12 d", "12.0d")],
)  # fmt: skip
def test_durations_are_in_the_largest_unit_that_makes_sense(seconds, long, short):
    assert (units.duration(seconds), units.short_duration(seconds)) == (long, short)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0.0002, "< 1 ms"), (0.0345, "34.5 ms"), (0.442, "442 ms"), (0.9996, "1 s"), (12.34, "12.3 s")],
)
def test_latencies_have_three_digits(seconds, text):
    assert units.latency(seconds) == text


def test_what_is_missing_is_what_the_caller_says():
    assert (
        units.size(None, nothing="none")
        == units.latency(None, nothing="none")
        == units.duration(None, nothing="none")
        == "none"
    )
