"""The record of truth: runs, events, leases, quarantines, adapter states, aliases and swaps, in one SQLite file.

The control actor is the only writer; command line and exporter read the same file, so they work while the cluster is
down. Every change is one transaction with a reason and leaves an event. Knows neither Ray nor training.
"""

import errno
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from actors.home.folder import remedy
from actors.home.process_id import ProcessId
from actors.runs import ledger_schema
from actors.runs.adapter_state import ADAPTER_FOLLOWING, AdapterState
from actors.runs.event import Event, EventKind
from actors.runs.run import FOLLOWING, Run, RunKind, RunState
from configs import durable
from configs.errors import ClusterError, NotFoundError, StateError
from configs.schema import Slot

PROD, PREVIOUS = "prod", "previous"
"""The alias that clients ask for, and the one that remembers what it pointed to before."""
BEGINNING = "starting its process"
"""The stage of a run that was granted a slot, until its own process says more."""


@dataclass(frozen=True)
class Lease:
    """Who holds one role of one slot."""

    slot: str
    role: str
    holder: str
    process: ProcessId | None
    """The holding process on the slot's node; None until it is known."""
    granted_at: float
    is_up: bool = False
    """Of an engine: it has loaded all that it serves."""

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process else None


@dataclass(frozen=True)
class Quarantine:
    """A slot that is given to nobody until a person releases it."""

    slot: str
    reason: str
    since: float
    by: str
    """Who put it there: `tandem`, or a person by way of the API."""


@dataclass(frozen=True)
class SlotStatus:
    """A slot with the leases on it and its quarantine, None without one."""

    slot: Slot
    leases: tuple[Lease, ...]
    quarantine: Quarantine | None


@dataclass(frozen=True)
class Swap:
    """One try to point an alias elsewhere; None is the base model. `seconds` is from the request to the outcome."""

    id: int
    at: float
    alias: str
    old: str | None
    new: str | None
    outcome: str
    """`done` or `refused`."""
    reason: str
    seconds: float


_DISK = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_CANTOPEN: errno.EACCES,
    sqlite3.SQLITE_PERM: errno.EACCES,
}
"""What SQLite says of the disk, not of the ledger, in the system's numbers."""


class Ledger:
    """One open ledger file. `read_only=True` for everyone but the control actor.

    A writer brings an older file up to date; a reader reads it as it is.
    Raises ClusterError, then or later, if the file is not a readable ledger or is of a newer version.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self._lock = threading.RLock()
        with self._readable():
            self._open(read_only)

    def _open(self, read_only: bool) -> None:
        if read_only:
            self._db = sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False)
        else:
            durable.private_folder(self.path.parent)
            os.close(durable.private(str(self.path), os.O_CREAT | os.O_RDWR))  # SQLite's other files get its mode
            self._db = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None, timeout=30)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
        self._db.row_factory = sqlite3.Row
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > ledger_schema.VERSION:
            known = f"this Tandem knows {ledger_schema.VERSION}"
            raise ClusterError(f"{self.path} has version {version}, {known}", hint="update Tandem")
        if version < ledger_schema.VERSION and not read_only:
            self._db.executescript(ledger_schema.upgrade(version))

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ClusterError(f"{self.path} cannot be written: {error.strerror}", hint=remedy(error)) from error
        except sqlite3.DatabaseError as error:
            if number := _DISK.get(getattr(error, "sqlite_errorcode", 0) & 0xFF):  # without what extends it
                hint = remedy(OSError(number, ""))
                raise ClusterError(f"{self.path} cannot be used: {error}", hint=hint) from error
            raise ClusterError(
                f"{self.path} is not a readable ledger: {error}", hint="move it away or restore it"
            ) from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._readable(), self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # SQLite rolls back by itself when the disk is full
                    self._db.execute("ROLLBACK")
                raise

    def _rows(self, sql: str, *values: object) -> list[sqlite3.Row]:
        with self._readable(), self._lock:
            return self._db.execute(sql, values).fetchall()

    # Runs

    def submit(
        self,
        run_id: str,
        *,
        config: dict,
        kind: RunKind = RunKind.TRAIN,
        profile: str = "custom",
        max_steps: int | None = None,
        priority: int = 0,
        slot_wanted: str | None = None,
        parent: str | None = None,
        attached: bool = False,
        job_id: str | None = None,
        reason: str = "submitted",
    ) -> Run:
        """A new run, QUEUED; `config` is its kind's, `max_steps` None if only the work will tell.

        Raises StateError if the id exists.
        """
        with self._transaction() as db:
            try:
                values = (
                    *(run_id, RunKind(kind), RunState.QUEUED, reason, profile, json.dumps(config), priority),
                    *(slot_wanted, parent, attached, job_id, max_steps, time.time()),
                )
                db.execute(
                    "INSERT INTO runs (id, kind, state, reason, profile, config, priority, slot_wanted, parent,"
                    " attached, job_id, max_steps, created_at) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
                    values,
                )
            except sqlite3.IntegrityError:
                raise StateError(f"run {run_id} exists already", hint="submit under a new id") from None
            _event(db, run_id, EventKind.QUEUED, reason)
        return self.run(run_id)

    def run(self, run_id: str) -> Run:
        """One run. Raises NotFoundError."""
        rows = self._rows("SELECT * FROM runs WHERE id = ?", run_id)
        if not rows:
            raise NotFoundError(f"no run {run_id}", hint="see `tandem runs list`")
        return _run(rows[0])

    def runs(self, *, limit: int = 100, active: bool = False) -> list[Run]:
        """Newest first; with `active` only those that have not ended."""
        ended = ", ".join(f"'{state}'" for state in RunState if state.is_terminal)
        where = f"WHERE state NOT IN ({ended})" if active else ""
        return [_run(row) for row in self._rows(f"SELECT * FROM runs {where} ORDER BY created_at DESC LIMIT ?", limit)]

    def runs_between(self, begin: float, end: float) -> list[Run]:
        """Oldest first, those that were there at some moment from `begin` to `end`, in Unix seconds."""
        sql = "SELECT * FROM runs WHERE created_at < ? AND (ended_at IS NULL OR ended_at >= ? OR created_at >= ?)"
        return [_run(row) for row in self._rows(f"{sql} ORDER BY created_at", end, begin, begin)]

    def queue(self) -> list[Run]:
        """Queued runs in the order in which they will be granted a slot: priority, then age."""
        sql = "SELECT * FROM runs WHERE state = ? ORDER BY priority DESC, created_at, rowid"
        return [_run(row) for row in self._rows(sql, RunState.QUEUED)]

    def count_runs(self) -> dict[RunState, int]:
        """How many runs are in each state; every state is named."""
        rows = self._rows("SELECT state, count(*) AS number FROM runs GROUP BY state")
        return dict.fromkeys(RunState, 0) | {RunState(row["state"]): row["number"] for row in rows}

    def transition(self, run_id: str, to: RunState, reason: str) -> Run:
        """Change a run's state. A state without a slot gives its lease back in the same transaction.

        Raises StateError if `to` may not follow the present state.
        """
        with self._transaction() as db:
            self._transition(db, run_id, to, reason)
        return self.run(run_id)

    def _transition(self, db: sqlite3.Connection, run_id: str, to: RunState, reason: str) -> None:
        run = self.run(run_id)
        if to not in FOLLOWING[run.state]:
            raise StateError(f"run {run_id} is {run.state} and cannot become {to}", hint=f"`tandem runs show {run_id}`")
        now = time.time()
        db.execute("UPDATE runs SET state = ?, reason = ?, heartbeat_at = ? WHERE id = ?", (to, reason, now, run_id))
        if to is not RunState.RUNNING:
            stage = BEGINNING if to is RunState.STARTING else ""
            db.execute("UPDATE runs SET stage = ? WHERE id = ?", (stage, run_id))
        if to.is_terminal:
            db.execute("UPDATE runs SET ended_at = ? WHERE id = ?", (now, run_id))
        if not to.holds_slot:
            db.execute("DELETE FROM leases WHERE holder = ?", (run_id,))
        _event(db, run_id, EventKind(to.lower()), reason)

    def interrupt(self, run_id: str, reason: str, *, own_fault: bool) -> Run:
        """Change the state to INTERRUPTED and count the lost attempt, if it may be the run's own fault.

        An attempt that got further than those before it begins the count anew. Raises StateError as `transition`.
        """
        with self._transaction() as db:
            run = self.run(run_id)
            self._transition(db, run_id, RunState.INTERRUPTED, reason)
            lost = (0 if run.step > run.furthest else run.lost) + own_fault
            values = (lost, max(run.step, run.furthest), run_id)
            db.execute("UPDATE runs SET lost = ?, furthest = ? WHERE id = ?", values)
        return self.run(run_id)

    def set_stage(self, run_id: str, stage: str) -> None:
        """What the run is doing before its first step; a sign of life as well."""
        with self._transaction() as db:
            db.execute("UPDATE runs SET stage = ?, heartbeat_at = ? WHERE id = ?", (stage, time.time(), run_id))

    def progress(
        self, run_id: str, *, step: int, max_steps: int, loss: float | None, tokens_per_s: float | None
    ) -> Run:
        """Record a step of a run that holds a slot, and that it is alive."""
        with self._transaction() as db:
            db.execute(
                "UPDATE runs SET step = ?, max_steps = ?, loss = coalesce(?, loss), stage = '',"
                " tokens_per_s = coalesce(?, tokens_per_s), heartbeat_at = ? WHERE id = ?",
                (step, max_steps, loss, tokens_per_s, time.time(), run_id),
            )
        return self.run(run_id)

    def heartbeat(self, run_id: str) -> None:
        with self._transaction() as db:
            db.execute("UPDATE runs SET heartbeat_at = ? WHERE id = ?", (time.time(), run_id))

    def attach_job(self, run_id: str, job_id: str | None, *, attached: bool) -> None:
        with self._transaction() as db:
            db.execute("UPDATE runs SET job_id = ?, attached = ? WHERE id = ?", (job_id, attached, run_id))

    def set_adapter(self, run_id: str, version: str) -> None:
        """Note what a run published; the adapter becomes known as PUBLISHED in the same transaction.

        One that a gateway was quicker to load keeps its state.
        """
        with self._transaction() as db:
            db.execute("UPDATE runs SET adapter = ? WHERE id = ?", (version, run_id))
            db.execute(
                "INSERT INTO adapters (version, state, reason, run_id, updated_at) VALUES (?,?,?,?,?)"
                " ON CONFLICT (version) DO UPDATE SET run_id = excluded.run_id",
                (version, AdapterState.PUBLISHED, f"published by {run_id}", run_id, time.time()),
            )
            _event(db, run_id, EventKind.PUBLISHED, version)

    # Leases

    def grant(self, run_id: str, slot: Slot, role: str = "train") -> Run:
        """Give a queued run its slot: the lease, the state STARTING and the attempt's number in one transaction.

        Raises StateError if the slot is held, lacks the role, or the run is not queued.
        """
        if role not in slot.roles:
            raise StateError(f"slot {slot.name} has no role {role}", hint="see `tandem status`")
        with self._transaction() as db:
            self._take(db, slot.name, role, run_id)
            self._transition(db, run_id, RunState.STARTING, f"granted slot {slot.name}")
            db.execute(
                "UPDATE runs SET slot = ?, attempt = attempt + 1, started_at = ? WHERE id = ?",
                (slot.name, time.time(), run_id),
            )
        return self.run(run_id)

    def take(self, slot: str, role: str, holder: str, process: ProcessId) -> None:
        """Hold a slot for something that is not a run, such as an engine. Raises StateError if it is held."""
        with self._transaction() as db:
            self._take(db, slot, role, holder)
            _set_process(db, holder, process)
            _event(db, None, EventKind.LEASE, f"{holder} holds slot {slot} ({role})")

    def _take(self, db: sqlite3.Connection, slot: str, role: str, holder: str) -> None:
        try:
            values = (slot, role, holder, time.time())
            db.execute("INSERT INTO leases (slot, role, holder, granted_at) VALUES (?,?,?,?)", values)
        except sqlite3.IntegrityError:
            other = db.execute("SELECT holder FROM leases WHERE slot = ? AND role = ?", (slot, role)).fetchone()[0]
            raise StateError(f"slot {slot} ({role}) is held by {other}", hint="wait for it or stop it") from None

    def release(self, holder: str, reason: str) -> None:
        """Give back whatever `holder` holds. Nothing held is not an error."""
        with self._transaction() as db:
            if db.execute("DELETE FROM leases WHERE holder = ?", (holder,)).rowcount:
                _event(db, None, EventKind.LEASE, f"{holder} gave its slot back: {reason}")

    def set_lease_process(self, holder: str, process: ProcessId) -> None:
        with self._transaction() as db:
            _set_process(db, holder, process)

    def set_lease_up(self, slot: str, process: ProcessId) -> None:
        """The engine in `process` has loaded all that it serves; nothing happens if another holds the slot by now."""
        with self._transaction() as db:
            sql = "UPDATE leases SET is_up = 1 WHERE slot = ? AND role = 'serve'"
            db.execute(f"{sql} AND (pid, started, boot, namespace) = (?,?,?,?)", (slot, *astuple(process)))

    def leases(self) -> list[Lease]:
        return [_lease(row) for row in self._rows("SELECT * FROM leases ORDER BY slot, role")]

    # Quarantine

    def quarantine(self, slot: str, reason: str, by: str) -> None:
        """Give `slot` to nobody from now on. In quarantine already it stays there for its first reason."""
        with self._transaction() as db:
            values = (slot, reason, time.time(), by)
            if db.execute(
                "INSERT OR IGNORE INTO quarantines (slot, reason, since, by) VALUES (?,?,?,?)", values
            ).rowcount:
                _event(db, None, EventKind.QUARANTINE, f"slot {slot} is in quarantine: {reason}")

    def release_quarantine(self, slot: str, *, accepted: str | None) -> None:
        """Let `slot` be given again, its device errors forgotten; `accepted` is what was wrong with its GPU just now.

        Raises StateError if it is not in quarantine.
        """
        with self._transaction() as db:
            sql = "UPDATE quarantines SET released_at = ?, accepted = ? WHERE slot = ? AND released_at IS NULL"
            if not db.execute(sql, (time.time(), accepted, slot)).rowcount:
                raise StateError(f"slot {slot} is not in quarantine", hint="`tandem slots list` shows which are")
            db.execute("DELETE FROM device_errors WHERE slot = ?", (slot,))
            _event(db, None, EventKind.RELEASE, f"slot {slot} is out of quarantine")

    def quarantines(self) -> dict[str, Quarantine]:
        """The slots that are in quarantine now; none in a file of version 1, which knows of no quarantine."""
        if self._rows("PRAGMA user_version")[0][0] < 2:
            return {}
        sql = "SELECT slot, reason, since, by FROM quarantines WHERE released_at IS NULL ORDER BY slot"
        return {row["slot"]: Quarantine(**row) for row in self._rows(sql)}

    def accepted(self, slot: str) -> str | None:
        """What was wrong with the slot's GPU when a person last released it, as long as nothing has changed since."""
        rows = self._rows("SELECT accepted FROM quarantines WHERE slot = ? ORDER BY id DESC LIMIT 1", slot)
        return rows[0]["accepted"] if rows else None

    def forget_accepted(self, slot: str) -> None:
        """Nothing is wrong with the slot's GPU any more, so whatever comes next is new."""
        with self._transaction() as db:
            db.execute("UPDATE quarantines SET accepted = NULL WHERE slot = ?", (slot,))

    def count_device_error(self, slot: str) -> int:
        """One more attempt on `slot` ended by an error of its device; how many in a row that makes."""
        with self._transaction() as db:
            sql = "INSERT INTO device_errors VALUES (?, 1) ON CONFLICT (slot) DO UPDATE SET in_a_row = in_a_row + 1"
            return db.execute(f"{sql} RETURNING in_a_row", (slot,)).fetchone()[0]

    def forget_device_errors(self, slot: str) -> None:
        with self._transaction() as db:
            db.execute("DELETE FROM device_errors WHERE slot = ?", (slot,))

    # Adapters and aliases

    def set_adapter_state(
        self, version: str, state: AdapterState, reason: str, *, process: ProcessId | None = None
    ) -> None:
        """Change an adapter's state. `process` is the gateway's that makes the attempt which LOADING begins.

        The same state of the same attempt again changes nothing. Raises StateError if `state` may not follow the
        present one, or if the attempt is another gateway's.
        """
        with self._transaction() as db:
            if _set_adapter_state(db, version, state, reason, process):
                _event(db, None, EventKind.ADAPTER, f"{version} is {state}: {reason}")

    def end_attempt(self, version: str, reason: str, process: ProcessId) -> None:
        """`process` gives its attempt up: the adapter is again what it was. Nothing happens if it has none open."""
        with self._transaction() as db:
            self._end_attempts(db, lambda name, owner: (name, owner) == (version, process), reason)

    def end_attempts(self, is_over: Callable[[ProcessId | None], bool], reason: str) -> None:
        """Every adapter whose attempt `is_over`, by its gateway's process, is again what it was: LIVE if an alias
        points to it, otherwise what it was before the attempt. The process is None if it is not known."""
        attempts = self._rows("SELECT * FROM adapters WHERE earlier_state IS NOT NULL")
        if not any(is_over(_process(row)) for row in attempts):
            return  # the usual case, asked at every tick, needs no lock on the file
        with self._transaction() as db:
            self._end_attempts(db, lambda _, owner: is_over(owner), reason)

    def _end_attempts(
        self, db: sqlite3.Connection, is_over: Callable[[str, ProcessId | None], bool], reason: str
    ) -> None:
        sql = "SELECT *, version IN (SELECT version FROM aliases WHERE name <> ?) AS is_live FROM adapters"
        for row in db.execute(f"{sql} WHERE earlier_state IS NOT NULL", (PREVIOUS,)).fetchall():
            if not is_over(row["version"], _process(row)):
                continue
            to = AdapterState.LIVE if row["is_live"] else AdapterState(row["earlier_state"])
            keeps_reason = to is AdapterState.REFUSED
            _set_adapter_state(db, row["version"], to, row["earlier_reason"] if keeps_reason else reason)
            _event(db, None, EventKind.ADAPTER, f"{row['version']} is {to} again, no longer {row['state']}: {reason}")

    def adapter_states(self) -> dict[str, tuple[AdapterState, str]]:
        """Version to (state, reason)."""
        rows = self._rows("SELECT version, state, reason FROM adapters")
        return {row["version"]: (AdapterState(row["state"]), row["reason"]) for row in rows}

    def aliases(self) -> dict[str, str | None]:
        """Alias to adapter version; None is the base model."""
        return {row["name"]: row["version"] for row in self._rows("SELECT name, version FROM aliases ORDER BY name")}

    def flip(self, alias: str, version: str | None, *, reason: str, seconds: float) -> str | None:
        """Point `alias` at `version` and `previous` at what it pointed to, in one transaction; returns the old one.

        Raises StateError if the version is in no state that LIVE may follow.
        """
        with self._transaction() as db:
            old = self.aliases().get(alias)
            now = time.time()
            for name, target in ((alias, version), (PREVIOUS, old)):
                db.execute("INSERT OR REPLACE INTO aliases VALUES (?,?,?)", (name, target, now))
            if version is not None and version != old:
                _set_adapter_state(db, version, AdapterState.LIVE, f"alias {alias}")
            if old is not None and old != version:
                _set_adapter_state(db, old, AdapterState.RETIRED, f"replaced by {version or 'the base'}")
            _swap(db, alias, old, version, "done", reason, seconds)
            _event(db, None, EventKind.SWAP, f"{alias}: {old or 'base'} -> {version or 'base'}")
        return old

    def refuse_swap(self, alias: str, version: str, *, reason: str, seconds: float) -> None:
        """Record that `version` was not let in; the alias stays where it is. Raises StateError without an attempt."""
        with self._transaction() as db:
            old = self.aliases().get(alias)
            if old != version:
                _set_adapter_state(db, version, AdapterState.REFUSED, reason)
            _swap(db, alias, old, version, "refused", reason, seconds)
            _event(db, None, EventKind.REFUSED, f"{alias}: {version} refused: {reason}")

    def swaps(self, limit: int = 100) -> list[Swap]:
        """Newest first."""
        return [Swap(**row) for row in self._rows("SELECT * FROM swaps ORDER BY id DESC LIMIT ?", limit)]

    def count_swaps(self) -> dict[str, int]:
        """How many tries had each outcome."""
        rows = self._rows("SELECT outcome, count(*) AS number FROM swaps GROUP BY outcome")
        return {row["outcome"]: row["number"] for row in rows}

    # Events

    def note(self, kind: EventKind, text: str, run_id: str | None = None) -> None:
        with self._transaction() as db:
            _event(db, run_id, kind, text)

    def events(self, *, run_id: str | None = None, after: int = 0, limit: int = 1000) -> list[Event]:
        """Oldest first, those with a sequence number above `after`."""
        where, values = ("AND run_id = ?", [run_id]) if run_id else ("", [])
        sql = f"SELECT * FROM events WHERE seq > ? {where} ORDER BY seq LIMIT ?"
        return [Event(**row) for row in self._rows(sql, after, *values, limit)]

    def events_between(self, begin: float, end: float) -> list[Event]:
        """Oldest first, of all runs, from `begin` until before `end` in Unix seconds."""
        return [
            Event(**row) for row in self._rows("SELECT * FROM events WHERE at >= ? AND at < ? ORDER BY seq", begin, end)
        ]

    def last_event(self) -> int:
        """The newest event's sequence number; 0 without any."""
        return self._rows("SELECT coalesce(max(seq), 0) FROM events")[0][0]

    def mark(self, name: str) -> int | None:
        """The number remembered under `name`, such as how far a reader of events has come; None without one."""
        rows = self._rows("SELECT seq FROM marks WHERE name = ?", name)
        return rows[0]["seq"] if rows else None

    def set_mark(self, name: str, seq: int | None) -> None:
        """Remember a number over restarts; None forgets it."""
        with self._transaction() as db:
            db.execute("DELETE FROM marks WHERE name = ?", (name,))
            if seq is not None:
                db.execute("INSERT INTO marks VALUES (?,?)", (name, seq))

    def count_events(self, run_id: str, kinds: Sequence[EventKind]) -> int:
        """How many events of these kinds a run has."""
        places = ", ".join("?" * len(kinds))
        sql = f"SELECT count(*) AS number FROM events WHERE run_id = ? AND kind IN ({places})"
        return self._rows(sql, run_id, *kinds)[0]["number"]

    def newest_events(self, limit: int = 100) -> list[Event]:
        """Of all runs, newest first."""
        return [Event(**row) for row in self._rows("SELECT * FROM events ORDER BY seq DESC LIMIT ?", limit)]


def _run(row: sqlite3.Row) -> Run:
    known = row.keys()  # a reader reads an older file as it is, and what that does not have is the default
    values = {field.name: row[field.name] for field in fields(Run) if field.name in known}
    values |= {"kind": RunKind(row["kind"]), "state": RunState(row["state"])}
    values |= {"config": json.loads(row["config"]), "attached": bool(row["attached"])}
    return Run(**values)


def _lease(row: sqlite3.Row) -> Lease:
    """Of a file older than version 3, which only a reader meets, the process is not known."""
    values = {name: row[name] for name in ("slot", "role", "holder", "granted_at")}
    if "started" not in row.keys() or row["pid"] is None:  # noqa: SIM118  a Row's `in` looks at its values
        return Lease(**values, process=None)
    return Lease(**values, process=_process(row), is_up=bool(row["is_up"]))


def _process(row: sqlite3.Row) -> ProcessId | None:
    """The process in a row's columns of a ProcessId's names."""
    return None if row["pid"] is None else ProcessId(*(row[field.name] for field in fields(ProcessId)))


def _set_process(db: sqlite3.Connection, holder: str, process: ProcessId) -> None:
    sql = "UPDATE leases SET (pid, started, boot, namespace) = (?,?,?,?) WHERE holder = ?"
    db.execute(sql, (*astuple(process), holder))


def _event(db: sqlite3.Connection, run_id: str | None, kind: EventKind, text: str) -> None:
    db.execute("INSERT INTO events (at, run_id, kind, text) VALUES (?,?,?,?)", (time.time(), run_id, kind, text))


def _swap(
    db: sqlite3.Connection, alias: str, old: str | None, new: str | None, outcome: str, reason: str, seconds: float
) -> None:
    db.execute(
        "INSERT INTO swaps (at, alias, old, new, outcome, reason, seconds) VALUES (?,?,?,?,?,?,?)",
        (time.time(), alias, old, new, outcome, reason, seconds),
    )


def _set_adapter_state(
    db: sqlite3.Connection, version: str, to: AdapterState, reason: str, process: ProcessId | None = None
) -> bool:
    """Whether anything changed: the same state of the same attempt is an answer that was lost and asked for again."""
    row = db.execute("SELECT * FROM adapters WHERE version = ?", (version,)).fetchone()
    now = AdapterState(row["state"]) if row else AdapterState.PUBLISHED
    if now.is_attempt and to.is_attempt:
        if process != _process(row):
            raise StateError(f"another gateway is loading {version}", hint="swap again when it is done")
        if to is now:
            return False
    if to not in ADAPTER_FOLLOWING[now]:
        raise StateError(f"adapter {version} is {now} and cannot become {to}", hint="see `tandem adapters list`")
    earlier: tuple[str | None, str | None]
    if to is AdapterState.LOADING:
        earlier = (now, row["reason"] if row else "")
    else:
        earlier = (row["earlier_state"], row["earlier_reason"]) if to.is_attempt else (None, None)
    owner = astuple(process) if to.is_attempt and process else (None,) * len(fields(ProcessId))
    db.execute("INSERT OR IGNORE INTO adapters (version, state, reason, updated_at) VALUES (?,?,'',0)", (version, now))
    db.execute(
        "UPDATE adapters SET (state, reason, updated_at, earlier_state, earlier_reason, pid, started, boot, namespace)"
        " = (?,?,?,?,?,?,?,?,?) WHERE version = ?",
        (to, reason, time.time(), *earlier, *owner, version),
    )
    return True
