"""Tables at the widths of terminals: names, states and figures are whole, and nothing is cut. Ages of odd clocks."""

import re
import sys
import time
from contextlib import closing

import pytest
from rich.text import Text

from actors.runs.ledger import Ledger
from actors.runs.run import RunState
from cli import output
from models.lora.registry import Registry
from tests.samples import TRAIN, publish
from tests.unit.cli.screens.boards import lines

LONG = "gpt-oss-20b-reasoning-20261124-043019-a1b2"
VERSION = f"gpt-oss-20b-unsloth-bnb-4bit_{LONG}"
RUNS = ("RUN", "STATE", "STEP", "PRIORITY", "AGE", "ADAPTER OR REASON")
ROW = (LONG, "INTERRUPTED", "1000/1000", "-5", "3.1h", VERSION)


def table(columns, *rows, width: int = 80, **how) -> list[str]:
    return lines(output.table(columns, [[Text(cell) for cell in row] for row in rows], width, **how), width)


def test_what_fits_is_a_line_a_row():
    assert table(("RUN", "STATE", "REASON"), ("tiny-1", "FAILED", "out of memory"), ("t", "QUEUED", "-")) == [
        "RUN     STATE   REASON",
        "tiny-1  FAILED  out of memory",
        "t       QUEUED  -",
    ]


def test_only_the_free_text_is_folded_and_only_between_words():
    reason = "the loss is not a number after 30 steps at this rate"
    assert table(("RUN", "STATE", "WHY", "AGE"), ("tiny-1", "FAILED", reason, "3.1h"), width=60, folds=2) == [
        "RUN     STATE   WHY                                     AGE",
        "tiny-1  FAILED  the loss is not a number after 30       3.1h",
        "                steps at this rate",
    ]


def test_a_long_name_and_the_longest_cell_stand_on_lines_of_their_own():
    assert table(RUNS, ROW, ("tiny-1", "QUEUED", "0/?", "-", "5s", "waits")) == [
        "RUN",
        "  STATE        STEP       PRIORITY  AGE",
        "  ADAPTER OR REASON",
        LONG,
        "  INTERRUPTED  1000/1000  -5        3.1h",
        f"  {VERSION}",
        "tiny-1",
        "  QUEUED       0/?        -         5s",
        "  waits",
    ]


@pytest.mark.parametrize("width", [20, 40, 80, 100, 120, 200])
def test_at_no_width_is_a_word_missing_or_a_state_broken(width):
    text = table(RUNS, ROW, width=width)
    assert max(map(len, text)) <= width
    joined = "".join(line.strip() for line in text)
    assert all(cell in joined for cell in ROW)
    assert all(re.search(rf"(^|  ){cell}($|  )", "\n".join(text), re.MULTILINE) for cell in ROW[1:5])


@pytest.fixture
def listed(home, monkeypatch, capsys) -> str:
    """A run and an adapter with long names, and a terminal of 80 columns; the adapter's name."""
    monkeypatch.setattr(sys.stdout.__class__, "isatty", lambda self: True, raising=False)
    for name, value in (("TERM", "dumb"), ("COLUMNS", "80"), ("NO_COLOR", "1")):
        monkeypatch.setenv(name, value)
    with closing(Ledger(home.ledger)) as ledger:
        ledger.submit(LONG, **TRAIN)
        ledger.transition(LONG, RunState.STOPPED, "stopped while queued")
    return publish(Registry(home.models), run_id=LONG, base="gpt-oss-20b-unsloth-bnb-4bit", profile="reasoning").version


def test_runs_and_adapters_with_long_names_are_readable_in_80_columns(listed, invoke):
    runs, adapters = (invoke(noun, "list").out for noun in ("runs", "adapters"))
    assert max(map(len, (runs + adapters).splitlines())) <= 80
    assert LONG in runs.splitlines()
    assert re.search(r"^  train +STOPPED +0/\d+ +- +- +- +\d+s", runs, re.MULTILINE)
    assert re.search(r"PRIORITY +SLOT +AGE  ADAPTER OR REASON$", runs, re.MULTILINE)
    assert re.search(rf"^{listed}(  |$)", adapters, re.MULTILINE)
    assert re.search(r"\bPUBLISHED\b", adapters)


def test_in_a_pipe_a_row_is_one_line_however_long(listed, invoke, monkeypatch):
    monkeypatch.setattr(sys.stdout.__class__, "isatty", lambda self: False, raising=False)
    (_, row) = invoke("runs", "list").out.splitlines()
    assert row.startswith(LONG) and row.endswith("stopped while queued")


def test_what_a_clock_that_was_set_back_left_in_the_future_is_0_s_old(listed, invoke, monkeypatch):
    now = time.time()
    monkeypatch.setattr(output.time, "time", lambda: now - 3600)
    assert (output.age(now), output.age(now - 3605), output.age(None)) == ("0s", "5s", "-")
    for noun in ("runs", "adapters"):
        shown = invoke(noun, "list").out
        assert re.search(r"\b0s\b", shown) and not re.search(r" -\d", shown)


def test_a_line_that_is_too_long_goes_on_indented():
    hanging = output.HangingIndent([Text("run-1  FAILED  out of memory in step 30"), Text("short")])
    assert lines(hanging, 24) == ["run-1  FAILED  out of", "  memory in step 30", "short"]
    assert lines(hanging, 80) == ["run-1  FAILED  out of memory in step 30", "short"]
    assert lines(output.HangingIndent([Text("x" * 30)]), 20) == ["x" * 18, "  " + "x" * 12], "nothing is cut"
