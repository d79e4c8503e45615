BEGIN TRANSACTION;
CREATE TABLE adapters (
  version TEXT PRIMARY KEY, state TEXT NOT NULL, reason TEXT NOT NULL, run_id TEXT, updated_at REAL NOT NULL);
INSERT INTO "adapters" VALUES('v1','LIVE','alias prod',NULL,1795488941.5);
INSERT INTO "adapters" VALUES('v2','REFUSED','it changes nothing',NULL,1795488941.5);
CREATE TABLE aliases (name TEXT PRIMARY KEY, version TEXT, updated_at REAL NOT NULL);
INSERT INTO "aliases" VALUES('prod','v1',1795488941.5);
INSERT INTO "aliases" VALUES('previous',NULL,1795488941.5);
CREATE TABLE events (
  seq INTEGER PRIMARY KEY, at REAL NOT NULL, run_id TEXT, kind TEXT NOT NULL, text TEXT NOT NULL);
INSERT INTO "events" VALUES(1,1795488941.5,'waits','queued','submitted');
INSERT INTO "events" VALUES(2,1795488941.5,'works','queued','submitted');
INSERT INTO "events" VALUES(3,1795488941.5,'works','starting','granted slot 0');
INSERT INTO "events" VALUES(4,1795488941.5,NULL,'swap','prod: base -> v1');
INSERT INTO "events" VALUES(5,1795488941.5,NULL,'swap','prod: v2 refused: it changes nothing');
CREATE TABLE leases (
  slot TEXT NOT NULL, role TEXT NOT NULL, holder TEXT NOT NULL, pid INTEGER, granted_at REAL NOT NULL,
  PRIMARY KEY (slot, role));
INSERT INTO "leases" VALUES('0','train','works',NULL,1795488941.5);
CREATE TABLE runs (
  id TEXT PRIMARY KEY, kind TEXT NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL, profile TEXT NOT NULL,
  config TEXT NOT NULL, priority INTEGER NOT NULL, slot_wanted TEXT, slot TEXT, parent TEXT, job_id TEXT,
  attached INTEGER NOT NULL, attempt INTEGER NOT NULL DEFAULT 0, step INTEGER NOT NULL DEFAULT 0, max_steps INTEGER,
  loss REAL, tokens_per_s REAL, adapter TEXT, created_at REAL NOT NULL, started_at REAL, ended_at REAL,
  heartbeat_at REAL);
INSERT INTO "runs" VALUES('waits','train','QUEUED','submitted','tiny','{"model": {"base": "tiny"}}',0,NULL,NULL,NULL,NULL,0,0,0,60,NULL,NULL,NULL,1795488941.5,NULL,NULL,NULL);
INSERT INTO "runs" VALUES('works','train','STARTING','granted slot 0','tiny','{"model": {"base": "tiny"}}',5,NULL,'0',NULL,NULL,0,1,7,60,1.25,830.5,NULL,1795488942.5,1795488942.5,NULL,1795488942.5);
CREATE TABLE swaps (
  id INTEGER PRIMARY KEY, at REAL NOT NULL, alias TEXT NOT NULL, old TEXT, new TEXT, outcome TEXT NOT NULL,
  reason TEXT NOT NULL, seconds REAL NOT NULL);
INSERT INTO "swaps" VALUES(1,1795488941.5,'prod',NULL,'v1','done','x',0.5);
INSERT INTO "swaps" VALUES(2,1795488941.5,'prod','v1','v2','refused','it changes nothing',0.1);
CREATE INDEX runs_by_state ON runs (state, priority DESC, created_at);
CREATE INDEX events_by_run ON events (run_id, seq);
COMMIT;
PRAGMA user_version=1;
