"""Rows of a table in text: comma-, semicolon- or tab-separated with a header, as CSV and TSV files hold it.

A record may span lines inside quotes; its place is the line on which it begins. Called by `jobs.data.files.rows`.
"""

import csv
import io
import sys
from collections.abc import Iterator
from typing import Any

from configs.errors import DataError
from jobs.data.layouts import keys, values
from jobs.data.layouts.keys import UNNAMED

Rows = Iterator[tuple[str, Any]]

DELIMITERS = (",", ";", "\t", "|")
NOTHING = ("nan", "none", "null", "<na>", "nat", "#n/a")
"""What pandas, Python, SQL and Excel write into a cell without a value, in any case."""


def rows(text: str, name: str) -> Rows:
    """A cell without a value is None. Raises DataError for a header that names no columns."""
    delimiter, skipped = _delimiter(text)
    before = csv.field_size_limit(sys.maxsize)  # a cell may be a long text
    try:
        source = io.StringIO(text, newline="")
        if skipped:
            source.readline()
        yield from _records(csv.reader(source, delimiter=delimiter, strict=True), name, skipped)
    finally:
        csv.field_size_limit(before)


def _delimiter(text: str) -> tuple[str, int]:
    """The one under which the header has most columns that are known, and how many lines stand before the header.

    Excel reads and writes `sep=;` as a first line.
    """
    first = text[:6].lower()
    if first.startswith("sep=") and text[5:6] in ("\r", "\n"):
        return text[4], 1
    return max(DELIMITERS, key=lambda each: _known(text, each)), 0


def _known(text: str, delimiter: str) -> tuple[int, int]:
    try:
        header = next(csv.reader(io.StringIO(text[: 2**16], newline=""), delimiter=delimiter), [])
    except csv.Error:
        return 0, 0
    return sum(keys.is_column(cell) for cell in header), len(header) > 1


def _records(reader, name: str, skipped: int) -> Rows:
    header: list[str] | None = None
    while True:
        where = f"{name}:{reader.line_num + skipped + 1}"
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
        elif cells:
            yield where, _row(header, cells)


def _row(header: list[str], cells: list[str]) -> dict[str, str | None] | DataError:
    while len(cells) > len(header) and not cells[-1].strip():
        cells = cells[:-1]
    if len(cells) != len(header):
        return DataError(f"{len(cells)} cells, the header has {len(header)}")
    return {
        column: None if cell.strip().lower() in NOTHING else cell for column, cell in zip(header, cells, strict=True)
    }


def _header(cells: list[str] | DataError, where: str) -> list[str]:
    if isinstance(cells, DataError):
        raise DataError(f"{where}: {cells.message}", hint="the first line names the columns")
    header = [cell.strip() or UNNAMED for cell in cells]
    twice = next((column for column in header if column != UNNAMED and header.count(column) > 1), None)
    if twice or set(header) == {UNNAMED}:
        what = f"has column {values.short(twice)} twice" if twice else "names no column"
        raise DataError(f"{where}: the header {what}", hint="the first line names the columns, each once")
    return header
