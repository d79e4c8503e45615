"""Files that rotate under several writers, and a handler that nothing can stop or slow down."""

import errno
import json
import logging
import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from actors import logs
from actors.logs.handler import JsonHandler
from actors.logs.rotation import RotatingFile
from configs import paths


class FullDisk:
    """`os.write` to a disk on which `room` bytes are free."""

    def __init__(self, room: int) -> None:
        self.room = room

    def __call__(self, descriptor: int, data: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = os.write(descriptor, data[: self.room])
        self.room -= written
        return written


def logger(handler: logging.Handler) -> logging.Logger:
    found = logging.Logger("test")
    found.addHandler(handler)
    return found


def messages(path: Path) -> list[str]:
    return [json.loads(text)["message"] for text in path.read_text().splitlines()]


def append(path: Path, name: str, count: int) -> None:
    file = RotatingFile(path, limit=2_000, files=40)
    for number in range(count):
        file.append(f"{name} {number:05} {'x' * 20}\n".encode())


def test_a_full_file_is_renamed_and_the_oldest_deleted(tmp_path):
    path = tmp_path / "a.jsonl"
    file = RotatingFile(path, limit=20, files=3)
    for number in range(10):
        file.append(f"line {number}...\n".encode())
    kept = {each.name: each.read_text() for each in tmp_path.iterdir()}
    assert kept == {
        "a.jsonl": "line 8...\nline 9...\n",
        "a.jsonl.1": "line 6...\nline 7...\n",
        "a.jsonl.2": "line 4...\nline 5...\n",
    }
    RotatingFile(path, limit=5, files=1).append(b"alone\n")
    assert {each.name: each.read_text() for each in tmp_path.iterdir()} == {"a.jsonl": "alone\n"}


def test_two_processes_that_rotate_the_same_file_lose_and_tear_no_line(tmp_path):
    path = tmp_path / "a.jsonl"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=append, args=(path, name, 600)) for name in ("one", "two")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    files = list(tmp_path.iterdir())
    lines = [text for each in files for text in each.read_text().splitlines()]
    assert sorted(lines) == sorted(f"{name} {n:05} {'x' * 20}" for name in ("one", "two") for n in range(600))
    assert 3 < len(files) < 30


def test_a_full_disk_drops_lines_and_the_first_one_after_it_says_how_many(tmp_path):
    disk = FullDisk(room=0)
    handler = JsonHandler("gateway", RotatingFile(tmp_path / "a.jsonl", 10_000, 2, write=disk))
    log = logger(handler)
    for number in range(3):
        log.warning("lost %d", number)
        handler.flush()
    disk.room = 20  # half a line
    log.warning("torn")
    handler.flush()
    assert handler.dropped == 4
    disk.room = 10_000
    log.warning("back")
    handler.flush()
    torn, told, back = (tmp_path / "a.jsonl").read_bytes().splitlines()
    assert len(torn) == 20
    assert json.loads(told)["message"] == "4 lines were dropped: [Errno 28] No space left on device: " + repr(
        str(tmp_path / "a.jsonl")
    )
    assert json.loads(back)["message"] == "back"


def test_a_disk_that_hangs_holds_up_nobody(tmp_path):
    hangs, released = threading.Event(), threading.Event()

    def hang(descriptor: int, data: bytes) -> int:
        hangs.set()
        released.wait(10)
        return os.write(descriptor, data)

    handler = JsonHandler("gateway", RotatingFile(tmp_path / "a.jsonl", 10**6, 2, write=hang), waiting=10)
    log = logger(handler)
    log.warning("the first")
    assert hangs.wait(10)
    for number in range(100):
        log.warning("line %d", number)
    assert handler.dropped == 90
    released.set()
    handler.flush()
    log.warning("again")
    handler.flush()
    told = ["the first", "90 lines were dropped: Full", *(f"line {number}" for number in range(10)), "again"]
    assert messages(tmp_path / "a.jsonl") == told


def test_what_cannot_be_formatted_breaks_nothing(tmp_path):
    class Nasty:
        def __str__(self) -> str:
            raise RuntimeError("no")

    handler = JsonHandler("gateway", RotatingFile(tmp_path / "a.jsonl", 10_000, 2))
    log = logger(handler)
    log.warning("%d", "not a number")
    log.warning("fine", extra={"it": Nasty()})
    log.warning("after")
    handler.flush()
    assert handler.dropped == 2
    assert messages(tmp_path / "a.jsonl") == ["2 lines were dropped: RuntimeError", "after"]


@pytest.fixture
def loggers():
    """Puts our loggers back as they were."""
    every = [logging.getLogger(name) for name in ("", *logs.OWN)]
    before = [(each, each.level, each.propagate, list(each.handlers)) for each in every]
    yield
    for each, level, propagate, handlers in before:
        each.setLevel(level)
        each.propagate, each.handlers[:] = propagate, handlers


def test_a_restarted_actor_goes_on_in_its_file(home, loggers):
    for generation in (1, 2):
        logs.begin(home, "trainer", run="tiny-1", names=logs.OWN)
        logging.getLogger("jobs.training").info("generation %d", generation)
        logging.getLogger("jobs.training").debug("too low")
        logging.getLogger("somebody.else").warning("not ours")
        logs.flush()
    assert messages(home.logs / "trainer.jsonl") == ["generation 1", "generation 2"]
    assert (home.logs / "trainer.jsonl").stat().st_mode & 0o777 == 0o600


def test_a_process_that_ends_writes_what_it_logged(home):
    program = (
        "import logging; from actors import logs; from configs.paths import home; logs.begin(home(), 'control');"
        "log = logging.getLogger('actors.control'); [log.info('line %d', n) for n in range(500)];"
        "logging.getLogger('urllib3').info('chatter'); logging.getLogger('urllib3').warning('foreign')"
    )
    environment = os.environ | {"TANDEM_HOME": str(home.root)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=paths.SOURCE, capture_output=True, text=True, check=True
    )
    assert messages(home.logs / "control.jsonl") == [*(f"line {n}" for n in range(500)), "foreign"]
    assert (done.stdout, done.stderr) == ("", "")
