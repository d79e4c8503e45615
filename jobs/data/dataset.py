"""From a data set's name to token ids and labels, with a report of what will be learned.

`read` needs no tokenizer and says which row of which file is wrong; `prepare` renders, labels, holds rows out and lets
the gate judge. Called by training jobs, by evaluation and by the command line.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from configs import paths
from configs.errors import DataError
from configs.schema import DataConfig
from jobs.data import gate, split
from jobs.data.encoding import Encoded, Encoder
from jobs.data.files import arrow, content, rows
from jobs.data.layouts import formats, values
from jobs.data.layouts.dialogue import Dialogue

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BUNDLED = {"tiny-demo": paths.TINY_DATASET}
SHOWN_PROBLEMS = 5
FILE_SUFFIXES = (*rows.SUFFIXES, *content.PACKED, *rows.FOREIGN, ".txt")
"""What makes a name a file's; other dots are part of a hub name, as in owner/data-v1.5."""


@dataclass(frozen=True)
class Rows:
    """What a data set holds."""

    dialogues: list[Dialogue]
    bad: list[str]
    """Rows that cannot be used, as "file:line: reason"; no more than data.max_bad_rows."""


@dataclass(frozen=True)
class Prepared:
    """Rows ready for training: `{"input_ids": [...], "labels": [...]}` each, equally long lists of int."""

    training: list[dict[str, list[int]]]
    held_out: list[dict[str, list[int]]]
    report: gate.Report


@dataclass(frozen=True)
class Measured:
    """Every usable row, encoded, and what the gate found; not judged yet."""

    training: list[Encoded]
    held_out: list[Encoded]
    report: gate.Report


def locate(name: str) -> Path | None:
    """The local file or folder that a data set's name means; None for a hub name. Raises DataError if it is missing."""
    if name in BUNDLED:
        return BUNDLED[name]
    try:
        path = Path(name).expanduser()
        if path.exists():
            return path.absolute()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL byte, no such user's home
        raise DataError(f"no data set {name[:100]!r}: {error}", hint="give the path of a file or folder") from None
    if path.suffix in FILE_SUFFIXES or path.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        known = ", ".join(BUNDLED)
        raise DataError(
            f"no data set '{name}'",
            hint=f"a {', '.join(rows.SUFFIXES)} file, a folder, a hub name like owner/name, or {known}",
        )
    return None


def read(config: DataConfig) -> Rows:
    """All dialogues of `config.dataset`, and the rows that are none.

    Raises DataError naming file, line and reason if more than `config.max_bad_rows` cannot be used, or if nothing can.
    """
    formats.check_columns(config.columns)
    path = locate(config.dataset)
    found = rows.rows(path, config.split, config.encoding) if path else arrow.hub(config.dataset, config.split)
    keep_tokens = config.special_tokens == "text"
    dialogues: list[Dialogue] = []
    bad: list[str] = []
    for where, row in found:
        try:
            if isinstance(row, DataError):
                raise DataError(f"{where}: {row.message}")
            dialogues.append(formats.dialogue_of(row, where, config.format, config.columns, keep_tokens=keep_tokens))
        except DataError as error:
            bad.append(error.message)
    if not dialogues:
        what = f"has no row that can be used: {_listed(bad)}" if bad else "is empty"
        raise DataError(f"data set '{config.dataset}' {what}", hint="it needs at least one dialogue; see docs/data.md")
    check_bad(bad, config)
    return Rows(dialogues, bad)


def prepare(rows: Rows, tokenizer: "PreTrainedTokenizerBase", config: DataConfig, max_seq_length: int) -> Prepared:
    """Render, cut and label every dialogue, and split off what is held out; rows without a learned token are left out.

    Raises DataError if with the dialogues that the template refuses there are too many bad rows, and TrainingError from
    the gate.
    """
    measured = measure(rows, tokenizer, config, max_seq_length)
    gate.check(measured.report, config)
    training, held_out = (
        [each.row for each in side if each.teaches] for side in (measured.training, measured.held_out)
    )
    return Prepared(training, held_out, measured.report)


def measure(rows: Rows, tokenizer: "PreTrainedTokenizerBase", config: DataConfig, max_seq_length: int) -> Measured:
    """The same without the judgement. Raises DataError if there are too many bad rows."""
    encoder = Encoder(tokenizer, config, max_seq_length)
    bad = [*rows.bad]
    training, held_out = (
        list(encoder.encode_all(side, bad)) for side in split.hold_out(rows.dialogues, config.holdout)
    )
    check_bad(bad, config)
    if not training and not held_out:
        raise DataError(f"no row can be rendered: {_listed(bad)}", hint="fix these rows")
    return Measured(training, held_out, gate.measure(training, held_out, bad, encoder))


def check_bad(bad: Sequence[str], config: DataConfig) -> None:
    """Raises DataError, naming the first of them, if there are more than `config.max_bad_rows`."""
    if len(bad) > config.max_bad_rows:
        allowed = f"; {len(bad)} bad rows, {config.max_bad_rows} allowed" if config.max_bad_rows else ""
        raise DataError(
            f"{_listed(bad)}{allowed}", hint=f"fix or remove these rows, or leave them out: --max-bad-rows {len(bad)}"
        )


_PLACE = re.compile(r"(.+?(?::\d+|\[\d+\])): (.*)", re.DOTALL)


def _listed(bad: Sequence[str]) -> str:
    """The first reasons, each once, with the rows that have the same."""
    rows: dict[str, list[str]] = {}
    for each in bad:
        found = _PLACE.fullmatch(each)
        where, reason = (found[1], found[2]) if found else ("", each)
        rows.setdefault(reason, []).append(where)
    said = [
        f"{where[0]}: {reason}{_likewise(where[1:])}" if where[0] else reason
        for reason, where in [*rows.items()][:SHOWN_PROBLEMS]
    ]
    left = sum(len(where) for where in [*rows.values()][SHOWN_PROBLEMS:])
    return "; ".join(said) + (f"; and {left} more" if left else "")


def _likewise(where: list[str]) -> str:
    return (
        f" (the same in {len(where)} more: {values.names(where[:3])}{', ...' if len(where) > 3 else ''})"
        if where
        else ""
    )
