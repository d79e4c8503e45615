"""Conversations as Gradio's Chatbot shows them. Text of people and models is text: no HTML, no picture from outside.

Escaped here are only the few places where Markdown would let HTML or a picture in, as entities, so that copied text
stays what it was nearly always and `unescaped` is exact. The page's sanitiser and its content security policy
(`serve.ui.guard`) stand behind it.
"""

import html
import re
from collections.abc import Callable
from typing import Any

from configs.errors import TandemError
from serve.client.conversation import Conversation, Statistics, Turn
from serve.client.endpoint import Reply

LATEX = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "\\[", "right": "\\]", "display": True},
    {"left": "\\(", "right": "\\)", "display": False},
]
"""What the Chatbot shows as formulas. A single dollar is money."""

CUT_IN_THINKING = "The answer ended at its token limit while thinking: raise Max tokens, or lower the reasoning effort"

_CODE = re.compile(
    r"^[ \t>]*(?P<fence>`{3,}|~{3,})[^\n]*\n.*?(?:^[ \t>]*(?P=fence)[`~]*[ \t]*$|\Z)"
    r"|(?<![`\\])(?P<ticks>`{1,8})(?!`)(?:(?!\n[ \t]*\n).){1,2000}?(?<!`)(?P=ticks)(?!`)",
    re.MULTILINE | re.DOTALL,
)
_DIAGRAM = re.compile(r"^([ \t>]*(?:`{3,}|~{3,})[ \t]*)mermaid\b")
_UNSAFE = re.compile(r"<(?=[A-Za-z/!?])|&(?=#?\w{1,32};)|!(?=\[)|(?<=!)\[|(?<!\\)\[(?=[^\[\]\n]*!\[)")
_SAFE = re.compile(r"&(?:lt|amp|#33|#91);")
_ENTITY = {"<": "&lt;", "&": "&amp;", "!": "&#33;", "[": "&#91;"}
_CHARACTER = {entity: character for character, entity in _ENTITY.items()}


def escaped(text: str) -> str:
    """Markdown that shows tags, entities and pictures of `text` as they are written; code stays code.

    A Mermaid diagram stays its source, because the Chatbot would draw it, with the HTML in its labels.
    """
    return _changed(
        text,
        code=lambda part: _DIAGRAM.sub(r"\1text-mermaid", part),
        other=lambda part: _UNSAFE.sub(lambda found: _ENTITY[found[0]], part),
    )


def unescaped(text: str) -> str:
    """What `escaped` was given."""
    return _changed(
        text,
        code=lambda part: re.sub(r"^([ \t>]*(?:`{3,}|~{3,})[ \t]*)text-mermaid\b", r"\1mermaid", part),
        other=lambda part: _SAFE.sub(lambda found: _CHARACTER[found[0]], part),
    )


def _changed(text: str, *, code: Callable[[str], str], other: Callable[[str], str]) -> str:
    parts, end = [], 0
    for found in _CODE.finditer(text):
        parts += [other(text[end : found.start()]), code(found[0])]
        end = found.end()
    return "".join([*parts, other(text[end:])])


def messages(conversation: Conversation, *, thinking: bool, reply: Reply | None = None) -> list[dict[str, Any]]:
    """What the Chatbot shows: all turns, and `reply` below them while it is generated."""
    shown = [message for turn in conversation.turns for message in _turn(turn, thinking)]
    return shown if reply is None else shown + answer(reply, thinking=thinking)


def turn_at(conversation: Conversation, index: int, *, thinking: bool) -> int:
    """The place in `turns` of the Chatbot's message number `index`."""
    places = [place for place, turn in enumerate(conversation.turns) for _ in _turn(turn, thinking)]
    return places[index]


def answer(reply: Reply, *, thinking: bool, ended: bool = False) -> list[dict[str, Any]]:
    """An answer while it is generated; the thinking part is open until the answer proper begins.

    `ended` says that nothing more comes, even without a `finish_reason`.
    """
    ended, parts = ended or bool(reply.finish_reason), []
    if thinking and reply.thinking:
        parts.append(_thinking(reply.thinking, done=bool(reply.text or ended)))
    if reply.text or ended:
        parts.append(_said("assistant", reply.text))
    elif not parts:
        parts.append(_said("assistant", "*thinking …*" if reply.thinking else "…"))
    return parts


def _turn(turn: Turn, thinking: bool) -> list[dict[str, Any]]:
    parts = [_thinking(turn.thinking, done=True)] if thinking and turn.thinking else []
    text = turn.content if turn.role == "user" else turn.content + ("\n\n*… cut off here*" if turn.cut else "")
    return parts + [_said(turn.role, text)]


def _said(role: str, text: str) -> dict[str, Any]:
    # A list of parts, because the Chatbot dedents a bare string and shows no empty one.
    return {"role": role, "content": [{"type": "text", "text": escaped(text) or "*no answer*"}]}


def _thinking(text: str, *, done: bool) -> dict[str, Any]:
    return _said("assistant", text) | {"metadata": {"title": "Thinking", "status": "done" if done else "pending"}}


def statistics(version: str | None, numbers: Statistics) -> str:
    """One line of HTML: who answered and how fast."""
    parts = [f"<b>{html.escape(version)}</b>"] if version else []
    if numbers.completion_tokens:
        parts.append(f"{numbers.completion_tokens} tokens")
    if numbers.tokens_per_s is not None:
        parts.append(f"{numbers.tokens_per_s:.1f} tok/s")
    if numbers.first_token_s is not None:
        parts.append(f"TTFT {numbers.first_token_s:.2f} s")
    if numbers.prompt_tokens:
        parts.append(f"prompt {numbers.prompt_tokens}")
    return " · ".join(parts)


def notice(text: str) -> str:
    """A sentence to the person, as HTML; what stands in backticks is code."""
    shown = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))
    return f'<div class="notice" role="alert">{shown}</div>' if text else ""


def problem(error: TandemError, *, then: str = "") -> str:
    """An error as a notice: what happened, the next step, and `then`, what became of the text."""
    hint = f" → {error.hint}" if error.hint else ""
    said = f"{error.message}{hint}"
    stop = "" if said.endswith(("?", "!", ".")) else "."
    return notice(f"{said}{stop} {then}" if then else said)
