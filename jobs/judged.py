"""What an adapter is judged on: rows that it was not trained on, read, rendered and cut as its run did.

Knows runs and data sets, neither endpoints nor reports. Called by `jobs.evaluate`.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from actors.ledger import Ledger
from configs.errors import DataError, NotFoundError, TandemError
from configs.paths import Home
from configs.schema import DataConfig, RunConfig
from jobs import dataset, split
from jobs.dialogue import Dialogue
from models.adapter import Manifest


@dataclass(frozen=True)
class Judged:
    """The rows and how to render them."""

    data: DataConfig
    """The run's own, with the judged data set: date, reasoning effort and mask are those of the training."""
    max_seq_length: int
    rows: list[Dialogue]
    trained: int
    """Rows of the data set that were left out because the adapter was trained on them."""
    notes: list[str] = field(default_factory=list)


def choose(home: Home, manifest: Manifest, name: str | None, part: str | None, limit: int | None) -> Judged:
    """The rows to judge `manifest`'s adapter on.

    Without `name`, or if that is what it was trained on, these are the rows that its run held out; of other data all
    rows that it was not trained on. `part` is the split to read, `limit` the most rows: a fixed sample, by fingerprint.
    Raises DataError if nothing is left or the data cannot be read, NotFoundError if the run's record is needed and is
    gone.
    """
    runs = _lineage(home, manifest.run_id)
    if not runs:
        return _unknown(manifest, name, part, limit)
    own = runs[0].data
    data = own if name is None else own.model_copy(update={"dataset": name, "split": part or "train"})
    if name is None and part is not None:
        data = own.model_copy(update={"split": part})
    notes: list[str] = []
    same = _place(data) == _place(own)
    if not same:
        data = data.model_copy(update={"format": "auto", "columns": {}})
    rows = dataset.read(data)
    notes += [f"left out, because it cannot be used: {reason}" for reason in rows.bad]
    known = _trained(runs, rows.dialogues if same else None, notes)
    left = [row for row in rows.dialogues if row.fingerprint not in known]
    if not left:
        share = own.holdout
        raise DataError(
            f"all {len(rows.dialogues)} rows of '{data.dataset}' were trained (data.holdout was {share:g})",
            hint="name other data with --dataset, or train with a larger data.holdout",
        )
    trained = len(rows.dialogues) - len(left)
    return Judged(data, runs[0].model.max_seq_length, _sample(left, limit), trained, notes)


def _unknown(manifest: Manifest, name: str | None, part: str | None, limit: int | None) -> Judged:
    if name is None:
        raise NotFoundError(
            f"what run {manifest.run_id} was trained on is not known any more: it has no resolved.json",
            hint="name the data with --dataset",
        )
    data = DataConfig(dataset=name, split=part or "train")
    rows = dataset.read(data)
    note = f"what run {manifest.run_id} was trained on is not known, so rows of it may be among these"
    return Judged(data, RunConfig().model.max_seq_length, _sample(rows.dialogues, limit), 0, [note])


def _lineage(home: Home, run_id: str) -> list[RunConfig]:
    """The configuration of a run and of those that it continued, itself first; empty if its record is gone."""
    ledger = Ledger(home.ledger, read_only=True) if home.ledger.exists() else None
    found: list[RunConfig] = []
    current: str | None = run_id
    while current is not None and (config := _resolved(home.run(current) / "resolved.json")):
        found.append(config)
        current = _parent(ledger, current)
    return found


def _parent(ledger: Ledger | None, run_id: str) -> str | None:
    try:
        return ledger.run(run_id).parent if ledger else None
    except NotFoundError:
        return None


def _resolved(file: Path) -> RunConfig | None:
    try:
        return RunConfig(**json.loads(file.read_text())["config"])
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        return None


def _trained(runs: list[RunConfig], own_rows: list[Dialogue] | None, notes: list[str]) -> set[str]:
    """Fingerprints of the rows that any of the runs trained on, as far as their data can still be read."""
    known: set[str] = set()
    for index, run in enumerate(runs):
        try:
            rows = own_rows if index == 0 and own_rows is not None else dataset.read(run.data).dialogues
        except TandemError as error:
            notes.append(f"trained rows are not known, so some may be among these: {error.message}")
            continue
        known |= {row.fingerprint for row in split.hold_out(rows, run.data.holdout)[0]}
    return known


def _place(data: DataConfig) -> tuple[str, str]:
    """What tells two data sets apart; of a single file the split means nothing."""
    path = dataset.locate(data.dataset)
    if path is None:
        return data.dataset, data.split
    return str(path.resolve()), data.split if path.is_dir() else ""


def _sample(rows: list[Dialogue], limit: int | None) -> list[Dialogue]:
    """At most `limit` rows; which ones depends on the rows alone."""
    if limit is None or len(rows) <= limit:
        return rows
    chosen = {row.fingerprint for row in sorted(rows, key=lambda row: row.fingerprint)[:limit]}
    return [row for row in rows if row.fingerprint in chosen][:limit]
