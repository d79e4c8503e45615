"""Weights of a gpt-oss on a GPU as its split NF4 checkpoint has them: codes rearranged, nothing quantised again."""

from collections.abc import Callable, Mapping

import torch
from safetensors.torch import load_file

from models.base.checkpoint import Checkpoint, TensorFile, refuse
from models.base.split_nf4 import QUANT_STATE
from serve.engine.native.kernels.nf4 import Nf4, Nf4Part
from serve.engine.native.model import Layer, Sizes, Weights
from serve.engine.native.operations import Expert, Linear
from serve.engine.native.weights import check_keys

Take = Callable[[str], torch.Tensor]


def nf4_weights(checkpoint: Checkpoint, sizes: Sizes, device: torch.device) -> Weights:
    """Projections and experts in NF4, the rest in bfloat16. A file at a time is on the device beside the result.

    Raises CheckpointError for keys that are missing, left over or misshapen.
    """
    check_keys(checkpoint, sizes)
    layers: dict[int, Layer] = {}
    rest: dict[str, torch.Tensor] = {}
    held: dict[str, torch.Tensor] = {}
    for file in checkpoint.files:
        held |= _read(file, device)
        for index in range(sizes.layers):
            stem = f"model.layers.{index}."
            if index not in layers and _complete(checkpoint, stem, held):
                own = {key: held.pop(key) for key in [key for key in held if key.startswith(stem)]}
                layers[index] = _layer(own, stem, sizes, checkpoint)
        rest |= {key: held.pop(key).bfloat16() for key in [key for key in held if not key.startswith("model.layers.")]}
    return Weights(
        embedding=rest["model.embed_tokens.weight"],
        layers=[layers[index] for index in range(sizes.layers)],
        norm=rest["model.norm.weight"],
        head=rest["lm_head.weight"],
    )


def _read(file: TensorFile, device: torch.device) -> dict[str, torch.Tensor]:
    """Weights on the device; what describes a quantisation stays on the host, which reads it."""
    tensors = load_file(file.path)
    small = (".quant_map", ".quant_state.bitsandbytes__nf4")
    return {key: value if key.endswith(small) else value.to(device) for key, value in tensors.items()}


def _complete(checkpoint: Checkpoint, stem: str, held: Mapping[str, torch.Tensor]) -> bool:
    """Whether everything of a layer is there; its keys may be in several files."""
    wanted = {key for file in checkpoint.files for key in file.tensors if key.startswith(stem)}
    return wanted <= held.keys()


def _layer(tensors: Mapping[str, torch.Tensor], stem: str, sizes: Sizes, checkpoint: Checkpoint) -> Layer:
    heads, kv = sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim

    def take(name: str) -> torch.Tensor:
        return tensors[stem + name].bfloat16().contiguous()

    def part(name: str, shape: tuple[int, int]) -> Nf4Part:
        key = f"{stem}{name}.weight"
        found = Nf4Part.from_checkpoint(tensors[key], {suffix: tensors[f"{key}.{suffix}"] for suffix in QUANT_STATE})
        if found.shape != shape:
            refuse(checkpoint.path, misshapen={f"{key} {found.shape} for {shape}"})
        return found

    def expert(kind: str, shape: tuple[int, int]) -> Expert:
        names = [f"mlp.experts.{kind}_projs.{index}" for index in range(sizes.experts)]
        bias = torch.stack([take(f"{name}.bias") for name in names])
        return Expert(Nf4.pack([[part(name, shape)] for name in names]), bias)

    shapes = {"q": (heads, sizes.hidden), "k": (kv, sizes.hidden), "v": (kv, sizes.hidden)}
    return Layer(
        input_norm=take("input_layernorm.weight"),
        qkv=Linear(
            Nf4.pack([[part(f"self_attn.{name}_proj", shape) for name, shape in shapes.items()]]),
            torch.cat([take(f"self_attn.{name}_proj.bias") for name in shapes]),
        ),
        sinks=take("self_attn.sinks"),
        o=Linear(Nf4.pack([[part("self_attn.o_proj", (sizes.hidden, heads))]]), take("self_attn.o_proj.bias")),
        expert_norm=take("post_attention_layernorm.weight"),
        router_weight=take("mlp.router.linear.weight"),
        router_bias=take("mlp.router.linear.bias"),
        gate_up=expert("gate_up", (2 * sizes.expert_width, sizes.hidden)),
        down=expert("down", (sizes.hidden, sizes.expert_width)),
    )
