"""A conversation in OpenAI's shape as the ids of a prompt, by the tokenizer's own chat template.

`render` shields what people wrote, lets the template write and encodes; the rest brings messages and tools into the
shape that the template expects and refuses what it cannot express. Knows nothing of generated tokens.
"""

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from configs.errors import RequestError
from models.harmony.tokens import END, MESSAGE, START, vocabulary_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REASONING_EFFORTS = ("low", "medium", "high")


def render(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    reasoning_effort: str = "medium",
    response_format: str | None = None,
    current_date: date | None = None,
    add_generation_prompt: bool = True,
    most_tokens: int | None = None,
    answered: bool = False,
) -> list[int]:
    """Token ids of an OpenAI-shaped conversation, by the tokenizer's own chat template.

    `current_date` reaches templates that read a `current_date` variable and those that call `strftime_now`; None
    leaves the date to the template, and OpenAI's own then states today's: pass one wherever the ids have to be the
    same tomorrow. `response_format`, from `describe_format`, goes to the end of the developer message. Text that
    spells a special token inside a message, a tool description or tool arguments is encoded as plain text and never
    becomes that token. With `add_generation_prompt` the ids end in `<|start|>assistant`, which is where StreamParser
    begins; with `answered` every call needs the tool message that has its result.

    Raises RequestError, with `param` "messages" or "tools", for a conversation that the template cannot express, or
    that surely has more than `most_tokens`; one that may have fewer is not counted.
    """
    pinned = {"current_date": current_date.isoformat(), "strftime_now": current_date.strftime} if current_date else {}
    vocabulary = vocabulary_of(tokenizer)
    shield = secrets.token_hex(8)
    conversation = _template_messages(messages, answered)
    declared = [_template_tool(index, tool) for index, tool in enumerate(tools or ())]
    try:
        text = tokenizer.apply_chat_template(
            vocabulary.shielded(conversation, shield),
            tools=vocabulary.shielded(declared, shield) or None,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            reasoning_effort=reasoning_effort,
            **pinned,
        )
    except Exception as error:
        raise RequestError(f"the chat template refused the conversation: {error}", param="messages") from error
    if response_format:
        text = _with_format(text, vocabulary.shielded(response_format, shield))
    return vocabulary.encode(text, shield, most_tokens)


def describe_format(name: str, description: str, schema: Mapping[str, Any]) -> str:
    """How harmony tells the model what its final message has to be: a JSON Schema under a name."""
    comment = f"// {description}\n" if description else ""
    return f"# Response Formats\n\n## {name}\n\n{comment}{json.dumps(schema, ensure_ascii=False)}"


def _with_format(text: str, response_format: str) -> str:
    """A rendered conversation with one more section in the developer message; the template knows no such section."""
    before, developer, after = text.partition(f"{START}developer{MESSAGE}")
    if not developer:
        system, end, after = text.partition(END)
        return f"{system}{end}{START}developer{MESSAGE}{response_format}{END}{after}"
    body, end, after = after.partition(END)
    return f"{before}{developer}{body.rstrip()}\n\n{response_format}{end}{after}"


def _template_messages(messages: Sequence[Mapping[str, Any]], answered: bool) -> list[dict[str, Any]]:
    """The conversation as the template wants it: one instruction message, one call per message, text as strings."""
    if not messages:
        raise RequestError("messages is empty", param="messages")
    instructions, rest = _leading_instructions(messages)
    out = [{"role": "developer", "content": "\n\n".join(instructions)}] if instructions else []
    index = rest
    while index < len(messages):
        message = messages[index]
        match message.get("role"):
            case "user":
                out.append({"role": "user", "content": _text(message.get("content"), f"messages[{index}]")})
            case "assistant" if message.get("tool_calls"):
                answers = _answers(messages, index)
                out.extend(_calls(message, index, answers, answered))
                index += len(answers)
            case "assistant":
                out.append(_assistant(message, index))
            case "tool":
                raise _refused(index, "a tool message without a preceding assistant message with tool_calls")
            case "system" | "developer":
                raise _refused(index, "system and developer messages have to come first")
            case role:
                raise _refused(index, f"role {role!r} is not one of system, developer, user, assistant, tool")
        index += 1
    return out


def _leading_instructions(messages: Sequence[Mapping[str, Any]]) -> tuple[list[str], int]:
    """Texts of the system and developer messages that open the conversation, and the index of the first other one."""
    texts: list[str] = []
    for index, message in enumerate(messages):
        if message.get("role") not in ("system", "developer"):
            return [text for text in texts if text], index
        texts.append(_text(message.get("content"), f"messages[{index}]"))
    return [text for text in texts if text], len(messages)


def _assistant(message: Mapping[str, Any], index: int) -> dict[str, Any]:
    plain = {"role": "assistant", "content": _text(message.get("content"), f"messages[{index}]")}
    thinking = _thinking(message, index)
    return {**plain, "thinking": thinking} if thinking else plain


def _thinking(message: Mapping[str, Any], index: int) -> str:
    said = message.get("thinking") or message.get("reasoning_content") or message.get("reasoning")
    return _text(said, f"messages[{index}]")


def _answers(messages: Sequence[Mapping[str, Any]], index: int) -> list[tuple[int, Mapping[str, Any]]]:
    """The tool messages that directly follow message `index`, each with its own index."""
    found = []
    for later in range(index + 1, len(messages)):
        if messages[later].get("role") != "tool":
            break
        found.append((later, messages[later]))
    return found


def _calls(
    message: Mapping[str, Any], index: int, answers: list[tuple[int, Mapping[str, Any]]], answered: bool
) -> list[dict[str, Any]]:
    """One assistant message per call, each followed by its answer; the template renders a message's first call only.

    Answers are matched by `tool_call_id`, those without one by order. Text beside the calls joins the reasoning:
    that is how the template itself renders the content of a message with calls.
    """
    left = list(answers)
    thinking = "\n\n".join(
        part for part in (_thinking(message, index), _text(message.get("content"), f"messages[{index}]")) if part
    )
    out: list[dict[str, Any]] = []
    calls = message["tool_calls"]
    if not isinstance(calls, list | tuple) or not all(isinstance(call, Mapping) for call in calls):
        raise _refused(index, "tool_calls is not a list of calls")
    for position, call in enumerate(calls):
        function = _template_call(call, f"messages[{index}].tool_calls[{position}]")
        out.append({"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]})
        if thinking and position == 0:
            out[0]["thinking"] = thinking
        answer = next((item for item in left if item[1].get("tool_call_id") in (None, call.get("id"))), None)
        if answer:
            left.remove(answer)
            out.append({"role": "tool", "content": _text(answer[1].get("content"), f"messages[{answer[0]}]")})
    if left:
        wrong, answer = left[0]
        raise _refused(wrong, f"tool_call_id {answer.get('tool_call_id')!r} matches no call of messages[{index}]")
    if answered and len(answers) < len(calls):
        counted = f"tool_calls holds {len(calls)}, and tool messages with a result that follow are {len(answers)}"
        raise _refused(index, counted, hint="send one for each call, with the call's id as tool_call_id")
    return out


def _template_call(call: Mapping[str, Any], where: str) -> dict[str, Any]:
    function = call.get("function")
    if call.get("type", "function") != "function" or not isinstance(function, Mapping):
        raise RequestError(f"{where}: only calls of type 'function' are supported", param="messages")
    arguments = function.get("arguments") or "{}"
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"{where}.function.arguments is not JSON: {error}", param="messages") from error
    return {"name": _name(function.get("name"), f"{where}.function", "messages"), "arguments": arguments}


def _template_tool(index: int, tool: Mapping[str, Any]) -> dict[str, Any]:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping) or tool.get("type") != "function":
        raise RequestError(f"tools[{index}]: only tools of type 'function' are supported", param="tools")
    name = _name(function.get("name"), f"tools[{index}].function", "tools")
    return {
        "type": "function",
        "function": {**function, "name": name, "description": function.get("description") or ""},
    }


def _name(name: Any, where: str, param: str) -> str:
    """A function name that survives as a recipient in a message header."""
    if not isinstance(name, str) or not re.fullmatch(r"[\w.\-]{1,64}", name, re.ASCII):
        raise RequestError(f"{where}.name {name!r} is not 1 to 64 letters, digits, '_', '-' or '.'", param=param)
    return name


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
