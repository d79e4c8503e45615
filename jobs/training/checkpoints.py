"""A run's folder of training checkpoints: written aside and renamed, each with a manifest of what it is and holds.

The manifest has the SHA-256 of every file and the run's origin (`jobs.training.provenance`), so a resumed run goes on
from the newest checkpoint that is whole, and only if it is of the same kind.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs import durable
from configs.errors import TrainingError

MANIFEST = "manifest.json"
ASIDE = ".writing"


@dataclass(frozen=True)
class Checkpoint:
    step: int
    path: Path

    def origin(self) -> dict[str, Any]:
        """What the run that wrote it was made of; see `jobs.training.provenance`. Only of a checkpoint without
        `fault`."""
        return _read_manifest(self.path)["origin"]

    def fault(self) -> str | None:
        """What is wrong with it, reading and hashing every file; None if it is whole."""
        try:
            files = _read_manifest(self.path)["files"]
            for name, sha256 in files.items():
                if _sha256(self.path / name) != sha256:
                    return f"{name} was changed"
        except FileNotFoundError as error:
            return f"{Path(error.filename).name} is missing"
        except (OSError, ValueError, KeyError, TypeError) as error:
            return f"{MANIFEST} is damaged: {error}"
        return None


def complete(folder: Path) -> list[Checkpoint]:
    """Checkpoints in `folder` that were finished, oldest first; their files are not read."""
    found = [
        Checkpoint(int(path.parent.name.rpartition("-")[2]), path.parent)
        for path in folder.glob(f"checkpoint-[0-9]*/{MANIFEST}")
    ]
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def newest(*folders: Path, before: int | None = None, say: Callable[[str], None] = print) -> Checkpoint | None:
    """The newest whole checkpoint of the first folder that has one; of a step below `before` where that is given.

    Broken ones are passed over, and `say` is told why.
    """
    for folder in folders:
        for checkpoint in reversed(complete(folder)):
            if before is not None and checkpoint.step >= before:
                continue
            if not (fault := checkpoint.fault()):
                return checkpoint
            say(f"checkpoint {checkpoint.step} is passed over: {fault}")
    return None


@contextmanager
def writing(folder: Path, step: int, origin: dict[str, Any]) -> Iterator[Path]:
    """A folder in which the caller writes `checkpoint-<step>/`; afterwards that is hashed, fsynced and renamed.

    Whatever fails, `folder` holds no half-written checkpoint. Raises TrainingError if the disk is full or refuses.
    """
    aside = folder / ASIDE
    shutil.rmtree(aside, ignore_errors=True)
    try:
        durable.private_folder(aside)
        yield aside
        _finish(aside / f"checkpoint-{step}", origin)
        final = folder / f"checkpoint-{step}"
        shutil.rmtree(final, ignore_errors=True)
        (aside / final.name).rename(final)
        durable.fsync(folder)
    except Exception as error:  # torch and safetensors each have their own for a full disk
        if type(error).__name__ == "OutOfMemoryError":
            raise
        free = shutil.disk_usage(folder).free if folder.exists() else 0
        raise TrainingError(
            f"checkpoint {step} could not be written ({free / 2**20:,.1f} MiB free in {folder}): {_reason(error)}",
            hint="free some space, then `tandem runs resume`: it goes on from the checkpoint before",
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def rotate(folder: Path, keep: int, spare: Iterable[int] = ()) -> None:
    """Delete all but the newest `keep` checkpoints and those of the steps in `spare`."""
    for checkpoint in complete(folder)[:-keep]:
        if checkpoint.step not in spare:
            shutil.rmtree(checkpoint.path, ignore_errors=True)


def drop_after(folder: Path, step: int) -> None:
    """Delete the checkpoints of later steps: what follows is computed anew."""
    for checkpoint in complete(folder):
        if checkpoint.step > step:
            shutil.rmtree(checkpoint.path, ignore_errors=True)


def _finish(path: Path, origin: dict[str, Any]) -> None:
    files = sorted(file for file in path.rglob("*") if file.is_file())
    for file in files:
        file.chmod(durable.FILE_MODE)
        durable.fsync(file)
    hashes = {str(file.relative_to(path)): _sha256(file) for file in files}
    durable.write_text(path / MANIFEST, json.dumps({"origin": origin, "files": hashes}, indent=1))


def _read_manifest(path: Path) -> dict[str, Any]:
    return json.loads((path / MANIFEST).read_text())


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _reason(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
