"""A native engine for a base on a device, with as large a KV cache as the settings and the memory give."""

from pathlib import Path

import torch

from configs.errors import ConfigError
from configs.schema import ServeConfig
from models.base import checkpoint
from serve.engine.native.engine import NativeEngine
from serve.engine.native.kv_cache import BLOCK_SIZE, KvCache
from serve.engine.native.model import Sizes
from serve.engine.native.runner import Runner
from serve.engine.native.weights import dense_weights

PREFILL_CHUNK = 512
"""Tokens of prompts in one step: what a running stream waits for at most."""


def fits(base: checkpoint.Checkpoint) -> bool:
    """Whether the native engine can serve this base."""
    return base.config.get("model_type") == "gpt_oss" and not (
        base.layout == "full" and base.config.get("quantization_config")
    )


def load_engine(config: ServeConfig, base: Path, device: str) -> NativeEngine:
    """Raises CheckpointError for a base that is not a gpt-oss or lacks keys, ConfigError for one that is quantised
    otherwise."""
    found = checkpoint.inspect(base)
    sizes = Sizes.of(found.config)
    if not fits(found):
        raise ConfigError(
            f"{found.name} is quantised in a way that the native engine does not read", hint="set engine: transformers"
        )
    weights = dense_weights(found, sizes, torch.device(device), torch.float32)
    tokens = min(config.max_context, sizes.longest)
    runner = Runner(
        sizes,
        weights,
        blocks=config.max_batch * KvCache.blocks_for(tokens, sizes.groups, PREFILL_CHUNK) + 1,
        max_batch=config.max_batch,
        adapter_slots=config.adapter_slots,
        max_lora_rank=config.max_lora_rank,
    )
    return NativeEngine(
        runner,
        checkpoint.load_tokenizer(base),
        max_batch=config.max_batch,
        max_context=config.max_context,
        max_waiting=config.max_waiting,
        prefill_chunk=PREFILL_CHUNK,
    )


def block_bytes(sizes: Sizes, dtype: torch.dtype) -> int:
    """Of one block of the KV cache: keys and values of a layer for each share."""
    return 2 * sizes.group_layers * BLOCK_SIZE * sizes.kv_heads * sizes.head_dim * dtype.itemsize
