"""Writing so that a crash or a power cut leaves the old file or the new one, never half of one."""

import os
from pathlib import Path


def fsync(path: Path) -> None:
    """Force a file's content, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text`: written aside, fsynced, renamed."""
    aside = path.with_name(f".{path.name}.part")
    aside.write_text(text)
    fsync(aside)
    aside.replace(path)
    fsync(path.parent)
