"""What runs of this home really took: seconds to the first step and per step, memory at the peak. Only reads."""

import itertools
import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.runs.curve import MetricsLog
from actors.runs.ledger import Ledger
from actors.runs.run import RunState
from configs.paths import Home
from jobs.training.run_record import read_measured

PREDICTION = "prediction.json"
LOOKED_AT = 50
"""The newest runs; older ones were made by other versions."""


@dataclass(frozen=True)
class EarlierRun:
    """One run that has ended, with what was predicted for it. None is unknown."""

    predicted: dict[str, Any]
    start_s: float | None
    """From the grant of the slot to the end of the first step, without the evaluation of the base in between."""
    step_s: float | None
    peak_bytes: float | None


def runs(home: Home, device: str, kind: dict[str, Any]) -> Iterator[EarlierRun]:
    """Those that were computed on `device` and are of this `kind`."""
    if not home.ledger.exists():
        return
    ledger = Ledger(home.ledger, read_only=True)
    found = [run for run in ledger.runs(limit=LOOKED_AT) if run.state in (RunState.SUCCEEDED, RunState.STOPPED)]
    ledger.close()
    for run in found:
        folder = home.run(run.id)
        predicted = prediction(folder)
        if predicted and (predicted["device"], predicted["kind"]) == (device, kind):
            yield EarlierRun(predicted, _start(folder), median_step(folder), peak_bytes(folder))


def _start(folder: Path) -> float | None:
    measured = read_measured(folder)
    start = measured.get("granted_to_first_step")
    return start and start - measured.get("stages", {}).get("evaluate base", 0)


def prediction(folder: Path) -> dict[str, Any] | None:
    """What was predicted for the run of this folder."""
    try:
        return json.loads((folder / PREDICTION).read_text())
    except (OSError, ValueError):
        return None


def peak_bytes(folder: Path) -> float | None:
    """Memory at the peak, where the run got as far as to measure it."""
    return read_measured(folder).get("peak_memory_bytes")


def median_step(folder: Path) -> float | None:
    """Seconds between two steps' lines; None for a run too short to tell."""
    at = [line["at"] for line in MetricsLog(folder / "metrics.jsonl").losses() if "at" in line]
    gaps = [after - before for before, after in itertools.pairwise(at) if after > before]
    return statistics.median(gaps) if len(gaps) >= 3 else None
