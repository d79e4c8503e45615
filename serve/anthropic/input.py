"""The messages of an Anthropic body as the chat messages that they stand for. Knows formats only.

Called by `anthropic`; `anthropic_answer` writes what comes out.
"""

import base64
import binascii
import json
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, Literal

from pydantic import model_validator

from configs.errors import RequestError
from serve.anthropic.blocks import (
    APART,
    Block,
    RedactedThinkingBlock,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    joined,
    refuse_media,
)
from serve.openai.body import Part

ATTRIBUTION = "x-anthropic-billing-header:"
"""Begins the block of a system prompt in which Claude Code tells Anthropic, and no model, who asks."""

ELSEWHERE = {
    "user": (ThinkingBlock, RedactedThinkingBlock, ToolUseBlock),
    "assistant": (ToolResultBlock,),
    "system": (ThinkingBlock, RedactedThinkingBlock, ToolUseBlock, ToolResultBlock),
}
"""By role, the blocks that only other roles may have."""

SEALED = "tandem-text:"
"""Begins the signature of a block whose reasoning is not shown; the reasoning follows, in base64."""


class InputMessage(Part):
    """One message; `system` may come anywhere."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]

    @model_validator(mode="after")
    def _has_its_own_blocks(self) -> "InputMessage":
        for block in self.blocks:
            if isinstance(block, ELSEWHERE[self.role]):
                raise ValueError(f"{block.type} blocks do not belong into a message of role {self.role}")
        return self

    @property
    def blocks(self) -> list[Any]:
        if isinstance(self.content, list):
            return self.content
        return [TextBlock(type="text", text=self.content)]


class Conversation:
    """Anthropic's messages as chat messages. Messages of one role that follow each other are one turn, as they are
    there. Raises RequestError for images and files, and for calls and results that do not belong together."""

    def __init__(self, system: str | Iterable[TextBlock], messages: Sequence[InputMessage]) -> None:
        self.messages: list[dict[str, Any]] = []
        self.origins: list[int] = []
        """For each chat message the number of the message that began it."""
        self._open: list[str] = []
        """Calls of the last turn."""
        for index, message in enumerate(messages):
            for position, block in enumerate(message.blocks):
                refuse_media(block, f"messages[{index}].content[{position}]")
        texts = [system] if isinstance(system, str) else [block.text for block in system]
        if instructions := APART.join(text for text in texts if text and not text.startswith(ATTRIBUTION)):
            self._add(0, {"role": "system", "content": instructions})
        for role, turn in groupby(enumerate(messages), key=lambda each: each[1].role):
            indexes, said = zip(*turn, strict=True)
            blocks = [block for message in said for block in message.blocks]
            match role:
                case "assistant":
                    self._answer(indexes[0], blocks)
                case "user":
                    self._ask(indexes[0], blocks)
                case "system":
                    self._add(indexes[0], {"role": "system", "content": joined(blocks)})
        self._close(len(messages) - 1)

    def _add(self, index: int, message: dict[str, Any]) -> None:
        self.messages.append(message)
        self.origins.append(index)

    def _answer(self, index: int, blocks: list[Any]) -> None:
        self._close(index)
        calls = [block for block in blocks if isinstance(block, ToolUseBlock)]
        thoughts = [thought for block in blocks if isinstance(block, ThinkingBlock) if (thought := reasoning(block))]
        turn = {
            "content": joined(block for block in blocks if isinstance(block, TextBlock)),
            "reasoning_content": APART.join(thoughts),
            "tool_calls": [_call(block) for block in calls],
        }
        if said := {key: value for key, value in turn.items() if value}:
            self._add(index, {"role": "assistant", **said})
        self._open = [call.id for call in calls]

    def _ask(self, index: int, blocks: list[Any]) -> None:
        results = [block for block in blocks if isinstance(block, ToolResultBlock)]
        others = [block for block in blocks if not isinstance(block, ToolResultBlock)]
        for result in results:
            if result.tool_use_id not in self._open:
                raise _refused(
                    f"messages[{index}]: unexpected `tool_use_id` found in `tool_result` blocks: {result.tool_use_id}",
                    "a result answers, once, a `tool_use` block of the message before",
                )
            self._open.remove(result.tool_use_id)
            self._add(index, {"role": "tool", "tool_call_id": result.tool_use_id, "content": result.text})
        self._close(index)
        if others or not results:
            self._add(index, {"role": "user", "content": joined(others)})

    def _close(self, index: int) -> None:
        """Every call has its result by now."""
        if self._open:
            raise _refused(
                f"messages[{index}]: `tool_use` ids were found without `tool_result` blocks immediately after: "
                + ", ".join(self._open),
                "send a `tool_result` block for each in the message that follows",
            )


def seal(thought: str) -> str:
    """A signature that holds reasoning which is not shown, so that it comes back with its block."""
    return SEALED + base64.b64encode(thought.encode()).decode()


def reasoning(block: ThinkingBlock) -> str:
    """What a block says, also if only its signature does."""
    if block.thinking or not block.signature.startswith(SEALED):
        return block.thinking
    try:
        return base64.b64decode(block.signature.removeprefix(SEALED)).decode("utf-8", "replace")
    except binascii.Error:
        return ""


def _call(block: ToolUseBlock) -> dict[str, Any]:
    arguments = json.dumps(block.input, ensure_ascii=False)
    return {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": arguments}}


def _refused(message: str, hint: str) -> RequestError:
    return RequestError(message, hint=hint, param="messages")
