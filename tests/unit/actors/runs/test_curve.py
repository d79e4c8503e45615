"""The loss curve on disk: each step once, whatever was interrupted in between."""

import pytest

from actors.runs.curve import MetricsLog


def log_of(path, *steps: int, loss: float = 1.0) -> MetricsLog:
    log = MetricsLog(path)
    for step in steps:
        log.append({"step": step, "loss": loss * step})
    return log


def steps(log: MetricsLog) -> list[int]:
    return [line["step"] for line in log.lines()]


def test_what_is_appended_reads_back_in_order(tmp_path):
    log = log_of(tmp_path / "metrics.jsonl", 1, 2)
    assert log.lines() == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 2.0}]


def test_a_log_that_does_not_exist_is_empty(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    assert (log.lines(), log.mean_loss()) == ([], None)


@pytest.mark.parametrize(
    "damage",
    [b"\xff", b"garbage", b"[1]", b'{"loss": 1.0}', b'{"step": "2", "loss": 1.0}', b'{"step": 2, "loss": null}', b""]
    + [b'{"step": 2, "loss": 1.0, "at": "noon"}', b"[" * 100_000],
)
def test_a_damaged_line_in_the_middle_is_left_out_and_counted(damage, tmp_path):
    log = log_of(tmp_path / "metrics.jsonl", 1)
    with log.path.open("ab") as handle:
        handle.write(damage + b"\n")
    log_of(log.path, 3)
    assert (steps(log), log.damaged(), log.mean_loss()) == ([1, 3], 1, 2.0)
    log.begin_after(3)
    assert (steps(log), log.damaged()) == ([1, 3], 0)


@pytest.mark.parametrize("torn", ['{"step": 3, "lo', "{", '{"step": 3, "loss": 3.0'])
def test_a_last_line_that_a_kill_cut_off_is_left_out(torn, tmp_path):
    log = log_of(tmp_path / "metrics.jsonl", 1, 2)
    with log.path.open("a") as handle:
        handle.write(torn)
    assert steps(log) == [1, 2]


def test_going_on_from_a_checkpoint_drops_what_was_computed_after_it(tmp_path):
    log = log_of(tmp_path / "metrics.jsonl", 1, 2, 3, 4, 5)
    with log.path.open("a") as handle:
        handle.write('{"torn')
    log.begin_after(3)
    log.append({"step": 4, "loss": 0.0})
    assert steps(log) == [1, 2, 3, 4]


def test_beginning_anew_empties_the_log(tmp_path):
    log = log_of(tmp_path / "metrics.jsonl", 1, 2)
    log.begin_after(0)
    assert log.lines() == []
    assert log.path.exists()


def test_a_resumed_run_begins_with_its_parents_curve(tmp_path):
    parent = log_of(tmp_path / "parent.jsonl", 1, 2, 3, 4)
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.begin_after(2, parent)
    assert steps(log) == [1, 2]
    assert steps(parent) == [1, 2, 3, 4], "the parent's own curve stays"


def test_a_resumed_run_that_is_interrupted_goes_on_with_its_own_curve(tmp_path):
    parent = log_of(tmp_path / "parent.jsonl", 1, 2, 3, 4)
    log = log_of(tmp_path / "metrics.jsonl", 1, 2, 3, loss=0.5)
    log.begin_after(3, parent)
    assert log.lines()[-1] == {"step": 3, "loss": 1.5}


def test_the_mean_loss_covers_all_steps(tmp_path):
    assert log_of(tmp_path / "metrics.jsonl", 1, 2, 3, 6).mean_loss() == 3.0


def test_steps_evaluations_and_rollbacks_are_told_apart(tmp_path):
    log = log_of(tmp_path / "metrics.jsonl", 1, 2)
    log.append({"step": 2, "eval_loss": 0.5})
    log.append({"step": 2, "rollback": "the loss is nan", "from": 5})
    assert [line["loss"] for line in log.losses()] == [1.0, 2.0]
    assert [line["eval_loss"] for line in log.evaluations()] == [0.5]
    assert (log.rollbacks(), log.mean_loss()) == (1, 1.5)


def test_a_rollback_stays_in_the_log_when_the_run_begins_again_at_its_step(tmp_path):
    log = log_of(tmp_path / "metrics.jsonl", 1, 2, 3)
    log.begin_after(2)
    log.append({"step": 2, "rollback": "the loss is nan", "from": 3})
    log.begin_after(2)
    assert (steps(log), log.rollbacks()) == ([1, 2, 2], 1)
