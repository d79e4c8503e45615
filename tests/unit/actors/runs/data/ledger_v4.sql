BEGIN TRANSACTION;
CREATE TABLE adapters (
  version TEXT PRIMARY KEY, state TEXT NOT NULL, reason TEXT NOT NULL, run_id TEXT, updated_at REAL NOT NULL);
INSERT INTO "adapters" VALUES('v1','LIVE','alias prod',NULL,1795488941.5);
INSERT INTO "adapters" VALUES('v2','VERIFYING','comparing its answers with the base''s',NULL,1795488941.5);
INSERT INTO "adapters" VALUES('v3','LOADING','loading beside the live one',NULL,1795488941.5);
INSERT INTO "adapters" VALUES('v4','PUBLISHED','could not be loaded: engine engine_1 died',NULL,1795488941.5);
CREATE TABLE aliases (name TEXT PRIMARY KEY, version TEXT, updated_at REAL NOT NULL);
INSERT INTO "aliases" VALUES('prod','v1',1795488941.5);
INSERT INTO "aliases" VALUES('previous',NULL,1795488941.5);
CREATE TABLE device_errors (slot TEXT PRIMARY KEY, in_a_row INTEGER NOT NULL);
INSERT INTO "device_errors" VALUES('0',1);
CREATE TABLE events (
  seq INTEGER PRIMARY KEY, at REAL NOT NULL, run_id TEXT, kind TEXT NOT NULL, text TEXT NOT NULL);
INSERT INTO "events" VALUES(1,1795488941.5,'waits','queued','submitted');
INSERT INTO "events" VALUES(2,1795488941.5,'works','queued','submitted');
INSERT INTO "events" VALUES(3,1795488941.5,'works','starting','granted slot 0');
INSERT INTO "events" VALUES(4,1795488941.5,'works','running','at work');
INSERT INTO "events" VALUES(5,1795488941.5,NULL,'lease','engine_1 holds slot 1 (serve)');
INSERT INTO "events" VALUES(6,1795488941.5,NULL,'quarantine','slot 2 is in quarantine: the fan rattles');
INSERT INTO "events" VALUES(7,1795488941.5,NULL,'swap','prod: base -> v1');
CREATE TABLE leases (
  slot TEXT NOT NULL, role TEXT NOT NULL, holder TEXT NOT NULL, pid INTEGER, granted_at REAL NOT NULL, started INTEGER, boot TEXT, namespace INTEGER, is_up INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (slot, role));
INSERT INTO "leases" VALUES('0','train','works',412,1795488941.5,99,'b',4026531836,0);
INSERT INTO "leases" VALUES('1','serve','engine_1',NULL,1795488941.5,NULL,NULL,NULL,0);
CREATE TABLE marks (name TEXT PRIMARY KEY, seq INTEGER NOT NULL);
INSERT INTO "marks" VALUES('notify',3);
CREATE TABLE quarantines (
  id INTEGER PRIMARY KEY, slot TEXT NOT NULL, reason TEXT NOT NULL, since REAL NOT NULL, by TEXT NOT NULL,
  released_at REAL, accepted TEXT);
INSERT INTO "quarantines" VALUES(1,'2','the fan rattles',1795488941.5,'a person',NULL,NULL);
CREATE TABLE runs (
  id TEXT PRIMARY KEY, kind TEXT NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL, profile TEXT NOT NULL,
  config TEXT NOT NULL, priority INTEGER NOT NULL, slot_wanted TEXT, slot TEXT, parent TEXT, job_id TEXT,
  attached INTEGER NOT NULL, attempt INTEGER NOT NULL DEFAULT 0, step INTEGER NOT NULL DEFAULT 0, max_steps INTEGER,
  loss REAL, tokens_per_s REAL, adapter TEXT, created_at REAL NOT NULL, started_at REAL, ended_at REAL,
  heartbeat_at REAL, stage TEXT NOT NULL DEFAULT '', lost INTEGER NOT NULL DEFAULT 0, furthest INTEGER NOT NULL DEFAULT 0);
INSERT INTO "runs" VALUES('waits','train','QUEUED','submitted','tiny','{"profile": "tiny", "model": {"base": "tiny", "max_seq_length": 512, "load_in_4bit": false, "dtype": "float32"}, "lora": {"r": 16, "alpha": 32, "dropout": 0.0, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"], "train_experts": false, "seed": 3407}, "data": {"dataset": "tiny-demo", "split": "train", "format": "auto", "columns": {}, "max_bad_rows": 0, "reasoning_effort": "medium", "mask": "all", "max_cut_share": 0.25, "holdout": 0.05, "current_date": "2026-01-01"}, "training": {"effective_batch": 8, "micro_batch": 8, "vram_gib": null, "allow_shorter_rows": false, "max_steps": 60, "epochs": 1.0, "learning_rate": 0.005, "scheduler": "linear", "warmup_steps": 5, "optimizer": "adamw_torch", "weight_decay": 0.01, "max_grad_norm": 1.0, "bf16": false, "gradient_checkpointing": false, "router_aux_loss_coef": 0.0, "save_steps": 10, "keep_checkpoints": 2, "eval_steps": 10, "eval_batch": 8, "patience": null, "movement_steps": 5, "report_to": ["tensorboard"], "seed": 3407}, "watchdog": {"target_loss": 0.5, "on_target": "warn", "overfit_loss": 0.2, "on_overfit": "warn", "on_zero": "stop", "on_nan": "rollback", "spike_factor": 3.0, "on_spike": "warn", "plateau_steps": 50, "on_plateau": "warn", "window": 10, "max_rollbacks": 2}}',0,NULL,NULL,NULL,NULL,0,0,0,60,NULL,NULL,NULL,1795488941.5,NULL,NULL,NULL,'',0,0);
INSERT INTO "runs" VALUES('works','train','RUNNING','at work','tiny','{"profile": "tiny", "model": {"base": "tiny", "max_seq_length": 512, "load_in_4bit": false, "dtype": "float32"}, "lora": {"r": 16, "alpha": 32, "dropout": 0.0, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"], "train_experts": false, "seed": 3407}, "data": {"dataset": "tiny-demo", "split": "train", "format": "auto", "columns": {}, "max_bad_rows": 0, "reasoning_effort": "medium", "mask": "all", "max_cut_share": 0.25, "holdout": 0.05, "current_date": "2026-01-01"}, "training": {"effective_batch": 8, "micro_batch": 8, "vram_gib": null, "allow_shorter_rows": false, "max_steps": 60, "epochs": 1.0, "learning_rate": 0.005, "scheduler": "linear", "warmup_steps": 5, "optimizer": "adamw_torch", "weight_decay": 0.01, "max_grad_norm": 1.0, "bf16": false, "gradient_checkpointing": false, "router_aux_loss_coef": 0.0, "save_steps": 10, "keep_checkpoints": 2, "eval_steps": 10, "eval_batch": 8, "patience": null, "movement_steps": 5, "report_to": ["tensorboard"], "seed": 3407}, "watchdog": {"target_loss": 0.5, "on_target": "warn", "overfit_loss": 0.2, "on_overfit": "warn", "on_zero": "stop", "on_nan": "rollback", "spike_factor": 3.0, "on_spike": "warn", "plateau_steps": 50, "on_plateau": "warn", "window": 10, "max_rollbacks": 2}}',0,NULL,'0',NULL,NULL,0,1,7,9,1.25,10.0,NULL,1795488941.5,1795488941.5,NULL,1795488941.5,'',0,0);
CREATE TABLE swaps (
  id INTEGER PRIMARY KEY, at REAL NOT NULL, alias TEXT NOT NULL, old TEXT, new TEXT, outcome TEXT NOT NULL,
  reason TEXT NOT NULL, seconds REAL NOT NULL);
INSERT INTO "swaps" VALUES(1,1795488941.5,'prod',NULL,'v1','done','x',1.0);
INSERT INTO "swaps" VALUES(2,1795488941.5,'prod','v3','v1','done','by request',0.5);
INSERT INTO "swaps" VALUES(3,1795488932.5,'prod',NULL,'v3','done','by request',0.5);
CREATE INDEX runs_by_state ON runs (state, priority DESC, created_at);
CREATE INDEX events_by_run ON events (run_id, seq);
CREATE UNIQUE INDEX quarantined ON quarantines (slot) WHERE released_at IS NULL;
COMMIT;
PRAGMA user_version=4;
