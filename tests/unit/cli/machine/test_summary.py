"""`tandem summary`, and energy in `tandem runs show` and `compare`, over a real ledger."""

import json
from datetime import date, timedelta

import pytest

from actors.runs.ledger import Ledger
from actors.runs.run import RunState
from configs import paths
from configs.schema import Slot
from tests.samples import TRAIN

TODAY = date.today().isoformat()
PRICED = "energy: {price_per_kwh: 0.5, currency: CHF, co2_g_per_kwh: 100}\n"


@pytest.fixture
def run(home, tmp_path, monkeypatch):
    """One ended run with an account, and a cluster.yaml with prices."""
    config = tmp_path / "cluster.yaml"
    config.write_text(PRICED)
    monkeypatch.setattr(paths, "CLUSTER_CONFIG", config)
    ledger = Ledger(home.ledger)
    ledger.submit("a", **TRAIN)
    ledger.grant("a", Slot(name="0", roles=("train",)))
    ledger.transition("a", RunState.RUNNING, "steps")
    ledger.transition("a", RunState.SUCCEEDED, "published")
    ledger.close()
    home.run("a").mkdir(parents=True)
    keep(home, "cuda", "counter", 7.2e6)
    return "a"


def keep(home, device: str, source: str | None, joules: float | None, shared: bool = True) -> None:
    days = {TODAY: {"joules": joules, "seconds": 1800.0, "tokens": 36000, "steps": 60}}
    attempt = {"attempt": 1, "slot": "0", "device": device, "shared": shared, "source": source, "days": days}
    (home.run("a") / "consumption.json").write_text(json.dumps({"attempts": [attempt], "inherited": None}))


def test_a_day_is_a_table_and_its_remarks_are_side_talk(invoke, run):
    done = invoke("summary")
    rows = dict(line.split("  ", 1) for line in done.out.splitlines() if "  " in line)
    rows = {key.strip(): value.strip() for key, value in rows.items()}
    assert rows["runs ended"] == "1 succeeded"
    assert (rows["steps"], rows["tokens"], rows["slot hours"]) == ("60", "36,000", "slot 0: 0.50 h")
    assert (rows["energy"], rows["per 1,000 tokens"]) == ("2 kWh", "200,000.0 J")
    assert (rows["cost"], rows["CO2"]) == ("1 CHF", "200 g")
    assert done.err == ""
    assert [line for line in done.out.splitlines() if line != line.rstrip()] == [], "a pipe gets no padding"


def test_tokens_that_were_not_measured_do_not_make_the_others_look_cheaper(invoke, run, home):
    file = home.run("a") / "consumption.json"
    account = json.loads(file.read_text())
    day = {TODAY: {"joules": None, "seconds": 1.0, "tokens": 4000, "steps": 1}}
    account["attempts"].append(account["attempts"][0] | {"attempt": 2, "source": None, "days": day})
    file.write_text(json.dumps(account))
    shown = json.loads(invoke("runs", "show", "a", "--json").out)["energy"]
    (compared,) = json.loads(invoke("runs", "compare", "a", "--json").out)["runs"]
    (summed,) = json.loads(invoke("summary", "--json").out)["days"]
    rates = [found["joules_per_1000_tokens"] for found in (shown, compared, summed["energy"])]
    assert rates == [200_000] * 3
    assert [found["tokens"] for found in (shown, compared, summed)] == [40_000] * 3
    assert "200,000.0 J; 40,000 tokens trained, 36,000 of them measured" in invoke("runs", "show", "a").out


def test_a_day_without_a_chance_of_anything_says_so(invoke, run):
    assert invoke("summary", "--date", "2999-01-01").err == "2999-01-01 is in the future\n"
    assert invoke("summary", "--date", "2020-01-31").err == "2020-01-31 is before the first run\n"


def test_before_the_first_run_of_all_it_says_so(invoke, home):
    Ledger(home.ledger).close()
    assert invoke("summary").err == "there is no run yet -> tandem train\n"


def test_days_are_a_row_each_and_json_has_them_all(invoke, run):
    yesterday = (date.today() - timedelta(days=1)).isoformat()
    lines = invoke("summary", "--days", "2").out.splitlines()
    assert [line.split()[0] for line in lines] == ["day", yesterday, TODAY]
    found = json.loads(invoke("summary", "--days", "2", "--json").out)["days"]
    assert [(day["day"], day["steps"]) for day in found] == [(yesterday, 0), (TODAY, 60)]
    assert found[1]["energy"]["cost"] == 1.0
    assert json.loads(invoke("summary", "--date", yesterday, "--json").out)["days"] == found[:1]


def test_a_wrong_date_and_a_home_without_a_ledger_are_one_line(invoke, run, home):
    assert "'2026-13-01' does not match the format" in invoke("summary", "--date", "2026-13-01").one_error_line(2)
    home.ledger.unlink()
    assert "no ledger" in invoke("summary").one_error_line()


def test_a_run_shows_its_energy_with_what_it_cost_and_what_it_is_not(invoke, run):
    out = " ".join(invoke("runs", "show", "a").out.split())
    assert "energy 2 kWh, 1 CHF, 200 g CO2 (the whole card's: it is shared with serving)" in out
    assert "per 1,000 tokens 200,000.0 J; 36,000 tokens trained" in out
    shown = json.loads(invoke("runs", "show", "a", "--json").out)["energy"]
    assert (shown["joules"], shown["cost"], shown["currency"], shown["tokens"]) == (7.2e6, 1.0, "CHF", 36000)
    assert shown["shared"] is True
    assert shown["attempts"][0]["source"] == "counter"


def test_a_run_whose_account_is_damaged_says_so(invoke, run, home):
    (home.run("a") / "consumption.json").write_text("{garbage")
    assert "consumption.json cannot be read" in invoke("runs", "show", "a").out
    assert "left no account" in invoke("summary").err


def test_a_run_that_has_only_just_begun_is_not_missed(invoke, run, home):
    ledger = Ledger(home.ledger)
    ledger.submit("b", **TRAIN)
    ledger.grant("b", Slot(name="0", roles=("train",)))
    ledger.close()
    assert "left no account" not in invoke("summary").err


@pytest.mark.parametrize("day", ["9999-12-31", "0001-01-01"])
def test_a_day_that_no_clock_shows_is_one_line(day, invoke, run):
    error = invoke("summary", "--date", day, "--days", "5").one_error_line(2)
    assert error.startswith(f"error: --date {day} is not a day")


def test_a_day_on_which_nothing_was_trained_used_nothing(invoke, run):
    yesterday = (date.today() - timedelta(days=1)).isoformat()
    assert "energy       none" in " ".join(invoke("summary", "--date", yesterday).out.splitlines())


def test_a_run_on_a_cpu_says_that_nothing_was_measured(invoke, run, home):
    keep(home, "cpu", None, None, shared=False)
    assert "energy not measured: a CPU has no reading" in " ".join(invoke("runs", "show", "a").out.split())
    shown = json.loads(invoke("runs", "show", "a", "--json").out)["energy"]
    assert (shown["joules"], shown["cost"], shown["joules_per_1000_tokens"]) == (None, None, None)
    done = invoke("summary")
    assert "energy of 1 run was not measured" in done.err
    assert "energy not measured" in " ".join(done.out.split())
    assert "CO2" not in done.out and "cost" not in done.out, "what is not known is not a row"
    assert json.loads(invoke("summary", "--json").out)["days"][0]["energy"]["joules"] is None


def test_a_comparison_has_energy_cost_and_co2(invoke, run):
    out = " ".join(invoke("runs", "compare", "a").out.split())
    assert "energy 2 kWh per 1,000 tokens 200,000.0 J cost 1 CHF CO2 200 g" in out
    (result,) = json.loads(invoke("runs", "compare", "a", "--json").out)["runs"]
    assert (result["energy_joules"], result["tokens"], result["cost"]) == (7.2e6, 36000, 1.0)
