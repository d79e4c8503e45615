"""The layouts in which people keep dialogues, each as one function from a row to messages.

    chat               messages [{role, content, thinking, tool_calls}], tools
    prompt_completion  prompt, completion (text or lists of messages), system, thinking, tools
    alpaca             instruction, input, output, system, thinking
    sharegpt           conversations [{from, value}], system, tools

Any of them may have `system`, `tools`, `history` (earlier turns) and `expect`, what an evaluation compares the answer
with. Columns of other names are read where they can mean one thing only. Knows columns, not files. Called by
`jobs.data.dataset`.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from configs.errors import DataError
from configs.schema import DataFormat
from jobs.data.layouts import columns as column_names
from jobs.data.layouts import dialogue, expectation, keys, parts, rendered, values
from jobs.data.layouts.columns import Row
from jobs.data.layouts.dialogue import Dialogue
from jobs.data.layouts.keys import RowNotes

REQUIRED: dict[DataFormat, tuple[str, ...]] = {
    "chat": ("messages",),
    "sharegpt": ("conversations",),
    "prompt_completion": ("prompt", "completion"),
    "alpaca": ("instruction", "output"),
}
"""Layout to the columns that tell it, in the order in which `auto` tries them."""
COLUMNS = (
    *(column for required in REQUIRED.values() for column in required), "input", "system", "thinking", "tools",
    "history",
)  # fmt: skip
EFFORTS = ("on", "off", "true", "false", "yes", "no", "none", "minimal", "low", "medium", "high", "enabled", "disabled")
"""What a column `reasoning` says in data that switch it on and off: no thoughts."""

THINKING = tuple(name for name, key in keys.MESSAGE.items() if key.fate == "read" and key.about == "thinking")
"""Keys under which a message has its own reasoning."""


def check_columns(columns: Mapping[str, str]) -> None:
    """Raises DataError if `data.columns` names a column of ours that no layout has."""
    unknown = [ours for ours in columns if ours not in COLUMNS]
    if unknown:
        raise DataError(
            f"data.columns maps {', '.join(unknown)}, which no layout has",
            hint=f"write ours: theirs, where ours is one of {', '.join(COLUMNS)}",
        )


def dialogue_of(
    row: Any, where: str, layout: DataFormat, columns: Mapping[str, str], *, keep_tokens: bool = False
) -> Dialogue:
    """One row in `layout` (auto: by its columns), with `columns` renamed as `ours: theirs`.

    With `keep_tokens` tags in the assistant's text stay text. Raises DataError that begins with `where`.
    """
    notes = RowNotes()
    try:
        given = Row({"messages": row} if _is_conversation(row) else row, columns, keep_tokens=keep_tokens)
        given, read = (_told if layout == "auto" else _complete)(given, layout)
        messages = _with_earlier(given, _with_thinking(given, read(given, notes), notes))
        tools = given.optional("tools")
        expect = given.take("expect") if expectation.is_ours(given.given.get("expect")) else None
        given.check_rest(notes)
        _check_preference(given, messages)
    except DataError as error:
        raise DataError(f"{where}: {error.message}") from None
    found = dialogue.of(messages, tools, where, notes, keep_tokens=keep_tokens)
    return replace(found, expect=expectation.checked(expect, where)) if expect else found


# Which layout

Reader = Callable[[Row, RowNotes], list[Any]]


def _told(row: Row, _: str) -> tuple[Row, Reader]:
    """The row, perhaps with columns renamed, and how its messages are read."""
    for layout, required in REQUIRED.items():
        if all(map(row.has, required)):
            return row, _LAYOUTS[layout]
    if "completion" in row.columns and row.has("completion") and "prompt" not in {*row.columns, *row.row}:
        return row, _completion
    if conversations := [name for name in row.called("messages") if _is_list(row.given[name])]:
        return row.renamed(messages=conversations[0]), _chat
    if pair := _pair(row):
        return pair
    text = row.given.get("text")
    if isinstance(text, str) and not row.keep_tokens and rendered.conversation(text):
        return row, _text_of_template
    for required in REQUIRED.values():
        if all(row.has(name) or name in row.row for name in required):
            nothing = next(name for name in required if not row.has(name))
            raise DataError(f"`{nothing}` is empty: null, or a cell that says nan, None or null")
    expected = " or ".join("+".join(required) for required in REQUIRED.values())
    advice = column_names.advice(row)
    raise DataError(
        f"cannot tell the layout: found {_found(row)}; expected {expected}{_mapped(row)}{advice and '; '}{advice}"
    )


def _pair(row: Row) -> tuple[Row, Reader] | None:
    """A question and its answer under other names; None if the row has no such two columns.

    Raises DataError, with the mapping to choose, where more than one column could be meant.
    """
    below, answers = _filled(row, "input"), _filled(row, "completion")
    asks = _filled(row, "prompt") or (below if below == ["input"] else [])
    if not asks or not answers:
        return None
    ask, answer = asks[0], answers[0]
    below = [name for name in below if name != ask and not values.empty(row.given[name])]
    alpaca = {"instruction": ask, "output": answer} | ({"input": below[0]} if below else {})
    if len(asks) > 1 or len(answers) > 1 or len(below) > 1 or (below and keys.folded(ask) != "instruction"):
        mapping = alpaca if below else {"prompt": ask, "completion": answer}
        raise DataError(
            f"cannot tell which columns ask and answer: found {_found(row)}; say which, for example "
            f"{column_names.setting(mapping)}"
        )
    if keys.folded(ask) == "instruction":
        return row.renamed(**alpaca), _alpaca
    return row.renamed(prompt=ask, completion=answer), _prompt_completion


def _filled(row: Row, about: str) -> list[str]:
    """The columns that mean this and say something; all that mean it if none does."""
    names = row.called(about)
    return [name for name in names if not values.empty(row.given[name])] or names


def _complete(row: Row, layout: DataFormat) -> tuple[Row, Reader]:
    if missing := [column for column in REQUIRED[layout] if not row.has(column)]:
        raise DataError(f"no {' and no '.join(missing)} for {layout}: found {_found(row)}{_mapped(row)}")
    return row, _LAYOUTS[layout]


def _is_conversation(row: Any) -> bool:
    """A row that is the list of its messages."""
    return isinstance(row, list) and bool(row) and all(isinstance(each, Mapping | list | str) for each in row)


def _is_list(value: Any) -> bool:
    return isinstance(value, list) or (isinstance(value, str) and value.lstrip().startswith("["))


def _found(row: Row) -> str:
    return f"columns {values.names(row.given)}" if row.given else "no columns"


def _mapped(row: Row) -> str:
    said = ", ".join(f"{ours} is {theirs}" for ours, theirs in row.columns.items())
    return f" (data.columns: {said})" if said else ""


# The layouts


def _chat(row: Row, notes: RowNotes) -> list[Any]:
    return values.listed(row.take("messages"), "messages")


def _sharegpt(row: Row, notes: RowNotes) -> list[Any]:
    return values.listed(row.take("conversations"), "conversations")


def _prompt_completion(row: Row, notes: RowNotes) -> list[Any]:
    prompt, completion = row.take("prompt"), row.take("completion")
    texts = isinstance(prompt, str) and isinstance(completion, str)
    if texts and not row.keep_tokens and rendered.begins(prompt):
        name, messages = rendered.conversation(prompt + completion)
        notes.remarks.append(f"a prompt rendered for {name} became messages")
        return messages
    return [*_turn(prompt, "prompt", "user", notes), *_turn(completion, "completion", "assistant", notes)]


def _completion(row: Row, notes: RowNotes) -> list[Any]:
    """Text that answers nothing, because `data.columns` says so."""
    notes.remarks.append("an answer without a question")
    return _turn(row.take("completion"), "completion", "assistant", notes)


def _alpaca(row: Row, notes: RowNotes) -> list[Any]:
    asked = _text(row.take("instruction"), "instruction", notes)
    below = row.optional("input")
    if not values.empty(below):
        asked += f"\n\n{_text(below, 'input', notes)}"
    return [{"role": "user", "content": asked}, *_turn(row.take("output"), "output", "assistant", notes)]


def _text_of_template(row: Row, notes: RowNotes) -> list[Any]:
    name, messages = rendered.conversation(row.take("text"))
    notes.remarks.append(
        f"a chat rendered for {name} in `text` became messages; the run's own system message stands first"
    )
    return messages


_LAYOUTS = {"chat": _chat, "prompt_completion": _prompt_completion, "alpaca": _alpaca, "sharegpt": _sharegpt}


def _turn(value: Any, column: str, role: str, notes: RowNotes) -> list[Any]:
    """A column that is text, a message or a list of messages, as messages."""
    if isinstance(value, str) and value.lstrip().startswith("[{"):
        with suppress(DataError):  # text that only begins like a list
            value = values.without_nulls(values.unpacked(value, column))
    if keys.is_entry(value):
        return [value]
    if role == "assistant" and _are_calls(value):
        return [{"role": "assistant", "tool_calls": value}]
    if isinstance(value, list) and value and all(map(keys.is_entry, value)):
        return value
    return [{"role": role, "content": _text(value, column, notes)}]


def _are_calls(value: Any) -> bool:
    """A list of calls in place of an answer, as xLAM has it."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(each, Mapping) and "name" in each and "arguments" in each for each in value)
    )


def _text(value: Any, column: str, notes: RowNotes) -> str:
    if column_names.of_pandas(value):
        raise DataError(f"`{column}` is {values.short(value)}: {column_names.PANDAS}")
    if isinstance(value, list | Mapping):
        raise DataError(f"`{column}` is {values.short(value)}, not text")
    text = parts.read(value, f"`{column}`", notes).text
    if not text.strip():
        raise DataError(f"`{column}` is {values.short(value)}, not text")
    return text


def _with_thinking(row: Row, messages: list[Any], notes: RowNotes) -> list[Any]:
    """A column of reasoning belongs to the last answer, unless that has its own."""
    names = [name for name in row.called("thinking") if not values.empty(row.given[name])]
    if all(_switch(row.given[name]) for name in names) and "thinking" not in row.columns:
        return messages
    last = next((each for each in reversed(messages) if keys.is_entry(each) and column_names.answers(each)), None)
    if last is None or any(not values.empty(last.get(key)) for key in THINKING):
        return messages
    thinking = row.optional("thinking")
    return [{**each, "thinking": thinking} if each is last else each for each in messages]


def _switch(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, str) and value.strip().lower() in EFFORTS)


def _with_earlier(row: Row, messages: list[Any]) -> list[Any]:
    """With the columns `system` and `history` before the other messages, in this order."""
    earlier = []
    first = messages[0] if keys.is_entry(messages[0]) else {}
    instructed = keys.role_of(keys.speaker(first)) in ("system", "developer")
    system, history = row.optional("system"), row.optional("history")
    if values.empty(system) and not instructed:
        system = row.optional("developer")
    if not values.empty(system):
        said = parts.read(system, "`system`", RowNotes()).text
        if said.strip() not in (first.get("content"), first.get("value")):
            earlier = [{"role": "system", "content": system}]
    if not values.empty(history):
        history = values.listed(history, "history")
        if all(isinstance(each, str) for each in history):
            history = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(history)]
        earlier += history
    return [*earlier, *messages]


def _check_preference(row: Row, messages: list[Any]) -> None:
    """Messages that end before the answer, which stands in two columns, one of them the unwanted one."""
    if "chosen" in row.given and "chosen" not in row.used and not column_names.answers(messages[-1]):
        raise DataError(column_names.advice(row))
