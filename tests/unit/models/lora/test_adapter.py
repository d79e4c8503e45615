"""A published adapter is exactly what its manifest says, or it is refused with what is wrong and both values."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from configs.errors import AdapterError
from models.lora import adapter
from models.lora.adapter import MANIFEST, PEFT_CONFIG, WEIGHTS, Manifest
from models.lora.registry import Registry
from tests.samples import FINGERPRINT, about, publish, save_lora

MODULE = "base_model.model.layers.0.self_attn.q_proj"


@pytest.fixture
def folder(home) -> Path:
    """A valid published adapter."""
    registry = Registry(home.models)
    return registry.path(publish(registry).version)


def make(folder: Path, tensors: dict[str, torch.Tensor], **changes) -> Path:
    """A folder with these weights whose manifest fits its files."""
    folder.mkdir()
    save_file(tensors, folder / WEIGHTS)
    (folder / PEFT_CONFIG).write_text("{}")
    files = adapter.hash_files(folder)
    adapter.write_manifest(folder, Manifest(version=folder.name, created_at=1.0, files=files, **about(**changes)))
    return folder


def pair(rank: int = 4, up_rank: int | None = None, *, module: str = MODULE, fill: float = 0.5) -> dict:
    return {
        f"{module}.lora_A.weight": torch.ones(rank, 8),
        f"{module}.lora_B.weight": torch.full((8, up_rank or rank), fill),
    }


def refusal(folder: Path, fingerprint: str | None = None) -> AdapterError:
    with pytest.raises(AdapterError) as caught:
        adapter.validate(folder, fingerprint)
    assert caught.value.message.startswith(folder.name)
    assert "\n" not in caught.value.message
    return caught.value


def change_byte(file: Path, position: int) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(bytes(content))


def test_what_was_published_validates_and_says_what_it_is(folder):
    manifest = adapter.validate(folder, FINGERPRINT)
    assert manifest == adapter.read_manifest(folder)
    assert (manifest.version, manifest.base, manifest.rank, manifest.run_id) == (folder.name, "tiny", 4, "tiny-1")
    assert set(manifest.files) == {WEIGHTS, PEFT_CONFIG}
    assert manifest.bytes == sum((folder / name).stat().st_size for name in manifest.files)
    assert manifest.metrics == {"steps": 3, "loss": 0.5, "seconds": 1.5}


def test_a_manifest_reads_back_as_it_was_written(tmp_path):
    files = {"a": adapter.FileEntry("00ff", 3)}
    manifest = Manifest(version="v", created_at=12.5, files=files, **about(train_experts=True))
    adapter.write_manifest(tmp_path, manifest)
    assert adapter.read_manifest(tmp_path) == manifest


# Damaged files


@pytest.mark.parametrize("position", [0, 40, -1], ids=["first byte", "header", "last byte"])
def test_one_flipped_bit_is_found_wherever_it_is(position, folder):
    change_byte(folder / WEIGHTS, position)
    error = refusal(folder)
    assert f"{WEIGHTS} has SHA-256 " in error.message
    assert "the manifest says" in error.message


def test_a_flipped_bit_in_the_peft_configuration_is_found(folder):
    change_byte(folder / PEFT_CONFIG, 5)
    assert f"{PEFT_CONFIG} has SHA-256" in refusal(folder).message


def test_truncation_is_found_and_told_in_bytes(folder):
    file = folder / WEIGHTS
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[:-1])
    error = refusal(folder)
    assert f"{WEIGHTS} has {size - 1} bytes, the manifest says {size}" in error.message
    assert "truncated" in error.hint


def test_a_zeroed_tail_is_found(folder):
    file = folder / WEIGHTS
    content = file.read_bytes()
    file.write_bytes(content[:-64] + bytes(64))
    assert "SHA-256" in refusal(folder).message


@pytest.mark.parametrize("name", [WEIGHTS, PEFT_CONFIG])
def test_a_missing_file_is_named(name, folder):
    (folder / name).unlink()
    assert f"{name} is missing" in refusal(folder).message


@pytest.mark.parametrize("make_it", [Path.touch, Path.mkdir])
def test_a_file_or_folder_that_the_manifest_does_not_know_is_named(make_it, folder):
    make_it(folder / "adapter_model.bin")
    assert "adapter_model.bin is not in the manifest" in refusal(folder).message


def test_a_manifest_without_the_weights_does_not_make_them_optional(folder):
    manifest = adapter.read_manifest(folder)
    (folder / WEIGHTS).unlink()
    adapter.write_manifest(folder, replace(manifest, files={PEFT_CONFIG: manifest.files[PEFT_CONFIG]}))
    assert f"{WEIGHTS} is missing" in refusal(folder).message


def test_a_manifest_that_names_a_file_elsewhere_is_refused(folder):
    manifest = adapter.read_manifest(folder)
    elsewhere = {"../../../etc/passwd": adapter.FileEntry("00", 1)}
    adapter.write_manifest(folder, replace(manifest, files=manifest.files | elsewhere))
    assert "../../../etc/passwd is missing" in refusal(folder).message


# Damaged manifests


def test_a_folder_without_a_manifest_is_no_adapter(folder):
    (folder / MANIFEST).unlink()
    assert "it has no manifest.json" in refusal(folder).message


@pytest.mark.parametrize("content", [b"", b"{", b'{"version": ', b"\xff\xfe", b"\x00" * 10])
def test_a_manifest_that_is_not_json_is_damaged(content, folder):
    (folder / MANIFEST).write_bytes(content)
    assert "manifest.json is damaged" in refusal(folder).message


@pytest.mark.parametrize("content", ["[]", "null", "{}", '{"format": 1}', '"text"'])
def test_a_manifest_of_another_shape_is_refused(content, folder):
    (folder / MANIFEST).write_text(content)
    assert "manifest.json is not of format 1" in refusal(folder).message


def test_a_manifest_of_a_later_format_is_refused(folder):
    adapter.write_manifest(folder, replace(adapter.read_manifest(folder), format=2))
    assert "is not of format 1" in refusal(folder).message


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("rank", 0, "rank cannot be 0"),
        ("rank", "4", "rank cannot be '4'"),
        ("files", ["a"], "files cannot be ['a']"),
        ("files", {WEIGHTS: "abc"}, f"files.{WEIGHTS} cannot be 'abc'"),
        ("files", {WEIGHTS: {"bytes": 3}}, f"files.{WEIGHTS}.sha256 cannot be"),
        ("created_at", "yesterday", "created_at cannot be 'yesterday'"),
        ("metrics", None, "metrics cannot be None"),
    ],
)
def test_a_manifest_field_of_the_wrong_type_is_named(field, value, named, folder):
    values = asdict(adapter.read_manifest(folder)) | {field: value}
    (folder / MANIFEST).write_text(json.dumps(values))
    message = refusal(folder).message
    assert "manifest.json is damaged" in message
    assert named in message


# Weights that fit their manifest and are no adapter all the same


def test_an_adapter_of_another_base_is_refused_with_both_fingerprints(folder):
    error = refusal(folder, "0" * 64)
    assert "was trained on tiny (ffffffffffff), but 000000000000 is being served" in error.message
    assert "train on the one that is served" in error.hint


def test_weights_whose_b_is_all_zero_change_nothing(tmp_path):
    folder = make(tmp_path / "v", pair(fill=0.0))
    assert "changes nothing: every B matrix is zero" in refusal(folder).message


def test_one_module_that_was_trained_is_enough(tmp_path):
    tensors = pair(fill=0.0) | pair(module="base_model.model.layers.1.self_attn.v_proj")
    adapter.validate(make(tmp_path / "v", tensors))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("side", ["A", "B"])
def test_a_value_that_is_not_finite_is_refused_with_its_tensor(value, side, tmp_path):
    tensors = pair()
    name = f"{MODULE}.lora_{side}.weight"
    tensors[name][0, 0] = value
    error = refusal(make(tmp_path / "v", tensors))
    assert f"{name} holds values that are not finite" in error.message


def test_ranks_that_differ_within_a_pair_are_refused_with_all_three(tmp_path):
    folder = make(tmp_path / "v", pair(4, up_rank=8))
    assert f"{MODULE} has ranks 4 and 8, not 4" in refusal(folder).message


def test_a_rank_that_is_not_the_manifests_is_refused(tmp_path):
    assert "has ranks 6 and 6, not 4" in refusal(make(tmp_path / "v", pair(6))).message


def test_experts_may_stack_their_ranks(tmp_path):
    adapter.validate(make(tmp_path / "v", pair(16)))


def test_half_a_pair_is_refused_with_the_numbers(tmp_path):
    tensors = pair() | {"base_model.model.layers.1.self_attn.v_proj.lora_A.weight": torch.ones(4, 8)}
    assert "holds 2 A and 1 B matrices, not pairs" in refusal(make(tmp_path / "v", tensors)).message


def test_weights_without_any_lora_are_refused(tmp_path):
    tensors = {"model.embed_tokens.weight": torch.ones(2, 2)}
    assert "holds 0 A and 0 B matrices" in refusal(make(tmp_path / "v", tensors)).message


def test_a_pickle_in_the_weights_place_is_never_loaded(tmp_path):
    folder = tmp_path / "v"
    folder.mkdir()
    save_lora(folder)
    (folder / "README.md").unlink()
    torch.save({"weight": torch.ones(2)}, folder / WEIGHTS)
    files = adapter.hash_files(folder)
    adapter.write_manifest(folder, Manifest(version="v", created_at=1.0, files=files, **about()))
    assert f"{WEIGHTS} cannot be read" in refusal(folder).message


def test_half_precision_weights_are_checked_like_others(tmp_path):
    tensors = {name: tensor.to(torch.bfloat16) for name, tensor in pair().items()}
    adapter.validate(make(tmp_path / "good", tensors))
    tensors[f"{MODULE}.lora_B.weight"][0, 0] = float("nan")
    assert "not finite" in refusal(make(tmp_path / "bad", tensors)).message


def test_a_manifest_from_before_there_were_suspects_is_read(home):
    folder = Registry(home.models).path(publish(Registry(home.models)).version)
    values = json.loads((folder / MANIFEST).read_text())
    assert values.pop("suspect") == []
    (folder / MANIFEST).write_text(json.dumps(values))
    assert adapter.read_manifest(folder).suspect == []
