"""A base in memory: refused if a key is missing or left over, and trained exactly where configured."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GptOssConfig, GptOssForCausalLM

from configs.errors import CheckpointError, TrainingError
from configs.paths import TINY_MODEL
from configs.schema import RunConfig
from models.base import checkpoint, loading, split_nf4, trainable
from tests.unit.models.split_layout import DOWN, LAYER, rewrite


def config(gradient_checkpointing: bool = False, **lora) -> RunConfig:
    return RunConfig.model_validate(
        {"lora": {"r": 8, "alpha": 16} | lora, "training": {"gradient_checkpointing": gradient_checkpointing}}
    )


def step(model) -> torch.Tensor:
    ids = torch.arange(40, 104)[None]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    optimizer.step()
    return loss.detach()


def logits(model) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(torch.arange(40, 104)[None]).logits


@pytest.mark.parametrize("missing", [DOWN, "model.layers.2.mlp.router.linear.weight", f"{DOWN}.absmax"])
def test_a_missing_key_is_fatal_and_named(damaged, missing):
    rewrite(damaged, LAYER, lambda tensors: [tensors.pop(key) for key in list(tensors) if key.startswith(missing)])
    with pytest.raises(CheckpointError, match=f"1 missing: {missing}"):
        loading.load_for_inference(damaged, "cpu")


def test_a_left_over_key_is_fatal_and_named(damaged):
    rewrite(damaged, LAYER, lambda tensors: tensors.update({"model.layers.2.extra.weight": torch.ones(2)}))
    with pytest.raises(CheckpointError, match=r"1 unexpected: model\.layers\.2\.extra\.weight"):
        loading.load_for_inference(damaged, "cpu")


def test_a_misshapen_key_is_fatal_and_named(damaged):
    rewrite(damaged, LAYER, lambda tensors: tensors.update({"model.layers.2.self_attn.sinks": torch.ones(5)}))
    with pytest.raises(CheckpointError, match=r"1 misshapen: model\.layers\.2\.self_attn\.sinks \(5,\) for \(4,\)"):
        loading.load_for_inference(damaged, "cpu")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda t: t.pop("model.norm.weight"), r"1 missing: model\.norm\.weight"),
        (lambda t: t.update(stray=torch.ones(1)), "1 unexpected: stray"),
        (lambda t: t.update({"model.norm.weight": torch.ones(7)}), r"1 misshapen: model\.norm\.weight"),
    ],
)
def test_the_full_layout_is_as_strict(tmp_path, change, complaint):
    folder = Path(shutil.copytree(TINY_MODEL, tmp_path / "full"))
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=complaint):
        loading.load_for_inference(folder, "cpu")


def test_a_loader_that_leaves_a_parameter_random_is_caught(four_bit):
    described = checkpoint.inspect(four_bit)
    parameters = {
        k: v for f in described.files for k, v in load_file(f.path).items() if not k.endswith(split_nf4.QUANT_STATE)
    }
    loading.verify_loaded(parameters, described)
    random = parameters | {DOWN: torch.randint(0, 256, parameters[DOWN].shape, dtype=torch.uint8)}
    with pytest.raises(CheckpointError, match=f"1 parameters do not hold what .* does: {DOWN}"):
        loading.verify_loaded(random, described)
    with pytest.raises(CheckpointError, match=f"1 parameters do not hold what .* does: {DOWN}"):
        loading.verify_loaded(parameters | {DOWN: parameters[DOWN].to("meta")}, described)
    with pytest.raises(CheckpointError, match=f"1 unexpected: {DOWN}"):
        loading.verify_loaded({k: v for k, v in parameters.items() if k != DOWN}, described)


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_both_layouts_train_the_same_parameters(four_bit, gradient_checkpointing):
    for folder in (TINY_MODEL, four_bit):
        model = loading.load_for_training(folder, config(gradient_checkpointing))
        assert trainable.counts(model) == {"attention": 28_672, "experts": 0, "other": 0}
        before = step(model)
        assert step(model) < before


def test_trained_experts_learn_and_survive_saving(tmp_path):
    from peft import PeftModel

    model = loading.load_for_training(TINY_MODEL, config(train_experts=True))
    assert trainable.counts(model) == {"attention": 28_672, "experts": 81_920, "other": 0}
    untrained = logits(model)
    step(model.train())
    trained = logits(model)
    moved = [n for n, p in model.named_parameters() if ".experts." in n and "lora_B" in n and p.any()]
    assert len(moved) == 8
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(loading.load_for_inference(TINY_MODEL, "cpu"), tmp_path)
    assert (trained - untrained).abs().max() > 1e-3
    torch.testing.assert_close(logits(again), trained)


def test_the_adapter_begins_without_effect_and_by_its_seed(four_bit):
    base = logits(loading.load_for_inference(four_bit, "cpu"))
    first, again, other = (loading.load_for_training(four_bit, config(seed=seed)) for seed in (1, 1, 2))
    torch.testing.assert_close(logits(first), base)
    a, b, c = (next(p for n, p in m.named_parameters() if "lora_A" in n) for m in (first, again, other))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize(("train_experts", "counts"), [(False, (3_981_312, 0)), (True, (3_981_312, 88_473_600))])
def test_gpt_oss_20b_has_the_counts_measured_on_it(train_experts, counts):
    with torch.device("meta"):
        base = GptOssForCausalLM(GptOssConfig(num_hidden_layers=24, num_local_experts=32))
        model = trainable.attach_lora(base, config(train_experts=train_experts))
    found = trainable.counts(model)
    assert (found["attention"], found["experts"], found["other"]) == (*counts, 0)
    trainable.check(model, config(train_experts=train_experts))


def test_a_run_whose_counts_differ_from_the_configuration_stops():
    model = loading.load_for_training(TINY_MODEL, config())
    with pytest.raises(TrainingError, match=r"has 28,672 attention .* asks for 28,672 attention, 81,920 experts"):
        trainable.check(model, config(train_experts=True))
    with pytest.raises(TrainingError, match=r"has 28,672 attention .* asks for 57,344 attention"):
        trainable.check(model, config(r=16))


def test_dropout_on_fused_experts_is_refused():
    with pytest.raises(TrainingError, match=r"lora\.dropout is 0\.1 and lora\.train_experts is true"):
        loading.load_for_training(TINY_MODEL, config(train_experts=True, dropout=0.1))
