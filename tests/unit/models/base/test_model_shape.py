"""A base's figures without torch, compared with what the real loaders say."""

import json
import subprocess
import sys

from configs import load
from configs.paths import SOURCE, TINY_MODEL
from models.base import checkpoint, loading, trainable
from models.base.model_shape import GPT_OSS_20B, model_shape

SEED = ["lora.r=8", "lora.alpha=16"]


def test_the_embedded_model_is_counted_from_its_headers():
    found = model_shape("tiny")
    assert (found.parameters, found.tensor_bytes) == (1_256_096, checkpoint.inspect(TINY_MODEL).tensor_bytes)
    assert (found.layers, found.hidden, found.experts, found.split_nf4) == (4, 128, 4, False)
    assert found.active_parameters == 1_256_096 - 4 * 2 * 3 * 128 * 128


def test_the_4_bit_layout_has_the_same_parameters_in_fewer_bytes():
    folder = checkpoint.resolve("tiny-bnb-4bit")
    found = model_shape("tiny-bnb-4bit")
    assert (found.parameters, found.split_nf4) == (1_256_096, True)
    assert found.tensor_bytes == checkpoint.inspect(folder).tensor_bytes


def test_trainable_parameters_are_those_that_were_counted_on_the_model():
    assert model_shape("tiny").trainable(load.load_run("tiny").lora) == 57_344
    assert GPT_OSS_20B.trainable(load.load_run("standard", SEED).lora) == 3_981_312
    assert GPT_OSS_20B.trainable(load.load_run("standard", [*SEED, "lora.train_experts=true"]).lora) == 92_454_912


def test_trainable_parameters_of_experts_are_those_of_a_loaded_model():
    config = load.load_run("tiny", ["lora.train_experts=true", "lora.target_modules=[q_proj, up_proj, down_proj]"])
    counts = trainable.counts(loading.load_for_training(TINY_MODEL, config))
    assert model_shape("tiny").trainable(config.lora) == sum(counts.values())


def test_a_base_in_the_local_cache_is_found_as_the_hubs_client_lays_it_out(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert model_shape("owner/name") is None
    snapshot = tmp_path / "models--owner--name" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for file in TINY_MODEL.iterdir():
        (snapshot / file.name).symlink_to(file)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("abc")
    assert model_shape("owner/name") == model_shape("tiny")


def test_the_large_base_is_known_before_it_is_downloaded_and_a_broken_one_is_unknown(tmp_path):
    assert model_shape("unsloth/gpt-oss-20b-unsloth-bnb-4bit") == GPT_OSS_20B
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 8}))
    (tmp_path / "model.safetensors").write_bytes(b"short")
    assert model_shape(str(tmp_path)) is None
    assert model_shape("/nowhere/model") is None


def test_predicting_imports_no_torch(home):
    code = (
        "import sys; from configs.paths import home; from jobs import request;"
        "from jobs.prediction import data_size, estimate;"
        "wanted = request.resolve(home(), request.TrainFlags(profile='tiny'));"
        "assert estimate.predict(home(), wanted, data_size.unknown(wanted.config)).memory;"
        "print(sorted({'torch', 'transformers', 'datasets', 'ray', 'unsloth'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=SOURCE, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
