"""Questions for a model and what its answers are worth: is the format right, is it what was expected.

Knows chat messages and generated token ids, no endpoint. Called by `jobs.evaluation.judge`.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from configs.errors import DataError
from jobs.data import masking
from jobs.data.layouts import expectation
from jobs.data.layouts.dialogue import Dialogue
from jobs.data.masking import Marks
from models import harmony

Source = Literal["built-in", "file", "rows"]

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@dataclass(frozen=True)
class Question:
    """One conversation that waits for the assistant."""

    source: Source
    where: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] = field(default_factory=list)
    expect: dict[str, Any] = field(default_factory=dict)
    """See `jobs.data.layouts.expectation`; empty where nothing is known."""

    @property
    def text(self) -> str:
        """What was asked last."""
        return self.messages[-1].get("content") or ""


@dataclass(frozen=True)
class Answer:
    """What a model made of a question."""

    text: str
    reasoning: str
    calls: list[dict[str, str]]
    """`{"name", "arguments"}`, arguments as they were written."""
    problems: list[str]
    """What is wrong with the format; nothing is what one hopes for."""
    matched: bool | None
    """As expected; None where nothing is."""
    tokens: int
    finish_reason: str


def _asked(where: str, text: str, **more: Any) -> Question:
    return Question("built-in", where, [{"role": "user", "content": text}], **more)


BUILT_IN = (
    _asked("who", "Who are you? Answer in one sentence."),
    _asked("capital", "What is the capital of France?", expect={"regex": r"\bParis\b"}),
    _asked("sum", "What is 17 + 25?", expect={"regex": r"\b42\b"}),
    _asked("list", "Name three colours, one per line."),
    _asked("tool", "What is the weather in Rome?", tools=[WEATHER]),
)


def read(path: Path) -> list[Question]:
    """Questions of a .jsonl file: `prompt` or `messages`, perhaps `tools` and `expect`, in every line.

    Raises DataError naming file, line and reason.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}", hint="one JSON object with `prompt` per line") from None
    found = [_read(line, f"{path.name}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise DataError(f"{path} has no prompts", hint="one JSON object with `prompt` per line")
    return found


def _read(line: str, where: str) -> Question:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: not JSON: {error}") from None
    if not isinstance(row, dict) or ("prompt" in row) == ("messages" in row):
        raise DataError(f"{where}: neither `prompt` nor `messages`, or both")
    messages = row["messages"] if "messages" in row else [{"role": "user", "content": row["prompt"]}]
    tools = row.get("tools") or []
    if not isinstance(messages, list) or not messages or not all(isinstance(each, dict) for each in messages):
        raise DataError(f"{where}: `messages` is not a list of messages")
    if not isinstance(messages[-1].get("content"), str):
        raise DataError(f"{where}: the question is not text")
    if not isinstance(tools, list) or not all(isinstance(each, dict) for each in tools):
        raise DataError(f"{where}: `tools` is not a list of tools")
    return Question("file", where, messages, tools, expectation.checked(row.get("expect"), where))


def of_row(dialogue: Dialogue) -> Question | None:
    """What the dialogue asks before its last answer; None if nothing stands before it.

    Expected is what the row says, or else that last answer.
    """
    last = max(index for index, message in enumerate(dialogue.messages) if message["role"] == "assistant")
    if last == 0:
        return None
    answer = dialogue.messages[last]
    expect: dict[str, Any] = {"exact": answer.get("content") or ""}
    if calls := answer.get("tool_calls"):
        function = calls[0]["function"]
        expect = {"call": {"name": function["name"], "arguments": function.get("arguments") or {}}}
    asked = dialogue.messages[:last]
    return Question("rows", dialogue.where, asked, dialogue.tools or [], dialogue.expect or expect)


def assess(question: Question, ids: Sequence[int], finish_reason: str, tokenizer, marks: Marks) -> Answer:
    """Read the tokens that a model generated after the question's `<|start|>assistant`."""
    messages = harmony.parse(tokenizer, ids)
    calls = [
        {"name": message.recipient.removeprefix("functions."), "arguments": message.text}
        for message in messages
        if message.recipient
    ]

    def said(channel: str) -> str:
        return "\n\n".join(each.text for each in messages if each.channel == channel and not each.recipient)

    text = said(harmony.FINAL)
    problems = [*_malformed(ids, tokenizer, marks), *_bad_calls(calls, question.tools)]
    if not text and not calls:
        problems.append("neither an answer nor a call")
    matched = expectation.matches(question.expect, text, calls) if question.expect else None
    return Answer(text, said(harmony.ANALYSIS), calls, problems, matched, len(ids), finish_reason)


_HEADER = re.compile(
    r"(?:<\|start\|>assistant)?(?:\s*to=[\w.\-]+)?<\|channel\|>(?:analysis|commentary|final)(?:\s*to=[\w.\-]+)?"
    r"(?:\s*(?:<\|constrain\|>)?\s*\w+)?<\|message\|>"
)


def _malformed(ids: Sequence[int], tokenizer, marks: Marks) -> list[str]:
    """What a strict reader of the format would refuse; `harmony.parse` is lenient, because users want an answer."""
    whole = [marks.start, *marks.assistant, *ids]
    spans = masking.spans(whole, tokenizer, marks)
    specials = {token for token, about in tokenizer.added_tokens_decoder.items() if about.special}
    problems = []
    if ids and whole.count(marks.start) != len(spans):
        problems.append("a message without the assistant's header")
    for span in spans:
        header = tokenizer.decode(whole[span.begin : span.body])
        if not _HEADER.fullmatch(header):
            problems.append(f"the header {header[:60]!r} is malformed")
        elif not span.ended:
            problems.append(f"the {span.part} channel is not closed")
        if specials & set(whole[span.body : span.stop - span.ended]):
            problems.append(f"a special token inside the {span.part} channel")
    if not ids or ids[-1] not in marks.stop:
        problems.append(f"no stop token within {len(ids)} tokens")
    return problems


def _bad_calls(calls: list[dict[str, str]], tools: list[dict[str, Any]]) -> list[str]:
    offered = {tool.get("function", {}).get("name") for tool in tools}
    problems = [f"calls {call['name']}, which was not offered" for call in calls if call["name"] not in offered]
    for call in calls:
        if not isinstance(expectation.parsed(call["arguments"]), dict):
            problems.append(f"the arguments of {call['name']} are not a JSON object")
    return problems
