"""A native engine for a base on a device, with as large a KV cache as the settings and the memory give."""

import gc
import logging
import time
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
"""Tokens of prompts in one step on a CPU: what a running stream waits for at most."""
GPU_PREFILL_CHUNK = 1024
GPU_RESERVE = int(1.5 * 2**30)
"""Bytes that a prefill's activations, captured graphs and adapters' host copies in flight may take."""

log = logging.getLogger(__name__)


def fits(base: checkpoint.Checkpoint) -> bool:
    """Whether the native engine can serve this base."""
    return base.config.get("model_type") == "gpt_oss" and not (
        base.layout == "full" and base.config.get("quantization_config")
    )


def load_engine(config: ServeConfig, base: Path, device: str, share: float = 1.0) -> NativeEngine:
    """`share` is the part of a GPU's memory that the engine may use.

    Raises CheckpointError for a base that is not a gpt-oss or lacks keys, ConfigError for one that is quantised
    otherwise or leaves no memory for a KV cache."""
    found = checkpoint.inspect(base)
    sizes = Sizes.of(found.config)
    if not fits(found):
        raise ConfigError(
            f"{found.name} is quantised in a way that the native engine does not read", hint="set engine: transformers"
        )
    if torch.device(device).type == "cuda" and found.layout == "split-nf4":
        return _on_gpu(config, found, sizes, torch.device(device), share)
    dtype = torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32
    weights = dense_weights(found, sizes, torch.device(device), dtype)
    tokens = min(config.max_context, sizes.longest)
    runner = Runner(
        sizes,
        weights,
        blocks=config.max_batch * KvCache.blocks_for(tokens, sizes.groups, PREFILL_CHUNK) + 1,
        max_batch=config.max_batch,
        adapter_slots=config.adapter_slots,
        max_lora_rank=config.max_lora_rank,
    )
    return _engine(config, runner, base, PREFILL_CHUNK)


def _on_gpu(
    config: ServeConfig, found: checkpoint.Checkpoint, sizes: Sizes, device: torch.device, share: float
) -> NativeEngine:
    from serve.engine.native.gpu.runner import GpuRunner
    from serve.engine.native.gpu.weights import nf4_weights

    started = time.perf_counter()
    weights = nf4_weights(found, sizes, device)
    gc.collect()
    torch.cuda.empty_cache()
    loaded = time.perf_counter()
    free, total = torch.cuda.mem_get_info(device)
    runner = GpuRunner(
        sizes,
        weights,
        blocks=gpu_blocks(config, sizes, min(free, int(total * share) - torch.cuda.memory_allocated(device))),
        max_batch=config.max_batch,
        adapter_slots=config.adapter_slots,
        max_lora_rank=config.max_lora_rank,
        prefill_chunk=GPU_PREFILL_CHUNK,
    )
    runner.warm_up()
    log.info(
        "weights loaded in %.1f s, kernels compiled and steps captured in %.1f s; %d tokens of KV cache",
        loaded - started, time.perf_counter() - loaded, runner.blocks * BLOCK_SIZE // len(sizes.groups),
    )  # fmt: skip
    return _engine(config, runner, found.path, GPU_PREFILL_CHUNK)


def gpu_blocks(config: ServeConfig, sizes: Sizes, free: int) -> int:
    """Blocks of the KV cache for `free` bytes, or for all sequences at their longest if that is less.

    Raises ConfigError, with the numbers, if not one sequence fits.
    """
    one = block_bytes(sizes, torch.bfloat16)
    tokens = min(config.max_context, sizes.longest)
    alone = KvCache.blocks_for(tokens, sizes.groups, 2 * GPU_PREFILL_CHUNK) + 1
    most = config.max_batch * alone
    room = max(0, free - GPU_RESERVE) // one
    if room < alone:
        raise ConfigError(
            f"a sequence of {tokens} tokens needs {alone * one / 2**30:.1f} GiB of KV cache, and beside the model "
            f"{max(0, free - GPU_RESERVE) / 2**30:.1f} GiB are free",
            hint="lower max_context in serve.yaml, or stop what else uses the GPU",
        )
    return min(room, most)


def block_bytes(sizes: Sizes, dtype: torch.dtype) -> int:
    """Of one block of the KV cache: keys and values of a layer for each share."""
    return 2 * sizes.group_layers * BLOCK_SIZE * sizes.kv_heads * sizes.head_dim * dtype.itemsize


def _engine(config: ServeConfig, runner: Runner, base: Path, chunk: int) -> NativeEngine:
    return NativeEngine(
        runner,
        checkpoint.load_tokenizer(base),
        max_batch=config.max_batch,
        max_context=config.max_context,
        max_waiting=config.max_waiting,
        prefill_chunk=chunk,
    )
