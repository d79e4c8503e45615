"""A run's account over its attempts, its parents and the days; what cannot be read is not there."""

import json
import math
from dataclasses import asdict

import pytest

from actors.energy import usage
from actors.energy.usage import Attempt, Day, EnergyUse, InheritedEnergy, Recorder


class Meter:
    """Joules that a test sets."""

    def __init__(self, joules: float | None = 0.0, source: str | None = "counter") -> None:
        self.used, self.source, self.unmeasured_s = joules, source, 0.0

    def joules(self) -> float | None:
        return self.used

    def close(self) -> None: ...


def recorder(folder, meter, attempt=1, device="cuda", shared=False, parent=None) -> Recorder:
    folder.mkdir(exist_ok=True)
    return Recorder(folder, meter, attempt=attempt, slot="0", device=device, shared=shared, parent=parent)


def test_attempts_add_up_also_those_that_were_killed(tmp_path):
    first = Meter()
    killed = recorder(tmp_path, first)
    first.used = 300.0
    killed.step(1000)
    killed.keep()  # and then kill -9: close is never called
    second = Meter()
    going_on = recorder(tmp_path, second, attempt=2)
    assert (going_on.joules, going_on.tokens) == (300, 1000), "the curve goes on where it was"
    second.used = 50.0
    going_on.step(500)
    assert (going_on.joules, going_on.tokens) == (350, 1500)
    going_on.close()
    assert [attempt.attempt for attempt in usage.read(tmp_path).attempts] == [1, 2]
    killed._ended.set()


def test_a_resumed_run_begins_with_what_its_parent_came_to(tmp_path):
    meter = Meter()
    parent = recorder(tmp_path / "parent", meter)
    meter.used = 100.0
    parent.step(10)
    parent.close()
    child = recorder(tmp_path / "child", Meter(40.0), parent=tmp_path / "parent")
    child.step(5)
    child.close()
    found = usage.read(tmp_path / "child")
    assert found.inherited == InheritedEnergy("parent", 100.0, 10, 10)
    assert (found.joules, found.tokens) == (140, 15)
    (day,) = found.attempts[0].days
    assert (found.day(day).joules, found.day(day).tokens) == (40, 5), "a day's work is its own"
    assert found.remarks() == ["with that of parent, which it continues"]


def test_only_tokens_that_were_measured_stand_against_the_joules(tmp_path):
    day = "2026-01-01"
    attempts = [
        Attempt(1, "0", "cuda", False, "counter", days={day: Day(100.0, 10.0, 5, 1)}),
        Attempt(2, "0", "cuda", False, None, days={day: Day(None, 10.0, 7, 1)}),
    ]
    found = EnergyUse(attempts, InheritedEnergy("parent", 50.0, 30, 20))
    assert (found.joules, found.tokens, found.measured_tokens) == (150, 42, 25)
    older = EnergyUse(attempts, InheritedEnergy("parent", 50.0, 30))
    assert older.measured_tokens == 35, "an older account does not tell them apart"
    assert EnergyUse(attempts, InheritedEnergy("parent", None, 30, 0)).measured_tokens == 5
    tmp_path.joinpath("consumption.json").write_text(json.dumps(asdict(found)))
    child = recorder(tmp_path / "child", Meter(None, None), parent=tmp_path)
    assert child._all.inherited == InheritedEnergy(tmp_path.name, 150.0, 42, 25)
    child.close()


def test_on_a_cpu_joules_are_null_and_said_and_never_0(tmp_path):
    record = recorder(tmp_path, Meter(None, None), device="cpu")
    record.step(7)
    assert (record.joules, record.tokens) == (None, 7)
    record.close()
    (day,) = json.loads((tmp_path / "consumption.json").read_text())["attempts"][0]["days"].values()
    assert (day["joules"], day["tokens"], day["steps"]) == (None, 7, 1)
    assert usage.read(tmp_path).remarks() == ["not measured: a CPU has no reading"]


def test_what_the_joules_are_not_is_said():
    days = {"2026-01-01": Day(100.0, 10.0, 5, 1)}
    found = EnergyUse([Attempt(1, "0", "cuda", True, "power", 35.0, days), Attempt(2, "0", "cuda", True, None)])
    assert found.shared
    assert found.joules == 100
    assert found.remarks() == [
        "35 s of attempt 1 were not measured",
        "attempt 2 was not measured: its GPU gave no reading",
        "added up from power readings: the card does not count",
        "the whole card's: it is shared with serving",
    ]


def test_work_is_booked_on_the_local_day_on_which_it_was_done(tmp_path, monkeypatch):
    class Calendar(usage.date):
        today_is = "2026-03-28"

        @classmethod
        def today(cls):
            return cls.fromisoformat(cls.today_is)

    monkeypatch.setattr(usage, "date", Calendar)
    meter = Meter()
    record = recorder(tmp_path, meter)
    meter.used = 30.0
    record.step(3)
    Calendar.today_is, meter.used = "2026-03-29", 100.0
    record.step(7)
    record.close()
    found = usage.read(tmp_path)
    assert (found.day("2026-03-28").joules, found.day("2026-03-28").tokens) == (30, 3)
    assert (found.day("2026-03-29").joules, found.day("2026-03-29").steps) == (70, 1)
    assert found.day("2026-03-30") == Day()


def text(day="2026-01-01", device="cuda", **values) -> str:
    """An account of one attempt on one day."""
    attempt = {"attempt": 1, "slot": "0", "device": device, "shared": False, "source": "counter"}
    return json.dumps({"attempts": [attempt | {"days": {day: {"joules": 1.0} | values}}], "inherited": None})


WRONG = ["", "{", "[]", '{"attempts": 3}', '{"attempts": [{"days": {"no day": {}}}]}', text("no day"), text(device="x")]
WRONG += [text(joules="5"), text(joules=math.nan), text(seconds=None), text(tokens=1.5), text(tokens=10**400)]
WRONG += [text(steps=True), text(steps=-1)]


@pytest.mark.parametrize("wrong", WRONG)
def test_an_account_that_cannot_be_read_is_none_and_is_begun_anew_beside_the_old_one(tmp_path, wrong):
    (tmp_path / "consumption.json").write_text(wrong)
    assert usage.read(tmp_path) is None
    recorder(tmp_path, Meter(5.0)).close()
    found = usage.read(tmp_path)
    assert found.joules == 5
    assert (tmp_path / "consumption.json.damaged").read_text() == wrong
    assert found.remarks() == ["without earlier attempts: their account, consumption.json.damaged, cannot be read"]


def test_an_account_of_whole_numbers_can_be_read(tmp_path):
    (tmp_path / "consumption.json").write_text(text(joules=7, seconds=3, tokens=5, steps=2))
    assert usage.read(tmp_path).day("2026-01-01") == Day(7, 3, 5, 2)


def test_a_folder_that_cannot_be_written_does_not_end_the_training(tmp_path):
    record = recorder(tmp_path / "gone", Meter(1.0))
    (tmp_path / "gone" / "consumption.json").unlink()
    (tmp_path / "gone").rmdir()
    record.step(1)
    record.close()
    assert record.tokens == 1
