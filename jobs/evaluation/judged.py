"""What an adapter is judged on: rows that it was not trained on, read, rendered and cut as its run did.

Knows runs and data sets, neither endpoints nor reports. Called by `tandem evaluate`.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from configs.errors import DataError, NotFoundError, TandemError
from configs.paths import Home
from configs.schema import DataConfig, RunConfig
from jobs.data import dataset, split
from jobs.data.layouts.dialogue import Dialogue
from jobs.training.run_record import RESOLVED
from models.lora.adapter import Manifest


@dataclass(frozen=True)
class EvaluationRows:
    """The rows and how to render them."""

    data: DataConfig
    """The run's own, with the judged data set: date, reasoning effort and mask are those of the training."""
    max_seq_length: int
    rows: list[Dialogue]
    trained: int
    """Rows of the data set that were left out because the adapter was trained on them."""
    notes: list[str] = field(default_factory=list)


def choose(home: Home, manifest: Manifest, name: str | None, part: str | None, limit: int | None) -> EvaluationRows:
    """The rows to judge `manifest`'s adapter on.

    Without `name`, or if that is what it was trained on, these are the rows that its run held out; of other data all
    rows that it was not trained on. `part` is the split to read, `limit` the most rows: a fixed sample, by fingerprint.
    Raises DataError if nothing is left or the data cannot be read, NotFoundError if the run's record is needed and is
    gone.
    """
    run = _resolved(home.run(manifest.run_id))
    if run is None:
        return _unknown(manifest, name, part, limit)
    data = run.data.model_copy(update={"dataset": name or run.data.dataset, "split": part or run.data.split})
    own = _place(data) == _place(run.data)
    if not own:
        fresh = DataConfig().model_dump(include={"format", "columns", "encoding", "special_tokens"})
        data = data.model_copy(update={"split": part or "train", **fresh})
    rows = dataset.read(data)
    notes = [f"left out, because it cannot be used: {reason}" for reason in rows.bad]
    trained = _trained(run, rows.dialogues if own else None, notes)
    left = [row for row in rows.dialogues if row.fingerprint not in trained]
    if not left:
        raise DataError(
            f"all {len(rows.dialogues)} rows of '{data.dataset}' were trained (data.holdout was {run.data.holdout:g})",
            hint="name other data with --dataset, or train with a larger data.holdout",
        )
    left_out = len(rows.dialogues) - len(left)
    return EvaluationRows(data, run.model.max_seq_length, _sample(left, limit), left_out, notes)


def _unknown(manifest: Manifest, name: str | None, part: str | None, limit: int | None) -> EvaluationRows:
    if name is None:
        raise NotFoundError(
            f"what run {manifest.run_id} was trained on is not known any more: it has no resolved.json",
            hint="name the data with --dataset",
        )
    data = DataConfig(dataset=name, split=part or "train")
    rows = dataset.read(data)
    note = f"what run {manifest.run_id} was trained on is not known, so rows of it may be among these"
    return EvaluationRows(data, RunConfig().model.max_seq_length, _sample(rows.dialogues, limit), 0, [note])


def _resolved(folder: Path) -> RunConfig | None:
    """The configuration of a run by its own record; None if that is gone or of another version. A run that continues
    another has the same data and the same rows held out."""
    try:
        return RunConfig(**json.loads((folder / RESOLVED).read_text())["config"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _trained(run: RunConfig, rows: list[Dialogue] | None, notes: list[str]) -> set[str]:
    """Fingerprints of the rows that `run` trained; `rows` are its data's, if they have been read. As far as known."""
    try:
        rows = rows or dataset.read(run.data).dialogues
    except TandemError as error:
        notes.append(f"which rows were trained is not known, so some may be among these: {error.message}")
        return set()
    return {row.fingerprint for row in split.hold_out(rows, run.data.holdout)[0]}


def _place(data: DataConfig) -> tuple[str, str]:
    """What tells two data sets apart; of a single file the split means nothing."""
    try:
        path = dataset.locate(data.dataset)
    except DataError:  # what was trained on may be gone
        path = None
    if path is None:
        return data.dataset, data.split
    return str(path.resolve()), data.split if path.is_dir() else ""


def _sample(rows: list[Dialogue], limit: int | None) -> list[Dialogue]:
    """At most `limit` rows; which ones depends on the rows alone."""
    if limit is None or len(rows) <= limit:
        return rows
    chosen = {row.fingerprint for row in sorted(rows, key=lambda row: row.fingerprint)[:limit]}
    return [row for row in rows if row.fingerprint in chosen][:limit]
