"""The items of a Responses body, `input`, as the chat messages that they stand for. Knows formats only.

Called by `response_turn` and `conversations`; `response_output` writes the items of the answer.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from configs.errors import RequestError
from serve.openai.responses.items import Item, unseal


class Conversation:
    """Items of a Responses body as chat messages.

    What the model said between two words of others is one message there: reasoning, text and calls together.
    """

    def __init__(self, instructions: str | None, earlier: Iterable[Item], items: Iterable[Item]) -> None:
        """`earlier` are kept items that come before those of the body. Raises RequestError for what is not text."""
        self.messages: list[dict[str, Any]] = []
        self.origins: list[str] = []
        """For each message the item that began it, as errors name it."""
        if instructions:
            self._begin("instructions", {"role": "developer", "content": instructions})
        for item in earlier:
            self._add(f"the earlier item {item.get('id')}", item)
        for index, item in enumerate(items):
            self._add(f"input[{index}]", item)

    def _begin(self, where: str, message: dict[str, Any]) -> dict[str, Any]:
        self.messages.append(message)
        self.origins.append(where)
        return message

    def _add(self, where: str, item: Mapping[str, Any]) -> None:
        if item.get("id") is not None:
            _string(item, "id", where)
        match "message" if item.get("type") is None else item["type"]:
            case "message" if item.get("role") == "assistant":
                self._say(where, "content", _text(item.get("content"), f"{where}.content"))
            case "message" if item.get("role") in ("user", "system", "developer"):
                text = _text(item.get("content"), f"{where}.content")
                self._begin(where, {"role": item["role"], "content": text})
            case "message" if item.get("role") is None:
                raise _refused(f"{where}.role is missing", hint="say user, assistant, system or developer")
            case "message":
                raise _refused(f"{where}.role {item.get('role')!r} is not one of user, assistant, system, developer")
            case "reasoning":
                self._say(where, "reasoning_content", _reasoning(item, where))
            case "function_call":
                function = {"name": _name(item, where), "arguments": _string(item, "arguments", where)}
                calls = self._turn(where, calling=True).setdefault("tool_calls", [])
                calls.append({"id": _string(item, "call_id", where), "type": "function", "function": function})
            case "function_call_output":
                text = _text(item.get("output"), f"{where}.output")
                self._begin(where, {"role": "tool", "tool_call_id": _string(item, "call_id", where), "content": text})
            case "item_reference":
                raise _refused(f"{where} refers to a kept item", hint="send it whole")
            case kind:
                known = "message, reasoning, function_call, function_call_output"
                raise _refused(f"{where}.type {kind!r} is not one of {known}")

    def _say(self, where: str, field: str, text: str) -> None:
        turn = self._turn(where, calling=False)
        turn[field] = "\n\n".join(part for part in (turn.get(field), text) if part)

    def _turn(self, where: str, *, calling: bool) -> dict[str, Any]:
        """The assistant's message that goes on, or a new one: after a call only calls do."""
        last = self.messages[-1] if self.messages else {}
        if last.get("role") == "assistant" and (calling or "tool_calls" not in last):
            return last
        return self._begin(where, {"role": "assistant", "content": ""})


def _text(content: object, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise _refused(f"{where} is neither text nor a list of parts")
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        if kind not in ("input_text", "output_text", "text") or not isinstance(part.get("text"), str):
            raise _refused(f"{where}[{index}]: {kind!r} parts are not supported, only text")
    return "".join(part["text"] for part in content)


def _reasoning(item: Mapping[str, Any], where: str) -> str:
    """The reasoning of an item, its summary if there is nothing else."""
    content, summary = (_reasoning_texts(item, name, where) for name in ("content", "summary"))
    sealed = None if item.get("encrypted_content") is None else _string(item, "encrypted_content", where)
    if content or summary or not sealed:
        return "\n\n".join(content or summary)
    if (text := unseal(sealed)) is None:
        raise _refused(f"{where} has reasoning that was encrypted elsewhere", hint="leave the item out")
    return text


def _reasoning_texts(item: Mapping[str, Any], name: str, where: str) -> list[str]:
    parts = [] if item.get(name) is None else item[name]
    if not isinstance(parts, list) or not all(isinstance(part, Mapping) for part in parts):
        raise _refused(f"{where}.{name} is not a list of parts")
    return [_string(part, "text", where) for part in parts]


def _string(item: Mapping[str, Any], field: str, where: str) -> str:
    value = item.get(field)
    if not isinstance(value, str):
        raise _refused(f"{where}.{field} is {value!r:.80}, not a text")
    return value


def _name(item: Mapping[str, Any], where: str) -> str:
    """A called function's, as `models.harmony` takes it."""
    name = _string(item, "name", where)
    if not re.fullmatch(r"[\w.\-]+", name):
        raise _refused(f"{where}.name {name!r} is not letters, digits, '_', '-' or '.'")
    return name


def _refused(message: str, hint: str = "") -> RequestError:
    return RequestError(message, hint=hint, param="input")
