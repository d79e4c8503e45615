"""How much data a run would learn from, in rows and tokens: exact where it was tokenised, else told from its length."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from configs.schema import RunConfig
from jobs.data import dataset
from jobs.data.gate import Report
from jobs.data.layouts.dialogue import Dialogue
from jobs.prediction.costs import Range
from models.base import checkpoint

CHARACTERS = 4
"""Per token of English text, about; the ranges allow for 2.7 to 5.7."""
SYSTEM_MESSAGE, MESSAGE = 60, 5
"""Tokens that the template adds to a dialogue, and to each of its messages."""
KNOWN_ROWS = {"HuggingFaceH4/Multilingual-Thinking": 1000}
"""Rows of hub data sets, by their cards, for when they are not downloaded yet."""


@dataclass(frozen=True)
class DataSize:
    """Rows as they are trained: cut at `model.max_seq_length`."""

    rows: int | None
    """None is unknown."""
    mean_row: Range
    """Tokens."""
    longest_row: Range
    """Tokens."""


def of_data(config: RunConfig) -> DataSize:
    """By reading and rendering every row. Raises what the run would fail with on its data."""
    tokenizer = checkpoint.tokenizer_of(config.model.base)
    rows = dataset.read(config.data)
    return tokenised(dataset.prepare(rows, tokenizer, config.data, config.model.max_seq_length).report, config)


def of_dialogues(dialogues: Iterable[Dialogue], config: RunConfig) -> DataSize:
    """By their characters."""
    rows = [_tokens(dialogue) for dialogue in dialogues]
    most = config.model.max_seq_length
    spread = [[min(most, row * factor) for row in rows] for factor in (0.7, 1, 1.5)]
    return DataSize(len(rows), Range(*map(statistics.fmean, spread)), Range(*map(max, spread)))


def tokenised(report: Report, config: RunConfig) -> DataSize:
    """What the gate found."""
    longest = min(config.model.max_seq_length, report.longest_row)
    mean = report.tokens / max(1, report.rows - report.held_out_rows)
    return DataSize(report.rows, Range.exactly(mean), Range.exactly(longest))


def unknown(config: RunConfig) -> DataSize:
    """Of data that is not on this machine: rows of up to `model.max_seq_length` tokens."""
    most = config.model.max_seq_length
    return DataSize(KNOWN_ROWS.get(config.data.dataset), Range(most * 0.2, most * 0.7, most), Range.exactly(most))


def _tokens(dialogue: Dialogue) -> float:
    characters = len(str(dialogue.tools or ""))
    for message in dialogue.messages:
        characters += sum(len(str(message.get(key) or "")) for key in ("content", "thinking", "tool_calls"))
    return SYSTEM_MESSAGE + MESSAGE * len(dialogue.messages) + characters / CHARACTERS
