"""`tandem status --json`, `tandem top` and `tandem runs watch`: as text, in a pipe and on a real pseudo-terminal."""

import json
import re
import signal
import time
from dataclasses import replace

import pytest

from actors.runs.curve import MetricsLog
from actors.runs.ledger import Ledger, Quarantine
from actors.runs.run import RunState
from actors.status.request_stats import Latency, Traffic
from cli.machine import status
from cli.screens.board import NARROWEST
from cli.training.watch import _Log, _Screen, _thin
from configs.schema import Slot
from jobs.reports.plots import Curve
from models.lora.registry import Registry
from tests.samples import TRAIN, go_live, publish
from tests.unit.actors.metrics.test_metrics import note_cluster
from tests.unit.cli.chat.test_terminal import Terminal
from tests.unit.cli.screens.boards import ALL_WELL, lines

SLOT = Slot(name="0", roles=("train",))


@pytest.fixture
def ledger(home):
    book = Ledger(home.ledger)
    yield book
    book.close()


@pytest.fixture
def log(home, ledger) -> MetricsLog:
    """The metrics of run `r`, which trains and has taken 9 of its 20 steps and judged itself twice."""
    ledger.submit("r", **TRAIN)
    ledger.grant("r", SLOT)
    ledger.transition("r", RunState.RUNNING, "at work")
    written = MetricsLog(home.run("r") / "metrics.jsonl")
    written.path.parent.mkdir(parents=True)
    now = time.time()
    for step in range(1, 10):
        written.append({"step": step, "loss": 4 / step, "at": now - 10 + step})
        if step % 4 == 0:
            written.append({"step": step, "eval_loss": 5 / step, "at": now - 10 + step})
    ledger.progress("r", step=9, max_steps=20, loss=4 / 9, tokens_per_s=1234.5)
    return written


def drawn(home, ledger, width: int = 80, height: int = 30) -> list[str]:
    screen = _Screen(home, ledger, "r", smooth=1)
    screen.look()
    return lines(screen.draw(width, height), width)


# For machines


def test_the_report_keeps_its_names_and_says_what_is_wrong():
    traffic = Traffic({"200": 4}, 1, 0, 10, 20, {"request_duration": Latency(4, 2.0, ((0.5, 2), (1.0, 4)))})
    bad = Quarantine("0", "why", 5.0, "tandem")
    whole = replace(ALL_WELL, quarantines={"0": bad}, traffic=traffic, problems=("x",))
    seen = json.loads(json.dumps(status.report(whole)))
    assert {"up", "home", "http", "dashboard", "slots", "active_runs", "aliases", "gpus", "engines", "holds"} <= set(
        seen
    )
    assert seen["slots"][0] == {
        "name": "0", "gpu": 0, "uuid": "GPU-a", "roles": ["train"], "role": "train", "holder": None, "pid": None,
        "since": None, "quarantine": {"slot": "0", "reason": "why", "since": 5.0, "by": "tandem"}, "gone": False,
    }  # fmt: skip
    assert (seen["gpus"][0]["utilization"], seen["gpus"][0]["clock"]) == (0.98, 1.695e9)
    assert (seen["engines"]["engine_1"]["running"], seen["problems"]) == (2, ["x"])
    assert [process["name"] for process in seen["processes"]] == ["head", "engine_1"]
    assert seen["requests"]["by_status"] == {"200": 4}
    assert seen["requests"]["latency_seconds"] == {"request_duration": {"count": 4, "p50": 0.5, "p95": 0.95}}


def test_the_report_has_adapters_swaps_events_and_runs_as_the_screen_has(invoke, home, ledger, log):
    version = publish(Registry(home.models), run_id="r").version
    go_live(ledger, version, seconds=0.5)
    ledger.submit("gone", **TRAIN)
    ledger.transition("gone", RunState.STOPPED, "stopped while queued")
    seen = json.loads(invoke("status", "--json").out)
    (active,), (ended,) = seen["active_runs"], seen["ended_runs"]
    assert (active["progress"], active["losses"]) == (9 / 20, [4 / step for step in range(1, 10)])
    assert (ended["id"], ended["state"], ended["reason"], ended["losses"]) == (
        "gone", "STOPPED", "stopped while queued", [],
    )  # fmt: skip
    (adapter,) = seen["adapters"]
    assert (adapter["version"], adapter["state"], adapter["aliases"], adapter["loaded"]) == (
        version, "LIVE", ["prod"], False,
    )  # fmt: skip
    assert adapter["metrics"]["loss"] == 0.5
    assert [(swap["alias"], swap["new"], swap["seconds"]) for swap in seen["swaps"]] == [("prod", version, 0.5)]
    assert seen["events"][0] | {"at": 0, "seq": 0} == {
        "seq": 0, "at": 0, "run_id": "gone", "kind": "stopped", "text": "stopped while queued",
    }  # fmt: skip


def test_an_active_run_has_its_place_in_the_queue_and_its_time_left(invoke, home, ledger, log):
    ledger.submit("waits", **TRAIN)
    waits, trains = json.loads(invoke("status", "--json").out)["active_runs"]
    assert (waits["id"], waits["position"], waits["eta"]) == ("waits", 1, None)
    assert (trains["id"], trains["position"]) == ("r", None)
    assert trains["eta"] is None, "while Tandem is down it does not step"
    note_cluster(home)
    _, trains = json.loads(invoke("status", "--json").out)["active_runs"]
    assert trains["eta"]["step_seconds"] == pytest.approx(1, abs=1e-3)


def test_status_in_a_pipe_has_no_escapes_and_no_cut_names(invoke, ledger):
    name = "a-profile-with-a-very-long-name-of-its-own-20260101-120000-ab12"
    ledger.submit(name, **TRAIN)
    out = invoke("status").out
    assert name in out and "\x1b" not in out and "…" not in out


@pytest.mark.parametrize(("columns", "width"), [("80", 80), ("120", 120), ("20", NARROWEST)])
def test_status_in_a_pipe_is_as_wide_as_columns_says(columns, width, invoke, home, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    assert max(map(len, invoke("status").out.splitlines())) == width


# Watch, as text


def test_the_watch_has_the_curve_the_held_out_losses_and_the_time_left(home, ledger, log):
    text = drawn(home, ledger)
    assert text[0].startswith("r  RUNNING  Tandem is down: it goes on after `tandem up`  slot 0")
    assert "9/20 45%" in text[1] and "left" in text[1]
    assert text[2] == "loss 0.4444   held-out ◆ 0.6250, best 0.6250 at step 8   1,234 tok/s"
    assert text[3].lstrip().startswith("┌") and sum(line.count("◆") for line in text[3:]) == 2
    assert len(text) == 29, "the plot takes what the words leave"


def test_the_watch_has_the_energy_so_far_where_it_is_measured(home, ledger, log):
    log.append({"step": 10, "loss": 0.4, "energy_joules": 4442.0, "at": time.time()})
    assert drawn(home, ledger)[2].endswith("1,234 tok/s   1.23 Wh")


def test_the_watchdogs_lines_are_the_newest_below_the_curve(home, ledger, log):
    for number in range(9):
        ledger.note("watchdog", f"the mean loss stands still {number}", "r")
    ledger.note("watchdog", "of another run", "other")
    text = drawn(home, ledger)
    events = text[text.index(next(line for line in text if line.startswith("── events"))) + 1 :]
    assert [line.split(maxsplit=1)[1] for line in events] == [
        f"watchdog  the mean loss stands still {number}" for number in range(4, 9)
    ]


def test_what_the_watchdog_says_is_read_to_its_end_and_other_events_are_one_line(home, ledger, log):
    ledger.note("watchdog", "the mean loss stands still; " * 4 + "lower the rate", "r")
    ledger.note("fit", "micro-batch 8; " * 20, "r")
    text = drawn(home, ledger)
    assert " ".join(" ".join(text[-4:-1]).split()).endswith("the mean loss stands still; lower the rate")
    assert text[-1].startswith("    0s fit       micro-batch 8;") and text[-1].endswith("…")


def test_a_long_kind_of_event_pushes_no_other_out_of_its_column(home, ledger, log):
    ledger.note("interrupted", "by SIGTERM", "r")
    ledger.note("watchdog", "the mean loss stands still; " * 4 + "lower the rate", "r")
    text = drawn(home, ledger)
    at = text.index("    0s interrupted by SIGTERM")
    assert text[at + 1].startswith("    0s watchdog    the mean loss")
    assert re.match(r" {19}\S", text[at + 2])


def test_the_watch_shows_escape_sequences_of_others_and_obeys_none(home, ledger, log):
    ledger.note("error", "\x1b[2J\x9b5n of a log's tail", "r")
    text = drawn(home, ledger)
    assert text[-1].endswith("error     ␛[2J�5n of a log's tail")
    assert not any(sign in line for line in text for sign in "\x1b\x9b")


def test_before_the_first_step_it_says_what_it_waits_for(home, ledger):
    ledger.submit("first", **TRAIN | {"priority": 1})
    ledger.submit("r", **TRAIN)
    text = drawn(home, ledger)
    assert text[0].startswith("r  QUEUED  2. in the queue")
    assert "no step yet: the curve begins with the first" in text


@pytest.mark.parametrize(("width", "height"), [(80, 9), (30, 30), (20, 3)])
def test_a_small_terminal_gets_one_line_instead_of_a_plot(width, height, home, ledger, log):
    text = drawn(home, ledger, width, height)
    assert "█▄▃▂▂▁▁▁▁" in text and not any("┌" in line for line in text)
    assert max(map(len, text)) <= width


def test_lines_that_cannot_be_read_are_counted_and_the_curve_goes_on(home, ledger, log):
    with log.path.open("ab") as handle:
        handle.write(b"\x00\xff\n")
    log.append({"step": 10, "loss": float("nan"), "at": 1.0})
    text = drawn(home, ledger)
    assert text[3] == "! lines of metrics.jsonl that cannot be read: 1"
    assert any("┌" in line for line in text)


def test_a_run_that_diverged_shows_it_and_a_number_that_no_float_holds_is_none(home, ledger, log):
    log.append({"step": 10, "eval_loss": 10**400, "at": 1.0})
    assert drawn(home, ledger)[2].startswith("loss 0.4444   held-out ◆ 0.6250")
    log.append({"step": 11, "loss": float("nan"), "at": 2.0})
    text = drawn(home, ledger)
    assert text[2].startswith("loss nan   held-out ◆ 0.6250")
    assert any("┌" in line for line in text)


def test_a_log_is_read_again_only_when_it_has_changed(log):
    seen = _Log(log.path)
    seen.look()
    first = seen.lines
    seen.look()
    assert seen.lines is first
    log.append({"step": 10, "loss": 0.4, "at": 1.0})
    seen.look()
    assert seen.lines[-1]["step"] == 10
    log.path.unlink()
    seen.look()
    assert seen.lines[-1]["step"] == 10, "what was read stays"


def test_a_very_long_curve_is_drawn_from_means():
    thin = _thin(Curve("x", tuple(range(1, 5001)), tuple(map(float, range(5000)))))
    assert thin.steps[:3] == (1, 4, 7) and thin.values[:3] == (1.0, 4.0, 7.0)
    assert len(thin.steps) == len(thin.values) == 1667
    short = Curve("x", (1, 2), (1.0, 2.0))
    assert _thin(short) is short


# In a pipe


def test_top_in_a_pipe_prints_once_and_says_so(invoke, ledger, log):
    done = invoke("top")
    assert (done.code, done.err) == (0, "not a terminal: printed once\n")
    assert "Tandem is not running" in done.out and "9/20 45%" in done.out


@pytest.mark.parametrize(("state", "code"), [(RunState.SUCCEEDED, 0), (RunState.FAILED, 1)])
def test_watch_in_a_pipe_follows_and_exits_with_the_runs_result(state, code, invoke, ledger, log):
    ledger.transition("r", state, "so it ended")
    done = invoke("runs", "watch", "r")
    assert (done.code, done.out) == (code, "")
    assert done.err.splitlines()[-1] == f"{state}: so it ended"


@pytest.mark.parametrize("run_id", ["nope", "../r"])
def test_watching_a_run_that_does_not_exist_is_one_line(run_id, invoke, ledger):
    assert "run" in invoke("runs", "watch", run_id).one_error_line()


# On a terminal


@pytest.fixture
def terminal(home):
    """Start `tandem` with these arguments on a terminal of 60 columns and 20 rows."""
    opened = []

    def start(*arguments: str) -> Terminal:
        opened.append(Terminal(*arguments, TANDEM_HOME=str(home.root)))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


def test_top_shows_what_changes_follows_the_terminals_size_and_ends_with_q(terminal, ledger):
    top = terminal("top", "--interval", "0.2")
    top.see("60 columns are too few")
    top.resize(90, 30)
    top.see("Tandem is not running")
    ledger.submit("new-run", **TRAIN)
    top.see("new-run  QUEUED  next in the queue")
    assert not top.echoes
    top.type("\x1b[A")  # an arrow is not an Escape
    ledger.submit("another", **TRAIN)
    top.see("another  QUEUED")
    top.type("q")
    assert top.process.wait(10) == 0
    assert top.echoes


@pytest.mark.parametrize(
    ("command", "code"), [(("top", "--interval", "0.2"), 0), (("runs", "watch", "r"), 130)], ids=["top", "watch"]
)
def test_sigterm_leaves_as_q_does_and_gives_the_terminal_back(command, code, terminal, ledger, log):
    watching = terminal(*command)
    watching.resize(90, 30)
    watching.see("9/20 45%")
    watching.process.send_signal(signal.SIGTERM)
    assert watching.process.wait(10) == code
    left = watching.rest()
    assert "\x1b[?1049l" in left and "\x1b[?25h" in left, "its own screen and the hidden cursor are gone"
    assert watching.echoes


def test_watch_grows_with_the_run_and_ends_with_its_result(terminal, ledger, log):
    watching = terminal("runs", "watch", "r", "--interval", "0.2")
    watching.see("9/20 45%")
    log.append({"step": 10, "loss": 0.25, "at": time.time()})
    ledger.progress("r", step=10, max_steps=20, loss=0.25, tokens_per_s=1000.0)
    watching.see("10/20 50%")
    watching.see("loss 0.2500")
    ledger.transition("r", RunState.FAILED, "the loss is not a number")
    watching.see("FAILED: the loss is not a number")
    assert watching.process.wait(10) == 1


def test_leaving_a_watch_leaves_the_run_alone(terminal, ledger, log):
    watching = terminal("runs", "watch", "r", "--interval", "0.2")
    watching.see("9/20 45%")
    watching.type("\x03")
    watching.see("no longer following; the run goes on")
    assert watching.process.wait(10) == 130
    assert ledger.run("r").state is RunState.RUNNING
