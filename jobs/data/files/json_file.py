"""Rows of JSON in text: one value per line, one list of them, or one value behind the other over several lines.

Which of these it is, the text decides and not the file's name. Each row has the line on which it begins. Called by
`jobs.data.files.rows`.
"""

import json
from collections.abc import Iterator
from typing import Any

from configs.errors import DataError
from jobs.data.layouts import keys, values

Rows = Iterator[tuple[str, Any]]

_SPACE = " \t\n\r\ufeff"
_BROKEN = "the list is broken here and cannot be read on"


def rows(text: str, name: str) -> Rows:
    """A row that cannot be read is a DataError in its place. Raises DataError for a list that cannot be read on."""
    if "\n" not in text:
        text = text.replace("\r", "\n")  # nothing but space in JSON, and the line end of old Macs
    begin = _after_space(text, 0)
    if text[begin : begin + 1] in ("[", "{") and _spans_lines(text, begin):
        return _list(text, begin, name) if text[begin] == "[" else _values(text, begin, name)
    return _lines(text, name)


def _spans_lines(text: str, begin: int) -> bool:
    """Whether the first value goes beyond its line."""
    line = text[begin:].split("\n", 1)[0]
    try:
        json.loads(line.rstrip(" \t,"))
    except json.JSONDecodeError:
        return text[begin] == "[" or _end(text, begin) > begin + len(line)
    except (ValueError, RecursionError):
        pass
    return False


def _end(text: str, begin: int) -> int:
    """Where the value that begins here ends; 0 if it is none."""
    try:
        return json.JSONDecoder().raw_decode(text, begin)[1]
    except (ValueError, RecursionError):
        return 0


def _lines(text: str, name: str) -> Rows:
    for number, line in enumerate(text.split("\n"), 1):  # splitlines would cut at U+2028, which JSON allows
        if line.strip(_SPACE):
            yield from _several(f"{name}:{number}", _row(line.strip(_SPACE)))


def _row(text: str) -> Any:
    if text.startswith(("//", "#")):
        return DataError("a comment, which JSON does not have: remove the line")
    value = _parsed(text)
    if isinstance(value, DataError) and text.endswith(","):
        without = _parsed(text[:-1])
        return value if isinstance(without, DataError) else without
    return value


def _several(where: str, value: Any) -> Rows:
    """A list on one line is a conversation if its entries speak, or else a list of rows."""
    if isinstance(value, list) and value and isinstance(value[0], dict | list) and not keys.is_entry(value[0]):
        yield from ((where, each) for each in value)
    else:
        yield where, value


def _values(text: str, begin: int, name: str) -> Rows:
    """Objects one behind the other, as `jq` and `json.dumps(indent=2)` write them."""
    position, line, counted = begin, 1, 0
    while position < len(text):
        line, counted = line + text.count("\n", counted, position), position
        stop = _end(text, position)
        if not stop:
            raise DataError(f"{name}:{line}: not JSON", hint="what follows here cannot be read")
        yield f"{name}:{line}", _parsed(text[position:stop])
        position = _after_space(text, stop)
        if text[position : position + 1] == ",":
            position = _after_space(text, position + 1)


def _list(text: str, begin: int, name: str) -> Rows:
    """Element by element, so that each knows its line and a bad one does not hide the others."""
    decoder = json.JSONDecoder()
    position, line, counted, closed = begin + 1, 1, 0, False
    while not closed:
        position = _after_space(text, position)
        line, counted = line + text.count("\n", counted, position), position
        if text[position : position + 1] == "]":
            break
        try:
            value, stop = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            where = 1 + text.count("\n", 0, error.pos)
            raise DataError(f"{name}:{where}: not JSON: {error.msg} at column {error.colno}", hint=_BROKEN) from None
        except (ValueError, RecursionError) as error:  # more digits than Python's limit; nested too deep
            reason = values.one_line(str(error), 300)
            raise DataError(f"{name}:{line}: {reason}", hint="the list cannot be read beyond this row") from None
        if keys.is_entry(value):
            yield f"{name}:{line}", _parsed(text[begin:])
            return
        yield f"{name}:{line}", _parsed(text[position:stop])
        position = _after_space(text, stop)
        mark = text[position : position + 1]
        if mark not in (",", "]"):
            where = 1 + text.count("\n", 0, position)
            raise DataError(f"{name}:{where}: not JSON: expected ',' or ']' after a row", hint=_BROKEN)
        position, closed = position + 1, mark == "]"


def _parsed(text: str) -> Any:
    try:
        return values.parsed(text, nan=True)
    except DataError as error:
        return error


def _after_space(text: str, position: int) -> int:
    while text[position : position + 1] in tuple(_SPACE):
        position += 1
    return position
