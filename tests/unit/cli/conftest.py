"""The command line in this process, through its real entry point and edge."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from cli.main import main


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
def invoke(monkeypatch, capsys) -> Callable[..., Done]:
    """`tandem` with these arguments."""

    def call(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["tandem", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return Done(ended.value.code or 0, *capsys.readouterr())

    return call
