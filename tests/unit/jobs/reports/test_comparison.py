"""Runs side by side, read from what is on disk of each."""

import json

import pytest

from actors.runs.curve import MetricsLog
from actors.runs.ledger import Ledger
from actors.runs.run import RunState
from configs import load
from configs.errors import NotFoundError
from configs.schema import Slot
from jobs.reports import comparison

SLOT = Slot(name="0", roles=("train",))


@pytest.fixture
def ledger(home):
    book = Ledger(home.ledger)
    yield book
    book.close()


def a_run(home, ledger, run_id: str, losses=(), evaluations=(), adapter=None, resolved=None, measured=None, sets=()):
    """An ended run: its row, and its folder with whatever is given."""
    ledger.submit(run_id, config=load.load_run("tiny", sets).model_dump(mode="json"))
    ledger.grant(run_id, SLOT)
    ledger.transition(run_id, RunState.RUNNING, "steps")
    ledger.transition(run_id, RunState.SUCCEEDED, "published")
    if adapter:
        ledger.set_adapter(run_id, adapter)
    folder = home.run(run_id)
    folder.mkdir(parents=True)
    log = MetricsLog(folder / "metrics.jsonl")
    for step, loss in enumerate(losses, 1):
        log.append({"step": step, "loss": loss, "tokens_per_s": 100.0 * step})
    for step, loss in evaluations:
        log.append({"step": step, "eval_loss": loss})
    for name, value in (("resolved.json", resolved), ("measured.json", measured)):
        if value is not None:
            (folder / name).write_text(json.dumps(value))


def test_results_are_those_of_the_curve_and_of_what_was_measured(home, ledger):
    measured = {"stages": {}, "energy_joules": 7200.5, "peak_memory_bytes": 123}
    a_run(home, ledger, "a", (4.0, 1.0, 2.5), [(0, 1.25), (1, 5.0), (2, 1.5), (3, 2.0)], measured=measured)
    a_run(home, ledger, "b", (3.0,))
    first, second = comparison.compare(home, ledger, ["a", "b"]).results
    assert (first.steps, first.first_loss, first.last_loss, first.mean_loss, first.best_loss) == (3, 4.0, 2.5, 2.5, 1.0)
    assert (first.eval_loss, first.best_eval_loss, first.base_eval_loss) == (2.0, 1.5, 1.25)
    assert (first.energy_joules, first.peak_memory_bytes, first.tokens_per_s) == (7200.5, 123, 200.0)
    assert (second.steps, second.eval_loss, second.energy_joules, second.state) == (1, None, None, "SUCCEEDED")
    assert second.seconds >= 0


def test_only_what_differs_is_named(home, ledger):
    a_run(home, ledger, "a")
    a_run(home, ledger, "b", sets=["lora.r=8", "training.learning_rate=1e-3"])
    differences = comparison.compare(home, ledger, ["a", "b"]).differences
    assert differences == {"lora.r": (16, 8), "training.learning_rate": (0.005, 0.001)}
    assert comparison.compare(home, ledger, ["a"]).differences == {}


def test_base_data_and_versions_differ_between_runs_that_wrote_them_down(home, ledger):
    def resolved(torch: str, data: str) -> dict:
        return {
            "versions": {"torch": torch, "ray": "2.60.0"},
            "base": {"name": "tiny", "fingerprint": "f"},
            "data": {"rows": 5, "data_fingerprint": data, "longest_row": len(data)},
        }

    a_run(home, ledger, "a", resolved=resolved("2.13.0", "x"))
    a_run(home, ledger, "b", resolved=resolved("2.14.0", "yy"))
    a_run(home, ledger, "never-began")
    found = comparison.compare(home, ledger, ["a", "b", "never-began"])
    assert found.differences == {
        "versions.torch": ("2.13.0", "2.14.0", None),
        "data.data_fingerprint": ("x", "yy", None),
    }


def test_curves_keep_their_own_length(home, ledger):
    a_run(home, ledger, "a", (3.0, 2.0, 1.0), [(2, 2.5)])
    a_run(home, ledger, "b", (3.5,))
    a_run(home, ledger, "none")
    found = comparison.compare(home, ledger, ["a", "b", "none"])
    assert [curve.values for curve in found.losses] == [(3.0, 2.0, 1.0), (3.5,), ()]
    assert [curve.color for curve in found.losses] == [0, 1, 2]
    assert [(curve.steps, curve.values) for curve in found.evaluations] == [((2,), (2.5,)), ((), ()), ((), ())]
    assert found.to_json()["curves"]["a"]["eval_loss"] == [{"step": 2, "value": 2.5}]


def test_a_loss_that_is_no_number_is_in_no_result(home, ledger):
    a_run(home, ledger, "a", (3.0, float("nan"), 1.0))
    (result,) = comparison.compare(home, ledger, ["a"]).results
    assert (result.mean_loss, result.best_loss, result.steps) == (2.0, 1.0, 3)


@pytest.mark.parametrize(
    ("report", "judged"),
    [
        (
            {
                "dataset": "tiny-demo",
                "rows": 7,
                "losses": {"adapter": {"learned": {"loss": 0.5}}, "base": {"learned": {"loss": 2.5}}},
            },
            (0.5, 2.5, "7 rows of tiny-demo"),
        ),
        ({"losses": {"adapter": {"learned": {"loss": 0.5}}}}, (0.5, None, None)),
        ({"losses": [1, 2]}, (None, None, None)),
        ([], (None, None, None)),
    ],
    ids=["both", "adapter only", "another shape", "no object"],
)
def test_the_newest_evaluation_of_the_adapter_is_read_as_far_as_it_is_understood(report, judged, home, ledger):
    a_run(home, ledger, "a", (1.0,), adapter="v1")
    for when, content in (("20260101-000000", {"losses": {"adapter": {"learned": {"loss": 9}}}}), ("20260102", report)):
        folder = home.root / "evaluations" / "v1" / when
        folder.mkdir(parents=True)
        (folder / "report.json").write_text(json.dumps(content))
    (result,) = comparison.compare(home, ledger, ["a"]).results
    assert (result.judged_loss, result.judged_base_loss, result.judged_on) == judged


def test_a_run_that_is_named_twice_counts_once_and_an_unknown_one_is_an_error(home, ledger):
    a_run(home, ledger, "a")
    assert [result.run for result in comparison.compare(home, ledger, ["a", "a"]).results] == ["a"]
    with pytest.raises(NotFoundError, match="no run nope"):
        comparison.compare(home, ledger, ["a", "nope"])
    with pytest.raises(NotFoundError, match="is not a run id"):
        comparison.compare(home, ledger, ["../a"])
