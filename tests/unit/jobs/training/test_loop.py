"""What the loop measures and writes besides the adapter: the micro-batch's probe, TensorBoard's curves, the record."""

import json
import sys
from pathlib import Path

import pytest

from actors.client import Directive
from actors.energy import usage
from actors.energy.meter import NvmlCard
from actors.runs.curve import MetricsLog
from actors.runs.run import RunState
from jobs.training import sft
from jobs.training.memory import micro_batch
from jobs.training.run_record import RunRecord, read_measured
from tests import training
from tests.nvml.card import FakeNvml
from tests.training import FakeLink


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A home with a run whose micro-batch was measured, and what its link heard."""
    from configs.paths import Home

    home, link = Home(tmp_path_factory.mktemp("home")), FakeLink()
    run = training.row("auto-1", "training.micro_batch=auto", "training.eval_steps=2")
    assert training.train(home, run, link).state is RunState.SUCCEEDED
    return home, link


def test_the_probe_measures_on_the_device_and_leaves_the_adapter_as_it_was(measured, tmp_path):
    home, link = measured
    found = read_measured(home.run("auto-1"))["fit"]
    assert found["cached"] is False
    assert found["trials"][0]["micro_batch"] == 4, "from the largest divisor down"
    assert all(trial["seconds"] > 0 for trial in found["trials"])
    assert found["micro_batch"] == min(found["trials"], key=lambda trial: trial["seconds"])["micro_batch"]
    (said,) = link.said("fit")
    assert said.startswith(f"micro-batch {found['micro_batch']} (measured: 4: ")
    curve = training.curve(home, "auto-1")
    training.train(home, training.row("fixed-1", f"training.micro_batch={found['micro_batch']}"))
    assert curve == training.curve(home, "fixed-1"), "the run is that of its micro-batch, to the digit"


def test_the_answer_is_remembered_for_the_next_run(measured, monkeypatch):
    home, _ = measured
    monkeypatch.setattr(micro_batch, "divisors", lambda number, most: pytest.fail("measured again"))
    link = FakeLink()
    training.train(home, training.row("auto-2", "training.micro_batch=auto", "training.max_steps=2"), link)
    assert "(measured earlier: " in link.said("fit")[0]


def test_the_record_says_where_the_time_went(measured):
    home, _ = measured
    stages = read_measured(home.run("auto-1"))["stages"]
    wanted = {"read data", "import libraries", "load model", "prepare data", "probe", "build trainer", "first step"}
    assert wanted | {"checkpoints", "publish"} <= stages.keys()
    assert all(seconds >= 0 for seconds in stages.values())
    resolved = json.loads((home.run("auto-1") / "resolved.json").read_text())
    assert resolved["origin"]["data"] == resolved["data"]["data_fingerprint"]
    assert resolved["trainable"] == {"attention": 57344, "experts": 0, "other": 0}


def test_every_stage_is_told_in_words_and_stands_in_the_log(measured, capsys):
    _, link = measured
    assert [each for each in link.stages if each != "importing libraries"] == [
        "reading the data", "loading the model", "rendering the data", "measuring the micro-batch",
        "building the trainer", "measuring the base", "taking the first step", "publishing",
    ]  # fmt: skip


def test_a_stage_within_another_gives_the_word_back(tmp_path):
    said: list[str] = []
    record = RunRecord(tmp_path, None, tell=said.append)
    with record.stage("load model"), record.stage("verify model"):
        pass
    record.begins("compile")
    assert said == ["loading the model", "verifying the model", "loading the model", "compiling, with the first step"]


def scalars(folder: Path, tag: str) -> list:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return events.Scalars(tag)


def test_tensorboard_reads_the_runs_curves(measured):
    home, _ = measured
    shown = [(event.step, event.value) for event in scalars(home.run("auto-1"), "train/loss")]
    assert shown == [(step, pytest.approx(loss, rel=1e-6)) for step, loss in training.curve(home, "auto-1")]
    evaluated = scalars(home.run("auto-1"), "eval/loss")
    assert [event.step for event in evaluated] == [0, 2, 4, 6], "the base's own comes first"


def test_on_a_cpu_a_step_knows_its_tokens_and_that_no_joules_are_known(measured):
    home, _ = measured
    lines = MetricsLog(home.run("auto-1") / "metrics.jsonl").losses()
    assert all(line["energy_joules"] is None for line in lines)
    tokens = [line["tokens"] for line in lines]
    assert tokens == sorted(tokens)
    found = usage.read(home.run("auto-1"))
    assert (found.joules, found.tokens, found.remarks()) == (None, tokens[-1], ["not measured: a CPU has no reading"])
    assert sum(day.steps for day in found.attempts[0].days.values()) == 6


def test_joules_go_on_over_a_broken_attempt_and_a_resumed_run(home, monkeypatch):
    nvml = FakeNvml(joules=0.0)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(sft, "own_card", lambda device: NvmlCard(0))

    def burn(step: int) -> Directive | None:
        nvml.joules += 100
        if attempt == 1 and step == 3:
            raise RuntimeError("broken after the checkpoint of step 2")
        return Directive.STOP if attempt == 2 and step == 4 else None

    attempt = 1
    with pytest.raises(RuntimeError, match="broken"):
        training.train(home, training.row("a-1"), FakeLink(burn))
    attempt = 2
    training.train(home, training.row("a-1", attempt=2), FakeLink(burn))
    lines = MetricsLog(home.run("a-1") / "metrics.jsonl").losses()
    assert [(line["step"], line["energy_joules"]) for line in lines] == [(1, 0), (2, 100), (3, 300), (4, 400)]
    assert [event.step for event in scalars(home.run("a-1"), "train/loss")] == [1, 2, 3, 4]
    found = usage.read(home.run("a-1"))
    assert (found.joules, len(found.attempts)) == (500, 2), "with the joules of the step that was lost"
    attempt = 3
    training.train(home, training.row("b-1", parent="a-1"), FakeLink(burn))
    continued = MetricsLog(home.run("b-1") / "metrics.jsonl").losses()
    assert [line["energy_joules"] for line in continued] == [0, 100, 300, 400, 500, 600]
    assert [event.step for event in scalars(home.run("b-1"), "train/learning_rate")] == [1, 2, 3, 4, 5, 6]
    assert usage.read(home.run("b-1")).joules == 700
    assert nvml.opened == 0
