"""Rows as they stand in a file, a folder or on the hub: pairs of where a row is and what is there.

Where is `file:line` of the row's beginning, or `name[row]` where there are no lines. What is there is a value, or a
DataError that takes the place of a row which cannot be read. Knows no layouts. Called by `jobs.data.dataset`.
"""

import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from configs.errors import DataError
from jobs.data import dialogue

Rows = Iterator[tuple[str, Any]]

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
_UTF_16_32 = (b"\xff\xfe", b"\xfe\xff")


def rows(path: Path, split: str) -> Rows:
    """The rows of a file, by its suffix, or of a folder made by `datasets`.

    Raises DataError for what cannot be read at all, immediately or on the way.
    """
    if path.is_dir():
        return _folder(path, split)
    reader = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet}.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path} is not a file of rows", hint=f"one of {', '.join(SUFFIXES)}, or a folder of datasets")
    return reader(path)


def hub_rows(name: str, split: str) -> Rows:
    """Raises DataError if the data set cannot be had."""
    from datasets import load_dataset  # imports pyarrow and pandas

    try:
        data = load_dataset(name, split=split)
    except Exception as error:  # the hub client, pyarrow and datasets each raise their own
        raise DataError(
            f"cannot load data set '{name}' ({split}): {_reason(error)}", hint="check the name and the network"
        ) from None
    return _arrow(data, name)


def _text(path: Path) -> str:
    """The file's text; bytes that are not UTF-8 become lone surrogates, which no dialogue may hold."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}", hint="check its permissions") from None
    if content.startswith(_UTF_16_32):
        raise DataError(f"{path} is UTF-16 or UTF-32", hint=f"UTF-8 it is: iconv -f UTF-16 -t UTF-8 {path.name}")
    return content.decode("utf-8-sig", "surrogateescape")


def _jsonl(path: Path) -> Rows:
    return _json_lines(_text(path), path.name)


def _json_lines(text: str, name: str) -> Rows:
    for number, line in enumerate(text.split("\n"), 1):  # splitlines would cut at U+2028, which JSON allows
        if line.strip():
            yield f"{name}:{number}", _parsed(line)


def _parsed(text: str) -> Any:
    try:
        return dialogue.parsed(text)
    except DataError as error:
        return error


def _json(path: Path) -> Rows:
    """A list of rows, one row, or lines as in .jsonl."""
    text = _text(path)
    if text.lstrip().startswith("["):
        yield from _json_list(text, path)
    elif isinstance(whole := _parsed(text), dict):
        yield f"{path.name}:{_line(text, len(text) - len(text.lstrip()))}", whole
    else:
        yield from _json_lines(text, path.name)


def _json_list(text: str, path: Path) -> Rows:
    """Element by element, so that each knows its line and a bad one does not hide the others."""
    decoder = json.JSONDecoder()
    position, line, closed = text.index("[") + 1, 1, False
    counted = 0
    while not closed:
        position = _after_space(text, position)
        line, counted = line + text.count("\n", counted, position), position
        if text[position : position + 1] == "]":
            break
        try:
            _, stop = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{path.name}:{error.lineno}: not JSON: {error.msg} at column {error.colno}",
                hint="the list is broken here and cannot be read on",
            ) from None
        except (ValueError, RecursionError) as error:  # more digits than Python's limit; nested too deep
            raise DataError(
                f"{path.name}:{line}: {_reason(error)}", hint="the list cannot be read beyond this row"
            ) from None
        yield f"{path.name}:{line}", _parsed(text[position:stop])
        position = _after_space(text, stop)
        mark = text[position : position + 1]
        if mark not in (",", "]"):
            raise DataError(
                f"{path.name}:{_line(text, position)}: not JSON: expected ',' or ']' after a row",
                hint="the list is broken here and cannot be read on",
            )
        position, closed = position + 1, mark == "]"


def _after_space(text: str, position: int) -> int:
    while text[position : position + 1] in (" ", "\t", "\n", "\r"):
        position += 1
    return position


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def _csv(path: Path) -> Rows:
    """Comma-separated with a header; a record may span lines inside quotes."""
    before = csv.field_size_limit(sys.maxsize)  # a cell may be a long text
    try:
        yield from _records(csv.reader(io.StringIO(_text(path), newline=""), strict=True), path.name)
    finally:
        csv.field_size_limit(before)


def _records(reader, name: str) -> Rows:
    header: list[str] | None = None
    while True:
        where = f"{name}:{reader.line_num + 1}"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            cells = DataError(f"not CSV: {error}")
        if cells is None:
            return
        if header is None:
            header = _header(cells, where)
        elif isinstance(cells, DataError):
            yield where, cells
        elif cells and len(cells) != len(header):
            yield where, DataError(f"{len(cells)} cells, the header has {len(header)}")
        elif cells:
            yield where, {column: cell for column, cell in zip(header, cells, strict=True) if cell}


def _header(cells: list[str] | DataError, where: str) -> list[str]:
    if isinstance(cells, DataError):
        raise DataError(f"{where}: {cells.message}", hint="the first line names the columns")
    header = [cell.strip() for cell in cells]
    if not all(header) or len(set(header)) < len(header):
        raise DataError(
            f"{where}: the header {dialogue.short(header)} has a column without a name or one twice",
            hint="the first line names the columns",
        )
    return header


def _parquet(path: Path) -> Rows:
    from pyarrow import parquet

    index = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                for position in range(batch.num_rows):
                    yield f"{path.name}[{index}]", _arrow_row(batch, position)
                    index += 1
    except Exception as error:  # Arrow's own, OSError, EOFError and, for a column's broken name, UnicodeDecodeError
        raise DataError(
            f"{path.name}[{index}]: not readable as Parquet: {_reason(error)}", hint="the file is cut off or no Parquet"
        ) from None


def _arrow_row(batch, position: int) -> Any:
    try:
        return _without_nulls(batch.slice(position, 1).to_pylist()[0])
    except (UnicodeDecodeError, ValueError, OverflowError) as error:
        return DataError(f"not readable: {_reason(error)}")


def _folder(path: Path, split: str) -> Rows:
    from datasets import DatasetDict, load_from_disk  # imports pyarrow and pandas

    try:
        data = load_from_disk(str(path))
    except Exception as error:  # pyarrow, json and datasets each raise their own for a broken folder
        raise DataError(
            f"{path} is not a folder made by datasets: {_reason(error)}", hint="save it with save_to_disk"
        ) from None
    if isinstance(data, DatasetDict):
        if split not in data:
            raise DataError(f"{path} has no split '{split}'", hint=f"splits: {dialogue.names(data)}")
        data = data[split]
    return _arrow(data, path.name)


def _arrow(data: Iterable[Any], name: str) -> Rows:
    index = 0
    try:
        for index, row in enumerate(data):
            yield f"{name}[{index}]", _without_nulls(row)
    except Exception as error:  # a broken Arrow file shows itself only here, as one of many errors
        raise DataError(
            f"{name}[{index}]: not readable: {_reason(error)}", hint="make or fetch the data anew"
        ) from None


def _without_nulls(value: Any) -> Any:
    """Arrow gives every object the keys of all objects in its column, with null where there was none."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _reason(error: BaseException) -> str:
    return dialogue.one_line(next(iter(str(error).splitlines()), ""), 300) or type(error).__name__
