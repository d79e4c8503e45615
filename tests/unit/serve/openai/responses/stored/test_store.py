"""What is kept of responses: its life, its bounds, its file."""

import sqlite3

import pytest

from serve.openai.responses.stored.store import CONVERSATION, RESPONSE, Record, ResponseStore


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def store(clock: Clock, file=None, **bounds) -> ResponseStore:
    return ResponseStore(file, **{"life_s": 60, "most": 100, "most_bytes": 10_000} | bounds, clock=clock)


def record(name: str, text: str = "x", kind: str = RESPONSE) -> Record:
    return Record(name, kind, {"model": "prod"}, [{"id": f"in_{name}", "text": text}], [{"id": f"out_{name}"}])


def kept(of: ResponseStore, *names: str) -> list[str]:
    return [name for name in names if of.has(name)]


def test_a_record_comes_back_as_it_was(clock):
    kept = store(clock)
    assert kept.put(record("a", "Grüße 😀"))
    assert kept.get(RESPONSE, "a") == record("a", "Grüße 😀")
    assert kept.get(CONVERSATION, "a") is None and kept.get(RESPONSE, "b") is None
    assert kept.item("in_a") == {"id": "in_a", "text": "Grüße 😀"} and kept.item("out_a") == {"id": "out_a"}
    assert kept.delete(CONVERSATION, "a") is False
    assert (kept.delete(RESPONSE, "a"), kept.delete(RESPONSE, "a")) == (True, False)
    assert kept.get(RESPONSE, "a") is None and kept.item("in_a") is None


def test_an_item_of_two_records_is_that_of_the_newer_one_and_outlives_either(clock):
    kept = store(clock)
    for name, text in (("a", "old"), ("b", "new")):
        kept.put(Record(name, RESPONSE, {}, [{"id": "msg_1", "text": text}]))
    assert kept.item("msg_1")["text"] == "new"
    kept.delete(RESPONSE, "b")
    assert kept.item("msg_1")["text"] == "old"


def test_a_records_life_begins_anew_whenever_it_is_used(clock):
    kept = store(clock)
    for name in ("read", "referred", "left"):
        kept.put(record(name))
    clock.now += 40
    kept.get(RESPONSE, "read")
    kept.item("in_referred")
    clock.now += 40
    assert kept.get(RESPONSE, "read") and kept.get(RESPONSE, "referred")
    assert kept.get(RESPONSE, "left") is None, "nobody swept"
    clock.now += 61
    kept.sweep()
    assert [name for name in ("read", "referred", "left") if kept.has(name)] == []


def test_what_was_not_used_for_the_longest_time_goes_when_there_are_too_many(clock):
    of = store(clock, most=2)
    for name in ("a", "b"):
        of.put(record(name))
        clock.now += 1
    of.get(RESPONSE, "a")
    clock.now += 1
    of.put(record("c"))
    assert kept(of, "a", "b", "c") == ["a", "c"]


def test_and_when_they_are_too_large_together(clock):
    of = store(clock, most_bytes=1000)
    for name in ("a", "b", "c"):
        assert of.put(record(name, "x" * 350))
        clock.now += 1
    assert kept(of, "a", "b", "c") == ["b", "c"]
    assert of.put(record("huge", "x" * 1000)) is False
    assert kept(of, "a", "b", "c", "huge") == ["b", "c"], "what can never fit displaces nothing"


def test_a_change_is_kept_and_one_that_grows_too_large_is_not(clock):
    of = store(clock, most_bytes=1000)
    of.put(record("a", kind=CONVERSATION))
    changed = of.change(CONVERSATION, "a", lambda found: found.input.append({"id": "more"}))
    assert [item["id"] for item in changed.items] == ["in_a", "more", "out_a"]
    assert of.change(CONVERSATION, "a", lambda found: found.input.append({"id": "x" * 1000})) is None
    assert [item["id"] for item in of.get(CONVERSATION, "a").input] == ["in_a", "more"]
    assert of.change(CONVERSATION, "b", lambda found: None) is None


def test_a_file_holds_what_was_kept_and_nothing_of_what_was_deleted(clock, tmp_path):
    file = tmp_path / "home" / "responses.db"
    first = store(clock, file)
    first.put(record("a", "a secret that was kept"))
    first.put(record("b", "a secret that was deleted"))
    first.delete(RESPONSE, "b")
    first.close()
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert b"was kept" in file.read_bytes() and b"was deleted" not in file.read_bytes()
    clock.now += 30
    again = store(clock, file)
    assert again.get(RESPONSE, "a") == record("a", "a secret that was kept")
    again.close()
    clock.now += 61
    store(clock, file).close()
    assert b"was kept" not in file.read_bytes(), "a start forgets what has outlived its time"


@pytest.mark.parametrize(
    "content", [b"no database at all, whatever its name says" * 100, b"SQLite format 3\0" + b"\0" * 84]
)
def test_a_file_that_cannot_be_read_is_set_aside(content, clock, tmp_path, caplog):
    file = tmp_path / "responses.db"
    file.write_bytes(content)
    of = store(clock, file)
    assert of.put(record("a")) and of.get(RESPONSE, "a")
    assert (tmp_path / "responses.broken").read_bytes() == content
    assert "cannot be read" in caplog.text


def test_another_versions_file_is_set_aside(clock, tmp_path):
    file = tmp_path / "responses.db"
    with sqlite3.connect(file) as db:
        db.execute("PRAGMA user_version = 99")
    assert store(clock, file).put(record("a"))
    assert (tmp_path / "responses.broken").exists()


def test_a_write_that_fails_keeps_nothing_and_says_so(clock, caplog):
    of = store(clock)
    of.put(record("a"))
    of._db.execute("PRAGMA query_only = ON")  # as a full or a read-only disk has it
    assert of.put(record("b")) is False
    assert "response b is not kept" in caplog.text
    assert of.get(RESPONSE, "a") == record("a") and of.get(RESPONSE, "b") is None


def test_those_that_run_are_found(clock):
    of = store(clock)
    of.put(record("a"))
    running = record("b")
    running.running = True
    of.put(running)
    assert of.running() == [running] and of.get(RESPONSE, "b").running
