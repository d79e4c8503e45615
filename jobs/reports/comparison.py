"""Runs side by side: `compare` reads what is on disk of each, so it works while the cluster is down.

A comparison is plain values: results by run, the settings that differ, and the curves. Draws nothing. Called by
`tandem runs compare` and `tandem runs show`.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from actors.energy import cost, usage
from actors.runs.curve import MetricsLog
from actors.runs.ledger import Ledger
from actors.runs.run import Run, check_run_id
from configs.paths import Home
from configs.schema import EnergyConfig
from jobs.reports.plots import Curve
from jobs.training import run_record

UNKNOWN = None
"""In a difference: the run has no such setting, or ended before it wrote down what it is made of."""


UNPRICED = EnergyConfig()


@dataclass(frozen=True)
class Result:
    """What one run came to; None is not known. Losses over all its steps, those of the run that it resumed included."""

    run: str
    kind: str
    state: str
    steps: int
    first_loss: float | None
    last_loss: float | None
    mean_loss: float | None
    best_loss: float | None
    eval_loss: float | None
    """The last on the held-out rows, during training."""
    best_eval_loss: float | None
    base_eval_loss: float | None
    """The base's own on these rows, before the first step."""
    judged_loss: float | None
    """Of the newest held-out evaluation of its adapter, on the serving engine."""
    judged_base_loss: float | None
    """Of the base in the same evaluation."""
    judged_on: str | None
    seconds: float | None
    """From the grant of its slot to its end, or until now."""
    tokens_per_s: float | None
    """Median over the steps."""
    energy_joules: float | None
    """Over all its attempts, with that of the run that it resumed."""
    energy_remarks: tuple[str, ...]
    """In words, what these joules are not, or why there are none."""
    tokens: int | None
    """That were trained, over the same."""
    joules_per_1000_tokens: float | None
    cost: float | None
    """In `currency`; None without a price."""
    currency: str | None
    co2_g: float | None
    peak_memory_bytes: int | None
    adapter: str | None


@dataclass(frozen=True)
class Comparison:
    """Runs in the order in which they were named."""

    results: tuple[Result, ...]
    differences: Mapping[str, tuple[Any, ...]]
    """By dotted key, one value per run."""
    losses: tuple[Curve, ...]
    evaluations: tuple[Curve, ...]

    def to_json(self) -> dict[str, Any]:
        curves = {
            result.run: {"loss": _points(loss), "eval_loss": _points(evaluation)}
            for result, loss, evaluation in zip(self.results, self.losses, self.evaluations, strict=True)
        }
        return {
            "runs": [asdict(result) for result in self.results],
            "differences": dict(self.differences),
            "curves": curves,
        }


def compare(home: Home, ledger: Ledger, run_ids: Sequence[str], prices: EnergyConfig = UNPRICED) -> Comparison:
    """Read these runs; one that is named twice counts once. Raises NotFoundError for an unknown one."""
    runs = [ledger.run(check_run_id(run_id)) for run_id in dict.fromkeys(run_ids)]
    logs = [MetricsLog(home.run(run.id) / "metrics.jsonl") for run in runs]
    pairs = [curves(log, run.id, color) for color, (run, log) in enumerate(zip(runs, logs, strict=True))]
    return Comparison(
        results=tuple(_result(home, run, log, prices) for run, log in zip(runs, logs, strict=True)),
        differences=_differences([(run.config, _resolved(home.run(run.id))) for run in runs]),
        losses=tuple(loss for loss, _ in pairs),
        evaluations=tuple(evaluation for _, evaluation in pairs),
    )


def curves(log: MetricsLog, name: str, color: int = 0) -> tuple[Curve, Curve]:
    """(loss by step, evaluation loss by step) of one run."""
    losses, evaluations = log.losses(), log.evaluations()
    return (
        Curve(name, tuple(line["step"] for line in losses), tuple(line["loss"] for line in losses), color),
        Curve(
            f"{name}, held out",
            tuple(line["step"] for line in evaluations),
            tuple(line["eval_loss"] for line in evaluations),
            color,
        ),
    )


def _result(home: Home, run: Run, log: MetricsLog, prices: EnergyConfig) -> Result:
    loss, evaluation = (curve.finite() for curve in curves(log, run.id))
    held_out = dict(zip(evaluation.steps, evaluation.values, strict=True))
    own = [value for step, value in held_out.items() if step > 0]
    rates = [line["tokens_per_s"] for line in log.losses() if line.get("tokens_per_s")]
    measured = run_record.read_measured(home.run(run.id))
    return Result(
        run=run.id,
        kind=run.kind,
        state=str(run.state),
        steps=loss.steps[-1] if loss.steps else run.step,
        first_loss=loss.values[0] if loss.values else None,
        last_loss=loss.values[-1] if loss.values else None,
        mean_loss=fmean(loss.values) if loss.values else None,
        best_loss=min(loss.values, default=None),
        eval_loss=own[-1] if own else None,
        best_eval_loss=min(own, default=None),
        base_eval_loss=held_out.get(0),
        **_judged(home, run.adapter),
        seconds=(run.ended_at or time.time()) - run.started_at if run.started_at else None,
        tokens_per_s=median(rates) if rates else None,
        **_energy(home, run, measured, prices),
        peak_memory_bytes=measured.get("peak_memory_bytes"),
        adapter=run.adapter,
    )


def _energy(home: Home, run: Run, measured: Mapping[str, Any], prices: EnergyConfig) -> dict[str, Any]:
    found = usage.read(home.run(run.id))
    joules = found.joules if found else measured.get("energy_joules")  # of its last attempt, in an older run
    tokens = found.tokens if found else None
    bill = cost.bill(joules, found.measured_tokens if found else None, prices)
    return {
        "energy_joules": joules,
        "energy_remarks": tuple(found.remarks()) if found else (),
        "tokens": tokens or None,
        "joules_per_1000_tokens": bill.joules_per_1000_tokens,
        "cost": bill.cost,
        "currency": bill.currency,
        "co2_g": bill.co2_g,
    }


def _judged(home: Home, adapter: str | None) -> dict[str, Any]:
    """The headline of an adapter's newest evaluation; of a report of another shape, what can be found in it."""
    from jobs.evaluation import judge  # reads data sets: pyarrow
    from jobs.evaluation import report as evaluation_report

    newest = evaluation_report.newest(home, adapter) if adapter else None
    report = newest if isinstance(newest, dict) else {}
    dataset = report.get("dataset")
    return {
        "judged_loss": _dig(report, "losses", judge.ADAPTER, judge.LEARNED, "loss"),
        "judged_base_loss": _dig(report, "losses", judge.BASE, judge.LEARNED, "loss"),
        "judged_on": f"{report.get('rows', '?')} rows of {dataset}" if dataset else None,
    }


def _dig(value: Any, *keys: str) -> float | None:
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, int | float) else None


def _resolved(folder: Path) -> dict[str, Any]:
    """What a run wrote down of what it is made of, beyond its configuration; empty before it did."""
    resolved = _read(folder / run_record.RESOLVED)
    origin = resolved.get("origin") or {}
    data = resolved.get("data") or {}
    kept = ("rows", "held_out_rows", "tokens", "learned_tokens", "data_fingerprint", "template_fingerprint")
    found = {
        "versions": resolved.get("versions"),
        "base": resolved.get("base"),
        "data": {key: data[key] for key in kept if key in data},
        "device": origin.get("device"),
        "environment": origin.get("environment"),
    }
    return {key: value for key, value in found.items() if value}


def _read(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _differences(runs: Sequence[tuple[Mapping, Mapping]]) -> dict[str, tuple[Any, ...]]:
    """The settings, and then the facts, that are not the same in all runs that know them."""
    configs = [_flat(config) for config, _ in runs]
    facts = [_flat(resolved) for _, resolved in runs]
    return _differing(configs) | _differing(facts)


def _differing(runs: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Any, ...]]:
    keys = dict.fromkeys(key for run in runs for key in run)
    values = {key: tuple(run.get(key, UNKNOWN) for run in runs) for key in keys}
    told = {key: {json.dumps(run.get(key, UNKNOWN)) for run in runs if run} for key in keys}
    return {key: values[key] for key in keys if len(told[key]) > 1}


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found |= _flat(inner, f"{prefix}{key}.") if isinstance(inner, Mapping) else {f"{prefix}{key}": inner}
    return found


def _points(curve: Curve) -> list[dict[str, float]]:
    return [{"step": step, "value": value} for step, value in zip(curve.steps, curve.values, strict=True)]
