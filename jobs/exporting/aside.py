"""A folder that appears whole or not at all: written beside its place, fsynced, renamed. Called by the exporter."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from actors.runs.run import Run
from configs import durable
from configs.errors import ExportError


@contextmanager
def folder(out: Path, run: Run) -> Iterator[Path]:
    """An empty folder that becomes `out` when the block ends well, and is gone when it does not.

    Raises ExportError for whatever the disk says, and if `out` is there by then.
    """
    from safetensors import SafetensorError  # imports nothing heavy, but the command line reads this module

    aside = out.with_name(f".{out.name}.{run.id}-{run.attempt}.part")
    try:
        aside.mkdir(parents=True)
        yield aside
        _put_in_place(aside, out)
    except (OSError, SafetensorError) as error:  # SafetensorError carries the disk's words and no number
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        raise ExportError(
            f"cannot write {out}: {'the disk is full' if full else error}",
            hint="free some space, or name another --out",
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def clean(out: Path, run: Run) -> None:
    """Remove what killed attempts of the run left beside `out`."""
    for left in out.parent.glob(f".{out.name}.{run.id}-*.part"):
        shutil.rmtree(left, ignore_errors=True)


def _put_in_place(aside: Path, out: Path) -> None:
    for path in aside.iterdir():
        durable.fsync(path)
    durable.fsync(aside)
    if out.exists():
        raise ExportError(f"{out} was created by another process meanwhile", hint="name another --out")
    aside.rename(out)
    durable.fsync(out.parent)
