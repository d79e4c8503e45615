"""The ledger's tables, version by version: what a new file gets and what an old one is brought up with.

A script, once released, never changes; a change of the tables is one more script. Used by `actors.runs.ledger` alone.
"""

_RUNS_AND_ADAPTERS = """
CREATE TABLE runs (
  id TEXT PRIMARY KEY, kind TEXT NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL, profile TEXT NOT NULL,
  config TEXT NOT NULL, priority INTEGER NOT NULL, slot_wanted TEXT, slot TEXT, parent TEXT, job_id TEXT,
  attached INTEGER NOT NULL, attempt INTEGER NOT NULL DEFAULT 0, step INTEGER NOT NULL DEFAULT 0, max_steps INTEGER,
  loss REAL, tokens_per_s REAL, adapter TEXT, created_at REAL NOT NULL, started_at REAL, ended_at REAL,
  heartbeat_at REAL);
CREATE INDEX runs_by_state ON runs (state, priority DESC, created_at);
CREATE TABLE leases (
  slot TEXT NOT NULL, role TEXT NOT NULL, holder TEXT NOT NULL, pid INTEGER, granted_at REAL NOT NULL,
  PRIMARY KEY (slot, role));
CREATE TABLE adapters (
  version TEXT PRIMARY KEY, state TEXT NOT NULL, reason TEXT NOT NULL, run_id TEXT, updated_at REAL NOT NULL);
CREATE TABLE aliases (name TEXT PRIMARY KEY, version TEXT, updated_at REAL NOT NULL);
CREATE TABLE swaps (
  id INTEGER PRIMARY KEY, at REAL NOT NULL, alias TEXT NOT NULL, old TEXT, new TEXT, outcome TEXT NOT NULL,
  reason TEXT NOT NULL, seconds REAL NOT NULL);
CREATE TABLE events (
  seq INTEGER PRIMARY KEY, at REAL NOT NULL, run_id TEXT, kind TEXT NOT NULL, text TEXT NOT NULL);
CREATE INDEX events_by_run ON events (run_id, seq);
"""

_QUARANTINES_AND_MARKS = """
CREATE TABLE quarantines (
  id INTEGER PRIMARY KEY, slot TEXT NOT NULL, reason TEXT NOT NULL, since REAL NOT NULL, by TEXT NOT NULL,
  released_at REAL, accepted TEXT);
CREATE UNIQUE INDEX quarantined ON quarantines (slot) WHERE released_at IS NULL;
CREATE TABLE device_errors (slot TEXT PRIMARY KEY, in_a_row INTEGER NOT NULL);
CREATE TABLE marks (name TEXT PRIMARY KEY, seq INTEGER NOT NULL);
"""

_WHOLE_PROCESS_IDS = """
ALTER TABLE leases ADD COLUMN started INTEGER;
ALTER TABLE leases ADD COLUMN boot TEXT;
ALTER TABLE leases ADD COLUMN namespace INTEGER;
ALTER TABLE leases ADD COLUMN is_up INTEGER NOT NULL DEFAULT 0;
UPDATE leases SET pid = NULL;
DELETE FROM marks WHERE name LIKE 'engine up on slot %';
"""
"""A number alone, as older versions kept it, may be anybody's by now, so it counts as not known."""

_STAGES_AND_LOSSES = """
ALTER TABLE runs ADD COLUMN stage TEXT NOT NULL DEFAULT '';
ALTER TABLE runs ADD COLUMN lost INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN furthest INTEGER NOT NULL DEFAULT 0;
"""

_ATTEMPTS_ON_ADAPTERS = """
ALTER TABLE adapters ADD COLUMN earlier_state TEXT;
ALTER TABLE adapters ADD COLUMN earlier_reason TEXT;
ALTER TABLE adapters ADD COLUMN pid INTEGER;
ALTER TABLE adapters ADD COLUMN started INTEGER;
ALTER TABLE adapters ADD COLUMN boot TEXT;
ALTER TABLE adapters ADD COLUMN namespace INTEGER;
UPDATE adapters SET state = 'LIVE' WHERE state IN ('PUBLISHED', 'RETIRED', 'REFUSED')
  AND version IN (SELECT version FROM aliases WHERE name <> 'previous');
UPDATE adapters SET state = 'RETIRED' WHERE state = 'LIVE'
  AND NOT EXISTS (SELECT 1 FROM aliases WHERE aliases.version = adapters.version AND name <> 'previous');
UPDATE adapters SET earlier_reason = reason, earlier_state = CASE
  WHEN EXISTS (SELECT 1 FROM swaps WHERE new = version AND outcome = 'done') THEN 'RETIRED' ELSE 'PUBLISHED' END
  WHERE state IN ('LOADING', 'VERIFYING');
"""
"""What a gateway that loads an adapter began with, and its process. Older versions let any state follow any other."""

SCRIPTS = (
    _RUNS_AND_ADAPTERS, _QUARANTINES_AND_MARKS, _WHOLE_PROCESS_IDS, _STAGES_AND_LOSSES, _ATTEMPTS_ON_ADAPTERS,
)  # fmt: skip
"""Script N makes version N + 1 of version N; version 0 is an empty file."""

VERSION = len(SCRIPTS)


def upgrade(version: int) -> str:
    """SQL that brings a file of this version to the newest, in one transaction."""
    return f"BEGIN IMMEDIATE; {''.join(SCRIPTS[version:])} PRAGMA user_version={VERSION}; COMMIT;"
