"""Weights of a gpt-oss from its checkpoint, every key of it exactly once; dense here, NF4 in `gpu.weights`."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack

import torch

from models.base.checkpoint import Checkpoint, refuse
from models.base.split_nf4 import QUANT_STATE, Reader, read_fused, split_names
from serve.engine.native.model import Layer, Sizes, Weights
from serve.engine.native.operations import Expert, Linear

Read = Callable[[str], torch.Tensor]


def parameter_shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Every parameter by its name in Transformers' fused layout."""
    hidden, width, experts = sizes.hidden, sizes.expert_width, sizes.experts
    heads, kv = sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (sizes.vocabulary, hidden),
        "lm_head.weight": (sizes.vocabulary, hidden),
        "model.norm.weight": (hidden,),
    }
    for layer in range(sizes.layers):
        own = {
            "input_layernorm.weight": (hidden,),
            "post_attention_layernorm.weight": (hidden,),
            "self_attn.sinks": (sizes.heads,),
            "self_attn.o_proj.weight": (hidden, heads),
            "self_attn.o_proj.bias": (hidden,),
            "mlp.router.weight": (experts, hidden),
            "mlp.router.bias": (experts,),
            "mlp.experts.gate_up_proj": (experts, hidden, 2 * width),
            "mlp.experts.gate_up_proj_bias": (experts, 2 * width),
            "mlp.experts.down_proj": (experts, width, hidden),
            "mlp.experts.down_proj_bias": (experts, hidden),
        }
        for name, out in (("q", heads), ("k", kv), ("v", kv)):
            own |= {f"self_attn.{name}_proj.weight": (out, hidden), f"self_attn.{name}_proj.bias": (out,)}
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in own.items()}
    return shapes


def check_keys(checkpoint: Checkpoint, sizes: Sizes) -> None:
    """Raises CheckpointError for keys that are missing, left over or misshapen."""
    headers: Mapping[str, Mapping] = {key: header for file in checkpoint.files for key, header in file.tensors.items()}
    shapes, split = parameter_shapes(sizes), checkpoint.layout == "split-nf4"
    wanted = {key for name in shapes for key in (split_names(name, sizes.experts) if split else [name])}
    quantised = {key for key in wanted & headers.keys() if headers[key]["dtype"] == "U8"}
    wanted |= {f"{key}.{suffix}" for key in quantised for suffix in QUANT_STATE}
    refuse(checkpoint.path, missing=wanted - headers.keys(), unexpected=headers.keys() - wanted)
    if not split:
        stored = {name: tuple(headers[name]["shape"]) for name in shapes}
        misshapen = {f"{name} {stored[name]} for {shape}" for name, shape in shapes.items() if stored[name] != shape}
        refuse(checkpoint.path, misshapen=misshapen)


def dense_weights(checkpoint: Checkpoint, sizes: Sizes, device: torch.device, dtype: torch.dtype) -> Weights:
    """All weights as `dtype` on `device`, dequantised where the checkpoint is in 4 bit.

    Raises CheckpointError for keys that are missing, left over or misshapen.
    """
    check_keys(checkpoint, sizes)
    shapes = parameter_shapes(sizes)
    with ExitStack() as stack:
        reader = Reader(checkpoint, stack)

        def read(name: str) -> torch.Tensor:
            split = checkpoint.layout == "split-nf4"
            value = read_fused(reader, name, sizes.experts) if split else reader.read_raw(name)
            if value.shape != shapes[name]:
                refuse(checkpoint.path, misshapen={f"{name} {tuple(value.shape)} for {shapes[name]}"})
            return value.to(device, dtype)

        return Weights(
            embedding=read("model.embed_tokens.weight"),
            layers=[_layer(read, f"model.layers.{index}.") for index in range(sizes.layers)],
            norm=read("model.norm.weight"),
            head=read("lm_head.weight"),
        )


def _layer(read: Read, stem: str) -> Layer:
    def fused(names: str, leaf: str) -> torch.Tensor:
        return torch.cat([read(f"{stem}self_attn.{name}_proj.{leaf}") for name in names])

    return Layer(
        input_norm=read(f"{stem}input_layernorm.weight"),
        qkv=Linear(fused("qkv", "weight"), fused("qkv", "bias")),
        sinks=read(f"{stem}self_attn.sinks"),
        o=Linear(fused("o", "weight"), fused("o", "bias")),
        expert_norm=read(f"{stem}post_attention_layernorm.weight"),
        router_weight=read(f"{stem}mlp.router.weight"),
        router_bias=read(f"{stem}mlp.router.bias"),
        gate_up=Expert(read(f"{stem}mlp.experts.gate_up_proj"), read(f"{stem}mlp.experts.gate_up_proj_bias")),
        down=Expert(read(f"{stem}mlp.experts.down_proj"), read(f"{stem}mlp.experts.down_proj_bias")),
    )
