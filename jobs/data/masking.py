"""Which tokens of a rendered dialogue are learned, and as what.

A token is learned if the model would have to generate it at inference: everything after the first `<|start|>assistant`
of a turn up to its stop token, every channel and the headers between them included. What it learns there is what would
have to come: answers of earlier turns are closed with `<|end|>`, but a generation that ends an answer so never stops,
so their label is `<|return|>`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise
from typing import Any

from configs.schema import MaskMode
from models import harmony

IGNORED = -100
"""The label that PyTorch's cross entropy skips."""


class Part(StrEnum):
    """What one message of the assistant is."""

    ANALYSIS = "analysis"  # its reasoning
    COMMENTARY = "commentary"  # words to the user between tool calls
    TOOL_CALL = "tool_call"  # addressed to a function, whatever its channel
    FINAL = "final"  # its answer


LEARNED: dict[MaskMode, frozenset[Part]] = {
    "all": frozenset(Part),
    "final_only": frozenset({Part.FINAL}),
    "no_reasoning": frozenset(Part) - {Part.ANALYSIS},
    "tools_only": frozenset({Part.TOOL_CALL}),
}
"""Mode to the parts that it learns, whole; of `final_only` only the text and its stop token, so that the base goes on
deciding whether to think first."""


@dataclass(frozen=True)
class Span:
    """One message of the assistant, as positions in the dialogue's tokens."""

    part: Part
    begin: int
    """The first token that the model generates: the one after `<|start|>assistant` at the beginning of its turn, the
    `<|start|>` itself where it goes on after a message of its own."""
    body: int
    """The first token of the text, after `<|message|>`; equal to `stop` if the dialogue was cut in the header."""
    stop: int
    """One past the last token."""
    ended: bool
    """The last token closes the message; False where the dialogue was cut."""
    taught: bool = True
    """False where the data says that this message is context."""


@dataclass(frozen=True)
class Marks:
    """Token ids of what structures a dialogue."""

    start: int
    message: int
    end: int
    stop: tuple[int, int]
    """`<|return|>` and `<|call|>`."""
    assistant: tuple[int, ...]
    """The role's name, in most vocabularies one token."""

    @classmethod
    def of(cls, tokenizer) -> "Marks":
        """Raises CheckpointError if the tokenizer does not speak harmony."""
        stop = harmony.stop_token_ids(tokenizer)
        start, message, end = tokenizer.convert_tokens_to_ids([harmony.START, harmony.MESSAGE, harmony.END])
        return cls(start, message, end, stop, tuple(tokenizer.encode("assistant", add_special_tokens=False)))


def spans(ids: Sequence[int], tokenizer, marks: Marks) -> list[Span]:
    """The assistant's messages in a rendered dialogue, in order; a last one that was cut short included.

    Find them before cutting: a message that was cut in its header does not say what it is.
    """
    found: list[Span] = []
    ends = (marks.end, *marks.stop)
    starts = [position for position, token in enumerate(ids) if token == marks.start] + [len(ids)]
    for start, limit in pairwise(starts):
        role_end = start + 1 + len(marks.assistant)
        if tuple(ids[start + 1 : role_end]) != marks.assistant or role_end >= limit:
            continue
        close = next((at for at in range(role_end, limit) if ids[at] in ends), None)
        stop = limit if close is None else close + 1
        body = next((at + 1 for at in range(role_end, stop) if ids[at] == marks.message), stop)
        goes_on = (
            bool(found)
            and found[-1].stop == start
            and ids[start - 1] == marks.end
            and found[-1].part in (Part.ANALYSIS, Part.COMMENTARY)  # an answer or a call ends the generation
        )
        part = _part(tokenizer.decode(ids[role_end:body]))
        found.append(Span(part, start if goes_on else role_end, body, stop, close is not None))
    return found


def marked(found: Sequence[Span], messages: Sequence[Mapping[str, Any]]) -> list[Span]:
    """The spans of a rendered dialogue, those of messages with `weight: 0` not taught.

    A message is as many spans as it has calls, or one answer; reasoning and commentary belong to what they precede.
    """
    weights = [
        message.get("weight") != 0
        for message in messages
        if message["role"] == "assistant"
        for _ in message.get("tool_calls") or (None,)
    ]
    if all(weights):
        return [*found]
    out, at = [], 0
    for span in found:
        out.append(replace(span, taught=weights[at]))
        at = min(at + (span.part in (Part.TOOL_CALL, Part.FINAL)), len(weights) - 1)
    return out


_RECIPIENT = re.compile(r"\bto=[\w.\-]+")
_CHANNEL = re.compile(re.escape(harmony.CHANNEL) + r"\s*(analysis|commentary)\b")


def _part(header: str) -> Part:
    if _RECIPIENT.search(header):
        return Part.TOOL_CALL
    channel = _CHANNEL.search(header)
    return Part(channel[1]) if channel else Part.FINAL


def labels(ids: Sequence[int], found: Sequence[Span], mode: MaskMode, marks: Marks) -> list[int]:
    """What is learned at each position: the token itself, `<|return|>` where an earlier answer ends in `<|end|>`, or
    IGNORED. As long as `ids`, which may be the beginning of what the spans were found in; shifted by one inside the
    model, as Transformers does it.
    """
    out = [IGNORED] * len(ids)
    for span in found:
        first = learned_from(span, mode)
        stop = min(span.stop, len(ids))
        if first is None or first >= stop:
            continue
        out[first:stop] = ids[first:stop]
        if span.part is Part.FINAL and span.ended and stop == span.stop:
            out[stop - 1] = marks.stop[0]
    return out


def learned_from(span: Span, mode: MaskMode) -> int | None:
    """The first position of `span` that `mode` learns; the rest of the span follows. None: nothing of it."""
    if not span.taught or span.part not in LEARNED[mode]:
        return None
    return span.body if mode == "final_only" else span.begin
