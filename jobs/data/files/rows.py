"""Rows as they stand in a file or a folder: pairs of where a row is and what is there.

Where is `file:line` of the row's beginning, or `name[row]` where there are no lines. What is there is a value, or a
DataError that takes the place of a row which cannot be read. Knows no layouts. Called by `jobs.data.dataset`.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from configs.errors import DataError
from jobs.data.files import arrow, content, delimited, json_file

Rows = Iterator[tuple[str, Any]]

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".feather")
FOREIGN = {
    ".xlsx": "save the sheet as CSV UTF-8", ".xls": "save the sheet as CSV UTF-8", ".ods": "save the sheet as CSV",
    ".zip": "unpack it: unzip FILE, then name the file or the folder", ".7z": "unpack it, then name the file",
    ".tar": "unpack it: tar xf FILE, then name the file or the folder", ".tgz": "unpack it: tar xf FILE",
    ".pkl": "a pickle can run code and is never opened: write df.to_parquet(...)",
    ".pickle": "a pickle can run code and is never opened: write df.to_parquet(...)",
    ".pt": "a pickle can run code and is never opened: write rows as .jsonl",
    ".yaml": "write its rows as .jsonl", ".yml": "write its rows as .jsonl",
    ".db": "export the table as CSV", ".sqlite": "export the table as CSV",
    ".npy": "write the rows as .jsonl", ".npz": "write the rows as .jsonl",
    ".avro": "write it as Parquet", ".orc": "write it as Parquet",
}  # fmt: skip
"""Suffixes of files that hold rows somewhere else, and what to do with them."""
_ABOUT = ("dataset_info.json", "dataset_infos.json", *arrow.SAVED)
"""Files beside the rows that describe them."""
_SHARD = re.compile(r"(.+?)-\d{5}-of-\d{5}")
_SPLIT = re.compile(r"(?<![a-z])(train|training|test|testing|validation|valid|val|dev|eval)(?![a-z])")
_SAME = {"training": "train", "testing": "test", "valid": "validation", "val": "validation", "dev": "validation"}


def rows(path: Path, split: str, encoding: str = content.UTF_8) -> Rows:
    """The rows of a file, of a folder made by `datasets`, or of the files in a folder that belong to `split`.

    Raises DataError for what cannot be read at all, immediately or on the way.
    """
    if not path.is_dir():
        return _file(path, path.name, encoding)
    if any((path / name).is_file() for name in arrow.SAVED):
        return arrow.folder(path, split)
    chosen = _of_split(path, split)
    return (row for file in chosen for row in _file(file, file.relative_to(path).as_posix(), encoding))


def _file(path: Path, name: str, encoding: str) -> Rows:
    reader = _reader(path)
    if reader in (arrow.parquet, arrow.arrow):
        return reader(path, name)
    return reader(content.text(path, encoding), name)


def _reader(path: Path) -> Callable[..., Rows]:
    suffix = Path(content.name_of(path)).suffix.lower()
    if suffix in (".jsonl", ".ndjson", ".json"):
        return json_file.rows
    if suffix in (".csv", ".tsv"):
        return delimited.rows
    if suffix == ".parquet":
        return arrow.parquet
    if suffix in (".arrow", ".feather"):
        return arrow.arrow
    if suffix not in FOREIGN and (told := _by_content(content.head(path))):
        return told
    raise DataError(
        f"{path} is not a file of rows",
        hint=FOREIGN.get(
            suffix, f"one of {', '.join(SUFFIXES)}, packed ({', '.join(content.PACKED)}) or not, or a folder"
        ),
    )


def _by_content(head: bytes) -> Callable[..., Rows] | None:
    """For a name that says nothing."""
    if head.startswith(b"PAR1"):
        return arrow.parquet
    if head.startswith(b"ARROW1"):
        return arrow.arrow
    return json_file.rows if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[") else None


def _of_split(folder: Path, split: str) -> list[Path]:
    """The files of rows below `folder` that belong to `split`, by the names of files and folders.

    A file that names no split belongs to `train`. Raises DataError if there is none.
    """
    files = [path for path in sorted(folder.rglob("*")) if _holds_rows(path.relative_to(folder)) and path.is_file()]
    if not files:
        raise DataError(
            f"{folder} holds no files of rows", hint=f"put {', '.join(SUFFIXES)} files there, or name one file"
        )
    found: dict[str, list[Path]] = {}
    for path in files:
        found.setdefault(_split_of(path.relative_to(folder)), []).append(path)
    wanted = _SAME.get(split, split)
    if wanted not in found:
        raise DataError(f"{folder} has no split '{split}'", hint=arrow.splits(found, split))
    return found[wanted]


def _holds_rows(path: Path) -> bool:
    kind = Path(content.name_of(path)).suffix.lower()
    return kind in SUFFIXES and path.name not in _ABOUT and not any(part.startswith(".") for part in path.parts)


def _split_of(path: Path) -> str:
    """`train-00000-of-00002.parquet` and `data/train_sft-...` say their split; other names may hold a usual one."""
    if shard := _SHARD.match(path.name):
        return shard[1]
    for part in reversed(path.parts):
        if found := _SPLIT.search(part.lower()):
            return _SAME.get(found[1], found[1])
    return "train"
