"""The layouts in which people keep dialogues, each as one function from a row to a Dialogue.

    chat               messages [{role, content, thinking, tool_calls}], tools
    prompt_completion  prompt, completion (text or lists of messages), system, thinking, tools
    alpaca             instruction, input, output, system, thinking
    sharegpt           conversations [{from, value}], system, tools

Any of them may have `expect`, what an evaluation compares the answer with. Knows columns, not files. Called by
`jobs.data.dataset`.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from configs.errors import DataError
from configs.schema import DataFormat
from jobs.data import dialogue
from jobs.data.dialogue import Dialogue, short
from jobs.evaluation import expectation

REQUIRED: dict[DataFormat, tuple[str, ...]] = {
    "chat": ("messages",),
    "sharegpt": ("conversations",),
    "prompt_completion": ("prompt", "completion"),
    "alpaca": ("instruction", "output"),
}
"""Layout to the columns that tell it, in the order in which `auto` tries them."""
COLUMNS = (*(column for columns in REQUIRED.values() for column in columns), "input", "system", "thinking", "tools")
SPEAKERS = {
    "system": "system", "human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant",
    "assistant": "assistant", "observation": "tool", "tool": "tool",
}  # fmt: skip
"""ShareGPT's `from` to a role; function_call is the assistant's as well."""


def check_columns(columns: Mapping[str, str]) -> None:
    """Raises DataError if `data.columns` names a column of ours that no layout has."""
    unknown = [ours for ours in columns if ours not in COLUMNS]
    if unknown:
        raise DataError(
            f"data.columns maps {', '.join(unknown)}, which no layout has",
            hint=f"write ours: theirs, where ours is one of {', '.join(COLUMNS)}",
        )


def dialogue_of(row: Any, where: str, layout: DataFormat, columns: Mapping[str, str]) -> Dialogue:
    """One row in `layout` (auto: by its columns), with `columns` renamed as `ours: theirs`.

    Raises DataError that begins with `where`.
    """
    try:
        if not isinstance(row, Mapping):
            raise DataError(f"a row is an object with columns, not {short(row)}")
        renamed = {ours: row[theirs] for ours, theirs in columns.items() if theirs in row}
        row = {key: value for key, value in {**row, **renamed}.items() if value is not None}
        messages = _LAYOUTS[_told(row, columns) if layout == "auto" else _complete(row, layout, columns)](row)
    except DataError as error:
        raise DataError(f"{where}: {error.message}") from None
    found = dialogue.of(messages, row.get("tools"), where)
    if expectation.is_ours(row.get("expect")):
        return replace(found, expect=expectation.checked(row["expect"], where))
    return found


def _told(row: Mapping[str, Any], columns: Mapping[str, str]) -> DataFormat:
    for layout, required in REQUIRED.items():
        if all(column in row for column in required):
            return layout
    expected = " or ".join("+".join(required) for required in REQUIRED.values())
    raise DataError(f"cannot tell the layout: found {_found(row)}; expected {expected}{_mapped(columns)}")


def _complete(row: Mapping[str, Any], layout: DataFormat, columns: Mapping[str, str]) -> DataFormat:
    if missing := [column for column in REQUIRED[layout] if column not in row]:
        raise DataError(f"no {' and no '.join(missing)} for {layout}: found {_found(row)}{_mapped(columns)}")
    return layout


def _found(row: Mapping[str, Any]) -> str:
    return f"columns {dialogue.names(row)}" if row else "no columns"


def _mapped(columns: Mapping[str, str]) -> str:
    return f" (data.columns: {', '.join(f'{ours} is {theirs}' for ours, theirs in columns.items())})" if columns else ""


def _chat(row: Mapping[str, Any]) -> Any:
    return row["messages"]


def _prompt_completion(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [*_system(row), *_turn(row, "prompt", "user"), *_turn(row, "completion", "assistant")]


def _alpaca(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    asked = _text(row, "instruction")
    if isinstance(row.get("input", ""), str) and row.get("input", "").strip():
        asked += f"\n\n{row['input']}"
    return [*_system(row), {"role": "user", "content": asked}, *_turn(row, "output", "assistant")]


def _sharegpt(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    spoken = dialogue.listed(row["conversations"], "conversations")
    messages: list[dict[str, Any]] = _system(row)
    for index, entry in enumerate(spoken, 1):
        if not isinstance(entry, Mapping) or not isinstance(entry.get("value"), str):
            raise DataError(f"entry {index}: no `value` that is text")
        if entry.get("from") == "function_call":
            _add_calls(messages, dialogue.parsed_part(entry["value"], f"entry {index}: function_call"))
        elif entry.get("from") in [*SPEAKERS]:  # a list or an object may stand there, which no dict can be asked for
            messages.append({"role": SPEAKERS[entry["from"]], "content": entry["value"]})
        else:
            known = ", ".join([*SPEAKERS, "function_call"])
            raise DataError(f"entry {index}: from {short(entry.get('from'))} is none of {known}")
    return messages


def _add_calls(messages: list[dict[str, Any]], calls: Any) -> None:
    """Calls that follow each other are parallel, so that the observations after them find theirs by order."""
    if not messages or "tool_calls" not in messages[-1]:
        messages.append({"role": "assistant", "tool_calls": []})
    messages[-1]["tool_calls"].extend(calls if isinstance(calls, list) else [calls])


def _system(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "system", "content": row["system"]}] if row.get("system") else []


def _turn(row: Mapping[str, Any], column: str, role: str) -> list[Any]:
    """A column that is text or a list of messages, as messages."""
    if row[column] and isinstance(row[column], list):
        return row[column]
    message = {"role": role, "content": _text(row, column)}
    if role == "assistant" and row.get("thinking"):
        message["thinking"] = row["thinking"]
    return [message]


def _text(row: Mapping[str, Any], column: str) -> str:
    if not isinstance(row[column], str) or not row[column].strip():
        raise DataError(f"`{column}` is {short(row[column])}, not text")
    return row[column]


_LAYOUTS = {"chat": _chat, "prompt_completion": _prompt_completion, "alpaca": _alpaca, "sharegpt": _sharegpt}
