"""A run's folder of training checkpoints: which of them are whole, and where a resumed run goes on.

Transformers writes a checkpoint in place, file by file; the mark is set after the last one is on disk, and only marked
checkpoints are resumed from.
"""

from dataclasses import dataclass
from pathlib import Path

from configs import durable
from configs.errors import TrainingError

MARK = "COMPLETE"


@dataclass(frozen=True)
class Checkpoint:
    step: int
    path: Path


def complete(folder: Path) -> list[Checkpoint]:
    """Whole checkpoints in `folder`, oldest first."""
    found = [
        Checkpoint(int(path.parent.name.rpartition("-")[2]), path.parent)
        for path in folder.glob(f"checkpoint-[0-9]*/{MARK}")
    ]
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def newest(*folders: Path) -> Checkpoint | None:
    """The newest whole checkpoint of the first folder that has one."""
    for folder in folders:
        if whole := complete(folder):
            return whole[-1]
    return None


def mark_complete(folder: Path, step: int) -> Checkpoint:
    """fsync every file of checkpoint `step`, then mark it. Raises TrainingError if it is not there."""
    path = folder / f"checkpoint-{step}"
    if not path.is_dir():
        raise TrainingError(f"checkpoint {path} was not written", hint="is the disk full?")
    for file in path.rglob("*"):
        if file.is_file():
            durable.fsync(file)
    (path / MARK).touch()
    durable.fsync(path / MARK)
    durable.fsync(path)
    return Checkpoint(step, path)
