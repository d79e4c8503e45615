"""Values out of a file: JSON in text, what stands for nothing, and how a message shows what somebody else wrote.

Knows neither columns nor roles. Called by everything that reads rows.
"""

import ast
import json
import math
import reprlib
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from configs.errors import DataError

MAX_DEPTH = 50
"""Levels of nested lists and objects in a row; json and the chat template walk them recursively."""
MAX_LITERAL = 2**20
"""Characters of a list in Python's notation; its syntax tree takes about a hundred times as many bytes."""
MAX_NAMES, MAX_NAME = 20, 60
"""Names of columns or keys that an error message lists, and characters of each."""


def parsed(text: str, *, nan: bool = False) -> Any:
    """JSON as RFC 8259 has it; with `nan` also NaN and Infinity, which Python and pandas write.

    Raises DataError for anything else, duplicate keys included.
    """
    try:
        constant = float if nan else _no_constant
        return check_depth(json.loads(text, object_pairs_hook=_distinct, parse_constant=constant))
    except json.JSONDecodeError as error:
        raise DataError(f"not JSON: {error.msg} at column {error.colno}") from None
    except ValueError as error:  # more digits in a number than Python's limit
        raise DataError(f"not JSON: {str(error).split(';')[0]}") from None
    except RecursionError:
        raise DataError(_TOO_DEEP) from None


def unpacked(text: str, where: str) -> Any:
    """A list or an object that stands in text, as JSON or as `str()` of Python's, which is how pandas writes a CSV.

    Raises DataError that begins with `where`.
    """
    try:
        return parsed(text)
    except DataError as error:
        value = _literal(text) if text.lstrip()[:1] in ("[", "{") else None
        if value is None:
            raise DataError(f"{where}: {error.message}") from None
        return value


def _literal(text: str) -> Any:
    """None for what is not a list or object of plain values in Python's notation."""
    if len(text) > MAX_LITERAL:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an escape that Python does not know is only text here
            value = check_depth(ast.literal_eval(text.strip()))
        json.dumps(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError, DataError):
        return None
    return value if isinstance(value, list | dict) else None


def listed(value: Any, name: str) -> list:
    """A list that is not empty, given as itself, in text, or as an object of equally long lists.

    The last is what `datasets` made of a `Sequence` of objects. Raises DataError with its `name`.
    """
    if isinstance(value, str):
        value = _or_text(value)
    if isinstance(value, Mapping) and _is_columns(value):
        value = [dict(zip(value, each, strict=True)) for each in zip(*value.values(), strict=True)]
    if isinstance(value, str) and value.lstrip().startswith("["):
        raise DataError(
            f"no list `{name}`: its text is neither JSON nor Python's ({short(value)}); Parquet keeps lists"
        )
    if not isinstance(value, list) or not value:
        raise DataError(f"no list `{name}`")
    return value


def _is_columns(value: Mapping[str, Any]) -> bool:
    return all(isinstance(each, list) for each in value.values()) and len({len(each) for each in value.values()}) == 1


def _or_text(text: str) -> Any:
    try:
        return without_nulls(unpacked(text, ""))
    except DataError:
        return text


def without_nulls(value: Any) -> Any:
    """Arrow gives every object the keys of all objects in its column, with null where there was none: the same here,
    whatever the file. An object of Arrow's type map, a list of pairs, becomes an object."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        if value and all(isinstance(each, tuple) and len(each) == 2 and isinstance(each[0], str) for each in value):
            return without_nulls(dict(value))
        return [without_nulls(item) for item in value]
    return value


def nothing(value: Any) -> bool:
    """Null, or the NaN that pandas has in its place."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def empty(value: Any) -> bool:
    """Nothing, blanks, or a list or object without content."""
    if isinstance(value, str):
        return not value.strip()
    return nothing(value) or (isinstance(value, list | Mapping) and not value)


def number(value: Any) -> bool:
    """A finite number. True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_depth(value: Any) -> Any:
    """`value` itself. Raises DataError if it is nested deeper than MAX_DEPTH."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for each in level
            if isinstance(each, dict | list)
            for item in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return value
    raise DataError(_TOO_DEEP)


def short(value: Any) -> str:
    """A value in an error message: one line, not too long."""
    return reprlib.repr(value)


def names(given: Iterable[Any]) -> str:
    """Names out of a file in an error message: the first MAX_NAMES of them, each on one line and not too long."""
    given = [one_line(str(name), MAX_NAME) for name in given]
    more = f" and {len(given) - MAX_NAMES} more" if len(given) > MAX_NAMES else ""
    return ", ".join(given[:MAX_NAMES]) + more


def one_line(text: str, most: int) -> str:
    """At most `most` characters of `text` and what escapes add: as itself if a line can show it, or as a literal."""
    cut = text if len(text) <= most else f"{text[:most]}..."
    return cut if cut.isprintable() else repr(cut)[1:-1]


_TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels"


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) < len(pairs):
        keys = [key for key, _ in pairs]
        raise DataError(f"key {short(next(key for key in keys if keys.count(key) > 1))} appears twice")
    return out


def _no_constant(name: str) -> None:
    raise DataError(f"not JSON: {name}")
