"""What is kept of responses and conversations by id, in memory or in a file, until its life ends or its room is needed.

Knows no format but ids. Every call may block on a disk, so `kept`, the caller, uses a thread. One process owns a file:
the gateway, of which there is one.
"""

import contextlib
import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

VERSION = 1
TABLES = """
CREATE TABLE kept (id TEXT PRIMARY KEY, kind TEXT NOT NULL, running INTEGER NOT NULL, text TEXT NOT NULL,
                   bytes INTEGER NOT NULL, used REAL NOT NULL);
CREATE INDEX by_use ON kept (used);
CREATE TABLE items (id TEXT NOT NULL, owner TEXT NOT NULL REFERENCES kept ON DELETE CASCADE);
CREATE INDEX by_id ON items (id);
CREATE INDEX by_owner ON items (owner);
"""

RESPONSE, CONVERSATION = "response", "conversation"


@dataclass
class Record:
    """A response or a conversation with its items."""

    id: str
    kind: str
    body: dict[str, Any]
    """What it is, less its items."""
    input: list[dict[str, Any]] = field(default_factory=list)
    """All that a response answers, what came before its request first; all of a conversation."""
    output: list[dict[str, Any]] = field(default_factory=list)
    """What a response says."""
    events: list[str] = field(default_factory=list)
    """Of a response that can be streamed again: its events as they were sent."""
    running: bool = False
    """A response in the background that is not over."""

    @property
    def items(self) -> list[dict[str, Any]]:
        return self.input + self.output


def _record(record_id: str, kind: str, text: str, *, running: bool) -> Record:
    body, given, output, events = json.loads(text)
    return Record(record_id, kind, body, given, output, events, running)


class ResponseStore:
    """Records in `file`, or in memory without one.

    A record lives `life_s` from its last use; when there are more than `most`, or of more than `most_bytes` together,
    those that were not used for the longest time go first.
    """

    def __init__(
        self,
        file: Path | None,
        *,
        life_s: float,
        most: int,
        most_bytes: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._life_s, self._most, self._most_bytes, self._clock = life_s, most, most_bytes, clock
        self._lock = threading.RLock()
        self._db = _open(file) if file else _prepared(_connected(":memory:"))
        self.sweep()

    def put(self, record: Record) -> bool:
        """Keep `record` in place of any of its id. False if it is larger than all the room, or cannot be written."""
        text = json.dumps([record.body, record.input, record.output, record.events], ensure_ascii=False)
        size = len(text.encode())
        if size > self._most_bytes:
            return False
        try:
            with self._transaction() as db:
                db.execute("DELETE FROM kept WHERE id = ?", (record.id,))
                kept = (record.id, record.kind, record.running, text, size, self._clock())
                db.execute("INSERT INTO kept VALUES (?, ?, ?, ?, ?, ?)", kept)
                owned = ((item["id"], record.id) for item in record.items)
                db.executemany("INSERT INTO items VALUES (?, ?)", owned)
                self._make_room(db)
        except sqlite3.Error as error:
            log.warning("%s %s is not kept: %s", record.kind, record.id, error)
            return False
        return True

    def get(self, kind: str, record_id: str) -> Record | None:
        """A record, whose life begins anew."""
        alive = "SELECT text, running FROM kept WHERE id = ? AND kind = ? AND used >= ?"
        with self._lock:
            row = self._db.execute(alive, (record_id, kind, self._oldest)).fetchone()
            if row is None:
                return None
            with contextlib.suppress(sqlite3.OperationalError):  # a full disk can still be read
                self._db.execute("UPDATE kept SET used = ? WHERE id = ?", (self._clock(), record_id))
        return _record(record_id, kind, text=row[0], running=bool(row[1]))

    def change(self, kind: str, record_id: str, edit: Callable[[Record], None]) -> Record | None:
        """Let `edit` change a record while nobody else does. None if there is none, or if it cannot be kept so."""
        with self._lock:
            record = self.get(kind, record_id)
            if record is None:
                return None
            edit(record)
            return record if self.put(record) else None

    def item(self, item_id: str) -> dict[str, Any] | None:
        """An item of any record, as the one that was kept last has it."""
        owners = (
            "SELECT kept.kind, kept.id FROM items JOIN kept ON kept.id = items.owner "
            "WHERE items.id = ? AND kept.used >= ? ORDER BY items.rowid DESC LIMIT 1"
        )
        with self._lock:
            row = self._db.execute(owners, (item_id, self._oldest)).fetchone()
            record = self.get(*row) if row else None
        return next((each for each in record.items if each["id"] == item_id), None) if record else None

    def has(self, record_id: str) -> bool:
        with self._lock:
            return self._db.execute("SELECT 1 FROM kept WHERE id = ?", (record_id,)).fetchone() is not None

    def delete(self, kind: str, record_id: str) -> bool:
        """False if there is none."""
        with self._transaction() as db:
            self._forget_old(db)
            return db.execute("DELETE FROM kept WHERE id = ? AND kind = ?", (record_id, kind)).rowcount > 0

    def running(self) -> list[Record]:
        """Responses that were not over when they were kept."""
        with self._lock:
            rows = self._db.execute("SELECT id, kind, text FROM kept WHERE running").fetchall()
        return [_record(record_id, kind, text, running=True) for record_id, kind, text in rows]

    def sweep(self) -> None:
        """Forget what has outlived its time."""
        try:
            with self._transaction() as db:
                self._forget_old(db)
        except sqlite3.Error as error:
            log.warning("what is kept of responses cannot be forgotten now: %s", error)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                if self._db.in_transaction:  # a full disk ends it by itself
                    self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    @property
    def _oldest(self) -> float:
        """When a record must have been used last to be alive."""
        return self._clock() - self._life_s

    def _forget_old(self, db: sqlite3.Connection) -> None:
        db.execute("DELETE FROM kept WHERE used < ?", (self._oldest,))

    def _make_room(self, db: sqlite3.Connection) -> None:
        self._forget_old(db)
        count, size = db.execute("SELECT COUNT(*), SUM(bytes) FROM kept").fetchone()
        for record_id, each in db.execute("SELECT id, bytes FROM kept ORDER BY used").fetchall():
            if count <= self._most and size <= self._most_bytes:
                return
            db.execute("DELETE FROM kept WHERE id = ?", (record_id,))
            count, size = count - 1, size - each


def _connected(database: Path | str) -> sqlite3.Connection:
    return sqlite3.connect(database, timeout=30, check_same_thread=False, isolation_level=None)


def _open(file: Path) -> sqlite3.Connection:
    """The database in `file`, readable by its owner only. What is not a database of this version is set aside: it is a
    cache."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for last_try in (False, True):
        os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
        db = _connected(file)
        try:
            return _prepared(db)
        except sqlite3.DatabaseError as error:
            db.close()
            if last_try:
                raise
            aside = file.with_suffix(".broken")
            file.replace(aside)
            Path(f"{file}-journal").unlink(missing_ok=True)  # or it is applied to the new file
            log.warning("%s cannot be read and is now %s: %s", file, aside, error)
    raise AssertionError("unreachable")


def _prepared(db: sqlite3.Connection) -> sqlite3.Connection:
    """With its tables. Raises sqlite3.DatabaseError for another version's."""
    db.execute("PRAGMA foreign_keys = ON")
    db.execute("PRAGMA secure_delete = ON")  # what is deleted is overwritten, not only unlinked
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version == 0:
        db.executescript(f"BEGIN; {TABLES} PRAGMA user_version = {VERSION}; COMMIT;")
    elif version != VERSION:
        raise sqlite3.DatabaseError(f"it is of version {version}, not {VERSION}")
    return db
