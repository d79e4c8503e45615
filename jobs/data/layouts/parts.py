"""What stands as the content of a message, as text: text itself, a list of parts, a number, an object of a tool.

Knows neither roles nor templates. Called by `jobs.data.layouts.messages`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from configs.errors import DataError
from jobs.data.layouts import values
from jobs.data.layouts.keys import RowNotes

TEXT = (None, "text", "input_text", "output_text", "reasoning.text", "summary_text")
THOUGHT = ("thinking", "reasoning", "think", "reasoning.text", "reasoning.summary")
HIDDEN = ("redacted_thinking", "reasoning.encrypted")


@dataclass(frozen=True)
class Content:
    """A message's content."""

    text: str
    thinking: str = ""


def read(value: Any, where: str, notes: RowNotes, *, of_tool: bool = False) -> Content:
    """`value` as text; a tool's result that is an object becomes its JSON. CRLF line ends become LF.

    Raises DataError that begins with `where` for what is not text.
    """
    found = _read(value, where, notes, of_tool)
    if "\r\n" not in found.text + found.thinking:
        return found
    notes.remarks.append("CRLF line ends became LF")
    return Content(found.text.replace("\r\n", "\n"), found.thinking.replace("\r\n", "\n"))


def _read(value: Any, where: str, notes: RowNotes, of_tool: bool) -> Content:
    if isinstance(value, str):
        return Content(value)
    if values.number(value):
        notes.remarks.append("a number became text")
        return Content(json.dumps(value))
    if isinstance(value, bytes):
        return Content(_decoded(value, where))
    if isinstance(value, list) and not (of_tool and not all(map(_is_text, value))):
        return _joined(value, where, notes)
    if isinstance(value, Mapping) and isinstance(value.get("parts"), list):  # Gemini, ChatGPT's export
        return _joined(value["parts"], where, notes)
    if of_tool and isinstance(value, list | Mapping | bool):
        return Content(json.dumps(value, ensure_ascii=False, default=str))
    if isinstance(value, Mapping) and _is_text(value):
        return Content(value["text"])
    raise DataError(f"{where} is {values.short(value)}, not text")


def _joined(parts: list, where: str, notes: RowNotes) -> Content:
    text, thoughts = [], []
    for index, part in enumerate(parts, 1):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if isinstance(part, str):
            text.append(part)
        elif kind in THOUGHT or (isinstance(part, Mapping) and part.get("thought") is True):
            thoughts.append(_thought(part, f"{where}, part {index}", notes))
        elif kind == "system_content":  # of openai-harmony's JSON
            notes.remarks.append("harmony's own system message is left out: the run writes its own")
        elif kind == "developer_content":
            text.append(_instructions(part, where))
        elif kind in HIDDEN:
            notes.remarks.append(f"a part `{kind}` holds no text and is left out")
        elif _is_text(part):
            text.append(part["text"])
        else:
            what = f"of type {values.short(kind)}" if kind else values.short(part)
            raise DataError(f"{where}: part {index} is {what}, not text, and only text is learned")
    return Content("".join(text), "\n\n".join(filter(None, thoughts)))


def _thought(part: Mapping[str, Any], where: str, notes: RowNotes) -> str:
    said = next(
        (part[key] for key in ("thinking", "text", "reasoning", "summary") if not values.empty(part.get(key))), ""
    )
    return read(said, where, notes).text


def _instructions(part: Mapping[str, Any], where: str) -> str:
    if not values.empty(part.get("tools")):
        raise DataError(f"{where}: tools stand in the developer message; give them as `tools`")
    return str(part.get("instructions") or "")


def _is_text(part: Any) -> bool:
    if isinstance(part, str):
        return True
    return isinstance(part, Mapping) and part.get("type") in TEXT and isinstance(part.get("text"), str)


def _decoded(value: bytes, where: str) -> str:
    """A binary column of Arrow may hold text."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise DataError(f"{where} is bytes that are not UTF-8") from None
