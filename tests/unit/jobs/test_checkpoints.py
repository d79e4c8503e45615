"""Only checkpoints that were marked complete are gone on from."""

import pytest

from configs.errors import TrainingError
from jobs import checkpoints


def written(folder, *steps: int, mark: bool = True) -> None:
    for step in steps:
        path = folder / f"checkpoint-{step}"
        (path / "nested").mkdir(parents=True)
        (path / "nested" / "optimizer.pt").write_bytes(b"x")
        if mark:
            checkpoints.mark_complete(folder, step)


def test_whole_checkpoints_are_found_in_the_order_of_their_steps(tmp_path):
    written(tmp_path, 100, 9, 20)
    assert [checkpoint.step for checkpoint in checkpoints.complete(tmp_path)] == [9, 20, 100]
    assert checkpoints.newest(tmp_path) == checkpoints.Checkpoint(100, tmp_path / "checkpoint-100")


def test_a_checkpoint_that_a_kill_cut_off_is_passed_over(tmp_path):
    written(tmp_path, 10)
    written(tmp_path, 20, mark=False)
    assert checkpoints.newest(tmp_path).step == 10


@pytest.mark.parametrize("exists", [True, False])
def test_without_a_whole_checkpoint_there_is_none(exists, tmp_path):
    folder = tmp_path / "checkpoints"
    if exists:
        written(folder, 10, mark=False)
    assert checkpoints.complete(folder) == []
    assert checkpoints.newest(folder) is None


def test_a_runs_own_checkpoint_comes_before_its_parents_even_if_older(tmp_path):
    written(tmp_path / "own", 5)
    written(tmp_path / "parent", 50)
    assert checkpoints.newest(tmp_path / "own", tmp_path / "parent").path == tmp_path / "own" / "checkpoint-5"
    assert checkpoints.newest(tmp_path / "none", tmp_path / "parent").step == 50


def test_a_checkpoint_that_was_not_written_cannot_be_marked(tmp_path):
    with pytest.raises(TrainingError, match="checkpoint-7 was not written"):
        checkpoints.mark_complete(tmp_path, 7)


def test_other_folders_are_not_mistaken_for_checkpoints(tmp_path):
    written(tmp_path, 3)
    (tmp_path / "checkpoint-old").mkdir()
    (tmp_path / "checkpoint-old" / checkpoints.MARK).touch()
    assert [checkpoint.step for checkpoint in checkpoints.complete(tmp_path)] == [3]
