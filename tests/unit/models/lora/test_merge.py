"""A merged model is its base plus its adapter, in every layout, and what cannot be merged is refused."""

import json
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from configs.errors import AdapterError, CheckpointError, ExportError
from configs.paths import TINY_MODEL
from models.base import checkpoint
from models.base.fused import FusedBase
from models.lora import merge, verification
from models.lora.adapter import PEFT_CONFIG, WEIGHTS
from models.lora.delta import Lora
from models.tiny.quantize import quantize
from tests.samples import train_lora

pytestmark = pytest.mark.usefixtures("quick_answers")
IDS = torch.arange(40, 104)[None]
EXPERTS = "base_model.model.model.layers.0.mlp.experts"
Q = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> dict[str, Path]:
    four_bit = tmp_path_factory.mktemp("bases") / "tiny-bnb-4bit"
    quantize(TINY_MODEL, four_bit)
    return {"full": TINY_MODEL, "split-nf4": four_bit}


@pytest.fixture(scope="module")
def adapters(bases, tmp_path_factory) -> dict:
    """(layout, experts) to an adapter's folder and the logits that base plus adapter gives."""
    made, folder = {}, tmp_path_factory.mktemp("adapters")
    for layout, base in bases.items():
        for experts in (False, True):
            out = folder / f"{layout}-{experts}"
            model = train_lora(base, out, experts=experts)
            with torch.inference_mode():
                made[layout, experts] = out, model(IDS).logits
    return made


def merged(base: Path, adapter: Path, out: Path, dtype=torch.float32) -> Path:
    out.mkdir()
    merge.merge(checkpoint.inspect(base), adapter, out, dtype, on_tensor=lambda done, in_all: None)
    return out


def changed(adapter: Path, out: Path, **config) -> Path:
    """A copy of an adapter with another configuration."""
    shutil.copytree(adapter, out)
    values = json.loads((out / PEFT_CONFIG).read_text()) | config
    (out / PEFT_CONFIG).write_text(json.dumps(values))
    return out


def rewrite(folder: Path, change) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("experts", [False, True], ids=["attention", "experts"])
@pytest.mark.parametrize("layout", ["full", "split-nf4"])
def test_stock_transformers_loads_it_whole_and_it_is_base_plus_adapter(bases, adapters, tmp_path, layout, experts):
    adapter, expected = adapters[layout, experts]
    out = merged(bases[layout], adapter, tmp_path / "out")
    model, report = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert {key: found for key, found in report.items() if found} == {}
    with torch.inference_mode():
        torch.testing.assert_close(model(IDS).logits, expected, atol=2e-4, rtol=0)
    assert model.dtype == torch.float32 and "quantization_config" not in (out / "config.json").read_text()
    assert model.generation_config.eos_token_id == [1017, 1023]
    assert AutoTokenizer.from_pretrained(out).chat_template == checkpoint.load_tokenizer(TINY_MODEL).chat_template
    base = checkpoint.inspect(bases[layout])
    by_outputs = verification.verify(base, adapter, out, lambda: None)
    assert (by_outputs.method, by_outputs.compared, by_outputs.same_answers) == ("outputs", 4, 4)
    assert by_outputs.max_difference < 2e-4 and by_outputs.adapter_effect > 1
    by_weights = verification.compare_weights(base, adapter, out, "asked for", lambda: None)
    assert by_weights.compared == 17 * 3 + 3, "three layers, the embedding, the head and the last norm"
    assert by_weights.max_difference < 1e-6


def test_only_what_the_adapter_names_is_changed_and_each_value_is_rounded_once(adapters, tmp_path):
    adapter, _ = adapters["full", False]
    before, after = weights(TINY_MODEL), weights(merged(TINY_MODEL, adapter, tmp_path / "out", torch.bfloat16))
    differing = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys() and {tensor.dtype for tensor in after.values()} == {torch.bfloat16}
    assert differing == {name for name in before if name.endswith("_proj.weight") and "self_attn" in name}
    pair = load_file(adapter / WEIGHTS)
    down, up = (pair[f"base_model.model.{Q.removesuffix('.weight')}.lora_{side}.weight"] for side in "AB")
    assert torch.equal(after[Q], (before[Q].float() + 16 / 8 * (up @ down)).bfloat16())


def test_rounding_to_16_bit_is_checked_against_the_adapters_own_effect(adapters, tmp_path):
    base, (adapter, _) = checkpoint.inspect(TINY_MODEL), adapters["full", False]
    out = merged(TINY_MODEL, adapter, tmp_path / "out", torch.bfloat16)
    found = verification.verify(base, adapter, out, lambda: None)
    assert found.max_difference < 0.1 < 1 < found.adapter_effect
    weak = changed(adapter, tmp_path / "weak")
    rewrite(weak, lambda tensors: [tensor.mul_(1e-4) for name, tensor in tensors.items() if ".lora_B" in name])
    lost = merged(TINY_MODEL, weak, tmp_path / "lost", torch.bfloat16)
    with pytest.raises(ExportError, match=r"differ by .* from base plus adapter") as caught:
        verification.verify(base, weak, lost, lambda: None)
    assert "--dtype float32" in caught.value.hint
    kept = merged(TINY_MODEL, weak, tmp_path / "kept", torch.float32)
    assert verification.verify(base, weak, kept, lambda: None).same_answers == 4


def test_shards_are_bounded_and_the_index_says_where_everything_is(bases, adapters, tmp_path, monkeypatch):
    monkeypatch.setattr(merge, "SHARD_BYTES", 600_000)
    seen = []
    out = tmp_path / "out"
    out.mkdir()
    adapter, expected = adapters["split-nf4", True]
    merge.merge(
        checkpoint.inspect(bases["split-nf4"]), adapter, out, torch.float32, on_tensor=lambda *done: seen.append(done)
    )
    files = sorted(out.glob("*.safetensors"))
    assert len(files) > 5 and files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    assert all(file.stat().st_size < 620_000 for file in files)
    assert seen == [(number, 71) for number in range(1, 72)]
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 1_256_096 * 4 and len(index["weight_map"]) == 71
    model, report = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(report.values())
    with torch.inference_mode():
        torch.testing.assert_close(model(IDS).logits, expected, atol=2e-4, rtol=0)


def split_experts(tensors: dict[str, torch.Tensor]) -> None:
    """Fused pairs as one pair for every expert's own linear, as the split layout trains them."""
    for layer in range(4):
        stem = f"{EXPERTS}.base_layer".replace("layers.0", f"layers.{layer}")
        for name, module in (("gate_up_projs", stem), ("down_projs", stem.removesuffix(".base_layer"))):
            down, up = (tensors.pop(f"{module}.lora_{side}.weight") for side in "AB")
            for expert in range(4):
                linear = f"{stem.removesuffix('.base_layer')}.{name}.{expert}"
                tensors[f"{linear}.lora_A.weight"] = down[expert * 8 : expert * 8 + 8].clone()
                tensors[f"{linear}.lora_B.weight"] = up[:, expert::4].clone()


def test_an_adapter_of_experts_that_were_linears_of_their_own_merges_into_the_fused_layout(bases, adapters, tmp_path):
    fused, _ = adapters["split-nf4", True]
    split = changed(fused, tmp_path / "split", target_parameters=None)
    rewrite(split, split_experts)
    for base in bases.values():
        one = weights(merged(base, fused, tmp_path / f"fused-{base.name}"))
        two = weights(merged(base, split, tmp_path / f"split-{base.name}"))
        assert one.keys() == two.keys()
        for name in one:
            torch.testing.assert_close(one[name], two[name], atol=1e-6, rtol=0)
    found = verification.verify(
        checkpoint.inspect(bases["split-nf4"]), split, tmp_path / "split-tiny-bnb-4bit", lambda: None
    )
    assert found.method == "weights" and "experts of their own" in found.why


def test_too_little_memory_for_the_model_compares_weights_and_says_so(adapters, tmp_path, monkeypatch):
    adapter, _ = adapters["full", True]
    out = merged(TINY_MODEL, adapter, tmp_path / "out")
    monkeypatch.setattr(verification.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 1 << 20}))
    found = verification.verify(checkpoint.inspect(TINY_MODEL), adapter, out, lambda: None)
    assert found.method == "weights" and "GiB are free" in found.why and found.same_answers is None


@pytest.mark.parametrize("name", [Q, "model.layers.3.mlp.experts.down_proj", "lm_head.weight"])
def test_a_merge_that_went_wrong_anywhere_is_noticed(adapters, tmp_path, name):
    base, (adapter, _) = checkpoint.inspect(TINY_MODEL), adapters["full", True]
    out = merged(TINY_MODEL, adapter, tmp_path / "out")
    (file,) = out.glob("*.safetensors")
    tensors = load_file(file)
    tensors[name] = tensors[name] * 1.05 + 0.01
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ExportError, match="the merged model's logits differ"):
        verification.compare_outputs(base, adapter, out, lambda: None)
    if ".layers.1." not in name:
        with pytest.raises(ExportError, match=f"merged {name} differs from base plus adapter"):
            verification.compare_weights(base, adapter, out, "asked for", lambda: None)


def test_rank_stabilised_scale_is_peft_s(adapters, tmp_path):
    adapter, _ = adapters["full", True]
    rank_stabilised = changed(adapter, tmp_path / "rs", use_rslora=True)
    out = merged(TINY_MODEL, rank_stabilised, tmp_path / "out")
    with ExitStack() as stack:
        assert Lora(rank_stabilised, stack).scale == pytest.approx(16 / 8**0.5)
    assert verification.verify(checkpoint.inspect(TINY_MODEL), rank_stabilised, out, lambda: None).same_answers == 4


@pytest.mark.parametrize(
    "config",
    [
        {"use_dora": True}, {"bias": "all"}, {"modules_to_save": ["lm_head"]}, {"rank_pattern": {"q_proj": 4}},
        {"alpha_pattern": {"q_proj": 4}}, {"peft_type": "LOHA"}, {"lora_bias": True}, {"fan_in_fan_out": True},
    ],
    ids=lambda config: next(iter(config)),
)  # fmt: skip
def test_an_adapter_that_is_more_than_matrices_is_refused(adapters, tmp_path, config):
    adapter = changed(adapters["full", False][0], tmp_path / "more", **config)
    with ExitStack() as stack, pytest.raises(AdapterError, match=f"has {next(iter(config))} = .*cannot be merged"):
        Lora(adapter, stack)


def test_tensors_that_are_no_pairs_and_shapes_that_do_not_fit_are_refused(adapters, tmp_path):
    adapter, _ = adapters["full", False]
    odd = changed(adapter, tmp_path / "odd")
    rewrite(odd, lambda tensors: tensors.update({"base_model.model.lm_head.weight": torch.ones(2)}))
    with ExitStack() as stack, pytest.raises(AdapterError, match=r"lm_head\.weight, which is not a pair"):
        Lora(odd, stack)
    wide = changed(adapter, tmp_path / "wide")
    rewrite(
        wide,
        lambda tensors: tensors.update({k: torch.ones(8, 99) for k in tensors if "1.self_attn.q_proj.lora_A" in k}),
    )
    with pytest.raises(AdapterError, match=r"q_proj has A \[8, 99\] and B \[128, 8\], and the base has \(128, 128\)"):
        merged(TINY_MODEL, wide, tmp_path / "out")


def test_a_base_whose_quantisation_is_unknown_is_refused(tmp_path):
    base = Path(shutil.copytree(TINY_MODEL, tmp_path / "base"))
    config = json.loads((base / "config.json").read_text()) | {"quantization_config": {"quant_method": "gptq"}}
    (base / "config.json").write_text(json.dumps(config))
    with ExitStack() as stack, pytest.raises(CheckpointError, match="quantised with gptq"):
        FusedBase(checkpoint.inspect(base), stack)


FP4 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])
"""The 16 values of E2M1, by code: OCP Microscaling Formats 1.0, table 5."""


def as_mxfp4(out: Path) -> dict[str, torch.Tensor]:
    """The embedded model with random MXFP4 experts, as OpenAI's checkpoint has them; returns what they stand for."""
    shutil.copytree(TINY_MODEL, out)
    tensors, meant = load_file(out / "model.safetensors"), {}
    for name in [name for name in tensors if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        experts, into, rows = tensors.pop(name).shape
        codes = torch.randint(16, (experts, rows, into // 32, 32), dtype=torch.uint8)
        exponents = torch.randint(118, 124, (experts, rows, into // 32), dtype=torch.uint8)
        tensors[f"{name}_blocks"] = codes[..., ::2] | codes[..., 1::2] << 4
        tensors[f"{name}_scales"] = exponents
        values = FP4[codes.long()] * 2.0 ** (exponents.float() - 127)[..., None]
        meant[name] = values.reshape(experts, rows, into).transpose(1, 2)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((out / "config.json").read_text()) | {"quantization_config": {"quant_method": "mxfp4"}}
    (out / "config.json").write_text(json.dumps(config))
    return meant


def test_an_mxfp4_base_is_dequantised_without_kernels(adapters, tmp_path):
    adapter, _ = adapters["full", False]
    meant = as_mxfp4(tmp_path / "base")
    out = merged(tmp_path / "base", adapter, tmp_path / "out")
    written = weights(out)
    assert all(torch.equal(written[name], value) for name, value in meant.items()) and len(meant) == 8
    _, report = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(report.values())
    found = verification.verify(checkpoint.inspect(tmp_path / "base"), adapter, out, lambda: None)
    assert found.method == "weights" and "MXFP4" in found.why
