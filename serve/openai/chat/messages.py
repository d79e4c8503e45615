"""The messages of a chat body: the keys that each role may have, refused by name otherwise. Knows formats only.

What clients echo of earlier answers passes, and so does null, which stands for nothing. Called by `chat`; the chat
format itself (order, calls and their results, kinds of parts) is `models.harmony`'s to refuse.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from configs.errors import RequestError

CACHED = frozenset({"cache_control", "prompt_cache_breakpoint"})
"""Where an answer's prompt may be cached: no effect."""

REASONING = ("reasoning_content", "reasoning", "thinking")
"""Names of an earlier answer's reasoning: DeepSeek's, which is also ours, vLLM's newer one and the chat template's."""

ECHOED = ("parsed", "provider_specific_fields")
"""What clients add to an answer that they send back: OpenAI's reads it into objects, LiteLLM's proxy repeats the
server's own fields. No effect."""

CONTENT = frozenset({"role", "content", "name"}) | CACHED
"""`name` has no effect: the chat format has no place for it."""

KEYS = {
    "system": CONTENT,
    "developer": CONTENT,
    "user": CONTENT,
    "assistant": CONTENT | {"tool_calls", *ECHOED, *REASONING},
    "tool": CONTENT | {"tool_call_id"},
}
"""By role; in a function, `parsed_arguments` says again what OpenAI's client has read: no effect."""

PART = frozenset({"type", "text"}) | CACHED
CALL = frozenset({"id", "type", "function", "index"})
FUNCTION = frozenset({"name", "arguments", "parsed_arguments"})

NEUTRAL: dict[str, tuple[object, ...]] = {"annotations": ([],)}
"""Keys of an assistant message that are not supported, with the values that ask for nothing."""

INSTEAD = {
    "function_call": "send the call in tool_calls and its result in a tool message",
    "refusal": "send it as content",
}
"""What to do about a key that is refused."""


def check(messages: Iterable[Mapping[str, Any]]) -> None:
    """Raises RequestError, with `param` "messages", for a key that would be ignored and for a message without content.

    Messages of other roles are left to `models.harmony`, which refuses them.
    """
    for index, message in enumerate(messages):
        role = message.get("role")
        if isinstance(role, str) and role in KEYS:
            _check(message, role, f"messages[{index}]")


def _check(message: Mapping[str, Any], role: str, where: str) -> None:
    known = {key: value for key, value in message.items() if value not in NEUTRAL.get(key, ())}
    _only(known, KEYS[role], where)
    if role == "assistant":
        _check_assistant(message, where)
    elif message.get("content") in (None, []):
        raise _refused(f"{where}.content is missing", "send a text")
    if isinstance(message.get("content"), list):
        for index, part in enumerate(message["content"]):
            if isinstance(part, Mapping) and part.get("type") == "text":
                _only(part, PART, f"{where}.content[{index}]")


def _check_assistant(message: Mapping[str, Any], where: str) -> None:
    for key in REASONING:
        if not isinstance(message.get(key), str | None):
            raise _refused(f"{where}.{key} is not a text", "send the reasoning as it came")
    calls = message.get("tool_calls")
    if not isinstance(calls, list | None):
        raise _refused(f"{where}.tool_calls is not a list of calls", "send the calls as they came")
    if message.get("content") in (None, []) and not calls and not any(map(message.get, REASONING)):
        raise _refused(f"{where} says nothing", "give it content or tool_calls, or leave it out")
    for index, call in enumerate(calls or ()):
        if isinstance(call, Mapping):
            _only(call, CALL, f"{where}.tool_calls[{index}]")
            if isinstance(call.get("function"), Mapping):
                _only(call["function"], FUNCTION, f"{where}.tool_calls[{index}].function")


def _only(given: Mapping[str, Any], known: frozenset[str], where: str) -> None:
    for key, value in given.items():
        if value is not None and key not in known:
            raise _refused(f"{where}.{key} is not supported", INSTEAD.get(key, "leave it out"))


def _refused(message: str, hint: str) -> RequestError:
    return RequestError(message, hint=hint, param="messages")
