"""Quarantine and notifications in a real cluster, by the `tandem` command."""

import json
import time


def test_a_run_waits_while_its_slot_is_in_quarantine_and_starts_when_it_is_released(tandem):
    tandem.run("slots", "quarantine", "0", "--reason", "the fan rattles")
    try:
        queued = tandem.run("train", "--profile", "tiny", "--max-steps", "2")
        run_id = queued.stdout.strip()
        assert "every slot that it could have is in quarantine (slot 0: the fan rattles)" in queued.stderr
        report = tandem.json("status")
        assert report["slots"][0]["quarantine"]["reason"] == "the fan rattles"
        assert [(run["id"], run["state"], run["waits_for"] is None) for run in report["active_runs"]] == [
            (run_id, "QUEUED", False)
        ]
    finally:
        tandem.run("slots", "release", "0")
    assert tandem.wait(run_id, lambda run: run.state != "QUEUED").slot == "0"
    tandem.run("runs", "stop", run_id)
    assert tandem.ended(run_id).state == "STOPPED"


def test_people_are_told_of_what_happened(tandem, trained):
    title = f"run {trained.id} succeeded"
    deadline = time.monotonic() + 30
    while not any(notice["title"].endswith(title) and notice["text"] == trained.reason for notice in told(tandem)):
        assert time.monotonic() < deadline, told(tandem)
        time.sleep(0.2)
    assert tandem.json("notify", "test") == [{"target": "command (sh)", "sent": True, "error": None}]
    assert told(tandem)[-1]["kind"] == "test"


def told(tandem) -> list[dict]:
    return [json.loads(line) for line in tandem.notices.read_text().splitlines()] if tandem.notices.exists() else []
