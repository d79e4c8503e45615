"""One row of a data set in the one shape that everything after reading it knows.

`of` turns loosely shaped messages and tools (JSON as text, bare functions, absent keys as null) into that shape and
says what is wrong with them. Knows neither files nor tokenizers; called by `jobs.data.formats`.
"""

import hashlib
import json
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from configs.errors import DataError

ROLES = ("system", "developer", "user", "assistant", "tool")
MAX_BYTES = 8 * 2**20
"""UTF-8 bytes of one row. The longest context, 131,072 tokens, is about 0.6 MB of text."""
MAX_DEPTH = 50
"""Levels of nested lists and objects in a row; json and the chat template walk them recursively."""
MAX_NAMES, MAX_NAME = 20, 60
"""Names of columns or keys that an error message lists, and characters of each."""


@dataclass(frozen=True)
class Dialogue:
    """OpenAI-shaped messages (those of the assistant may carry `thinking`), the tools, and where they came from."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    where: str
    """`file:line`, or `name[row]` where rows have no lines."""
    expect: dict[str, Any] | None = None
    """What the answer to this row has to be, where the data says it; see `jobs.evaluation.expectation`. The fingerprint
    is without it."""

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 in hex of messages and tools; the same wherever the row stands."""
        return hashlib.sha256(_canonical(self.messages, self.tools)).hexdigest()


def of(messages: Any, tools: Any, where: str) -> Dialogue:
    """The dialogue that these make. Raises DataError that begins with `where`."""
    try:
        tools = [_tool(tool, f"tool {index}") for index, tool in enumerate(_tools(tools), 1)] or None
        messages = [
            _message(message, f"message {index}") for index, message in enumerate(listed(messages, "messages"), 1)
        ]
        if not any(message["role"] == "assistant" for message in messages):
            raise DataError("no assistant message, so nothing to learn")
        _check_text(_canonical(messages, tools))
    except DataError as error:
        raise DataError(f"{where}: {error.message}") from None
    return Dialogue(messages, tools, where)


def parsed(text: str) -> Any:
    """JSON as RFC 8259 has it. Raises DataError for anything else, duplicate keys and NaN included."""
    try:
        return check_depth(json.loads(text, object_pairs_hook=_distinct, parse_constant=_no_constant))
    except json.JSONDecodeError as error:
        raise DataError(f"not JSON: {error.msg} at column {error.colno}") from None
    except ValueError as error:  # more digits in a number than Python's limit
        raise DataError(f"not JSON: {str(error).split(';')[0]}") from None
    except RecursionError:
        raise DataError(_TOO_DEEP) from None


def listed(value: Any, name: str) -> list:
    """A list that is not empty, given as itself or as JSON. Raises DataError with its `name`."""
    if isinstance(value, str):
        try:
            value = parsed(value)
        except DataError:
            value = None
    if not isinstance(value, list) or not value:
        raise DataError(f"no list `{name}`")
    return value


def parsed_part(text: str, where: str) -> Any:
    """`parsed`, its DataError beginning with `where`."""
    try:
        return parsed(text)
    except DataError as error:
        raise DataError(f"{where}: {error.message}") from None


def check_depth(value: Any) -> Any:
    """`value` itself. Raises DataError if it is nested deeper than MAX_DEPTH."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for each in level
            if isinstance(each, Mapping | list)
            for item in (each.values() if isinstance(each, Mapping) else each)
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


def _message(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping) or message.get("role") not in ROLES:
        role = message.get("role") if isinstance(message, Mapping) else message
        raise DataError(f"{where}: role {short(role)} is none of {', '.join(ROLES)}")
    given = {key: value for key, value in message.items() if value is not None}  # Arrow fills absent keys with None
    if "reasoning_content" in given:
        given.setdefault("thinking", given["reasoning_content"])
    if not isinstance(given.get("content", ""), str) or not isinstance(given.get("thinking", ""), str):
        raise DataError(f"{where}: `content` and `thinking` must be text")
    out = {key: given[key] for key in ("role", "content", "thinking", "tool_call_id") if key in given}
    if calls := _calls(given.get("tool_calls"), where):
        out["tool_calls"] = calls
    elif "content" not in out:
        raise DataError(f"{where}: neither `content` nor `tool_calls`")
    return out


def _calls(calls: Any, where: str) -> list[dict[str, Any]]:
    if isinstance(calls, str) and calls:
        calls = parsed_part(calls, f"{where}: `tool_calls`")
    if calls and not isinstance(calls, list):
        raise DataError(f"{where}: `tool_calls` is not a list")
    return [_call(call, f"{where}: call {index}") for index, call in enumerate(calls or (), 1)]


def _call(call: Any, where: str) -> dict[str, Any]:
    """One call; `{name, arguments}` alone is taken for its function."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise DataError(f"{where}: no function with a `name`")
    arguments = function.get("arguments")
    if isinstance(arguments, str) and arguments:
        arguments = parsed_part(arguments, f"{where}: `arguments`")
    if arguments and not isinstance(arguments, Mapping):
        raise DataError(f"{where}: `arguments` is not an object")
    given = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
    return {**given, "type": "function", "function": {"name": function["name"], "arguments": arguments or {}}}


def _tools(tools: Any) -> list:
    if isinstance(tools, str):
        try:
            tools = parsed(tools) if tools.strip() else None
        except DataError as error:
            raise DataError(f"`tools` is not a list: {error.message}") from None
    if tools and not isinstance(tools, list):
        raise DataError("`tools` is not a list")
    return tools or []


def _tool(tool: Any, where: str) -> dict[str, Any]:
    """One tool; `{name, description, parameters}` alone is taken for its function."""
    tool = parsed_part(tool, where) if isinstance(tool, str) else tool
    function = tool.get("function", tool) if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise DataError(f"{where}: no function with a `name`")
    function = dict(function)
    function.pop("type", None)
    if isinstance(function.get("parameters"), str):
        function["parameters"] = parsed_part(function["parameters"], f"{where}: `parameters`")
    return {"type": "function", "function": function}


def _canonical(messages: list, tools: list | None) -> bytes:
    """UTF-8 JSON with sorted keys. Raises DataError for what is neither."""
    try:
        text = json.dumps(
            check_depth({"messages": messages, "tools": tools}),
            ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False,
        )  # fmt: skip
    except (TypeError, ValueError) as error:
        raise DataError(f"a value that JSON cannot hold: {error}") from None
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"a lone surrogate or a byte that is not UTF-8: {text[error.start]!a}") from None


def _check_text(content: bytes) -> None:
    if len(content) > MAX_BYTES:
        raise DataError(f"{len(content)} bytes, more than the {MAX_BYTES} of the longest row")
    if b"\\u0000" in content.replace(b"\\\\", b""):
        raise DataError("a NUL character")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) < len(pairs):
        keys = [key for key, _ in pairs]
        raise DataError(f"key {short(next(key for key in keys if keys.count(key) > 1))} appears twice")
    return out


def _no_constant(name: str) -> None:
    raise DataError(f"not JSON: {name}")
