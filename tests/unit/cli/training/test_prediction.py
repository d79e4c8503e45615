"""Predictions as people and machines read them, and against what was measured."""

import json
import re

import pytest
from huggingface_hub import constants

from actors.hardware import gpus
from actors.hardware.gpus import GpuReading
from actors.runs.ledger import Ledger
from actors.runs.run import RunState
from cli.training import prediction
from configs import load
from configs.paths import TINY_MODEL
from configs.schema import Slot
from jobs.prediction import data_size, estimate
from jobs.prediction.costs import GIB
from jobs.request import TrainRequest
from models.base import checkpoint
from tests.samples import RUN_CONFIG


@pytest.fixture
def predicted(home):
    config = load.load_run("tiny")
    return estimate.predict(home, TrainRequest(config, 0, None, None), data_size.unknown(config))


def test_a_dry_run_is_a_table_with_every_component_and_json_has_all(invoke):
    done = invoke("train", "--profile", "tiny", "--dry-run")
    assert re.match(r"PREDICTION +LOW +LIKELY +HIGH", done.out)
    for name in ("memory: weights", "memory: activations", "memory", "disk", "start", "step", "whole run"):
        assert re.search(rf"^{name} +[\d.]+", done.out, re.MULTILINE), name
    values = json.loads(invoke("train", "--profile", "tiny", "--dry-run", "--json").out)["prediction"]
    assert values["steps"] == 60
    assert values["memory"]["low"] < values["memory"]["likely"] < values["memory"]["high"]
    assert values["parts"]["weights"]["likely"] == 4 * 1_256_096


def test_nothing_is_read_or_predicted_for_a_run_that_nothing_could_queue(invoke):
    done = invoke("train", "--profile", "tiny")
    assert (done.code, done.out) == (1, "")
    assert "Tandem is not running" in done.one_error_line()


def test_before_queuing_memory_disk_and_time_are_told_on_stderr(silent_cluster, invoke):
    silent_cluster()
    lines = invoke("train", "--profile", "tiny").err.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["data", "rendered", "memory", "disk", "time", "error"]
    assert "on CPU, micro-batch 8" in lines[2]
    assert re.search(r"for 60 steps, .* a step; from measured baselines", lines[4])
    assert "no answer from http://127.0.0.1:1" in lines[-1]


def test_a_run_that_cannot_fit_is_refused_before_anything_is_asked(silent_cluster, invoke, monkeypatch):
    readings = [GpuReading(index, f"GPU-{index}", "Small", 8 * GIB, 0, None, None, None) for index in (0, 1)]
    monkeypatch.setattr(gpus, "readings", lambda: readings)
    silent_cluster()
    done = invoke("train", "--profile", "standard")
    assert (done.code, done.out) == (1, "")
    assert done.err.splitlines()[-1].startswith("error: this run needs at least 1")
    assert "has 7.5 GiB for it -> " in done.err.splitlines()[-1]
    assert "no answer" not in done.err


def test_no_base_is_asked_for_to_predict_a_run_that_cannot_fit_here(invoke, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(gpus, "readings", lambda: [GpuReading(0, "GPU-0", "Small", 8 * GIB, 0, None, None, None)])
    done = invoke("train", "--profile", "standard", "--dry-run")
    assert done.code == 1
    assert "nothing queued (--dry-run)" in done.out
    assert done.err.splitlines()[-1].startswith("error: this run needs at least 1")
    assert "the hub" not in done.err


def test_a_dry_run_without_a_network_says_in_one_line_where_the_base_comes_from(invoke, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    readings = [GpuReading(index, f"GPU-{index}", "Big", 80 * GIB, 0, None, None, None) for index in (0, 1)]
    monkeypatch.setattr(gpus, "readings", lambda: readings)
    done = invoke("train", "--profile", "standard", "--dry-run")
    name = load.load_run("standard").model.base
    assert (done.code, done.out) == (1, "")
    assert done.err.splitlines()[-1] == (
        f"error: base model {name!r} is not in the local cache {tmp_path / 'hub'}, and the hub did not give it: "
        f"127.0.0.1:9 cannot be reached -> with a network `tandem model fetch {name}` fetches it; HF_ENDPOINT names a "
        "mirror; a local folder can be the base, too"
    )


def test_a_base_whose_tokenizer_cannot_be_had_is_refused_before_anything_is_queued(
    silent_cluster, invoke, monkeypatch, tmp_path
):
    silent_cluster()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    done = invoke("train", "--profile", "tiny", "--set", "model.base=owner/name")
    assert done.err.splitlines()[-1].startswith(
        "error: the tokenizer of base model 'owner/name' is not in the local cache"
    )
    assert "no answer" not in done.err


def test_of_a_base_that_is_not_here_the_size_is_unknown(silent_cluster, invoke, monkeypatch):
    silent_cluster()
    monkeypatch.setattr(checkpoint, "tokenizer_of", lambda name: checkpoint.load_tokenizer(TINY_MODEL))
    done = invoke("train", "--profile", "tiny", "--set", "model.base=owner/name")
    assert "prediction: base owner/name is not on this machine, so its size is unknown\n" in done.err


def test_an_ended_run_shows_what_was_predicted_and_what_it_took(invoke, home, predicted):
    ledger = Ledger(home.ledger)
    ledger.submit("tiny-1", config=RUN_CONFIG)
    ledger.grant("tiny-1", Slot(name="0", roles=("train",)))
    ledger.transition("tiny-1", RunState.RUNNING, "x")
    ledger.transition("tiny-1", RunState.SUCCEEDED, "x")
    ledger.close()
    folder = home.run("tiny-1")
    predicted.save(folder)
    (folder / "measured.json").write_text(json.dumps({"peak_memory_bytes": predicted.memory.high * 2}))
    shown = invoke("runs", "show", "tiny-1").out
    assert re.search(r"memory measured +[\d.]+ .iB, outside the prediction: ", shown)
    assert re.search(r"time measured +0\.0\ds, outside the prediction: ", shown)
    assert ", as predicted: " in prediction.against_measured(folder, predicted.total_s.likely)[0][1]


def test_without_a_prediction_or_a_measurement_nothing_is_compared(home, predicted):
    folder = home.run("tiny-1")
    assert prediction.against_measured(folder, 10.0) == []
    predicted.save(folder)
    assert prediction.against_measured(folder, None) == []
