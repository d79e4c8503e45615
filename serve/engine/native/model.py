"""gpt-oss: its sizes, its weights, and one forward pass over a batch of tokens of many sequences.

`GptOss.forward` is the architecture; how a line of it is computed is `operations`' business, in plain PyTorch or in
Triton. Source of the architecture: https://openai.com/index/gpt-oss-model-card and its reference implementation,
https://github.com/openai/gpt-oss/blob/main/gpt_oss/torch/model.py
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from configs.errors import CheckpointError
from serve.engine.native.batch import Batch
from serve.engine.native.operations import Expert, Linear, Operations


@dataclass(frozen=True)
class Sizes:
    """What config.json says of a gpt-oss."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    experts: int
    top_k: int
    expert_width: int
    vocabulary: int
    longest: int
    """Tokens of the longest text that it is made for."""
    windows: tuple[int | None, ...]
    """Per layer, the tokens that a query sees, itself included; None is all."""
    epsilon: float
    rope: Mapping[str, Any]

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Sizes":
        """Raises CheckpointError for a configuration that is not a gpt-oss or lacks a size."""
        if config.get("model_type") != "gpt_oss":
            raise CheckpointError(
                f"the native engine knows gpt_oss, not {config.get('model_type')}", hint="set engine: transformers"
            )
        rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
        rope.setdefault("rope_theta", config.get("rope_theta", 150000.0))
        try:
            kinds = config["layer_types"]
            return cls(
                layers=config["num_hidden_layers"],
                hidden=config["hidden_size"],
                heads=config["num_attention_heads"],
                kv_heads=config["num_key_value_heads"],
                head_dim=config["head_dim"],
                experts=config["num_local_experts"],
                top_k=config["num_experts_per_tok"],
                expert_width=config["intermediate_size"],
                vocabulary=config["vocab_size"],
                longest=config["max_position_embeddings"],
                windows=tuple(config["sliding_window"] if kind == "sliding_attention" else None for kind in kinds),
                epsilon=config.get("rms_norm_eps", 1e-5),
                rope=rope,
            )
        except KeyError as error:
            raise CheckpointError(f"config.json lacks {error}", hint="download the base again") from None

    @property
    def qkv_width(self) -> int:
        return (self.heads + 2 * self.kv_heads) * self.head_dim

    @property
    def groups(self) -> tuple[int | None, ...]:
        """The different windows."""
        return tuple(dict.fromkeys(self.windows))

    @property
    def group_layers(self) -> int:
        """Layers of the largest group: shares in a block of the KV cache."""
        return max(self.windows.count(window) for window in self.groups)


def rope_tables(sizes: Sizes, positions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines [positions, head_dim / 2], float32, scaled as YaRN does: https://arxiv.org/abs/2309.00071"""
    half, theta, rope = sizes.head_dim // 2, sizes.rope["rope_theta"], sizes.rope
    frequencies = theta ** -(torch.arange(half, dtype=torch.float32) / half)
    scale = 1.0
    if rope.get("rope_type", "default") == "yarn":
        factor, original = rope["factor"], rope["original_max_position_embeddings"]

        def turns(count: float) -> float:
            return half * math.log(original / (count * 2 * math.pi)) / math.log(theta)

        low, high = turns(rope.get("beta_fast", 32.0)), turns(rope.get("beta_slow", 1.0))
        if rope.get("truncate", True):
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, sizes.head_dim - 1)
        ramp = ((torch.arange(half, dtype=torch.float32) - low) / max(high - low, 1e-3)).clamp(0, 1)
        frequencies = frequencies / factor * ramp + frequencies * (1 - ramp)
        scale = 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0
    angles = torch.arange(positions, dtype=torch.float32)[:, None] * frequencies
    return angles.cos() * scale, angles.sin() * scale


@dataclass
class Layer:
    """One block's weights. Linears are [out, in], experts [experts, out, in], dense or NF4."""

    input_norm: torch.Tensor
    qkv: Linear
    """Query, key and value projections, one below the other."""
    sinks: torch.Tensor
    """[heads]"""
    o: Linear
    expert_norm: torch.Tensor
    router_weight: torch.Tensor
    """[experts, hidden]"""
    router_bias: torch.Tensor
    gate_up: Expert
    """Rows alternate between gate and up."""
    down: Expert


@dataclass
class Weights:
    embedding: torch.Tensor
    """[vocabulary, hidden]"""
    layers: list[Layer]
    norm: torch.Tensor
    head: torch.Tensor
    """[vocabulary, hidden]"""


class GptOss:
    """The model over a paged KV cache."""

    def __init__(self, sizes: Sizes, weights: Weights, operations: Operations) -> None:
        self.sizes = sizes
        self.weights = weights
        self.operations = operations
        self._places = [
            (sizes.groups.index(window), sizes.windows[:index].count(window))
            for index, window in enumerate(sizes.windows)
        ]

    @torch.inference_mode()
    def forward(self, batch: Batch) -> torch.Tensor:
        """Logits [W, vocabulary] of the batch's `wanted` rows; writes the keys and values of all rows."""
        do, weights = self.operations, self.weights
        x, update = weights.embedding[batch.ids], None
        for index, (layer, (group, share)) in enumerate(zip(weights.layers, self._places, strict=True)):
            h = do.add_norm(x, update, layer.input_norm)
            qkv = do.linear(h, layer.qkv, batch, index, "qkv")
            q = do.rope_and_store(qkv, batch, group, share)
            h = do.linear(do.attend(q, layer.sinks, batch, group, share), layer.o, batch, index, "o")
            h, routes = do.add_norm_route(x, h, layer.expert_norm, layer.router_weight, layer.router_bias)
            h = do.gate_up(h, layer.gate_up, routes, batch, index)
            update = do.down(h, layer.down, routes, batch, index)
        h = do.last_norm(x, update, weights.norm, batch.wanted)
        return do.head(h, weights.head)
