"""The embedded model in the 4-bit layout of gpt-oss-20b: `python -m models.tiny.quantize OUT`.

The layout is that of `unsloth/gpt-oss-20b-unsloth-bnb-4bit`: attention projections and every single expert as
bitsandbytes NF4 (blocksize 64, double quantisation), experts split into linears, router under `mlp.router.linear`,
embeddings, head, norms, biases and sinks as they are. So every loader and engine path for the big model runs on a CPU.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from configs import durable
from configs.paths import TINY_MODEL

BLOCKSIZE = 64
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
QUANTIZATION_CONFIG = {
    "quant_method": "bitsandbytes",
    "load_in_4bit": True,
    "load_in_8bit": False,
    "_load_in_4bit": True,
    "_load_in_8bit": False,
    "bnb_4bit_compute_dtype": "bfloat16",
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_quant_storage": "uint8",
    "bnb_4bit_use_double_quant": True,
    "llm_int8_enable_fp32_cpu_offload": False,
    "llm_int8_has_fp16_weight": False,
    "llm_int8_threshold": 6.0,
    "llm_int8_skip_modules": ["router", "embed_tokens", "lm_head"],
}


def quantize(source: Path, out: Path) -> None:
    """Write the gpt-oss in folder `source` (Transformers' fused layout, unquantised) to the new folder `out`, split.

    One shard per layer and one for the rest, with an index. Written aside, fsynced, renamed: `out` is complete or
    absent, and a second process that made it meanwhile wins. Raises FileNotFoundError if `source` lacks a file.
    """
    durable.private_folder(out.parent)
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        _write_shards(load_file(source / "model.safetensors"), aside)
        config = json.loads((source / "config.json").read_text(encoding="utf-8"))
        (aside / "config.json").write_text(json.dumps(_with_quantization(config), indent=1), encoding="utf-8")
        for name in ("generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copyfile(source / name, aside / name)
        _publish(aside, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _with_quantization(config: dict) -> dict:
    """The configuration as the big checkpoint has it: rope_theta and rope_scaling instead of rope_parameters."""
    rope = dict(config["rope_parameters"])
    config = {key: value for key, value in config.items() if key != "rope_parameters"}
    return config | {
        "rope_theta": rope.pop("rope_theta"),
        "rope_scaling": rope,
        "quantization_config": QUANTIZATION_CONFIG,
    }


def _write_shards(weights: dict[str, torch.Tensor], out: Path) -> None:
    shards: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in weights.items():
        parts = name.split(".")
        shard = f"model-layer{int(parts[2]):02d}.safetensors" if parts[1] == "layers" else "model-embed.safetensors"
        shards.setdefault(shard, {}).update(_split(name, tensor))
    for shard, tensors in shards.items():
        save_file(tensors, out / shard, metadata={"format": "pt"})
    index = {
        "metadata": {"total_size": sum(t.nbytes for tensors in shards.values() for t in tensors.values())},
        "weight_map": {name: shard for shard, tensors in shards.items() for name in tensors},
    }
    (out / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def _split(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """One tensor of the fused layout as tensors of the split one: experts [experts, in, out] become [out, in] each."""
    stem, _, leaf = name.rpartition(".")
    if stem.endswith("mlp.experts"):
        kind = "bias" if leaf.endswith("_bias") else "weight"
        stems = [f"{stem}.{leaf.removesuffix('_bias')}s.{i}" for i in range(len(tensor))]
        if kind == "bias":
            return {f"{expert}.bias": row.clone() for expert, row in zip(stems, tensor, strict=True)}
        parts = zip(stems, tensor, strict=True)
        return {k: v for expert, rows in parts for k, v in _nf4(f"{expert}.weight", rows.T).items()}
    if stem.endswith("mlp.router"):
        return {f"{stem}.linear.{leaf}": tensor}
    if leaf == "weight" and stem.endswith(ATTENTION):
        return _nf4(name, tensor)
    return {name: tensor}


def _nf4(name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """`name` as packed uint8 [n / 2, 1] and, beside it, the quantisation state under bitsandbytes' own key names."""
    from bitsandbytes.functional import quantize_4bit

    packed, state = quantize_4bit(weight.contiguous(), blocksize=BLOCKSIZE, compress_statistics=True, quant_type="nf4")
    return {name: packed} | {f"{name}.{key}": value for key, value in state.as_dict(packed=True).items()}


def _publish(aside: Path, out: Path) -> None:
    for file in aside.iterdir():
        durable.fsync(file)
    aside.chmod(0o755)
    try:
        aside.rename(out)
    except OSError:
        if not (out / "config.json").is_file():
            raise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT", help="a folder that does not exist yet")
    quantize(TINY_MODEL, parser.parse_args().out)


if __name__ == "__main__":
    main()
