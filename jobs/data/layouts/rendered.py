"""Text that a chat template has written, back as the messages that it was written from.

`turns` reads the harmony messages of one text, `conversation` a whole chat of harmony or of a template that closes each
message with a token of its own. Where that is not exact, the text is refused. Knows no rows. Called by
`jobs.data.layouts.markup` and `jobs.data.layouts.formats`.
"""

import re
from dataclasses import dataclass
from typing import Any

from configs.errors import DataError
from jobs.data.layouts import keys
from models.harmony import CALL, CHANNEL, CONSTRAIN, END, MESSAGE, RETURN, START

HARMONY = (START, END, MESSAGE, CHANNEL, CONSTRAIN, RETURN, CALL)
_ENDS = re.compile("|".join(map(re.escape, (END, RETURN, CALL))))
_HEADER = re.compile(
    rf"(?:{re.escape(START)}(?P<role>[\w.\-]+))?(?:\s*to=(?P<to>[\w.\-]+))?"
    rf"(?:{re.escape(CHANNEL)}\s*(?P<channel>analysis|commentary|final)(?:\s+to=(?P<late>[\w.\-]+))?)?"
    rf"\s*(?:(?:{re.escape(CONSTRAIN)})?\s*\w+)?{re.escape(MESSAGE)}"
)


@dataclass(frozen=True)
class Turn:
    """One message of harmony."""

    role: str
    channel: str | None
    recipient: str | None
    text: str
    end: str
    """The token that closes it; empty where the text ends instead."""


def turns(text: str) -> list[Turn] | None:
    """The harmony messages that `text` consists of, the first perhaps without its `<|start|>assistant`; None if it does
    not consist of such messages alone."""
    text = text.strip()
    found: list[Turn] = []
    position = 0
    while position < len(text):
        header = _HEADER.match(text, position)
        if header is None or (found and header["role"] is None):
            return None
        close = _ENDS.search(text, header.end())
        body = text[header.end() : close.start() if close else len(text)]
        if any(token in body for token in HARMONY):
            return None
        recipient = header["to"] or header["late"]
        found.append(Turn(header["role"] or "assistant", header["channel"], recipient, body, close[0] if close else ""))
        position = close.end() if close else len(text)
        while text[position : position + 1].isspace():
            position += 1
    return found


@dataclass(frozen=True)
class _Template:
    """A chat format in which every message has a header with its role and an end."""

    name: str
    header: re.Pattern
    ends: tuple[str, ...]


_TEMPLATES = (
    _Template("ChatML", re.compile(r"<\|im_start\|>(\w+)\n"), ("<|im_end|>",)),
    _Template("Llama 3", re.compile(r"<\|start_header_id\|>(\w+)<\|end_header_id\|>\n\n"), ("<|eot_id|>",)),
    _Template("Gemma", re.compile(r"<start_of_turn>(\w+)\n"), ("<end_of_turn>",)),
    _Template("Zephyr or Phi", re.compile(r"<\|(system|user|assistant)\|>\n"), ("</s>", "<|end|>", "<|endoftext|>")),
)
_SPOKEN = (
    ("Alpaca", re.compile(r"^### (Instruction|Input|Response):[ ]*\n?", re.MULTILINE)),
    ("### Human", re.compile(r"### ?(System|Human|Assistant): ?")),
    ("Human and Assistant", re.compile(r"(?:\A|\n\n)(System|Human|Assistant): ?")),
)
"""Formats whose turns begin with a word, which any text may hold: taken apart only if they alternate."""
_PREAMBLE = re.compile(r"\s*(Below is an instruction that describes a task\b.*)?\s*", re.DOTALL)
"""What Alpaca's template writes before the first turn."""
_INST = re.compile(
    r"\s*(?:<s>)?\s*\[INST\]\s*(?:<<SYS>>\n?(.*?)\n?<</SYS>>\s*)?(.*?)\s*\[/INST\](.*?)(?:</s>|\Z)", re.DOTALL
)
"""One turn of Llama 2 and Mistral: system, question, answer."""
BEGINNINGS = ("<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>", "<|endoftext|>")
"""What templates write before the first message."""
_SYSTEM = re.compile(r"You are ChatGPT, a large language model trained by OpenAI\.\nKnowledge cutoff:")
_INSTRUCTIONS = "# Instructions\n\n"


def begins(text: str) -> bool:
    """Whether `text` begins with a token that opens a message in some template."""
    text = _without_beginning(text)
    return text.startswith(START) or any(template.header.match(text) for template in _TEMPLATES)


def conversation(text: str) -> tuple[str, list[dict[str, Any]]] | None:
    """(template's name, messages) of a rendered chat; None for a text that does not begin like one.

    Harmony's system message is left out, because the run writes its own. Raises DataError for a chat that cannot be
    taken apart exactly.
    """
    text = _without_beginning(text)
    if text.startswith(START):
        return "harmony", _harmony(text)
    for template in _TEMPLATES:
        if template.header.match(text):
            return template.name, _split(text, template)
    if text.startswith("[INST]"):
        return "Llama 2 or Mistral", _instructed(text)
    for name, header in _SPOKEN:
        first = header.search(text)
        if first and _PREAMBLE.fullmatch(text[: first.start()]):
            return name, _spoken(text, header, name)
    return None


def _without_beginning(text: str) -> str:
    text = text.strip()
    while mark := next((each for each in BEGINNINGS if text.startswith(each)), None):
        text = text[len(mark) :].lstrip()
    return text


def _harmony(text: str) -> list[dict[str, Any]]:
    found = turns(text)
    if found is None:
        raise DataError("the rendered chat cannot be taken apart exactly: give `messages`")
    messages: list[dict[str, Any]] = []
    for turn in found:
        tools = turn.recipient or turn.role not in keys.ROLES or "\n# Tools\n" in f"\n{turn.text}"
        if tools and turn.role != "user":
            raise DataError("the rendered chat has tools, which cannot be read back: give `messages` and `tools`")
        if turn.role == "developer":
            messages.append({"role": "developer", "content": turn.text.removeprefix(_INSTRUCTIONS).strip()})
        elif turn.role == "assistant":
            messages.append({"role": "assistant", "channel": turn.channel or "final", "content": turn.text})
        elif turn.role != "system" or not _SYSTEM.match(turn.text):
            messages.append({"role": turn.role, "content": turn.text})
    return messages


def _split(text: str, template: _Template) -> list[dict[str, Any]]:
    headers = list(template.header.finditer(text))
    messages = []
    for index, header in enumerate(headers):
        last = index + 1 == len(headers)
        body = text[header.end() : len(text) if last else headers[index + 1].start()].strip()
        end = next((each for each in template.ends if body.endswith(each)), None)
        body = body.removesuffix(end) if end else body
        if (end is None and not last) or any(each in body for each in template.ends):
            raise DataError(f"the chat rendered for {template.name} cannot be taken apart exactly: give `messages`")
        if last and end is None and not body:  # the prompt of an answer that is not there
            continue
        messages.append({"role": header[1], "content": body.strip()})
    return messages


def _instructed(text: str) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    position = 0
    while position < len(text):
        turn = _INST.match(text, position)
        if turn is None or "[INST]" in turn[3] or "[/INST]" in turn[3]:
            raise DataError("the chat rendered for Llama 2 or Mistral cannot be taken apart exactly: give `messages`")
        if turn[1]:
            messages.append({"role": "system", "content": turn[1].strip()})
        messages.append({"role": "user", "content": turn[2]})
        messages.append({"role": "assistant", "content": turn[3].strip()})
        position = turn.end()
        while text[position : position + 1].isspace():
            position += 1
    return messages


def _spoken(text: str, header: re.Pattern, name: str) -> list[dict[str, Any]]:
    """Raises DataError unless the user and the assistant take turns, the assistant last."""
    headers = list(header.finditer(text))
    messages: list[dict[str, Any]] = []
    for index, found in enumerate(headers):
        stop = headers[index + 1].start() if index + 1 < len(headers) else len(text)
        role, body = _WORDS[found[1].lower()], text[found.end() : stop].strip()
        if role == "input" and messages and messages[-1]["role"] == "user":
            messages[-1]["content"] += f"\n\n{body}" if body else ""
        else:
            messages.append({"role": role, "content": body})
    roles = [message["role"] for message in messages]
    turns = roles[roles[0] == "system" :]
    if not turns or turns != ["user", "assistant"] * (len(turns) // 2):
        raise DataError(f"the text looks rendered ({name}), and its turns do not alternate: give `messages`")
    return messages


_WORDS = {
    "system": "system", "instruction": "user", "human": "user", "input": "input", "response": "assistant",
    "assistant": "assistant",
}  # fmt: skip
