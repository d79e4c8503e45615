"""Items as OpenAI keeps and lists them: whole, each with an id and a status. Knows formats only.

Called where items of a request are kept (`response_turn`, `conversations`) and where reasoning is written or read.
"""

import base64
import binascii
import uuid
from collections.abc import Mapping
from typing import Any

Item = dict[str, Any]

PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc", "function_call_output": "fco"}
OWN = {
    "message": ("role", "content"),
    "reasoning": ("summary", "content"),
    "function_call": ("call_id", "name", "arguments"),
    "function_call_output": ("call_id", "output"),
}
"""What an item of each type has beside `id`, `type` and `status`; nothing else is kept."""

STATES = ("in_progress", "completed", "incomplete")
SEALED = "tandem."
"""What the opaque form of our reasoning begins with."""


def is_reference(item: Mapping[str, Any]) -> bool:
    """Whether it stands for a kept item; its `type` may be left out."""
    bare = item.get("type") is None and item.get("id") is not None and set(item) <= {"id", "type"}
    return bare or item.get("type") == "item_reference"


def resource(item: Mapping[str, Any]) -> Item:
    """An item of a request, which `response_input.Conversation` has taken, as it is kept and listed."""
    kind = item.get("type") or "message"
    whole = {"id": item.get("id") or f"{PREFIXES[kind]}_{uuid.uuid4().hex}", "type": kind}
    whole["status"] = item["status"] if item.get("status") in STATES else "completed"
    whole |= {name: item[name] for name in OWN[kind] if item.get(name) is not None}
    match kind:
        case "message" if whole["role"] == "assistant":
            whole["content"] = _parts(whole["content"], {"type": "output_text", "annotations": [], "logprobs": []})
        case "message":
            whole["content"] = _parts(whole["content"], {"type": "input_text"})
        case "reasoning":
            sealed = item.get("encrypted_content")
            opened = unseal(sealed) if isinstance(sealed, str) else None
            whole["summary"] = _parts(whole.get("summary", []), {"type": "summary_text"})
            whole["content"] = _parts(whole.get("content") or opened or [], {"type": "reasoning_text"})
        case "function_call_output" if not isinstance(whole["output"], str):
            whole["output"] = _parts(whole["output"], {"type": "input_text"})
    return whole


def seal(text: str) -> str:
    """Reasoning as one opaque text, for clients that send nothing else of it back. It hides nothing."""
    return SEALED + base64.urlsafe_b64encode(text.encode()).decode()


def unseal(sealed: str) -> str | None:
    """The reasoning in what `seal` made; None for what it did not make."""
    if not sealed.startswith(SEALED):
        return None
    try:
        return base64.urlsafe_b64decode(sealed.removeprefix(SEALED)).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None


def _parts(content: str | list[Mapping[str, Any]], like: Item) -> list[Item]:
    texts = [content] if isinstance(content, str) else [part["text"] for part in content]
    return [like | {"text": text} for text in texts]
