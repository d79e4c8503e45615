"""The items of a Responses body, `input`, as the chat messages that they stand for. Knows formats only.

Called by `responses`; `response_output` writes the items of the answer.
"""

from collections.abc import Mapping
from typing import Any

from configs.errors import RequestError


class Conversation:
    """Items of a Responses body as chat messages.

    What the model said between two words of others is one message there: reasoning, text and calls together.
    """

    def __init__(self, instructions: str | None, items: list[dict[str, Any]]) -> None:
        self.messages: list[dict[str, Any]] = []
        self.origins: list[int] = []
        """For each message the number of the item that began it."""
        if instructions:
            self._begin(0, {"role": "developer", "content": instructions})
        for index, item in enumerate(items):
            self._add(index, item)

    def _begin(self, index: int, message: dict[str, Any]) -> dict[str, Any]:
        self.messages.append(message)
        self.origins.append(index)
        return message

    def _add(self, index: int, item: Mapping[str, Any]) -> None:
        where = f"input[{index}]"
        match item.get("type", "message"):
            case "message" if item.get("role") == "assistant":
                self._say(index, "content", _text(item.get("content"), f"{where}.content"))
            case "message" if item.get("role") in ("user", "system", "developer"):
                text = _text(item.get("content"), f"{where}.content")
                self._begin(index, {"role": item["role"], "content": text})
            case "message":
                raise _refused(f"{where}.role {item.get('role')!r} is not one of user, assistant, system, developer")
            case "reasoning":
                self._say(index, "reasoning_content", _reasoning(item, where))
            case "function_call":
                function = {"name": _string(item, "name", where), "arguments": _string(item, "arguments", where)}
                calls = self._turn(index, calling=True).setdefault("tool_calls", [])
                calls.append({"id": _string(item, "call_id", where), "type": "function", "function": function})
            case "function_call_output":
                text = _text(item.get("output"), f"{where}.output")
                self._begin(index, {"role": "tool", "tool_call_id": _string(item, "call_id", where), "content": text})
            case "item_reference":
                raise _refused(f"{where} refers to a stored item", hint="no item is kept: send it whole")
            case kind:
                known = "message, reasoning, function_call, function_call_output"
                raise _refused(f"{where}.type {kind!r} is not one of {known}")

    def _say(self, index: int, field: str, text: str) -> None:
        turn = self._turn(index, calling=False)
        turn[field] = "\n\n".join(part for part in (turn.get(field), text) if part)

    def _turn(self, index: int, *, calling: bool) -> dict[str, Any]:
        """The assistant's message that goes on, or a new one: after a call only calls do."""
        last = self.messages[-1] if self.messages else {}
        if last.get("role") == "assistant" and (calling or "tool_calls" not in last):
            return last
        return self._begin(index, {"role": "assistant", "content": ""})


def _text(content: Any, where: str) -> str:
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
    parts = item.get("content") or item.get("summary") or []
    if not parts and item.get("encrypted_content"):
        raise _refused(f"{where} has encrypted reasoning only", hint="leave the item out")
    if not isinstance(parts, list) or not all(isinstance(part, Mapping) for part in parts):
        raise _refused(f"{where}.content is not a list of parts")
    return "\n\n".join(_string(part, "text", where) for part in parts)


def _string(item: Mapping[str, Any], field: str, where: str) -> str:
    value = item.get(field)
    if not isinstance(value, str):
        raise _refused(f"{where}.{field} is {value!r:.80}, not a text")
    return value


def _refused(message: str, hint: str = "") -> RequestError:
    return RequestError(message, hint=hint, param="input")
