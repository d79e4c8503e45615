"""An export on a real cluster: queued, followed, stopped, and the result answers as the endpoint does."""

import json

import pytest

from models import harmony
from models.base import checkpoint
from models.lora.registry import Registry
from tests.ray.conftest import QUESTION

pytestmark = pytest.mark.usefixtures("on_base")


def test_a_merged_adapter_answers_as_the_endpoint_does_with_it(tandem, trained, tmp_path):
    import torch  # takes seconds, so only the worker that runs this pays for it
    from transformers import AutoModelForCausalLM

    out = tmp_path / "merged"
    done = tandem.run("adapters", "export", trained.adapter, "--to", "merged", "--out", str(out), "-f")
    assert "SUCCEEDED: exported" in done.stderr and "71/71" in done.stderr and "tandem swap" not in done.stderr
    run = tandem.find_run(done.stdout.strip())
    assert (run.kind, run.state, run.step, run.max_steps, run.adapter) == ("export", "SUCCEEDED", 71, 71, None)
    assert "verified: " in tandem.run("runs", "logs", run.id).stdout
    record = json.loads((out / "export.json").read_text())
    assert record["adapter"] == trained.adapter and record["verification"]["same_answers"] == 4
    model, report = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(report.values())
    tokenizer = checkpoint.load_tokenizer(out)
    ids = harmony.render(tokenizer, [{"role": "user", "content": QUESTION}])
    with torch.inference_mode():
        said = model.generate(torch.tensor([ids]), max_new_tokens=200, do_sample=False)[0, len(ids) :]
    _, _, answer = tokenizer.decode(said).rpartition("<|channel|>final<|message|>")
    tandem.json("swap", trained.adapter)
    assert answer.removesuffix("<|return|>") == tandem.ask() == "Tandem is two GPUs that work as one machine."
    assert [manifest.version for manifest in Registry(tandem.home.models).list()].count(trained.adapter) == 1


def test_what_cannot_be_exported_is_refused_before_it_is_queued(tandem, trained, tmp_path):
    before = len(tandem.ledger().runs(limit=10_000))
    taken = tmp_path / "taken"
    taken.mkdir()
    for arguments, words in (
        (["nope", "--to", "peft", "--out", str(tmp_path / "x")], "no adapter 'nope'"),
        ([trained.adapter, "--to", "peft", "--out", str(taken)], "exists already"),
        ([trained.adapter, "--to", "gguf", "--out", str(tmp_path / "x")], "llama.cpp's converter is missing"),
    ):
        done = tandem.run("adapters", "export", *arguments, check=False)
        assert done.returncode in (1, 2) and words in done.stderr and done.stderr.count("\n") == 1
    assert len(tandem.ledger().runs(limit=10_000)) == before


def test_a_queued_export_is_stopped_like_any_run(tandem, trained, tmp_path):
    with tandem.nothing_starts():
        export = tandem.json("adapters", "export", "latest", "--to", "merged", "--out", str(tmp_path / "out"))["run"]
        assert tandem.json("runs", "stop", export)["state"] == "STOPPED"
    assert tandem.find_run(export).attempt == 0
    assert list(tmp_path.iterdir()) == []
