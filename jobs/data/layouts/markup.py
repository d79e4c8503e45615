"""What servers without a parser leave in the assistant's text: channel tags, thinking tags, calls, end tokens.

Where it says exactly what it was, it becomes that again; where not, the row is refused, because the model would learn
the tags letter by letter. Text about tokens stays text with `data.special_tokens: text`. Called by
`jobs.data.layouts.messages`.
"""

import re
from dataclasses import dataclass, field
from typing import Any

from configs.errors import DataError
from jobs.data.layouts import rendered, values
from jobs.data.layouts.keys import RowNotes
from models.harmony import ANALYSIS, CALL, CHANNEL, COMMENTARY, END, FINAL, RETURN, START

KEEP = "if that is the text to learn: --set data.special_tokens=text"
_BAR = "\uff5c"
"""The wide bar of DeepSeek's tokens."""
THINKING = {
    "<think>": "</think>", "<thinking>": "</thinking>", "<thought>": "</thought>", "<reasoning>": "</reasoning>",
    "<seed:think>": "</seed:think>", "[THINK]": "[/THINK]", "<|begin_of_thought|>": "<|end_of_thought|>",
    "<|START_THINKING|>": "<|END_THINKING|>", "◁think▷": "◁/think▷",
}  # fmt: skip
"""What opens and closes the reasoning at the beginning of an answer, in the formats of other models."""
ANSWER = {"<|begin_of_solution|>": "<|end_of_solution|>", "<|START_RESPONSE|>": "<|END_RESPONSE|>"}
"""What some of them put around the answer behind it."""
END_TOKENS = (
    "<|im_end|>", "</s>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<end_of_turn>", "<eos>", "<|eom_id|>",
    "<|end_of_sentence|>", f"<{_BAR}end▁of▁sentence{_BAR}>", "<|END_OF_TURN_TOKEN|>", "[EOS]", RETURN, END, CALL,
)  # fmt: skip
"""What ends an answer in some template; the run's own writes what ends it here."""
TURNS = (
    "<|im_start|>", "<|start_header_id|>", "<start_of_turn>", "[/INST]", "<|user|>", "<|assistant|>",
    "<|START_OF_TURN_TOKEN|>", f"<{_BAR}User{_BAR}>", f"<{_BAR}Assistant{_BAR}>",
)  # fmt: skip
"""What begins another message in some template: an answer that holds it ran on."""
CALLS = (
    "[TOOL_CALLS]",
    "<functioncall>",
    "<|python_tag|>",
    "<function=",
    f"<{_BAR}tool▁calls▁begin{_BAR}>",
    "<|tool_call|>",
)
"""What begins a call in the text of other models, in forms that are not read."""
_CHANNELS = re.compile(
    rf"{re.escape(CHANNEL)}\s*(?:{ANALYSIS}|{COMMENTARY}|{FINAL})|{re.escape(START)}\s*(?:assistant|user|system|developer)"
)
_LOST = re.compile(
    r"\A\s*(?:assistant)?(?:analysis|commentary).*assistant(?:final|commentary|analysis)"
    r"|\A\s*(?:assistant)?analysis(?=[A-Z])|\A\s*assistant(?:final|commentary|\n)",
    re.DOTALL,
)
"""Rendered messages without their special tokens, as a decoder leaves them that skips those."""
_OPENED = re.compile(r"\A(?!.*<think>).*(?:\n\s*</think>|</think>\s*\n)", re.DOTALL)
_TOOL_CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
_TOOL_RESULT = re.compile(r"<tool_response>\s*(.*?)\s*</tool_response>", re.DOTALL)
_TOOLS = re.compile(r"<tools>\s*(.*?)\s*</tools>", re.DOTALL)


@dataclass(frozen=True)
class AssistantText:
    """What the assistant said in one text."""

    content: str
    thinking: str = ""
    calls: list[Any] = field(default_factory=list)
    """`{"name", "arguments"}` each."""


def said(text: str, where: str, notes: RowNotes) -> AssistantText:
    """Raises DataError that begins with `where` for tags that cannot be taken apart exactly."""
    if _CHANNELS.search(text):
        found = _of_turns(text)
        if found is None:
            raise DataError(
                f"{where}: channel tags in the text ({_CHANNELS.search(text)[0]}) that cannot be split exactly: "
                f"give `thinking` and `content`; {KEEP}"
            )
        notes.remarks.append("channel tags in an answer became thinking, calls and answer")
        return found
    if _LOST.search(text):
        raise DataError(
            f"{where}: begins like channels whose tags were lost ({values.short(text.strip())}): give `thinking` and "
            f"`content`; {KEEP}"
        )
    text = _without_ends(text, notes)
    content, thinking = _thought(text, where, notes)
    content, calls = _calls(content, where, notes)
    _check_rest(content, where, notes)
    return AssistantText(content, thinking, calls)


def thought(text: str, where: str) -> str:
    """Reasoning without the tags around it. Raises DataError for tags inside it that cannot be taken off exactly."""
    if _CHANNELS.search(text):
        found = rendered.turns(text) or []
        if len(found) != 1 or found[0].channel != ANALYSIS or found[0].recipient:
            raise DataError(f"{where}: channel tags ({_CHANNELS.search(text)[0]}); {KEEP}")
        return found[0].text
    for opening, closing in THINKING.items():
        if text.strip().startswith(opening) and text.strip().endswith(closing):
            return text.strip().removeprefix(opening).removesuffix(closing).strip()
    return text


def _of_turns(text: str) -> AssistantText | None:
    """Reasoning, then words and calls or an answer: what one generation can be."""
    found = rendered.turns(_without_ends(text, RowNotes(), (*END_TOKENS[:-3],)))
    if found is None or any(turn.role != "assistant" for turn in found):
        return None
    thoughts = [turn.text for turn in found if turn.channel == ANALYSIS and not turn.recipient]
    answers = [turn.text for turn in found if turn.channel in (FINAL, None) and not turn.recipient]
    preambles = [turn.text for turn in found if turn.channel == COMMENTARY and not turn.recipient]
    calls = [turn for turn in found if turn.recipient]
    order = [bool(turn.recipient) * 3 or {ANALYSIS: 0, COMMENTARY: 1}.get(turn.channel, 2) for turn in found]
    one_answer = len(answers) == 1 and not calls and not preambles
    only_calls = bool(calls) and not answers and len(preambles) <= 1
    if len(thoughts) > 1 or order != sorted(order) or not (one_answer or only_calls):
        return None
    if any(not turn.recipient.startswith("functions.") for turn in calls):
        return None  # built-in tools are not offered
    made = [{"name": turn.recipient.removeprefix("functions."), "arguments": turn.text} for turn in calls]
    return AssistantText("".join(answers or preambles), "".join(thoughts), made)


def _without_ends(text: str, notes: RowNotes, ends: tuple[str, ...] = END_TOKENS) -> str:
    """Without the tokens that end an answer, at its end, and those that begin a text, at its beginning."""
    while end := next((each for each in ends if text.rstrip().endswith(each)), None):
        if end == "</s>" and "<s>" in text:  # HTML's own
            break
        text = text.rstrip().removesuffix(end)
        notes.remarks.append(f"`{end}` at the end of an answer was cut off")
    while begin := next((each for each in rendered.BEGINNINGS if text.lstrip().startswith(each)), None):
        if begin == "<s>" and "</s>" in text:
            break
        text = text.lstrip().removeprefix(begin)
        notes.remarks.append(f"`{begin}` at the beginning of an answer was cut off")
    return text


def _thought(text: str, where: str, notes: RowNotes) -> tuple[str, str]:
    """(answer, reasoning) of a text that begins with its reasoning; a template may have given the opening `<think>`."""
    for opening, closing in THINKING.items():
        if not text.lstrip().startswith(opening) and not (opening == "<think>" and _OPENED.search(text)):
            continue
        thought, closed, answer = text.lstrip().removeprefix(opening).partition(closing)
        if not closed or opening in thought or closing in answer or answer.lstrip().startswith(opening):
            raise DataError(f"{where}: `{opening}` without one `{closing}` behind it: give `thinking`; {KEEP}")
        notes.remarks.append(f"`{opening}` became thinking")
        return _unwrapped(answer.lstrip(), notes), thought.strip()
    return text, ""


def _unwrapped(answer: str, notes: RowNotes) -> str:
    for opening, closing in ANSWER.items():
        if answer.startswith(opening) and answer.rstrip().endswith(closing):
            notes.remarks.append(f"`{opening}` around an answer was cut off")
            return answer.removeprefix(opening).rstrip().removesuffix(closing).strip()
    return answer


def _calls(text: str, where: str, notes: RowNotes) -> tuple[str, list[Any]]:
    """(words before, calls) of a text that ends in Hermes' `<tool_call>`."""
    if other := next((each for each in CALLS if each in text), None):
        raise DataError(f"{where}: a call written as text ({other}): give `tool_calls`; {KEEP}")
    if "<tool_call>" not in text:
        return text, []
    words, rest = text[: text.index("<tool_call>")], text[text.index("<tool_call>") :]
    if _TOOL_CALL.sub("", rest).strip():
        raise DataError(f"{where}: `<tool_call>` that cannot be split exactly: give `tool_calls`; {KEEP}")
    calls: list[Any] = []
    for body in _TOOL_CALL.findall(rest):
        value = values.unpacked(body, f"{where}: `<tool_call>`")
        calls += value if isinstance(value, list) else [value]
    notes.remarks.append("`<tool_call>` in an answer became a call")
    return words.strip(), calls


def results(text: str, notes: RowNotes) -> list[str]:
    """A tool's text as results: Hermes puts several into one message."""
    found = _TOOL_RESULT.findall(text)
    if not found or _TOOL_RESULT.sub("", text).strip():
        return [text]
    notes.remarks.append("`<tool_response>` around a tool's result was cut off")
    return found


def tools_in(text: str, notes: RowNotes) -> list[Any]:
    """The tools that a system message lists in `<tools>`; empty if it lists none that can be read."""
    tools: list[Any] = []
    for body in filter(None, _TOOLS.findall(text)):
        try:
            value = values.unpacked(body if body.startswith("[") else f"[{','.join(body.split(chr(10)))}]", "")
        except DataError:
            notes.remarks.append("a system message lists `<tools>` that cannot be read: they stay text")
            return []
        tools += value
    if tools:
        notes.remarks.append("tools that a system message lists in `<tools>` are offered")
    return tools


def _check_rest(text: str, where: str, notes: RowNotes) -> None:
    if turn := next((each for each in TURNS if each in text), None):
        raise DataError(f"{where}: holds `{turn}`, which begins another message in some template; {KEEP}")
    for token in (*rendered.HARMONY, *END_TOKENS[:-3], *THINKING, "</think>"):
        if token in text and not (token == "</s>" and "<s>" in text):
            notes.remarks.append(f"`{token}` inside an answer is learned letter by letter")
