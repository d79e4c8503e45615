"""Queue, runs, adapters and swaps as metrics, read from an open ledger and the home's folders."""

import time
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

from actors.runs import curve, pace
from actors.runs.event import EventKind
from actors.runs.ledger import PROD, Ledger
from actors.runs.run import Run
from configs.paths import Home
from models.lora.registry import Registry

TAIL_BYTES = 64 * 2**10
"""Of a run's metrics.jsonl: some 400 steps, far more than there are between two evaluations' lines in most profiles."""
WATCHDOG_EVENTS = (EventKind.WATCHDOG, EventKind.ROLLBACK, EventKind.SUSPECT)


def queue(ledger: Ledger) -> Iterator[Metric]:
    count = GaugeMetricFamily("tandem_runs", "Runs in the ledger, by state.", labels=["state"])
    for state, number in ledger.count_runs().items():
        count.add_metric([state], number)
    yield count
    yield GaugeMetricFamily("tandem_queue_length", "Runs waiting for a slot.", value=len(ledger.queue()))


def runs(ledger: Ledger, home: Home, up: bool) -> Iterator[Metric]:
    """One value per run that holds a slot, so that there are never more than slots; none while the cluster is down."""
    info = InfoMetricFamily("tandem_run", "What a run that holds a slot is.", labels=["run"])
    watchdog = CounterMetricFamily(
        "tandem_run_watchdog", "Warnings, doubts and rollbacks of the run's watchdog.", labels=["run"]
    )
    families = {
        "step": _gauge("step", "Optimiser step of a run that holds a slot."),
        "max_steps": _gauge("max_steps", "Optimiser steps that the run will take."),
        "loss": _gauge("loss", "Training loss of the newest step; NaN if it was no number."),
        "eval_loss": _gauge("eval_loss", "Loss on the held-out rows, newest evaluation."),
        "tokens_per_s": _gauge("tokens_per_second", "Training speed, newest step."),
        "heartbeat_age": _gauge("heartbeat_age_seconds", "Since the run's last sign of life."),
    }
    for lease in ledger.leases() if up else ():
        if lease.role == "train":
            run = ledger.run(lease.holder)
            info.add_metric([run.id], {"profile": run.profile, "kind": run.kind, "slot": lease.slot})
            watchdog.add_metric([run.id], ledger.count_events(run.id, WATCHDOG_EVENTS))
            for field, value in _readings(run, home).items():
                if value is not None:
                    families[field].add_metric([run.id], value)
    yield info
    yield watchdog
    yield from families.values()


def _readings(run: Run, home: Home) -> dict[str, float | None]:
    """From the row, and from the run's own curve what the row cannot hold."""
    lines, _ = curve.tail(home.run(run.id) / "metrics.jsonl", TAIL_BYTES)
    loss = pace.newest(lines, "loss")
    return {
        "step": run.step,
        "max_steps": run.max_steps,
        "loss": run.loss if loss is None else loss,
        "eval_loss": pace.newest(lines, "eval_loss"),
        "tokens_per_s": run.tokens_per_s,
        "heartbeat_age": None if run.heartbeat_at is None else max(0.0, time.time() - run.heartbeat_at),
    }


def adapters(ledger: Ledger, home: Home) -> Iterator[Metric]:
    published = Registry(home.models).list()
    yield GaugeMetricFamily("tandem_adapters", "Published adapters on disk.", value=len(published))
    suspect = {manifest.version for manifest in published if manifest.suspect}
    yield GaugeMetricFamily("tandem_adapters_suspect", "Of these, those that are suspect.", value=len(suspect))
    live = InfoMetricFamily("tandem_alias", "What each alias points to.", labels=["alias"])
    for alias, version in ({PROD: None} | ledger.aliases()).items():
        live.add_metric([alias], {"version": version or "base"})
    yield live
    swaps = CounterMetricFamily("tandem_swaps", "Tries to point an alias elsewhere.", labels=["outcome"])
    counted = ledger.count_swaps()
    for outcome in ("done", "refused"):
        swaps.add_metric([outcome], counted.get(outcome, 0))
    yield swaps


def _gauge(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"tandem_run_{name}", text, labels=["run"])
