"""An encoded row as stretches of text that share a fate: learned or not, as which part, kept or cut off.

Knows encoded rows and a tokenizer, not how stretches are shown. Called by `tandem data inspect`.
"""

from dataclasses import dataclass
from itertools import groupby

from jobs.data.encoding import Encoded
from jobs.data.masking import IGNORED


@dataclass(frozen=True)
class Segment:
    """A stretch of a row's tokens, as text."""

    text: str
    tokens: int
    part: str | None
    """analysis, commentary, tool_call or final; None for what is not the assistant's to say."""
    learned: bool
    learned_as: str | None
    """What is learned in its place, where that is another token: `<|return|>` for an earlier answer's `<|end|>`."""
    cut: bool
    """Behind the maximum length, so lost."""


def segments(encoded: Encoded, tokenizer) -> list[Segment]:
    """The whole row, what was cut off included, in order; the texts put together are the rendered dialogue."""
    ids, labels = encoded.whole, encoded.labels
    parts: list[str | None] = [None] * len(ids)
    for span in encoded.spans:
        parts[span.begin : span.stop] = [span.part.value] * (span.stop - span.begin)

    def fate(position: int) -> tuple:
        label = labels[position] if position < len(labels) else IGNORED
        replaced = label if label not in (IGNORED, ids[position]) else None
        return parts[position], label != IGNORED, replaced, position >= len(labels)

    out = []
    for (part, learned, replaced, cut), stretch in groupby(range(len(ids)), key=fate):
        positions = list(stretch)
        text = tokenizer.decode([ids[position] for position in positions])
        instead = None if replaced is None else tokenizer.decode([replaced])
        out.append(Segment(text, len(positions), part, learned, instead, cut))
    return out
