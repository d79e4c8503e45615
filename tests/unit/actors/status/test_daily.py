"""A day's figures out of a real ledger and real accounts, in the zones and on the days that are not 24 hours long."""

import asyncio
import json
import sqlite3
import sys
import time
from datetime import date, datetime

import pytest

from actors.notify import daily_notice
from actors.notify.daily_notice import DailyNotice
from actors.runs.ledger import Ledger
from actors.runs.run import RunState
from actors.status import daily
from configs.schema import EnergyConfig, Slot
from tests.samples import EXPORT, TRAIN, go_live, verify

SLOT = Slot(name="0", roles=("train",))
PRICES = EnergyConfig(price_per_kwh=0.5, co2_g_per_kwh=400)
DAY = date(2026, 10, 25)
"""In Berlin it has 25 hours."""


@pytest.fixture
def berlin(monkeypatch):
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def ledger(home):
    book = Ledger(home.ledger)
    yield book
    book.close()


def at(ledger, moment: str, table: str = "events", column: str = "at", where: str = "1") -> None:
    """Move what was just written to a local moment."""
    with sqlite3.connect(ledger.path) as db:
        db.execute(f"UPDATE {table} SET {column} = ? WHERE {where}", (datetime.fromisoformat(moment).timestamp(),))


def ended(ledger, run_id: str, state: RunState, begin: str, end: str, submission: dict = TRAIN) -> None:
    ledger.submit(run_id, **submission)
    ledger.grant(run_id, SLOT)
    ledger.transition(run_id, RunState.RUNNING, "steps")
    if state is RunState.STOPPED:
        ledger.transition(run_id, RunState.STOPPING, "asked")
    ledger.transition(run_id, state, "over")
    for column in ("created_at", "started_at"):
        at(ledger, begin, "runs", column, f"id = '{run_id}'")
    at(ledger, end, "runs", "ended_at", f"id = '{run_id}'")


def account(home, run_id: str, days: dict[str, tuple[float | None, float, int, int]], slot: str = "0") -> None:
    """A run's consumption: by day (joules, seconds, tokens, steps)."""
    named = {
        day: dict(zip(("joules", "seconds", "tokens", "steps"), values, strict=True)) for day, values in days.items()
    }
    attempt = {"attempt": 1, "slot": slot, "device": "cuda", "shared": False, "source": "counter", "days": named}
    home.run(run_id).mkdir(parents=True)
    (home.run(run_id) / "consumption.json").write_text(json.dumps({"attempts": [attempt], "inherited": None}))


def test_a_day_has_25_hours_where_clocks_are_set_back_and_23_where_they_are_set_forward(berlin):
    hours = [
        (daily.midnight(after) - daily.midnight(day)) / 3600
        for day, after in ((DAY, date(2026, 10, 26)), (date(2026, 3, 29), date(2026, 3, 30)))
    ]
    assert hours == [25, 23]


def test_runs_count_on_the_day_they_end_and_work_on_the_day_it_was_done(home, ledger, berlin):
    ended(ledger, "over-midnight", RunState.SUCCEEDED, "2026-10-24T22:00", "2026-10-25T02:30")
    ended(ledger, "late", RunState.FAILED, "2026-10-25T23:00", "2026-10-25T23:59:59")
    ended(ledger, "next-day", RunState.STOPPED, "2026-10-25T23:00", "2026-10-26T00:00")
    ended(ledger, "export", RunState.SUCCEEDED, "2026-10-25T05:00", "2026-10-25T06:00", EXPORT)
    account(home, "over-midnight", {"2026-10-24": (3.6e6, 7200, 100, 10), "2026-10-25": (7.2e6, 9000, 300, 20)})
    account(home, "late", {"2026-10-25": (None, 1800, 50, 5)}, slot="1")
    account(home, "next-day", {"2026-10-26": (3.6e6, 60, 1, 1)})
    found = daily.read(home, ledger, DAY, PRICES)
    assert found.runs == {"SUCCEEDED": 2, "FAILED": 1, "STOPPED": 0}
    assert (found.steps, found.tokens) == (25, 350)
    assert found.slot_hours == {"0": 2.5, "1": 0.5}
    assert (found.energy.joules, found.energy.cost, found.energy.co2_g) == (7.2e6, 1.0, 800)
    assert found.energy.joules_per_1000_tokens == 7.2e6 / 0.3, "the 50 tokens that were not measured do not count"
    assert found.remarks == ("energy of 1 run was not measured: a CPU, or a GPU without a reading",)
    assert daily.read(home, ledger, date(2026, 10, 24), PRICES).tokens == 100


def test_adapters_swaps_quarantines_and_trouble_are_those_of_the_day(home, ledger):
    ledger.quarantine("9", "an old one", "tandem")
    at(ledger, "2026-10-24T12:00")
    ended(ledger, "a", RunState.SUCCEEDED, "2026-10-24T12:00", "2026-10-24T13:00")
    ledger.set_adapter("a", "v1")
    go_live(ledger, "v1", reason="asked", seconds=1)
    verify(ledger, "v2")
    ledger.refuse_swap("prod", "v2", reason="broken", seconds=1)
    ledger.quarantine("0", "gone", "tandem")
    ledger.note("error", "control: first")
    ledger.note("error", "control: second\nwith a traceback")
    found = daily.read(home, ledger, date.today(), PRICES)
    assert (found.adapters, found.swaps, found.refused, found.quarantines) == (1, 1, 1, 1)
    assert found.remarks == ("error, 2 times, last: control: second",)
    assert found.energy.joules is None
    assert str(found).startswith(f"{date.today()}: runs ended: none; 0 steps, 0 tokens trained\n")


def test_a_clock_that_was_set_back_and_a_run_without_an_account_are_said(home, ledger):
    ended(ledger, "back", RunState.SUCCEEDED, "2026-10-25T12:00", "2026-10-25T11:00")
    found = daily.read(home, ledger, DAY, PRICES)
    assert found.runs["SUCCEEDED"] == 1
    assert found.remarks == (
        "1 run left no account of steps, tokens, hours and energy",
        "back ended before it began: the clock was set back meanwhile",
    )


def told(ledger) -> list[str]:
    return [event.text.split(":")[0] for event in ledger.events() if event.kind == "summary"]


def test_the_day_before_is_told_once_a_day_whatever_is_restarted(home, ledger):
    def offer(moment: str) -> list[str]:
        DailyNotice(home, ledger, "08:00", PRICES).offer(datetime.fromisoformat(moment))  # each a new control actor
        return told(ledger)

    assert offer("2026-10-24T12:00") == [], "new here: nothing is told of the time before"
    assert offer("2026-10-25T07:59") == []
    assert offer("2026-10-25T08:00") == ["2026-10-24"]
    assert offer("2026-10-25T08:00") == ["2026-10-24"]
    assert offer("2026-10-25T23:59") == ["2026-10-24"]
    assert offer("2026-10-29T09:00") == ["2026-10-24", "2026-10-28"], "of missed days only the newest"


def test_a_clock_that_jumps_tells_no_day_twice_and_does_not_silence_the_notice(home, ledger):
    notice = DailyNotice(home, ledger, "08:00", PRICES)
    moments = ("2026-10-24T12:00", "2026-10-25T09:00", "2026-10-24T09:00", "2026-10-25T09:00")
    for moment in moments:
        notice.offer(datetime.fromisoformat(moment))
    assert told(ledger) == ["2026-10-24"]
    for moment in ("2027-10-25T09:00", "2026-10-25T10:00", "2026-10-26T08:00"):
        notice.offer(datetime.fromisoformat(moment))
    assert told(ledger) == ["2026-10-24", "2027-10-24", "2026-10-25"]
    assert ledger.mark(daily_notice.MARK) == date(2026, 10, 25).toordinal()


@pytest.mark.parametrize("wanted", [True, False])
def test_the_control_actor_tells_the_summary_only_if_it_is_asked_to(wanted, drive, tmp_path):
    heard = tmp_path / "heard"
    events = ["summary", "failed"] if wanted else ["failed"]
    command = [sys.executable, "-c", f"import sys; open({str(heard)!r}, 'a').write(sys.stdin.read())"]
    old = date.today().toordinal() - 30

    async def scenario(desk):
        await desk.tick()
        assert told(desk.ledger) == []
        desk.ledger.set_mark(daily_notice.MARK, old)
        await desk.tick(3)
        assert len(told(desk.ledger)) == wanted
        while not desk.control._notifier.idle():
            await asyncio.sleep(0.01)

    drive(scenario, notify={"command": command, "events": events})
    assert heard.exists() == wanted
    if wanted:
        notice = json.loads(heard.read_text())
        assert (notice["kind"], notice["title"].split(": ")[1]) == ("summary", "the day before")
        assert "runs ended: none" in notice["text"]
