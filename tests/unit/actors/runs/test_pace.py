"""How fast a run goes, from lines as training writes them, and from what a disk or a clock makes of them."""

import json
import math
from pathlib import Path

import pytest

from actors.runs import curve, pace
from actors.runs.curve import MetricsLog


def steps(*moments: float, first: int = 1) -> list[dict]:
    return [{"step": step, "loss": 1.0, "at": at} for step, at in enumerate(moments, first)]


def test_what_is_left_goes_at_the_median_and_its_range_is_that_of_the_quarters():
    lines = steps(0, 2, 4, 6, 9, 13)  # 2, 2, 2, 3, 4 seconds
    found = pace.eta(lines, 16, now=13)
    assert (found.step_seconds, found.seconds, found.low, found.high) == (2, 20, 20, 30)


def test_time_since_the_last_step_is_taken_off_but_never_more_than_one_step():
    lines = steps(0, 2, 4, 6, 8)
    assert pace.eta(lines, 10, now=9).seconds == 9
    assert pace.eta(lines, 10, now=500).seconds == 8
    assert pace.eta(lines, 10, now=-500).seconds == 10, "the clock was set back"


def test_evaluations_are_expected_as_often_as_they_came():
    lines = steps(0, 1, 2) + [{"step": 3, "eval_loss": 1.0, "at": 12}] + steps(13, 14, first=4)
    found = pace.eta(lines, 15, now=14)
    assert found.step_seconds == 1
    assert found.seconds == pytest.approx(10 * (1 + 10 / 4))


def test_a_pause_and_a_clock_that_was_set_back_do_not_change_the_pace():
    lines = steps(0, 1, 2, 3, 7203, 7204, 3604, 3605, 3606)
    assert pace.eta(lines, 19, now=3606).seconds == 10


def test_a_step_that_came_again_after_a_rollback_counts_once_more_but_not_its_way_back():
    lines = steps(0, 1, 2) + [{"step": 3, "rollback": "spike", "from": 3, "at": 50}] + steps(51, 52, first=2)
    assert pace.eta(lines, 13, now=52).step_seconds == 1


@pytest.mark.parametrize("lines", [[], steps(0), steps(0, 1, 2), steps(3, 2, 1, 0)])
def test_of_too_few_steps_nothing_is_said(lines):
    assert pace.eta(lines, 10, now=5) is None


def test_nothing_is_said_while_the_number_of_steps_is_not_known():
    assert pace.eta(steps(0, 1, 2, 3, 4), None, now=4) is None


def test_a_run_that_is_done_has_no_time_left():
    found = pace.eta(steps(0, 1, 2, 3), 4, now=3)
    assert (found.seconds, found.low, found.high) == (0, 0, 0)


def test_the_tail_is_what_the_log_holds(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for line in steps(0, 1, 2):
        log.append(line)
    assert curve.tail(log.path) == (log.lines(), 0)
    assert curve.tail(tmp_path / "nothing.jsonl") == ([], 0)


def test_of_a_long_log_only_the_newest_whole_lines_are_read(tmp_path):
    log = tmp_path / "metrics.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in steps(*range(5000))))
    lines, unreadable = curve.tail(log)
    assert unreadable == 0 and lines[-1]["step"] == 5000
    assert [line["step"] for line in lines] == list(range(lines[0]["step"], 5001))
    assert 100 < len(lines) < 1000


def test_unreadable_lines_are_counted_and_one_that_is_being_written_is_not(tmp_path):
    log = tmp_path / "metrics.jsonl"
    good = json.dumps(steps(0)[0]).encode()
    log.write_bytes(b"\n".join([b"\x00\xff", b"[1]", b'{"step": "x", "at": 1}', b'{"step": 1}', good, good[:9]]))
    lines, unreadable = curve.tail(log)
    assert (lines, unreadable) == (steps(0), 4)


def test_only_losses_that_are_numbers_are_drawn():
    lines = [{"loss": 1.5}, {"loss": float("nan")}, {"eval_loss": 1.0}, {"loss": "x"}, {"loss": float("inf")}]
    assert pace.losses(lines) == (1.5,)


def test_the_newest_loss_of_a_run_that_diverged_is_no_number_and_what_is_none_is_passed_over():
    lines = [{"loss": 1.5}, {"loss": float("nan")}, {"eval_loss": 1.0}, {"loss": "x"}, {"loss": [1]}, {"loss": True}]
    assert math.isnan(pace.newest(lines, "loss"))
    assert pace.newest(lines, "eval_loss") == 1.0
    assert pace.newest(lines, "tokens") is None
    assert pace.newest([{"loss": float("inf")}], "loss") == math.inf


def test_numbers_that_no_float_can_hold_are_no_losses_and_spoil_no_line(tmp_path):
    log, huge = tmp_path / "metrics.jsonl", "9" * 400
    odd = [f'{{"step": 1, "loss": 2.0, "at": {huge}}}', f'{{"step": {huge}, "loss": 2.0, "at": 1}}']
    odd += ['{"step": Infinity, "loss": 2.0, "at": 1}', '{"step": 1, "loss": 2.0, "at": NaN}']
    log.write_text("\n".join([*odd, f'{{"step": 1, "loss": {huge}, "at": 1}}', ""]))
    lines, unreadable = curve.tail(log)
    assert (len(lines), unreadable) == (1, 4)
    assert (pace.losses(lines), pace.newest(lines, "loss")) == ((), None)


@pytest.mark.parametrize("part", [0.3, 0.6])
def test_the_rest_of_a_recorded_run_was_foreseen(part):
    """150 steps of the embedded model with six evaluations, as two busy CPU cores took them."""
    lines, unreadable = curve.tail(Path(__file__).parent / "data" / "curve.jsonl")
    assert (len(lines), unreadable) == (156, 0)
    seen = [line for line in lines if line["step"] <= part * 150]
    took = lines[-1]["at"] - seen[-1]["at"]
    found = pace.eta(seen, 150, now=seen[-1]["at"])
    assert found.seconds == pytest.approx(took, rel=0.15)
    assert found.low < took < found.high
