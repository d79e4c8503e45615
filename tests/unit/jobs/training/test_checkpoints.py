"""Checkpoints are written aside and carry a manifest; only whole ones are gone on from."""

import json

import pytest

from configs.errors import TrainingError
from jobs.training import checkpoints
from jobs.training.checkpoints import MANIFEST, Checkpoint

ORIGIN = {"base": "abc", "seed": 1}


def write(folder, *steps: int) -> None:
    for step in steps:
        with checkpoints.writing(folder, step, ORIGIN) as aside:
            inside = aside / f"checkpoint-{step}" / "nested"
            inside.mkdir(parents=True)
            (inside / "optimizer.pt").write_bytes(b"state of %d" % step)


def test_whole_checkpoints_are_found_in_the_order_of_their_steps(tmp_path):
    write(tmp_path, 100, 9, 20)
    assert [checkpoint.step for checkpoint in checkpoints.complete(tmp_path)] == [9, 20, 100]
    assert checkpoints.newest(tmp_path) == Checkpoint(100, tmp_path / "checkpoint-100")
    assert checkpoints.newest(tmp_path).origin() == ORIGIN


def test_nothing_is_left_aside_after_writing(tmp_path):
    write(tmp_path, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1"]


def test_a_kill_while_writing_leaves_nothing_that_looks_like_a_checkpoint(tmp_path):
    write(tmp_path, 10)
    with pytest.raises(KeyboardInterrupt), checkpoints.writing(tmp_path, 20, ORIGIN) as aside:
        (aside / "checkpoint-20").mkdir()
        raise KeyboardInterrupt
    assert checkpoints.newest(tmp_path).step == 10
    leftover = tmp_path / checkpoints.ASIDE / "checkpoint-30"
    leftover.mkdir(parents=True)
    (leftover / MANIFEST).write_text("{}")
    assert [checkpoint.step for checkpoint in checkpoints.complete(tmp_path)] == [10]
    write(tmp_path, 30)
    assert checkpoints.newest(tmp_path).step == 30


def test_what_cannot_be_written_is_a_training_error_that_names_the_next_step(tmp_path):
    refused = pytest.raises(TrainingError, match=r"checkpoint 7 could not be written .*: \[Errno 28\] No space left")
    with refused as caught, checkpoints.writing(tmp_path, 7, ORIGIN):
        raise OSError(28, "No space left on device")
    assert "runs resume" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_was_not_written_is_an_error(tmp_path):
    with (
        pytest.raises(TrainingError, match="checkpoint 7 could not be written"),
        checkpoints.writing(tmp_path, 7, ORIGIN),
    ):
        pass


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda path: (path / "nested" / "optimizer.pt").write_bytes(b"other"), "nested/optimizer.pt was changed"),
        (lambda path: (path / "nested" / "optimizer.pt").unlink(), "optimizer.pt is missing"),
        (lambda path: (path / MANIFEST).write_text("{"), "manifest.json is damaged"),
        (lambda path: (path / MANIFEST).write_text("[]"), "manifest.json is damaged"),
        (lambda path: (path / MANIFEST).write_text(json.dumps({"origin": {}})), "manifest.json is damaged"),
    ],
)
def test_a_broken_checkpoint_is_passed_over_and_the_reason_is_said(damage, fault, tmp_path):
    write(tmp_path, 1, 2)
    damage(tmp_path / "checkpoint-2")
    said: list[str] = []
    assert checkpoints.newest(tmp_path, say=said.append).step == 1
    assert len(said) == 1
    assert said[0].startswith(f"checkpoint 2 is passed over: {fault}")


@pytest.mark.parametrize("exists", [True, False])
def test_without_a_whole_checkpoint_there_is_none(exists, tmp_path):
    folder = tmp_path / "checkpoints"
    if exists:
        (folder / "checkpoint-10").mkdir(parents=True)
    assert checkpoints.complete(folder) == []
    assert checkpoints.newest(folder) is None


def test_a_runs_own_checkpoint_comes_before_its_parents_even_if_older(tmp_path):
    write(tmp_path / "own", 5)
    write(tmp_path / "parent", 50)
    assert checkpoints.newest(tmp_path / "own", tmp_path / "parent").path == tmp_path / "own" / "checkpoint-5"
    assert checkpoints.newest(tmp_path / "none", tmp_path / "parent").step == 50


def test_a_checkpoint_before_a_step_can_be_asked_for(tmp_path):
    write(tmp_path, 2, 4, 6)
    assert checkpoints.newest(tmp_path, before=6).step == 4
    assert checkpoints.newest(tmp_path, before=2) is None


def test_rotation_keeps_the_newest_and_what_is_spared(tmp_path):
    write(tmp_path, 1, 2, 3, 4, 5)
    checkpoints.rotate(tmp_path, 2, spare=[2])
    assert [checkpoint.step for checkpoint in checkpoints.complete(tmp_path)] == [2, 4, 5]


def test_what_came_after_a_step_can_be_dropped(tmp_path):
    write(tmp_path, 1, 2, 3)
    checkpoints.drop_after(tmp_path, 1)
    assert [checkpoint.step for checkpoint in checkpoints.complete(tmp_path)] == [1]


def test_other_folders_are_not_mistaken_for_checkpoints(tmp_path):
    write(tmp_path, 3)
    (tmp_path / "checkpoint-old").mkdir()
    (tmp_path / "checkpoint-old" / MANIFEST).write_text("{}")
    assert [checkpoint.step for checkpoint in checkpoints.complete(tmp_path)] == [3]
