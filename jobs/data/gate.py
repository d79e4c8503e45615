"""The mask gate: what a run would learn from, measured before any GPU is taken, and the refusal of what cannot teach.

`measure` counts, `check` judges. Knows encoded rows, neither files nor trainers. Called by `jobs.data.dataset` at the
start of every run and by `tandem data inspect`.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from configs.errors import TrainingError
from configs.schema import DataConfig
from jobs.data import masking
from jobs.data.encoding import Encoded, Encoder
from jobs.data.layouts import keys, values
from jobs.data.masking import IGNORED, Marks, Part
from models.harmony import CALL, END, RETURN

MAX_UNUSED = 100
"""Different columns and keys without effect that a report names; rows may hold any number of them."""
PERCENTILES = (50, 90, 95, 99)
BINS = 12
ENDS_WITH = {Part.FINAL: RETURN, Part.TOOL_CALL: CALL, Part.ANALYSIS: END, Part.COMMENTARY: END}
"""What has to come at the end of each part of a generation. `<|end|>` goes on, the other two stop it."""


@dataclass(frozen=True)
class Count:
    """Tokens of one part of the dialogues, after cutting."""

    tokens: int
    learned: int


@dataclass(frozen=True)
class Ends:
    """One token that ends messages of the assistant, counted in messages."""

    expected: int
    """Messages that end with it before cutting, without those that are context; of an answer in an earlier turn too,
    which has to end in `<|return|>` whatever stands there."""
    present: int
    """Of these, what is left after cutting."""
    learned: int


@dataclass(frozen=True)
class Report:
    """What a run would learn from, in rows and tokens; plain values, so that `asdict` is JSON.

    What follows `max_seq_length` is counted over the rows that are not held out, empty ones included.
    """

    rows: int
    """Rows that can be used."""
    bad_rows: int
    bad: tuple[str, ...]
    """Every row that cannot be used and was left out, as "file:line: reason"."""
    duplicates: int
    """Rows that repeat an earlier one."""
    held_out_rows: int
    """Of `rows`, what is kept for evaluation."""
    training_rows: int
    """Of `rows`, what is trained; `rows` less held-out and empty ones."""
    empty_rows: int
    """Of `rows`, those left out because nothing in them is learned."""
    empty: tuple[str, ...]
    """Where these are."""
    misplaced: tuple[str, ...]
    """Where rows are that have other labels than the tokens they stand at, as labels that were shifted."""
    remarks: dict[str, int]
    """What reading the usable rows did with them besides taking them as they stand, and what is seldom meant, with the
    number of rows."""
    unused: dict[str, int]
    """Columns and keys that have no effect, as "column `x`" and "key `x`", with the number of rows."""
    mask: str
    max_seq_length: int
    tokens: int
    """After cutting."""
    learned_tokens: int
    parts: dict[str, Count]
    """analysis, commentary, tool_call and final, headers and ends included; `tokens` less these are others' words."""
    ends: dict[str, Ends]
    """`<|return|>`, `<|call|>` and `<|end|>`."""
    unrendered_thinking: int
    """Messages whose thinking is left out: what was thought before the first answer, once a later turn is answered."""
    longest_row: int
    """Tokens, before cutting."""
    longest_where: str
    mean_row: float
    """Tokens, before cutting."""
    percentiles: dict[str, int]
    """Tokens before cutting that so many percent of the rows do not exceed."""
    histogram: tuple[tuple[int, int], ...]
    """Row lengths before cutting: (first length of the bin, rows), bins equally wide from 0."""
    cut_rows: int
    """Rows longer than max_seq_length, which lose their end."""
    cut_share: float
    cut_tokens_largest: int
    """Most tokens that one row loses."""
    cut_tokens_mean: float
    """Tokens that a cut row loses."""
    data_fingerprint: str
    """SHA-256 in hex of the fingerprints of all usable rows, in order, held-out ones last."""
    template_fingerprint: str
    """SHA-256 in hex of chat format, date and reasoning effort."""

    def __str__(self) -> str:
        share = 100 * self.learned_tokens / max(self.tokens, 1)
        text = f"{self.training_rows} rows, {self.tokens} tokens, {self.learned_tokens} of them learned ({share:.0f} %)"
        if self.held_out_rows:
            text += f"; {self.held_out_rows} rows held out"
        if self.cut_rows:
            text += f"; {self.cut_rows} rows lose their end (the longest has {self.longest_row} tokens)"
        if self.empty_rows:
            text += f"; {self.empty_rows} rows teach nothing and are left out"
        if self.bad_rows:
            text += f"; {self.bad_rows} bad rows are left out: {'; '.join(self.bad)}"
        return "; ".join((text, *self.notes()))

    def notes(self) -> list[str]:
        """Remarks with their rows, and what has no effect, each as one line."""
        lines = [f"{remark} ({_rows(count)})" for remark, count in self.remarks.items()]
        explained: dict[str, list[str]] = {}
        for name, count in self.unused.items():
            explained.setdefault(keys.reason(*_kind_and_name(name)), []).append(f"{name} ({_rows(count)})")
        for why, found in explained.items():
            more = f" and {len(found) - values.MAX_NAMES} more" if len(found) > values.MAX_NAMES else ""
            reason = f", because it {why}" if why else ""
            lines.append(f"without effect: {', '.join(found[: values.MAX_NAMES])}{more}{reason}")
        return lines


def measure(training: Sequence[Encoded], held_out: Sequence[Encoded], bad: Sequence[str], encoder: Encoder) -> Report:
    """The report of a data set; rows in which nothing is learned are still among `training` and `held_out`."""
    both = [*training, *held_out]
    fingerprints = [each.dialogue.fingerprint for each in both]
    empty = [each.dialogue.where for each in both if not each.teaches]
    rows = [each for each in training if each.teaches]
    lengths = sorted(len(each.whole) for each in training)
    longest = max(training, key=lambda each: len(each.whole), default=None)
    cuts = [each.cut for each in training if each.cut]
    mode = encoder.config.mask
    return Report(
        rows=len(both),
        bad_rows=len(bad),
        bad=tuple(bad),
        duplicates=len(both) - len(set(fingerprints)),
        held_out_rows=sum(each.teaches for each in held_out),
        training_rows=len(rows),
        empty_rows=len(empty),
        empty=tuple(empty),
        misplaced=tuple(each.dialogue.where for each in both if _is_misplaced(each, encoder.marks)),
        remarks=_counted(each.dialogue.remarks for each in both),
        unused=_counted(each.dialogue.unused for each in both),
        mask=mode,
        max_seq_length=encoder.max_seq_length,
        tokens=sum(len(each.input_ids) for each in training),
        learned_tokens=sum(label != IGNORED for each in rows for label in each.labels),
        parts={part.value: _count(training, part) for part in Part},
        ends={end: _ends(training, end, mode) for end in (RETURN, CALL, END)},
        unrendered_thinking=sum(_unrendered(each) for each in training),
        longest_row=lengths[-1] if lengths else 0,
        longest_where=longest.dialogue.where if longest else "",
        mean_row=sum(lengths) / max(len(lengths), 1),
        percentiles={str(percent): _percentile(lengths, percent) for percent in PERCENTILES},
        histogram=_histogram(lengths),
        cut_rows=len(cuts),
        cut_share=len(cuts) / max(len(training), 1),
        cut_tokens_largest=max(cuts, default=0),
        cut_tokens_mean=sum(cuts) / max(len(cuts), 1),
        data_fingerprint=hashlib.sha256("\n".join(fingerprints).encode()).hexdigest(),
        template_fingerprint=encoder.fingerprint,
    )


def _is_misplaced(each: Encoded, marks: Marks) -> bool:
    """`<|end|>` may be labelled with a stop token: what a generation has to end with there."""
    pairs = zip(each.input_ids, each.labels, strict=True)
    return any(
        label not in (IGNORED, token) and not (token == marks.end and label in marks.stop) for token, label in pairs
    )


def _counted(found: Iterable[Iterable[str]]) -> dict[str, int]:
    """Most frequent first, at most MAX_UNUSED and one more for the rest."""
    counts = Counter(each for row in found for each in row)
    out = dict(counts.most_common(MAX_UNUSED))
    if len(counts) > len(out):
        out[f"{len(counts) - len(out)} others"] = sum(counts.values()) - sum(out.values())
    return out


def _kind_and_name(unused: str) -> tuple[str, str]:
    kind, _, name = unused.partition(" ")
    return kind, name.strip("`")


def _rows(count: int) -> str:
    return f"{count} rows" if count > 1 else "1 row"


def check(report: Report, config: DataConfig) -> None:
    """Raises TrainingError, with cause and next step, if a run on this data would learn nothing or not to stop."""
    if not report.held_out_rows + report.training_rows:
        raise TrainingError(
            f"nothing would be learned: all labels of {report.rows} rows are {IGNORED}; {_why_nothing(report)}",
            hint=_instead(report),
        )
    if report.misplaced:
        raise TrainingError(
            f"the labels of {len(report.misplaced)} of {report.rows} rows are not the tokens they stand at, first in "
            f"{report.misplaced[0]}: something else than the text would be learned",
            hint="labels are ids or -100, one per token and not shifted: the model shifts them itself",
        )
    if not report.training_rows:
        raise TrainingError(
            f"nothing is left to train: data.holdout {config.holdout} keeps {report.held_out_rows} of {report.rows} "
            f"rows for evaluation and {report.empty_rows} teach nothing",
            hint="add rows, or lower data.holdout; 0 trains on all",
        )
    for part in (Part.FINAL, Part.TOOL_CALL):
        _check_end(report, part)
    if report.cut_share > config.max_cut_share:
        raise TrainingError(
            f"{report.cut_rows} of {report.rows - report.held_out_rows} rows ({100 * report.cut_share:.0f} %) are cut "
            f"before their end, more than data.max_cut_share {config.max_cut_share} allows; the longest has "
            f"{report.longest_row} tokens, model.max_seq_length is {report.max_seq_length}",
            hint=f"raise model.max_seq_length (95 % of the rows have at most {report.percentiles['95']} tokens), "
            "shorten the rows, or allow it with --set data.max_cut_share",
        )


def _check_end(report: Report, part: Part) -> None:
    end = report.ends[ENDS_WITH[part]]
    if part in masking.LEARNED[report.mask] and end.expected and not end.learned:
        raise TrainingError(
            f"{ENDS_WITH[part]} would never be learned, so the model would not learn to stop: all {end.expected} "
            f"messages of part {part} are cut before it at model.max_seq_length {report.max_seq_length}",
            hint=f"raise model.max_seq_length; the longest row has {report.longest_row} tokens",
        )


def _why_nothing(report: Report) -> str:
    wanted = [part for part in masking.LEARNED[report.mask] if report.parts[part].tokens]
    if wanted:
        return f"model.max_seq_length {report.max_seq_length} cuts every row before its first learned token"
    if any(count.tokens for count in report.parts.values()):
        present = ", ".join(name for name, count in report.parts.items() if count.tokens)
        return f"data.mask {report.mask} learns none of what the rows have within their length: {present}"
    return f"model.max_seq_length {report.max_seq_length} cuts every row before the assistant's first message"


def _instead(report: Report) -> str:
    return f"raise model.max_seq_length (the longest row has {report.longest_row} tokens) or choose another data.mask"


def _count(rows: Iterable[Encoded], part: Part) -> Count:
    tokens = learned = 0
    for each in rows:
        for span in each.spans:
            if span.part is part:
                own = each.labels[span.begin : span.stop]
                tokens, learned = tokens + len(own), learned + sum(label != IGNORED for label in own)
    return Count(tokens, learned)


def _ends(rows: Iterable[Encoded], end: str, mode: str) -> Ends:
    expected = present = learned = 0
    for each in rows:
        for span in each.spans:
            if ENDS_WITH[span.part] == end and span.ended and span.taught:
                here = span.stop <= len(each.input_ids)
                expected, present = expected + 1, present + here
                learned += here and each.labels[span.stop - 1] != IGNORED
    return Ends(expected, present, learned)


def _unrendered(encoded: Encoded) -> int:
    """Thoughts that the row has and its rendering has not."""
    thoughts = sum(bool(message.get("thinking")) for message in encoded.dialogue.messages)
    return max(0, thoughts - sum(span.part is Part.ANALYSIS for span in encoded.spans))


def _percentile(lengths: Sequence[int], percent: int) -> int:
    return lengths[min(len(lengths) - 1, len(lengths) * percent // 100)] if lengths else 0


def _histogram(lengths: Sequence[int]) -> tuple[tuple[int, int], ...]:
    if not lengths:
        return ()
    width = lengths[-1] // BINS + 1
    counts = [0] * (lengths[-1] // width + 1)
    for length in lengths:
        counts[length // width] += 1
    return tuple((index * width, count) for index, count in enumerate(counts))
