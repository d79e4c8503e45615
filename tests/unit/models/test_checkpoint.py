"""A base on disk: found by name, refused when damaged, loaded whole, and trained exactly where configured."""

import json
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import GptOssConfig, GptOssForCausalLM

from configs.errors import CheckpointError, TrainingError
from configs.paths import TINY_MODEL
from configs.schema import RunConfig
from models import checkpoint
from models.tiny.quantize import quantize

DOWN = "model.layers.2.mlp.experts.down_projs.1.weight"
LAYER = "model-layer02.safetensors"


@pytest.fixture(scope="module")
def four_bit(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("bases") / "tiny-bnb-4bit"
    quantize(TINY_MODEL, out)
    return out


@pytest.fixture
def damaged(four_bit, tmp_path) -> Path:
    """A copy of the 4-bit model to break."""
    return Path(shutil.copytree(four_bit, tmp_path / "damaged"))


@pytest.fixture
def home(monkeypatch):
    with tempfile.TemporaryDirectory(prefix="tandem-") as folder:
        monkeypatch.setenv("TANDEM_HOME", folder)
        yield Path(folder)


@pytest.fixture
def offline(monkeypatch, tmp_path) -> Path:
    """No network, and an empty hub cache in the returned folder."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def config(gradient_checkpointing: bool = False, **lora) -> RunConfig:
    return RunConfig.model_validate(
        {"lora": {"r": 8, "alpha": 16} | lora, "training": {"gradient_checkpointing": gradient_checkpointing}}
    )


def rewrite(folder: Path, shard: str, change) -> None:
    """Apply `change` to the tensors of one shard and keep the index in step with it."""
    tensors = load_file(folder / shard)
    change(tensors)
    save_file(tensors, folder / shard)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    others = {key: file for key, file in index["weight_map"].items() if file != shard}
    index["weight_map"] = others | dict.fromkeys(tensors, shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


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


def test_the_embedded_model_is_found_by_name():
    assert checkpoint.resolve("tiny") == TINY_MODEL


def test_the_4_bit_form_is_made_once_even_by_two_at_a_time(home):
    with ThreadPoolExecutor() as pool:
        first, second = pool.map(checkpoint.resolve, ["tiny-bnb-4bit"] * 2)
    made = (first / "config.json").stat().st_mtime_ns
    assert first == second == checkpoint.resolve("tiny-bnb-4bit")
    assert (first / "config.json").stat().st_mtime_ns == made
    assert [p for p in first.parent.iterdir() if p != first] == []
    assert checkpoint.inspect(first).name == "tiny-bnb-4bit"
    assert checkpoint.inspect(first).layout == "split-nf4"


def test_a_local_folder_is_a_base_if_it_holds_a_model(four_bit, tmp_path):
    assert checkpoint.resolve(str(four_bit)) == four_bit
    with pytest.raises(CheckpointError, match=r"holds no config\.json"):
        checkpoint.resolve(str(tmp_path))


def test_an_impossible_name_is_answered_with_the_nearest_known_one():
    with pytest.raises(CheckpointError, match="no base model 'tinny'") as caught:
        checkpoint.resolve("tinny")
    assert caught.value.hint == "did you mean 'tiny'?"
    with pytest.raises(CheckpointError, match="no base model 'nonsense'") as caught:
        checkpoint.resolve("nonsense")
    assert caught.value.hint.startswith("known ones: tiny, tiny-bnb-4bit, ")


def test_a_hub_model_missing_offline_says_where_it_was_sought(offline):
    with pytest.raises(CheckpointError) as caught:
        checkpoint.resolve("openai/gpt-oss-20b")
    assert "'openai/gpt-oss-20b'" in caught.value.message
    assert str(offline) in caught.value.message
    assert "hf download openai/gpt-oss-20b" in caught.value.hint


def test_a_hub_models_tokenizer_missing_offline_is_said_in_own_words(offline):
    with pytest.raises(CheckpointError) as caught:
        checkpoint.tokenizer_of("someone/else")
    assert caught.value.message == (
        "the tokenizer of base model 'someone/else' is not in the local cache, and the hub did not give it"
    )
    assert "`tandem model fetch someone/else`" in caught.value.hint


def test_a_hub_model_comes_from_the_cache_without_network_if_complete(offline, four_bit):
    repo = offline / "models--someone--small"
    snapshot = repo / "snapshots" / ("a" * 40)
    shutil.copytree(four_bit, snapshot)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("a" * 40)
    assert checkpoint.resolve("someone/small") == snapshot
    described = checkpoint.inspect(snapshot)
    assert (described.name, described.revision) == ("someone/small", "a" * 40)
    (snapshot / LAYER).unlink()
    with pytest.raises(CheckpointError, match=LAYER):
        checkpoint.resolve("someone/small")


def test_a_checkpoint_describes_itself(four_bit):
    full, split = checkpoint.inspect(TINY_MODEL), checkpoint.inspect(four_bit)
    assert (full.name, full.layout, full.architecture, full.vocab_size) == ("tiny", "full", "GptOssForCausalLM", 1024)
    assert (split.layout, split.architecture, split.vocab_size) == ("split-nf4", "GptOssForCausalLM", 1024)
    assert full.tensor_bytes == 2 * 1_256_096


def test_the_fingerprint_stays_with_a_copy_and_changes_with_the_weights(four_bit, damaged):
    before = checkpoint.inspect(four_bit).fingerprint
    assert checkpoint.inspect(damaged).fingerprint == before

    def other_bias(tensors):
        tensors["model.layers.2.mlp.router.linear.bias"] += 1

    rewrite(damaged, LAYER, other_bias)
    assert checkpoint.inspect(damaged).fingerprint != before


@pytest.mark.parametrize("missing", [DOWN, "model.layers.2.mlp.router.linear.weight", f"{DOWN}.absmax"])
def test_a_missing_key_is_fatal_and_named(damaged, missing):
    rewrite(damaged, LAYER, lambda tensors: [tensors.pop(key) for key in list(tensors) if key.startswith(missing)])
    with pytest.raises(CheckpointError, match=f"1 missing: {missing}"):
        checkpoint.load_for_inference(damaged, "cpu")


def test_a_left_over_key_is_fatal_and_named(damaged):
    rewrite(damaged, LAYER, lambda tensors: tensors.update({"model.layers.2.extra.weight": torch.ones(2)}))
    with pytest.raises(CheckpointError, match=r"1 unexpected: model\.layers\.2\.extra\.weight"):
        checkpoint.load_for_inference(damaged, "cpu")


def test_a_misshapen_key_is_fatal_and_named(damaged):
    rewrite(damaged, LAYER, lambda tensors: tensors.update({"model.layers.2.self_attn.sinks": torch.ones(5)}))
    with pytest.raises(CheckpointError, match=r"1 misshapen: model\.layers\.2\.self_attn\.sinks \(5,\) for \(4,\)"):
        checkpoint.load_for_inference(damaged, "cpu")


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
        checkpoint.load_for_inference(folder, "cpu")


def test_a_missing_shard_is_named(damaged):
    (damaged / LAYER).unlink()
    with pytest.raises(CheckpointError, match=f"lacks 1 of 5 shards: {LAYER}"):
        checkpoint.inspect(damaged)


@pytest.mark.parametrize("left", [-1, 40, 3])
def test_a_truncated_shard_is_named(damaged, left):
    whole = (damaged / LAYER).read_bytes()
    (damaged / LAYER).write_bytes(whole[:left])
    with pytest.raises(CheckpointError, match=f"{LAYER} has {len(whole[:left])} bytes"):
        checkpoint.inspect(damaged)


def test_a_key_that_the_index_promises_and_no_shard_holds_is_named(damaged):
    index = json.loads((damaged / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.promised.weight"] = LAYER
    (damaged / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"1 missing: model\.promised\.weight"):
        checkpoint.inspect(damaged)


def test_a_loader_that_leaves_a_parameter_random_is_caught(four_bit):
    described = checkpoint.inspect(four_bit)
    parameters = {
        k: v for f in described.files for k, v in load_file(f.path).items() if not k.endswith(checkpoint.QUANT_STATE)
    }
    checkpoint.verify_loaded(parameters, described)
    random = parameters | {DOWN: torch.randint(0, 256, parameters[DOWN].shape, dtype=torch.uint8)}
    with pytest.raises(CheckpointError, match=f"1 parameters do not hold what .* does: {DOWN}"):
        checkpoint.verify_loaded(random, described)
    with pytest.raises(CheckpointError, match=f"1 parameters do not hold what .* does: {DOWN}"):
        checkpoint.verify_loaded(parameters | {DOWN: parameters[DOWN].to("meta")}, described)
    with pytest.raises(CheckpointError, match=f"1 unexpected: {DOWN}"):
        checkpoint.verify_loaded({k: v for k, v in parameters.items() if k != DOWN}, described)


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_both_layouts_train_the_same_parameters(four_bit, gradient_checkpointing):
    for folder in (TINY_MODEL, four_bit):
        model = checkpoint.load_for_training(folder, config(gradient_checkpointing))
        assert checkpoint.trainable_counts(model) == {"attention": 28_672, "experts": 0, "other": 0}
        before = step(model)
        assert step(model) < before


def test_trained_experts_learn_and_survive_saving(tmp_path):
    from peft import PeftModel

    model = checkpoint.load_for_training(TINY_MODEL, config(train_experts=True))
    assert checkpoint.trainable_counts(model) == {"attention": 28_672, "experts": 81_920, "other": 0}
    untrained = logits(model)
    step(model.train())
    trained = logits(model)
    moved = [n for n, p in model.named_parameters() if ".experts." in n and "lora_B" in n and p.any()]
    assert len(moved) == 8
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(checkpoint.load_for_inference(TINY_MODEL, "cpu"), tmp_path)
    assert (trained - untrained).abs().max() > 1e-3
    torch.testing.assert_close(logits(again), trained)


def test_the_adapter_begins_without_effect_and_by_its_seed(four_bit):
    base = logits(checkpoint.load_for_inference(four_bit, "cpu"))
    first, again, other = (checkpoint.load_for_training(four_bit, config(seed=seed)) for seed in (1, 1, 2))
    torch.testing.assert_close(logits(first), base)
    a, b, c = (next(p for n, p in m.named_parameters() if "lora_A" in n) for m in (first, again, other))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize(("train_experts", "counts"), [(False, (3_981_312, 0)), (True, (3_981_312, 88_473_600))])
def test_gpt_oss_20b_has_the_counts_measured_on_it(train_experts, counts):
    with torch.device("meta"):
        base = GptOssForCausalLM(GptOssConfig(num_hidden_layers=24, num_local_experts=32))
        model = checkpoint._attach_lora(base, config(train_experts=train_experts))
    found = checkpoint.trainable_counts(model)
    assert (found["attention"], found["experts"], found["other"]) == (*counts, 0)
    checkpoint.check_trainable(model, config(train_experts=train_experts))


def test_a_run_whose_counts_differ_from_the_configuration_stops():
    model = checkpoint.load_for_training(TINY_MODEL, config())
    with pytest.raises(TrainingError, match=r"has 28,672 attention .* asks for 28,672 attention, 81,920 experts"):
        checkpoint.check_trainable(model, config(train_experts=True))
    with pytest.raises(TrainingError, match=r"has 28,672 attention .* asks for 57,344 attention"):
        checkpoint.check_trainable(model, config(r=16))


def test_dropout_on_fused_experts_is_refused():
    with pytest.raises(TrainingError, match=r"lora\.dropout is 0\.1 and lora\.train_experts is true"):
        checkpoint.load_for_training(TINY_MODEL, config(train_experts=True, dropout=0.1))


def test_a_tokenizer_is_refused_without_a_chat_template(tmp_path):
    folder = Path(shutil.copytree(TINY_MODEL, tmp_path / "bare"))
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(CheckpointError, match="no chat template"):
        checkpoint.load_tokenizer(folder)
