"""A checkpoint is gone on from only by a run of the same kind, and the difference is named."""

import pytest

from configs.errors import TrainingError
from configs.load import load_run
from jobs.training import provenance


def origin(*sets: str, **changes) -> dict:
    known = {"base": "b" * 64, "data": "d" * 64, "template": "t" * 64, "device": "cpu"}
    return provenance.origin(load_run("tiny", sets), **(known | changes))


def test_the_same_again_goes_on_without_a_word():
    said = []
    provenance.refuse_other(origin(), origin(), say=said.append)
    assert said == []


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (origin("lora.r=8"), r"the adapter's shape \(lora\.\*\) \(r: 16 then, 8 now\)"),
        (origin(base="c" * 64), r"the base model \(bbbbbbbbbbbb then, cccccccccccc now\)"),
        (origin(data="e" * 64), "the training data"),
        (origin(template="u" * 64), r"the chat template or data\.current_date"),
        (origin("data.mask=final_only"), r"data\.mask \(all then, final_only now\)"),
        (origin("model.max_seq_length=256"), r"model\.max_seq_length \(512 then, 256 now\)"),
        (origin("training.effective_batch=16"), r"training\.effective_batch \(8 then, 16 now\)"),
        (origin("training.optimizer=adamw_8bit"), r"training\.optimizer \(adamw_torch then, adamw_8bit now\)"),
        (origin("training.seed=1"), r"training\.seed \(3407 then, 1 now\)"),
    ],
)
def test_what_would_make_the_curve_mean_something_else_is_refused_by_name(now, words):
    with pytest.raises(TrainingError, match=words) as caught:
        provenance.refuse_other(origin(), now)
    assert "without --resume" in caught.value.hint


def test_all_differences_are_named_at_once():
    with pytest.raises(TrainingError) as caught:
        provenance.refuse_other(origin(), origin("lora.r=8", "data.mask=tools_only", data="x"))
    assert caught.value.message.count(" then, ") == 3


def test_other_versions_switches_and_devices_are_said_and_go_on(monkeypatch):
    before, said = origin(device="NVIDIA RTX 3090"), []
    before["versions"] = before["versions"] | {"torch": "1.0"}
    monkeypatch.setenv("UNSLOTH_MOE_GROUPED_TRITON", "1")
    provenance.refuse_other(before, origin(), say=said.append)
    assert len(said) == 3
    assert any("torch: 1.0 then" in text for text in said)
    assert any("UNSLOTH_MOE_GROUPED_TRITON: None then, 1 now" in text for text in said)


def test_where_kernels_are_cached_does_not_matter(monkeypatch):
    before, said = origin(), []
    monkeypatch.setenv("UNSLOTH_COMPILE_LOCATION", "/elsewhere")
    provenance.refuse_other(before, origin(), say=said.append)
    assert said == []


def test_learning_rate_steps_and_micro_batch_may_change():
    now = origin("training.learning_rate=1e-4", "training.max_steps=99", "training.micro_batch=2")
    provenance.refuse_other(origin(), now)


def test_a_part_can_be_compared_before_the_data_is_read():
    with pytest.raises(TrainingError, match="lora"):
        provenance.refuse_other(origin(), provenance.of_config(load_run("tiny", ["lora.r=8"])))
    provenance.refuse_other(origin(), provenance.of_config(load_run("tiny")))
