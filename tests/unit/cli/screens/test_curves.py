"""`tandem runs compare` and the curves of `tandem runs show`, for people, pipes and machines."""

import json
import sys

import click
import pytest

from actors.runs.curve import MetricsLog
from actors.runs.ledger import Ledger
from configs import load


@pytest.fixture
def runs(home) -> list[str]:
    """Three runs: one with an evaluation, a shorter one at another rank, one that never began."""
    book = Ledger(home.ledger)
    for run_id, steps, sets in (("first", 40, ()), ("second", 20, ["lora.r=8"]), ("waiting", 0, ())):
        book.submit(run_id, config=load.load_run("tiny", sets).model_dump(mode="json"))
        home.run(run_id).mkdir(parents=True)
        log = MetricsLog(home.run(run_id) / "metrics.jsonl")
        for step in range(1, steps + 1):
            log.append({"step": step, "loss": 4.0 - step / 20})
    MetricsLog(home.run("first") / "metrics.jsonl").append({"step": 40, "eval_loss": 2.25})
    book.close()
    return ["first", "second", "waiting"]


def in_a_terminal(monkeypatch, columns: int = 90) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.delenv("NO_COLOR", raising=False)


def words(text: str, first: str) -> list[str]:
    """The cells of the row that begins with `first`."""
    (row,) = [line for line in text.splitlines() if line.startswith(first)]
    return row.removeprefix(first).split()


def test_runs_are_compared_by_letter(invoke, runs):
    done = invoke("runs", "compare", *runs)
    assert done.code == 0, done.err
    assert words(done.out, "━━ B") == ["second", "QUEUED", "-"]
    assert words(done.out, "last loss") == ["2.0000", "3.0000", "-"]
    assert words(done.out, "held-out loss, last") == ["2.2500", "-", "-"]
    assert words(done.out, "lora.r") == ["16", "8", "16"]
    assert "energy" not in done.out, "what no run has is not a row"


def test_curves_in_a_pipe_share_one_scale(invoke, runs):
    out = invoke("runs", "compare", *runs).out.splitlines()
    first, second, held_out = (line for line in out if "▁" in line or "█" in line)
    assert first.startswith("first  3.950 █")
    assert first.endswith("▁ 2.000")
    assert second.startswith("second 3.950 █")
    assert "▁" not in second, "it ends half-way down"
    assert held_out.split() == ["first,", "held", "out", "2.250", "▁", "2.250"]


def test_curves_in_a_terminal_are_drawn_over_each_other(invoke, runs, monkeypatch):
    in_a_terminal(monkeypatch)
    out = click.unstyle(invoke("runs", "compare", *runs).out)
    (axis,) = [line.split() for line in out.splitlines() if line.split()[:2] == ["1", "10"]]
    assert axis == ["1", "10", "20", "30", "40"]
    assert out.count("◆") == 2, "the mark and the words that explain it"
    assert "loss and, as ◆, loss on held-out rows" in out
    smooth = invoke("runs", "compare", *runs, "--smooth", "5").out
    assert "loss (mean of 5 steps) and, as ◆" in smooth


def test_a_narrow_terminal_gets_lines(invoke, runs, monkeypatch):
    in_a_terminal(monkeypatch, columns=50)
    shown = invoke("runs", "show", "first").out
    assert "┌" not in shown
    assert "loss 3.950 █" in shown


def test_one_run_shows_its_curve_and_its_evaluations(invoke, runs, monkeypatch):
    shown = invoke("runs", "show", "first").out
    assert "\nloss 3.950 █" in shown
    assert "\nheld-out loss 2.250 ▁ 2.250\n" in shown
    assert "loss 3" not in invoke("runs", "show", "waiting").out
    in_a_terminal(monkeypatch)
    assert "┌" in invoke("runs", "show", "first").out


def test_machines_get_all_of_it(invoke, runs):
    value = json.loads(invoke("runs", "compare", *runs, "--json").out)
    assert [run["run"] for run in value["runs"]] == runs
    assert value["differences"] == {"lora.r": [16, 8, 16]}
    assert len(value["curves"]["second"]["loss"]) == 20
    shown = json.loads(invoke("runs", "show", "first", "--json").out)
    assert shown["metrics"][-1] == {"step": 40, "eval_loss": 2.25}


def test_a_picture_is_written_on_request(invoke, runs, tmp_path):
    for command in (["compare", *runs], ["show", "first"], ["show", "waiting"]):
        file = tmp_path / f"{command[0]}-{command[-1]}.png"
        done = invoke("runs", *command, "--png", str(file))
        assert (done.code, done.err) == (0, f"drawn into {file}\n")
        assert file.read_bytes().startswith(b"\x89PNG")
    assert "cannot be written" in invoke("runs", "show", "first", "--png", "/proc/a.png").one_error_line(2)


def test_one_run_alone_and_equal_runs_say_that_nothing_differs(invoke, runs):
    assert invoke("runs", "compare", "first").err == "one run: nothing to differ from\n"
    assert invoke("runs", "compare", "first", "waiting").err == "no setting differs\n"


def test_an_unknown_run_and_no_run_are_one_line(invoke, runs):
    assert "no run nope" in invoke("runs", "compare", "first", "nope").one_error_line()
    assert "Missing argument" in invoke("runs", "compare").one_error_line(2)
