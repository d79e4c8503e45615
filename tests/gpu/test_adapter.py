"""An adapter's life on a real GPU: trained with held-out rows, judged on the endpoint, swapped in, taken elsewhere."""

import json

import pytest
from safetensors import safe_open

from actors.runs.run import RunState
from tests.gpu.conftest import SKIPPED

pytestmark = SKIPPED


@pytest.fixture(scope="module")
def run(tandem, base):
    sets = [f"model.base={base}", "data.holdout=0.1", "training.eval_steps=2", "training.report_to=[]", "lora.r=8"]
    asked = ["--profile", "quick_test", "--dataset", "tiny-demo", "--max-steps", "2", "--json"]
    for each in sets:
        asked += ["--set", each]
    ended = tandem.ended(json.loads(tandem.run("train", *asked).stdout)["run"], timeout=480)
    assert ended.state is RunState.SUCCEEDED, ended.reason
    return ended


def test_held_out_rows_are_evaluated_while_training(tandem, run):
    lines = [json.loads(line) for line in (tandem.home.run(run.id) / "metrics.jsonl").read_text().splitlines()]
    losses = [line["eval_loss"] for line in lines if "eval_loss" in line]
    assert losses and all(0 < loss < 30 for loss in losses)


def test_it_is_judged_against_the_base_on_the_endpoint(tandem, run):
    asked = ["evaluate", run.adapter, "--compare-base", "--rows", "4", "--max-tokens", "16", "--json"]
    report = json.loads(tandem.run(*asked, timeout=300).stdout)
    losses = {name: found["learned"]["loss"] for name, found in report["losses"].items()}
    assert losses["adapter"] != losses["base"] and all(0 < loss < 30 for loss in losses.values())


def test_it_is_swapped_in_and_back(tandem, run):
    swapped = tandem.json("swap", run.adapter)
    assert swapped["max_difference"] > 0
    assert tandem.client().chat.completions.create(
        model="prod", messages=[{"role": "user", "content": "Hi"}], max_completion_tokens=4
    ).system_fingerprint == run.adapter  # fmt: skip
    tandem.run("swap", "--back")


def test_it_is_exported_as_peft_reads_it(tandem, run, tmp_path):
    out = tmp_path / "peft"
    tandem.run("adapters", "export", run.adapter, "--to", "peft", "--out", str(out), "-f", timeout=300)
    with safe_open(out / "adapter_model.safetensors", "pt") as weights:
        assert len(list(weights.keys())) == 24 * 4 * 2
