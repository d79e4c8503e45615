"""What is below TANDEM_HOME is its owner's alone, whoever makes it and whatever the umask is."""

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from actors.runs.curve import MetricsLog
from actors.runs.ledger import Ledger
from configs import durable
from configs.paths import SOURCE, Home
from jobs.training import checkpoints


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def new(tmp_path: Path) -> Home:
    """A home that nobody has made yet."""
    return Home(tmp_path / "new")


def open_to_others(home: Home) -> list[str]:
    assert home.root.is_dir() and list(home.root.iterdir())
    return [f"{path} {stat.filemode(path.lstat().st_mode)}" for path in [home.root, *home.root.rglob("*")]
            if not path.is_symlink() and path.stat().st_mode & 0o077]  # fmt: skip


def _conversation(home: Home) -> None:
    from serve.client.conversation import Conversation, Conversations

    Conversations(home.conversations).save(Conversation())


def _vote(home: Home) -> None:
    from serve.client.endpoint import Reply, Settings
    from serve.ui.conversation.votes import Duel, Side, Votes

    Votes(home.preferences).add(Duel([], Settings(), True, Side("a", Reply()), Side("b", Reply())), "a")


def _ledger(home: Home) -> None:
    ledger = Ledger(home.ledger)
    ledger.note("x", "something")
    assert (home.root / "ledger.db-wal").exists()
    ledger.close()


def _log(home: Home) -> None:
    from actors.logs.rotation import RotatingFile

    RotatingFile(home.logs / "control.jsonl", 1000, 2).append(b"{}\n")


def _checkpoint(home: Home) -> None:
    with checkpoints.writing(home.run("a") / "checkpoints", 1, {}) as folder:
        (folder / "checkpoint-1").mkdir(mode=0o700)
        (folder / "checkpoint-1" / "model.safetensors").write_bytes(b"x")
    MetricsLog(home.run("a") / "metrics.jsonl").append({"step": 1, "loss": 1.0})


WRITERS: dict[str, Callable[[Home], None]] = {
    "a saved chat": _conversation,
    "a vote": _vote,
    "the ledger": _ledger,
    "a log": _log,
    "a checkpoint and a curve": _checkpoint,
}


@pytest.mark.parametrize("writer", WRITERS)
def test_whoever_writes_first_makes_the_home_its_owners_alone(new, writer):
    WRITERS[writer](new)
    assert open_to_others(new) == []


@pytest.mark.parametrize("arguments", [("down",), ("chat", "--help"), ("train", "--profile", "tiny", "--set", "a")])
def test_commands_leave_nothing_that_others_can_read(new, arguments):
    program = "from cli.main import main; main()"
    surroundings = os.environ | {"TANDEM_HOME": str(new.root)}
    subprocess.run([sys.executable, "-c", program, *arguments], cwd=SOURCE, env=surroundings, capture_output=True)
    assert not new.root.exists() or open_to_others(new) == []


def test_a_file_outside_the_home_is_as_the_umask_says(tmp_path):
    durable.write_text(tmp_path / "report.json", "{}", shared=True)
    assert (tmp_path / "report.json").stat().st_mode & 0o777 == 0o666
