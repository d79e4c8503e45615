"""Everything that people look at, read in one go: `tandem status`, `tandem top` and the dashboard draw an `Overview`.

Reads the ledger's file, the home, NVML and, while the cluster is up, HTTP of Ray and of the gateway; imports no ray. It
never raises for a part that is missing: the part is empty, and a sentence in `problems` says why. Rates need two looks:
`actors.status.rates.Rates`. A whole loss curve is in the run's `metrics.jsonl`.
"""

import contextlib
import math
import sqlite3
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from actors import cluster
from actors.cluster import Cluster
from actors.hardware import gpus
from actors.hardware.gpus import GpuReading, HostReading
from actors.runs import curve, pace, quarantine
from actors.runs.adapter_state import AdapterState
from actors.runs.event import Event
from actors.runs.ledger import PROD, Ledger, Quarantine, Swap
from actors.runs.pace import Eta
from actors.runs.run import Run, RunState
from actors.status import processes, request_stats, sources
from actors.status.processes import COMING, ProcessReading
from actors.status.request_stats import Traffic
from actors.status.sources import BAD_SHAPE, TIMEOUT_S, Answers
from configs.errors import TandemError
from configs.paths import Home
from configs.schema import Slot
from models.lora.adapter import Manifest
from models.lora.registry import Registry

SILENT_PART = 0.5
"""Of heartbeat_timeout_s: a running run without a sign of life for so long is worth a word. A sign comes with every
step, and the first step of a 20B model compiles for minutes."""
STARTING_S = 180
"""What is not there so soon after the head started is on its way, unless something died; longer is worth a word."""
RUN_STARTING_S = 60
"""So long after a run was given its slot, its processes may still be on their way, whatever its state."""
_ORDER = (RunState.RUNNING, RunState.STOPPING, RunState.STARTING, RunState.INTERRUPTED, RunState.QUEUED)
CLOCK_S = 5
"""Seconds by which the newest entry of the ledger may lie in the future."""


@dataclass(frozen=True)
class SlotReading:
    """One role of one slot, and who holds it."""

    name: str
    gpu: int | None
    """NVML index; None is a share of the CPU."""
    uuid: str | None
    roles: tuple[str, ...]
    role: str
    holder: str | None
    """A run or an engine."""
    pid: int | None
    since: float | None
    """Unix seconds."""
    quarantine: str | None
    """Why it is given to nobody; None is that it may be."""
    gone: bool = False
    """The process that holds it does not exist any more."""


@dataclass(frozen=True)
class RunReading:
    """A run, and what is known of its way."""

    run: Run
    """Its row; while it holds a slot, `loss` is the newest in its curve, NaN if it was no number."""
    position: int | None
    """1 is next; None if it is not queued."""
    eta: Eta | None
    """None while it does not step, as while the cluster is down."""
    losses: tuple[float, ...]
    """Training losses of the newest steps, oldest first; only while it holds a slot."""
    waits_for: str | None = None
    """Why it cannot start at all while it is queued; None is that it only waits for its turn."""

    @property
    def progress(self) -> float | None:
        """0 to 1; None while the number of steps is not known."""
        return min(1.0, self.run.step / self.run.max_steps) if self.run.max_steps else None


@dataclass(frozen=True)
class AdapterReading:
    """One published adapter."""

    manifest: Manifest
    state: AdapterState
    reason: str
    aliases: tuple[str, ...]
    loaded: bool
    """In an engine's memory now."""


@dataclass(frozen=True)
class Overview:
    """One look. Parts that could not be read are empty; `problems` has a sentence for each, and for what is wrong."""

    at: float
    """Unix seconds."""
    home: str
    up: bool
    """The cluster's head process lives."""
    http: str | None
    """Address of the gateway; None while down, as is `dashboard`, Ray's."""
    dashboard: str | None
    control: bool | None
    """Whether the control actor answers the gateway; None if that could not be asked."""
    base: str | None
    """The model that is served."""
    slots: tuple[SlotReading, ...]
    """Empty while down."""
    quarantines: dict[str, Quarantine]
    """By slot."""
    gpus: tuple[GpuReading, ...]
    host: HostReading
    processes: tuple[ProcessReading, ...]
    engines: dict[str, dict]
    """By name, the engine's statistics as `GET /api/status` gives them, or `{"error": words}`."""
    holds: tuple[dict, ...]
    runs: tuple[RunReading, ...]
    """Those that have not ended, then the newest others; newest first within both."""
    run_counts: dict[str, int]
    """By state, of all runs."""
    aliases: dict[str, str | None]
    """None is the base. `prod` is always there."""
    adapters: tuple[AdapterReading, ...]
    """Newest first."""
    swaps: tuple[Swap, ...]
    """Newest first."""
    traffic: Traffic | None
    events: tuple[Event, ...]
    """Newest first."""
    problems: tuple[str, ...]
    driver_fault: str | None = None
    """Why the NVIDIA driver tells nothing of the slots' GPUs: then they are not known to be gone."""
    starting: bool = False
    """Up for a moment only, and not all of it is there yet; `problems` leaves that out."""

    @property
    def active(self) -> tuple[RunReading, ...]:
        """The runs that have not ended."""
        return tuple(reading for reading in self.runs if not reading.run.state.is_terminal)

    @property
    def ordered(self) -> tuple[RunReading, ...]:
        """The runs as people read them: what computes, what waits in the order of the queue, then what has ended."""
        active = sorted(self.active, key=lambda each: (_ORDER.index(each.run.state), each.position or 0))
        return (*active, *(reading for reading in self.runs if reading.run.state.is_terminal))


@dataclass(frozen=True)
class _Book:
    """What the ledger says."""

    leases: dict[tuple[str, str], Any]
    quarantines: dict[str, Quarantine]
    runs: list[Run]
    queue: list[str]
    counts: dict[str, int]
    aliases: dict[str, str | None]
    adapter_states: dict[str, tuple[AdapterState, str]]
    swaps: list[Swap]
    events: list[Event]


def read(home: Home, *, limit: int = 20, timeout_s: float = TIMEOUT_S, strict: bool = False) -> Overview:
    """Look at everything: at most `limit` runs that have ended, adapters, swaps, and 5 times as many events.

    `strict` raises TandemError for a damaged cluster.json or ledger: what is up, or what ran, cannot be told from it.
    With 1,000 runs it takes 14 ms of processor time (`tests/bench/overview.py`, two slow cores), and while the cluster
    is up as long as the slowest of four HTTP answers, at most about `timeout_s`.
    """
    now, problems = time.time(), []
    found = _cluster(home, problems, strict)
    up = found is not None and found.is_alive
    if found is not None and not up:
        problems.append(f"the cluster died: its head, process {found.head.pid}, is gone -> `tandem up` starts it again")
    said = sources.fetch(found, home.token, timeout_s) if up else Answers()
    book = _book(home, limit, problems, strict)
    readings, host = _gpus(said), gpus.host()
    engines = said.status.get("engines") or {}
    running = _processes(found, said, problems) if up else ()
    starting = up and _is_starting(found, said, running, now)
    problems += [words for words in said.problems if not (starting and "does not answer" in words)]
    waits = any(process.kind == "engine" and not process.is_up for process in running)  # the gateway asks every engine
    late = [who for who in said.late if not (waits and who.startswith("the gateway"))]
    problems += [f"{who} does not answer within {timeout_s:g} s" for who in late if not starting]
    overview = Overview(
        at=now,
        home=str(home.root),
        up=up,
        http=found.http if up else None,
        dashboard=found.dashboard if up else None,
        control=said.control,
        base=said.status.get("base"),
        slots=_slots(found, book) if up else (),
        quarantines=book.quarantines if book else {},
        gpus=readings,
        host=host,
        processes=running,
        engines=engines,
        holds=tuple(said.status.get("holds") or ()),
        runs=_runs(home, book, found.slots if found else (), up, now, problems) if book else (),
        run_counts=book.counts if book else {},
        aliases={PROD: None} | book.aliases if book else {},
        adapters=_adapters(home, book, engines, limit, problems),
        swaps=tuple(book.swaps) if book else (),
        traffic=_traffic(said.metrics, problems),
        events=tuple(book.events) if book else (),
        problems=(),
        driver_fault=_driver_fault(found.slots) if up and not readings else None,
        starting=starting,
    )
    overview = replace(overview, processes=_on_their_way(overview))
    problems += _wrong(overview, found.config.heartbeat_timeout_s if found else None)
    return replace(overview, problems=tuple(dict.fromkeys(problems)))


def _gpus(said: Answers) -> tuple[GpuReading, ...]:
    """As the gateway has just read them, on this machine; read here if it does not tell of any."""
    with contextlib.suppress(*BAD_SHAPE):
        if told := tuple(GpuReading(**gpu) for gpu in said.status.get("gpus") or ()):
            return told
    return tuple(gpus.readings())


def _driver_fault(slots: Iterable[Slot]) -> str | None:
    return gpus.driver_fault() if any(slot.gpu is not None for slot in slots) else None


def age(moment: float | None, now: float) -> float | None:
    """Seconds since `moment`; 0 for one that lies in the future, because a clock was set back."""
    return None if moment is None else max(0.0, now - moment)


# The parts


@contextlib.contextmanager
def _part(name: str, problems: list[str], strict: bool = False) -> Iterator[None]:
    """Whatever keeps a part from being read becomes a sentence; not so a TandemError if it is read strictly."""
    try:
        yield
    except TandemError as error:
        if strict:
            raise
        problems.append(f"{name}: {error.message}{f' -> {error.hint}' if error.hint else ''}")
    except (OSError, sqlite3.Error) as error:
        problems.append(f"{name} cannot be read: {type(error).__name__}: {error}")
    except BAD_SHAPE as error:
        problems.append(f"{name} has a shape that is not understood: {type(error).__name__}: {error}")


def _cluster(home: Home, problems: list[str], strict: bool) -> Cluster | None:
    with _part("cluster", problems, strict):
        return cluster.find(home)
    return None


def _book(home: Home, limit: int, problems: list[str], strict: bool) -> _Book | None:
    with _part("ledger", problems, strict):
        if not home.ledger.exists():
            return None
        with contextlib.closing(Ledger(home.ledger, read_only=True)) as ledger:
            active = ledger.runs(active=True, limit=10 * limit)
            ended = [run for run in ledger.runs(limit=limit) if run.state.is_terminal]
            counts = ledger.count_runs()
            return _Book(
                leases={(lease.slot, lease.role): lease for lease in ledger.leases()},
                quarantines=ledger.quarantines(),
                runs=[*active, *ended],
                queue=[run.id for run in ledger.queue()] if counts[RunState.QUEUED] else [],
                counts={str(state): number for state, number in counts.items()},
                aliases=ledger.aliases(),
                adapter_states=ledger.adapter_states(),
                swaps=ledger.swaps(limit),
                events=ledger.newest_events(5 * limit),
            )
    return None


def _slots(found: Cluster, book: _Book | None) -> tuple[SlotReading, ...]:
    readings = []
    for slot in found.slots:
        for role in slot.roles:
            lease = book.leases.get((slot.name, role)) if book else None
            holding = {"holder": lease and lease.holder, "pid": lease and lease.pid}
            holding |= {"since": lease and lease.granted_at}
            holding |= {"gone": bool(lease and lease.process) and not lease.process.lives}
            bad = book.quarantines.get(slot.name) if book else None
            readings.append(SlotReading(**slot.model_dump(), role=role, **holding, quarantine=bad and bad.reason))
    return tuple(readings)


def _runs(
    home: Home, book: _Book, slots: tuple[Slot, ...], up: bool, now: float, problems: list[str]
) -> tuple[RunReading, ...]:
    positions = {run_id: index for index, run_id in enumerate(book.queue, 1)}
    readings = []
    for run in book.runs:
        eta, losses = None, ()
        if run.state.holds_slot:
            with _part(f"progress of {run.id}", problems):
                lines, unreadable = curve.tail(home.run(run.id) / "metrics.jsonl")
                eta, losses = pace.eta(lines, run.max_steps, now) if up else None, pace.losses(lines)
                if (loss := pace.newest(lines, "loss")) is not None:
                    run = replace(run, loss=loss)
                if unreadable:
                    problems.append(f"{run.id}: {unreadable} of the newest lines of metrics.jsonl cannot be read")
        queued = run.state is RunState.QUEUED
        waits_for = quarantine.why_waiting(run, slots, book.quarantines) if queued else None
        readings.append(RunReading(run, positions.get(run.id), eta, losses, waits_for))
    return tuple(readings)


def _adapters(
    home: Home, book: _Book | None, engines: dict[str, dict], limit: int, problems: list[str]
) -> tuple[AdapterReading, ...]:
    readings = []
    with _part("adapters", problems):
        for manifest in Registry(home.models).newest(limit):
            state, reason = AdapterState.PUBLISHED, ""
            if book and manifest.version in book.adapter_states:
                state, reason = book.adapter_states[manifest.version]
            aliases = book.aliases.items() if book else ()
            pointing = tuple(name for name, version in aliases if version == manifest.version)
            loaded = any(manifest.version in (stats.get("adapters") or ()) for stats in engines.values())
            readings.append(AdapterReading(manifest, state, reason, pointing, loaded))
    return tuple(readings)


def _processes(found: Cluster, said: Answers, problems: list[str]) -> tuple[ProcessReading, ...]:
    for parts in ((said.actors, said.serve), (None, None)):  # of strange answers the head is left
        with _part("processes", problems):
            return tuple(processes.read(found, *parts))
    return ()


def _is_starting(found: Cluster, said: Answers, running: tuple[ProcessReading, ...], now: float) -> bool:
    """Whether Tandem is on its way up: its head is young, something is not there yet, and nothing has died."""
    own = [process for process in running if process.run is None]
    died = any(process.has_died for process in own)
    whole = said.control is not None and all(process.is_up for process in own)
    busy = any("error" in stats for stats in (said.status.get("engines") or {}).values())
    return abs(now - found.started_at) < STARTING_S and not died and said.control is not False and (busy or not whole)


def _on_their_way(overview: Overview) -> tuple[ProcessReading, ...]:
    """The processes, those marked that are not up because the cluster or their run is starting."""
    coming = {reading.run.id for reading in overview.active if _comes_up(reading.run, overview.at)}
    return tuple(
        replace(process, on_its_way=process.state in COMING and process.run in coming)
        if process.run
        else replace(process, on_its_way=overview.starting and not process.is_up)
        for process in overview.processes
    )


def _comes_up(run: Run, now: float) -> bool:
    began = age(run.started_at, now)
    return run.state is RunState.STARTING or (began is not None and began < RUN_STARTING_S)


def _traffic(text: str | None, problems: list[str]) -> Traffic | None:
    with _part("requests", problems):
        return request_stats.parse(text) if text is not None else None
    return None


# What is wrong


def _wrong(overview: Overview, heartbeat_timeout_s: float | None) -> Iterator[str]:
    """A sentence for everything in a whole overview that somebody should look at."""
    now = overview.at
    moments = [event.at for event in overview.events[:1]] + [slot.since for slot in overview.slots if slot.since]
    moments += [moment for reading in overview.active for moment in (reading.run.heartbeat_at,) if moment]
    if moments and (ahead := max(moments) - now) > CLOCK_S:
        yield f"the clock was set back: the newest entry of the ledger is {ahead:,.0f} s in the future"
    for process in overview.processes:
        if not process.is_up and not process.on_its_way:
            where = f", process {process.pid}" if process.pid else ""
            yield f"{process.name} is {process.state}{where}{f': {process.message}' if process.message else ''}"
    for name, stats in overview.engines.items():
        if "error" in stats and not overview.starting:
            yield f"{name}: {stats['error']}"
    seen = {gpu.uuid for gpu in overview.gpus}
    if overview.driver_fault:
        yield f"the NVIDIA driver does not answer: {overview.driver_fault} -> `nvidia-smi` says more"
    for slot in {slot.name: slot for slot in overview.slots}.values():
        if slot.gpu is not None and slot.uuid not in seen and not overview.driver_fault:
            yield f"GPU {slot.gpu} of slot {slot.name} ({slot.uuid}) is gone: the driver does not show it any more"
    for name, bad in overview.quarantines.items():
        yield f"slot {name} is in quarantine: {bad.reason}"
    for adapter in overview.adapters:
        if adapter.manifest.suspect and PROD in adapter.aliases:
            yield f"prod answers with an adapter that is suspect; {adapter.manifest.doubts}"
    for slot in overview.slots:
        if slot.gone:
            yield f"slot {slot.name} is held by {slot.holder}, whose process {slot.pid} is gone"
    for reading in overview.active:
        if reading.run.loss is not None and not math.isfinite(reading.run.loss):
            yield f"the loss of {reading.run.id} is {reading.run.loss:g}"
        silent, most = age(reading.run.heartbeat_at, now) or 0, SILENT_PART * (heartbeat_timeout_s or math.inf)
        if overview.up and reading.run.state is RunState.RUNNING and silent > most:
            yield f"{reading.run.id} has given no sign of life for {silent:,.0f} s"
