"""A base on disk: found by name, refused when its files are damaged."""

import json
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from huggingface_hub import constants
from transformers import AutoTokenizer

from configs.errors import CheckpointError
from configs.paths import TINY_MODEL
from models.base import checkpoint
from tests.unit.models.split_layout import LAYER, rewrite


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


@pytest.mark.parametrize("kind", ["gpt_oss", "llama"])
def test_a_tokenizer_is_the_one_that_transformers_finds(kind, tmp_path):
    folder = Path(shutil.copytree(TINY_MODEL, tmp_path / "base"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": kind}))
    found, wanted = checkpoint.load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    assert (type(found), found.init_kwargs) == (type(wanted), wanted.init_kwargs)
    assert found.encode("Grüße <|end|> you") == wanted.encode("Grüße <|end|> you")


def test_a_tokenizer_is_refused_without_a_chat_template(tmp_path):
    folder = Path(shutil.copytree(TINY_MODEL, tmp_path / "bare"))
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(CheckpointError, match="no chat template"):
        checkpoint.load_tokenizer(folder)
