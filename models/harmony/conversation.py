"""A conversation in OpenAI's shape as harmony's messages: who said what to whom, in which channel.

`read` puts every call beside its result and refuses what the format cannot express. Knows neither tokens nor tools'
schemas. Called by `rendering`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from configs.errors import RequestError
from models.harmony.tokens import ANALYSIS, COMMENTARY, FINAL

ASSISTANT, DEVELOPER, USER = "assistant", "developer", "user"


@dataclass(frozen=True)
class PromptMessage:
    """One message of a prompt."""

    author: str
    """ASSISTANT, DEVELOPER, USER, or the function whose result it is, such as `functions.get_weather`."""
    text: str
    """Of a developer message the instructions alone."""
    channel: str | None = None
    recipient: str | None = None
    """The function that is called; the assistant, for a result; None is everybody."""

    @property
    def is_call(self) -> bool:
        return self.author == ASSISTANT and self.recipient is not None


def read(messages: Sequence[Mapping[str, Any]], *, answered: bool = False) -> list[PromptMessage]:
    """The messages that `messages` stand for, in order; the instructions that open them as one.

    An assistant's message gives its reasoning, its text and its calls, each followed by its result: that is how the
    model goes on. Text beside calls is a preamble in commentary, other text the answer. Arguments given as text stay as
    they are. With `answered` every call needs the tool message that has its result. Raises RequestError with `param`
    "messages".
    """
    if not messages:
        raise RequestError("messages is empty", param="messages")
    instructions, index = _opening(messages)
    out = [PromptMessage(DEVELOPER, instructions)] if instructions else []
    while index < len(messages):
        message = messages[index]
        match message.get("role"):
            case "user":
                out.append(PromptMessage(USER, _text(message.get("content"), f"messages[{index}]")))
            case "system" | "developer":
                out += _instructions(message, index)
            case "assistant" if message.get("tool_calls"):
                said, index = _calls(messages, index, answered)
                out += said
                continue
            case "assistant":
                out += _answer(message, index)
            case "tool":
                raise _refused(index, "a tool message without a preceding assistant message with tool_calls")
            case role:
                raise _refused(index, f"role {role!r} is not one of system, developer, user, assistant, tool")
        index += 1
    return out


def checked_name(name: Any, where: str, param: str) -> str:
    """A function's name that a message's header can hold as recipient. Raises RequestError."""
    if not isinstance(name, str) or not re.fullmatch(r"[\w.\-]{1,128}", name, re.ASCII):
        raise RequestError(f"{where}.name {name!r} is not 1 to 128 letters, digits, '_', '-' or '.'", param=param)
    return name


def _opening(messages: Sequence[Mapping[str, Any]]) -> tuple[str, int]:
    """The system and developer messages that open the conversation, as one text, and the index of the first other."""
    texts: list[str] = []
    for index, message in enumerate(messages):
        if message.get("role") not in ("system", "developer"):
            break
        texts.append(_text(message.get("content"), f"messages[{index}]"))
    else:
        index = len(messages)
    return "\n\n".join(filter(None, texts)), index


def _instructions(message: Mapping[str, Any], index: int) -> list[PromptMessage]:
    text = _text(message.get("content"), f"messages[{index}]")
    return [PromptMessage(DEVELOPER, text)] if text else []


def _answer(message: Mapping[str, Any], index: int) -> list[PromptMessage]:
    reasoning, text = _reasoning(message, index), _text(message.get("content"), f"messages[{index}]")
    out = [PromptMessage(ASSISTANT, reasoning, ANALYSIS)] if reasoning else []
    return out if reasoning and not text else [*out, PromptMessage(ASSISTANT, text, FINAL)]


def _reasoning(message: Mapping[str, Any], index: int) -> str:
    said = message.get("thinking") or message.get("reasoning_content") or message.get("reasoning")
    return _text(said, f"messages[{index}]")


def _calls(messages: Sequence[Mapping[str, Any]], index: int, answered: bool) -> tuple[list[PromptMessage], int]:
    """What message `index` says, each call with its result behind it, and the index of what comes after the results.

    Results are matched by `tool_call_id`, those without one by order. Instructions stand before the result that they
    stood before.
    """
    message, calls = messages[index], messages[index]["tool_calls"]
    if not isinstance(calls, list | tuple) or not all(isinstance(call, Mapping) for call in calls):
        raise _refused(index, "tool_calls is not a list of calls")
    reasoning, text = _reasoning(message, index), _text(message.get("content"), f"messages[{index}]")
    out = [PromptMessage(ASSISTANT, reasoning, ANALYSIS)] if reasoning else []
    out += [PromptMessage(ASSISTANT, text, COMMENTARY)] if text else []
    results, after = _results(messages, index + 1)
    left = list(results)
    for position, call in enumerate(calls):
        out.append(_call(call, f"messages[{index}].tool_calls[{position}]"))
        found = next((at for at in left if messages[at].get("tool_call_id") in (None, call.get("id"))), None)
        if found is not None:
            left.remove(found)
            before = [said for at in results[found] for said in _instructions(messages[at], at)]
            result = _text(messages[found].get("content"), f"messages[{found}]")
            out += [*before, PromptMessage(out[-1].recipient, result, COMMENTARY, ASSISTANT)]
    if left:
        wrong = messages[left[0]].get("tool_call_id")
        raise _refused(left[0], f"tool_call_id {wrong!r} matches no call of messages[{index}]")
    if answered and len(results) < len(calls):
        counted = f"tool_calls holds {len(calls)}, and tool messages with a result that follow are {len(results)}"
        raise _refused(index, counted, hint="send one for each call, with the call's id as tool_call_id")
    return out, after


def _results(messages: Sequence[Mapping[str, Any]], start: int) -> tuple[dict[int, list[int]], int]:
    """Where the tool messages from `start` on are, each with the instructions before it, and what comes after."""
    found: dict[int, list[int]] = {}
    before: list[int] = []
    after = start
    for index in range(start, len(messages)):
        match messages[index].get("role"):
            case "tool":
                found[index], before, after = before, [], index + 1
            case "system" | "developer":
                before.append(index)
            case _:
                break
    return found, after


def _call(call: Mapping[str, Any], where: str) -> PromptMessage:
    function = call.get("function")
    if call.get("type", "function") != "function" or not isinstance(function, Mapping):
        raise RequestError(f"{where}: only calls of type 'function' are supported", param="messages")
    name = function.get("name")
    if not isinstance(name, str) or not re.fullmatch(r"[\w.\-]+", name):  # longer or foreign if a model invented it
        raise RequestError(f"{where}.function.name {name!r} is not letters, digits, '_', '-' or '.'", param="messages")
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        arguments = json.dumps({} if arguments is None else arguments, ensure_ascii=False)
    return PromptMessage(ASSISTANT, arguments, COMMENTARY, f"functions.{name}")


def _text(content: Any, where: str) -> str:
    """Message content as one string: text parts are joined, None is empty."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list | tuple):
        raise RequestError(f"{where}.content is neither text nor a list of parts", param="messages")
    for index, part in enumerate(content):
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise RequestError(
                f"{where}.content[{index}]: {kind!r} parts are not supported, only text", param="messages"
            )
    return "".join(part["text"] for part in content)


def _refused(index: int, reason: str, hint: str = "") -> RequestError:
    return RequestError(f"messages[{index}]: {reason}", hint=hint, param="messages")
