"""The command line in this process, through its real entry point and edge."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from actors import cluster
from actors.cluster import Cluster
from actors.hardware import placement
from actors.home.process_id import ProcessId
from cli.main import main
from configs.paths import Home
from configs.schema import ClusterConfig


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    def one_error_line(self, code: int = 1) -> str:
        """The only line on stderr, which says what is wrong; nothing on stdout."""
        assert self.code == code, self.err
        (line,) = self.err.strip().splitlines()
        assert line.startswith("error: ")
        assert "unexpected" not in line
        assert self.out == ""
        return line


@pytest.fixture
def silent_cluster(home: Home) -> Callable[[], None]:
    """Has the home a cluster on this machine's slots whose head lives, this process, and whose gateway nobody finds."""

    def note() -> None:
        config = ClusterConfig()
        slots = placement.resolve_slots(config)
        cluster._write(home.cluster, Cluster(ProcessId.own(), time.time(), "127.0.0.1:1", 1, 2, slots, config))

    return note


@pytest.fixture
def invoke(monkeypatch, capsys) -> Callable[..., Done]:
    """`tandem` with these arguments."""

    def call(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["tandem", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return Done(ended.value.code or 0, *capsys.readouterr())

    return call
