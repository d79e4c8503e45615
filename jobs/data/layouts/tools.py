"""Tools that a row offers, calls of them and their results, in OpenAI's shape. Knows no layouts.

Called by `jobs.data.layouts.dialogue` and `jobs.data.layouts.messages`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from configs.errors import DataError
from jobs.data.layouts import values
from jobs.data.layouts.keys import RowNotes


def offered(tools: Any, notes: RowNotes) -> list[dict[str, Any]]:
    """The tools as `{"type": "function", "function": {...}}`; the bare function, or JSON in text, will do."""
    if isinstance(tools, str):
        tools = values.without_nulls(values.unpacked(tools, "`tools`")) if tools.strip() else []
    if isinstance(tools, Mapping) and tools:
        tools = [tools]
    if tools and not isinstance(tools, list):
        raise DataError("`tools` is not a list")
    found: dict[str, dict[str, Any]] = {}
    for index, tool in enumerate(tools or (), 1):
        for each in _declared(tool):
            made = _tool(each, f"tool {index}")
            name = made["function"]["name"]
            if found.setdefault(name, made) != made:
                raise DataError(f"tool {index}: `{values.one_line(name, 60)}` is offered twice, differently")
            if found[name] is not made:
                notes.remarks.append("a tool is offered twice; once is enough")
    return [*found.values()]


def _declared(tool: Any) -> list[Any]:
    """Gemini puts several functions into one tool."""
    declared = (
        tool.get("functionDeclarations") or tool.get("function_declarations") if isinstance(tool, Mapping) else None
    )
    return declared if isinstance(declared, list) else [tool]


def _tool(tool: Any, where: str) -> dict[str, Any]:
    tool = values.unpacked(tool, where) if isinstance(tool, str) else tool
    function = tool.get("function", tool) if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise DataError(f"{where}: no function with a `name`")
    function = {key: value for key, value in function.items() if key != "type"}
    if "input_schema" in function:  # Anthropic's name
        function.setdefault("parameters", function.pop("input_schema"))
    if isinstance(function.get("parameters"), str):
        function["parameters"] = values.unpacked(function["parameters"], f"{where}: `parameters`")
    _check_schema(function.get("parameters"), where)
    return {"type": "function", "function": function}


def _check_schema(parameters: Any, where: str) -> None:
    """Raises DataError for parameters in a form of their own, which would be rendered as if there were none."""
    known = ("type", "properties", "$ref", "anyOf", "oneOf", "allOf")
    if parameters and not (isinstance(parameters, Mapping) and any(key in parameters for key in known)):
        raise DataError(f"{where}: `parameters` is not a JSON Schema of an object: it needs `type` and `properties`")


def blocks(content: Any) -> tuple[Any, list[dict[str, Any]], list[dict[str, Any]]]:
    """A message's content without Anthropic's blocks of calls and results; the calls; the results as messages."""
    if not isinstance(content, list):
        return content, [], []
    kinds = [part.get("type") if isinstance(part, Mapping) else None for part in content]
    rest = [part for part, kind in zip(content, kinds, strict=True) if kind not in ("tool_use", "tool_result")]
    made = [part for part, kind in zip(content, kinds, strict=True) if kind == "tool_use"]
    results = [
        {"role": "tool", "tool_call_id": part.get("tool_use_id"), "content": part.get("content", "")}
        for part, kind in zip(content, kinds, strict=True)
        if kind == "tool_result"
    ]
    return rest, made, results


def calls(given: list[Any], where: str) -> list[dict[str, Any]]:
    return [_call(call, f"{where}: call {index}") for index, call in enumerate(given, 1)]


def _call(call: Any, where: str) -> dict[str, Any]:
    """One call; `{name, arguments}` alone is taken for its function."""
    call = values.unpacked(call, where) if isinstance(call, str) and call.lstrip()[:1] == "{" else call
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise DataError(f"{where}: no function with a `name`")
    arguments = next((function[key] for key in ("arguments", "parameters", "input") if key in function), None)
    if isinstance(arguments, str) and arguments.strip():
        arguments = values.unpacked(arguments, f"{where}: `arguments`")
        if isinstance(arguments, str):  # JSON in JSON
            arguments = values.unpacked(arguments, f"{where}: `arguments`")
    if arguments and not isinstance(arguments, Mapping):
        raise DataError(f"{where}: `arguments` is not an object")
    given = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
    return {**given, "type": "function", "function": {"name": function["name"], "arguments": arguments or {}}}


def with_results(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages, in which results that name their tool, and no call, answer that tool's call.

    Raises DataError for the result of a tool that was not called.
    """
    out: list[dict[str, Any]] = []
    open_calls: list[dict[str, Any]] = []
    for number, message in enumerate(messages, 1):
        name = str(message.pop("name", "")).removeprefix("functions.")
        if message["role"] != "tool":
            open_calls = [*message.get("tool_calls", ())]
        elif name and "tool_call_id" not in message and open_calls:
            called = [call["function"]["name"] for call in open_calls]
            if name not in called:
                raise DataError(f"message {number}: the result of {values.short(name)}, which is not called")
            call = open_calls.pop(called.index(name))
            if called[0] != name:  # without an id results are taken in the order of the calls
                message["tool_call_id"] = call.setdefault("id", f"call_{number}")
        out.append(message)
    return out


def not_offered(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> Iterator[str]:
    """Names of tools that are called and not offered, each once."""
    names = {tool["function"]["name"] for tool in tools}
    for message in messages:
        for call in message.get("tool_calls", ()):
            if (name := call["function"]["name"]) not in names:
                names.add(name)
                yield name
