"""What can be read at any time on the head node: cluster, hardware, ledger and adapters, each part for itself."""

import functools
import importlib.metadata
import platform
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import TypeVar

from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric

from actors import cluster
from actors.cluster import Cluster
from actors.hardware import gpus
from actors.hardware.gpus import GpuReading
from actors.metrics import hardware, runs
from actors.runs.ledger import Ledger
from configs.errors import ClusterError
from configs.paths import Home

T = TypeVar("T")
LEDGER_PARTS = ("slots", "queue", "runs", "adapters")


class ClusterCollector:
    """Reads everything anew at every scrape.

    Whatever a part raises, its metrics are missing from this scrape, `tandem_scrape_errors` says which part it was, and
    all others are there: monitoring must not break.
    """

    def __init__(self, home: Home) -> None:
        self._home = home

    def collect(self) -> Iterator[Metric]:
        scrape = _Scrape()
        yield _info()
        found = scrape.attempt("cluster", lambda: cluster.find(self._home))
        alive = found is not None and found.is_alive
        yield GaugeMetricFamily("tandem_up", "1 while the cluster's head process lives.", value=float(alive))
        yield _heartbeat_timeout(found)
        yield from scrape.part("host", hardware.host_families)
        yield from scrape.part("disk", lambda: hardware.disk(self._home.root))
        readings = functools.cache(gpus.readings)
        yield from scrape.part("gpus", lambda: hardware.gpu_families(readings()))
        yield from scrape.part("slot_gpus", lambda: _slot_gpus(found, readings()))
        yield from self._ledger(scrape, found, alive)
        yield scrape.errors()

    def _ledger(self, scrape: "_Scrape", found: Cluster | None, alive: bool) -> Iterator[Metric]:
        exists = self._home.ledger.exists()
        ledger = scrape.attempt("ledger", lambda: Ledger(self._home.ledger, read_only=True)) if exists else None
        if ledger is not None:
            with closing(ledger):
                yield from scrape.part("slots", lambda: _slots(found, ledger))
                yield from scrape.part("queue", lambda: runs.queue(ledger))
                yield from scrape.part("runs", lambda: runs.runs(ledger, self._home, alive))
                yield from scrape.part("adapters", lambda: runs.adapters(ledger, self._home))
        yield GaugeMetricFamily(
            "tandem_ledger_readable", "0 if there is a ledger that cannot be read.", value=float(scrape.ledger_readable)
        )


class _Scrape:
    """One reading of all parts: which of them failed."""

    def __init__(self) -> None:
        self.ledger_readable = True
        self._failed = dict.fromkeys(("cluster", "host", "disk", "gpus", "slot_gpus", "ledger", *LEDGER_PARTS), False)

    def attempt(self, part: str, read: Callable[[], T]) -> T | None:
        """What `read` gives, or None and a note that this part failed."""
        try:
            return read()
        except Exception as error:
            self._failed[part] = True
            if part == "ledger" or (part in LEDGER_PARTS and isinstance(error, ClusterError)):
                self.ledger_readable = False
            return None

    def part(self, part: str, read: Callable[[], Iterator[Metric]]) -> list[Metric]:
        return self.attempt(part, lambda: list(read())) or []

    def errors(self) -> Metric:
        family = GaugeMetricFamily("tandem_scrape_errors", "1 if this part could not be read now.", labels=["part"])
        for part, failed in self._failed.items():
            family.add_metric([part], float(failed))
        return family


def _info() -> Metric:
    versions = {"version": _version("tandem"), "python": platform.python_version(), "ray": _version("ray")}
    return InfoMetricFamily("tandem", "Versions of Tandem, Python and Ray.", value=versions)


def _heartbeat_timeout(found: Cluster | None) -> Metric:
    name, text = "tandem_heartbeat_timeout_seconds", "Without a sign of life for so long a run is started again."
    family = GaugeMetricFamily(name, text, labels=[])
    if found is not None:
        family.add_metric([], found.config.heartbeat_timeout_s)
    return family


def _version(package: str) -> str:
    """`unknown` for one that runs from its source without being installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _slots(found: Cluster | None, ledger: Ledger) -> Iterator[Metric]:
    held = {(lease.slot, lease.role) for lease in ledger.leases()}
    family = GaugeMetricFamily("tandem_slot_held", "1 while the slot's role is held.", labels=["slot", "role"])
    bad = GaugeMetricFamily("tandem_slot_quarantined", "1 while the slot is given to nobody.", labels=["slot"])
    quarantines = ledger.quarantines()
    for slot in found.slots if found else ():
        bad.add_metric([slot.name], float(slot.name in quarantines))
        for role in slot.roles:
            family.add_metric([slot.name, role], float((slot.name, role) in held))
    yield family
    yield bad


def _slot_gpus(found: Cluster | None, readings: Iterable[GpuReading]) -> Iterator[Metric]:
    family = GaugeMetricFamily("tandem_slot_gpu_up", "1 if the driver finds the slot's GPU.", labels=["slot", "uuid"])
    present = {(gpu.index, gpu.uuid) for gpu in readings}
    for slot in found.slots if found else ():
        if slot.gpu is not None:
            there = any(slot.uuid == uuid if slot.uuid else slot.gpu == index for index, uuid in present)
            family.add_metric([slot.name, slot.uuid or ""], float(there))
    yield family
