r"""What an answer has to be, as data says it: `expect` of a row or of a prompt, an object with one of these keys.

    {"exact": "Rome."}                                            the answer's text, white space around it aside
    {"regex": "\\bRome\\b"}                                       found in the answer's text
    {"call": {"name": "weather", "arguments": {"city": "Rome"}}}  the one call; arguments by value, or left out

Knows neither files nor models. Called by `jobs.data.layouts.formats` and `jobs.evaluation.answers`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from configs.errors import DataError
from jobs.data.layouts.values import names, one_line

KINDS = ("exact", "regex", "call")


def checked(value: Any, where: str) -> dict[str, Any]:
    """An `expect` that can be matched; empty for None. Raises DataError that begins with `where` for anything else."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: `expect` is not an object with one of {', '.join(KINDS)}")
    given = {kind: wanted for kind, wanted in value.items() if wanted is not None}  # Arrow fills absent keys with None
    if len(given) != 1 or not given.keys() <= set(KINDS):
        raise DataError(f"{where}: `expect` has {names(given) or 'nothing'}, not one of {', '.join(KINDS)}")
    ((kind, wanted),) = given.items()
    if kind == "call":
        if not isinstance(wanted, Mapping) or not isinstance(wanted.get("name"), str):
            raise DataError(f"{where}: `expect.call` has no name")
    elif not isinstance(wanted, str):
        raise DataError(f"{where}: `expect.{kind}` is not text")
    elif kind == "regex":
        try:
            re.compile(wanted)
        except (re.error, OverflowError, RecursionError) as error:
            raise DataError(
                f"{where}: `expect.regex` is not a regular expression: {one_line(str(error), 200)}"
            ) from None
    return given


def is_ours(value: Any) -> bool:
    """Whether a data set's column `expect` can be meant so; others may have one that is something else."""
    return isinstance(value, Mapping) and bool(value) and value.keys() <= set(KINDS)


def matches(expect: Mapping[str, Any], text: str, calls: Sequence[Mapping[str, str]]) -> bool:
    """Whether an answer, its text and its calls (`name`, `arguments` as JSON), is as a checked `expect` says."""
    ((kind, wanted),) = expect.items()
    if kind == "exact":
        return text.strip() == wanted.strip()
    if kind == "regex":
        return re.search(wanted, text) is not None
    if [call["name"] for call in calls] != [wanted["name"]]:
        return False
    arguments = wanted.get("arguments")
    arguments = parsed(arguments) if isinstance(arguments, str) else arguments
    return arguments is None or parsed(calls[0]["arguments"]) == arguments


def parsed(text: str) -> Any:
    """The value of JSON text; None for what is none."""
    try:
        return json.loads(text)
    except ValueError:
        return None
