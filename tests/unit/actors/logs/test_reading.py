"""Logs read from their end, followed over rotations, and merged by time."""

import json
import os
import tracemalloc
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.logs import reading
from actors.logs.reading import Line, LineFilter, merged, settled
from actors.logs.rotation import RotatingFile

NOON = 1_800_000_000


def entry(message: str, at: float = NOON, **fields: object) -> str:
    return json.dumps({"at": datetime.fromtimestamp(at, UTC).isoformat(), "level": "info", "message": message} | fields)


def write(path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write("".join(f"{line}\n" for line in lines))


def words(lines: list[Line]) -> list[str]:
    return [line.values["message"] if line.values else line.text for line in lines]


def test_the_newest_lines_come_from_the_end_through_older_files(home):
    path = home.logs / "gateway.jsonl"
    file = RotatingFile(path, limit=3_000, files=10)
    for number in range(100):
        file.append(entry(f"{number}", NOON + number).encode() + b"\n")
    assert len(list(home.logs.iterdir())) > 2
    source = reading.of_actor(home, "gateway")
    assert words(source.newest(70, LineFilter())) == [str(number) for number in range(30, 100)]
    assert words(source.newest(1000, LineFilter(since=NOON + 95))) == ["95", "96", "97", "98", "99"]


def test_a_hundred_megabytes_are_not_read_for_their_last_lines(home):
    path = home.logs / "gateway.jsonl"
    write(path)
    with path.open("r+b") as file:  # sparse: zeros that take no space
        file.truncate(100 * 2**20)
    write(path, "", *(entry(str(number)) for number in range(50)))
    tracemalloc.start()
    found = words(reading.of_actor(home, "gateway").newest(20, LineFilter()))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == [str(number) for number in range(30, 50)]
    assert peak < 2 * 2**20


def test_following_goes_on_over_rotations_restarts_and_half_lines(home):
    path = home.logs / "driver.jsonl"
    write(path, entry("before"))
    source = reading.of_actor(home, "driver")
    assert words(source.newest(10, LineFilter())) == ["before"]
    assert source.coming(LineFilter()) == []
    half, rest = entry("in two parts")[:20], entry("in two parts")[20:]
    with path.open("a") as file:
        file.write(half)
    assert source.coming(LineFilter()) == []
    with path.open("a") as file:
        file.write(f"{rest}\n")
    assert words(source.coming(LineFilter())) == ["in two parts"]
    file = RotatingFile(path, limit=300, files=20)  # about three lines each
    for number in range(20):
        file.append(entry(f"{number}").encode() + b"\n")
    assert len(list(home.logs.iterdir())) > 5
    assert words(source.coming(LineFilter())) == [str(number) for number in range(20)]
    RotatingFile(path, limit=10**6, files=20).append(entry("restarted").encode() + b"\n")
    assert words(source.coming(LineFilter())) == ["restarted"]
    os.truncate(path, 0)
    write(path, entry("emptied"))
    assert words(source.coming(LineFilter())) == ["emptied"]


def test_a_log_that_begins_later_is_followed_from_its_first_line(home):
    source = reading.of_actor(home, "trainer")
    assert source.newest(10, LineFilter()) == [] == source.coming(LineFilter())
    write(home.logs / "trainer.jsonl", entry("first"))
    assert words(source.coming(LineFilter())) == ["first"]


def test_damaged_lines_are_text(home):
    deep = "[" * 100_000
    broken = ["\x00\x1b[2J", '{"at": 5}', "[]", '{"at": "yesterday"}', '{"message": "no time"}', deep]
    write(home.logs / "control.jsonl", entry("whole"), *broken)
    found = reading.of_actor(home, "control").newest(10, LineFilter())
    assert [line.text for line in found[1:]] == broken
    assert [line.values is None for line in found] == [False, *[True] * 6]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (LineFilter(), ["plain", "run", "request", "engine", "group", "bad"]),
        (LineFilter(run="tiny-1"), ["run"]),
        (LineFilter(level="warning"), ["bad"]),
        (LineFilter(request="r1"), ["request", "engine", "group"]),
        (LineFilter(request="chatcmpl-r1"), ["request", "engine", "group"]),
        (LineFilter(request="r1/9"), ["engine", "group"]),
        (LineFilter(request="r"), []),
        (LineFilter(since=NOON + 4.5), ["bad"]),
        (LineFilter(since=NOON + 99), []),
    ],
)
def test_only_what_is_wanted_is_shown(wanted, found, home):
    fields = [{}, {"run": "tiny-1"}, {"request": "r1"}, {"request": "r1/9"}, {"requests": ["r1/9", "r2/3"]}]
    names = ["plain", "run", "request", "engine", "group", "bad"]
    lines = [
        entry(n, NOON + at, **f) for at, (n, f) in enumerate(zip(names, [*fields, {"level": "error"}], strict=True))
    ]
    write(home.logs / "gateway.jsonl", *lines)
    source = reading.of_actor(home, "gateway")
    assert words(source.newest(10, wanted)) == found


def test_what_a_run_printed_has_the_times_of_its_lines_and_tracebacks_stay_with_theirs(home):
    write(home.run("a") / "log.txt", "2027-01-15 12:00:00 step 1", "Traceback", "2027-01-15 13:00:00 step 2", "  more")
    source = reading.of_run(home, "a")
    lines = source.newest(10, LineFilter(run="a"))
    assert words(lines) == ["2027-01-15 12:00:00 step 1", "Traceback", "2027-01-15 13:00:00 step 2", "  more"]
    assert lines[2].at - lines[0].at == 3600
    assert words(source.newest(10, LineFilter(run="a", since=lines[0].at + 1))) == [
        "2027-01-15 13:00:00 step 2",
        "  more",
    ]
    assert source.newest(10, LineFilter(run="b")) == source.newest(10, LineFilter(run="a", level="info")) == []


def test_several_logs_are_one_by_time(home):
    one = [Line("control", f"a{at}", None, at) for at in (1, 4, 5)]
    two = [Line("gateway", f"b{at}", None, at) for at in (2, 3, 6)]
    assert [line.text for line in merged([one, two])] == ["a1", "b2", "b3", "a4", "a5", "b6"]


@pytest.mark.parametrize("wrong", [0, 5_000], ids=["back", "ahead"])
def test_a_clock_that_jumps_and_comes_back_moves_only_its_own_lines(wrong):
    times = [5, 10, 20, wrong, wrong + 1, 30, 40]
    one = [Line("control", f"a{index}", None, at) for index, at in enumerate(times)]
    two = [Line("gateway", f"b{at}", None, at) for at in (15, 25, 35)]
    expected = ["a0", "a1", "b15", "a2", "a3", "a4", "b25", "a5", "b35", "a6"]
    assert [line.text for line in merged([one, two])] == expected


@given(st.lists(st.one_of(st.none(), st.integers(0, 50))))
def test_settled_times_never_fall_and_keep_as_many_as_can_be_kept(times):
    found = settled(times)
    assert all(first <= second for first, second in pairwise(found))
    known = [at for at in times if at is not None]
    longest: list[int] = []
    for index, at in enumerate(known):  # the plain quadratic way
        longest.append(1 + max((longest[i] for i in range(index) if known[i] <= at), default=0))
    assert sum(a == b for a, b in zip(times, found, strict=True)) >= max(longest, default=0)
