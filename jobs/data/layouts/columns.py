"""One row's columns under our names: as `data.columns` maps them, as they are called, or as other trainers call them.

Also what to say of a row whose layout nobody can tell. Knows no messages. Called by `jobs.data.layouts.formats`.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from configs.errors import DataError
from jobs.data.layouts import keys, values
from jobs.data.layouts.keys import COLUMNS, NO_LAYOUT, UNNAMED, RowNotes

_DEPTH = 4
"""Levels of objects in which messages are looked for."""


class Row:
    """The columns of one row, and which of them have been read."""

    def __init__(self, row: Any, columns: Mapping[str, str], *, keep_tokens: bool = False) -> None:
        """`columns` is ours: theirs; theirs may lead into objects and lists, as `response.choices.0.message` does.

        With `keep_tokens` text that a template has rendered stays text. Raises DataError for what is not a row.
        """
        if not isinstance(row, Mapping):
            raise DataError(f"a row is an object with columns or a list of messages, not {values.short(row)}")
        self.row = row
        self.given = {name: value for name, value in values.without_nulls(row).items() if not values.nothing(value)}
        self.columns, self.keep_tokens = columns, keep_tokens
        self.used: set[str] = set()

    def has(self, ours: str) -> bool:
        return self._find(ours)[1] is not None

    def take(self, ours: str) -> Any:
        """The value of our column, or None; it counts as read."""
        theirs, value = self._find(ours)
        if value is not None:
            self.used.add(theirs.split(".")[0] if theirs not in self.given else theirs)
        return value

    def called(self, about: str) -> list[str]:
        """The row's own names of columns that mean this, in the row's order."""
        found = ((name, keys.column(name)) for name in self.given)
        return [name for name, key in found if key and key.fate == "read" and key.about == about]

    def optional(self, about: str) -> Any:
        """The value of the one column that means this, or None. Raises DataError if two of them differ."""
        if about in self.columns:
            return self.take(about)
        found = [name for name in self.called(about) if not values.empty(self.given[name])]
        if len({json.dumps(self.given[name], default=str) for name in found}) > 1:
            raise DataError(
                f"columns {values.names(found)} all mean {about}, and differ; say which: {setting({about: found[0]})}"
            )
        self.used.update(found)
        return self.given[found[0]] if found else None

    def renamed(self, **ours: str) -> "Row":
        """The same row with columns of other names taken for ours."""
        return Row(self.row, {**self.columns, **ours}, keep_tokens=self.keep_tokens)

    def check_rest(self, notes: RowNotes) -> None:
        """Notes what has not been read. Raises DataError for what marks a row that must not be learned."""
        for name, value in self.row.items():
            if name in self.used or value is None:
                continue
            if why := keys.refusal(COLUMNS, keys.folded(name), value):
                raise DataError(why)
            if not (values.empty(value) and keys.column(name)):
                notes.unused.append(f"column `{values.one_line(str(name), values.MAX_NAME)}`")

    def _find(self, ours: str) -> tuple[str, Any]:
        theirs = self.columns.get(ours, ours)
        if theirs in self.given:
            return theirs, self.given[theirs]
        return theirs, _at(self.given, theirs.split(".")) if ours in self.columns else None


def _at(value: Any, path: list[str]) -> Any:
    for step in path:
        if isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value


def setting(mapping: Mapping[str, str]) -> str:
    """The flag that maps columns, to be copied."""
    pairs = ", ".join(f"{ours}: {_quoted(theirs)}" for ours, theirs in mapping.items())
    return f'--set "data.columns={{{pairs}}}"'


def _quoted(name: str) -> str:
    plain = re.fullmatch(r"[A-Za-z_][\w.]*", name, re.ASCII)
    return name if plain else "'" + values.one_line(name, 100).replace("'", "''") + "'"


def advice(row: Row) -> str:
    """What a row without a known layout may be, and the mapping that reads it."""
    if what := next((about for name, about in NO_LAYOUT.items() if name in row.row), ""):
        return what.replace("{to_chosen}", _to_chosen(row) if "chosen" in row.given else "")
    if any(map(of_pandas, row.given.values())) or {"columns", "index", "data"} <= row.given.keys():
        return PANDAS
    for name, value in row.given.items():
        first = value[0] if isinstance(value, list) and value else None
        if isinstance(first, Mapping) and not keys.is_entry(first) and any(map(keys.is_column, first)):
            inside = values.one_line(str(name), values.MAX_NAME)
            return f"the rows stand inside `{inside}`; write them as lines: jq -c '.{inside}[]' FILE > rows.jsonl"
    if row.called("prompt") and {*row.given} == {*row.called("prompt"), *row.called("system"), *row.called("tools")}:
        return "prompts without an answer to learn"
    mapping = _messages(row) or _texts(row) or _talk(row)
    if mapping and [*mapping] == ["completion"]:
        return f"to learn it as answers without questions: {setting(mapping)}"
    return f"to read it: {setting(mapping or {'prompt': 'COLUMN', 'completion': 'COLUMN'})}"


PANDAS = "columns as pandas writes them; write rows: df.to_json(FILE, orient='records', lines=True)"


def of_pandas(value: Any) -> bool:
    """Whether this is a column by its index, as `to_json` writes it unless told otherwise."""
    return isinstance(value, Mapping) and bool(value) and all(str(key).isdigit() for key in value)


def _to_chosen(row: Row) -> str:
    """How the chosen answers are learned."""
    if asks := row.called("prompt"):
        return f": to learn the chosen answers, {setting({'prompt': asks[0], 'completion': 'chosen'})}"
    if isinstance(row.given["chosen"], list):
        return f": to learn the chosen answers, {setting({'messages': 'chosen'})}"
    return ": one column has to hold the answer to learn"


def _messages(row: Row) -> dict[str, str] | None:
    """Where in the row a conversation stands, perhaps with its answer elsewhere, as in a log of requests."""
    found = list(_paths(row.given, (), _DEPTH))
    lists = [(path, value) for path, value in found if isinstance(value, list)]
    said = [path for path, value in found if not isinstance(value, list) and answers(value)]
    for path, value in lists:
        if any(map(answers, value)):
            return {"messages": ".".join(path)}
    return {"prompt": ".".join(lists[0][0]), "completion": ".".join(said[0])} if lists and said else None


def _paths(value: Any, path: tuple[str, ...], depth: int) -> Iterator[tuple[tuple[str, ...], Any]]:
    if path and (keys.is_entry(value) or (isinstance(value, list) and value and keys.is_entry(value[0]))):
        yield path, value
    elif depth and isinstance(value, Mapping | list):
        steps = value.items() if isinstance(value, Mapping) else enumerate(value[:1])
        for step, each in steps:
            yield from _paths(each, (*path, str(step)), depth - 1)


def answers(entry: Any) -> bool:
    """Whether this is a message of the assistant."""
    return keys.is_entry(entry) and keys.role_of(keys.speaker(entry)) == "assistant"


def _texts(row: Row) -> dict[str, str] | None:
    """Which text may ask and which answer: by their names, or two that are left when the known ones are taken away."""
    texts = [name for name, value in row.given.items() if isinstance(value, str) and value.strip() and _may_say(name)]
    asks, said = ([name for name in row.called(about) if name in texts] for about in ("prompt", "completion"))
    others = [name for name in texts if name not in (*asks, *said)]
    if len(others) == 2 - bool(asks) - bool(said):
        first, second = [*asks[:1], *others, *said[:1]]
        return {"prompt": first, "completion": second}
    return {"completion": texts[0]} if len(texts) == 1 and not row.called("prompt") else None


def _talk(row: Row) -> dict[str, str] | None:
    """A column of texts, which may be said in turns."""
    found = (name for name, value in row.given.items() if isinstance(value, list) and len(value) > 1)
    return next(({"messages": name} for name in found if all(isinstance(each, str) for each in row.given[name])), None)


_ABOUT = re.compile(r"(^|_)(id|uuid|idx|index|hash|url|link|date|time|source|lang|language|license|title|name|split)$")


def _may_say(name: str) -> bool:
    """Whether a column of this name can hold what somebody says."""
    key = keys.column(name)
    known = key is None or (key.fate == "read" and key.about in ("prompt", "completion", "text"))
    return known and name != UNNAMED and not _ABOUT.search(keys.folded(name))
