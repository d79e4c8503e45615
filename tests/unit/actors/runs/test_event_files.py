"""Event files made of `metrics.jsonl`, read again by TensorBoard's own reader."""

import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from actors.runs import event_files


@pytest.fixture
def metrics(tmp_path):
    return tmp_path / "metrics.jsonl"


def write(metrics, *lines: dict) -> None:
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))


def step(number: int, **values: float) -> dict:
    return {"step": number, "loss": 10.0 - number, "at": 1000.0 + number} | values


def curve(folder, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, round(event.value, 3)) for event in events.Scalars(tag)]


def test_every_figure_of_a_line_becomes_a_point(metrics, tmp_path):
    figures = {"learning_rate": 0.5, "grad_norm": 2.0, "tokens_per_s": 7.0, "tokens": 64, "energy_joules": 12.5}
    write(metrics, step(1, **figures), {"step": 1, "eval_loss": 4.0, "at": 1002.0})
    assert event_files.copy(metrics, tmp_path / "copy") == 2
    events = EventAccumulator(str(tmp_path / "copy"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == set(event_files.TAGS.values())
    values = {tag: events.Scalars(tag)[0].value for tag in events.Tags()["scalars"]}
    assert values["train/loss"] == 9
    assert values["eval/loss"] == 4
    assert values["train/energy_joules"] == 12.5
    assert events.Scalars("train/loss")[0].wall_time == 1001.0


def test_a_copy_grows_with_its_run_and_whole_lines_only(metrics, tmp_path):
    write(metrics, step(1))
    assert event_files.copy(metrics, tmp_path / "copy") == 1
    assert event_files.copy(metrics, tmp_path / "copy") == 0
    with metrics.open("a") as handle:
        handle.write(json.dumps(step(2)) + "\n" + json.dumps(step(3))[:10])
    assert event_files.copy(metrics, tmp_path / "copy") == 1
    assert curve(tmp_path / "copy", "train/loss") == [(1, 9.0), (2, 8.0)]
    assert len(list((tmp_path / "copy").glob("*tfevents*"))) == 1


def test_what_a_rollback_took_back_disappears(metrics, tmp_path):
    write(metrics, step(1), step(2), step(3))
    event_files.copy(metrics, tmp_path / "copy")
    write(metrics, step(1), {"step": 1, "rollback": "a spike", "from": 3, "at": 1010.0}, step(2, loss=5.0))
    assert event_files.copy(metrics, tmp_path / "copy") == 3
    assert curve(tmp_path / "copy", "train/loss") == [(1, 9.0), (2, 5.0)]


def test_lines_that_are_no_metrics_are_left_out(metrics, tmp_path):
    write(metrics, step(1, grad_norm=None, energy_joules=None), {"step": "two", "loss": 1.0, "at": 1.0}, step(3))
    metrics.write_text(metrics.read_text() + "not json\n[1]\n")
    assert event_files.copy(metrics, tmp_path / "copy") == 2
    assert curve(tmp_path / "copy", "train/loss") == [(1, 9.0), (3, 7.0)]


def test_of_a_run_without_steps_nothing_is_written_and_a_damaged_copy_is_made_again(metrics, tmp_path):
    assert event_files.copy(metrics, tmp_path / "copy") == 0
    assert not (tmp_path / "copy").exists()
    write(metrics, step(1))
    event_files.copy(metrics, tmp_path / "copy")
    (tmp_path / "copy" / event_files.STATE).write_text("{")
    assert event_files.copy(metrics, tmp_path / "copy") == 1
    assert curve(tmp_path / "copy", "train/loss") == [(1, 9.0)]
