"""Both engines on the embedded model in float32, made the same way."""

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from configs.paths import TINY_MODEL
from models.base.checkpoint import inspect
from serve.engine.native.engine import NativeEngine
from serve.engine.native.model import Sizes, Weights
from serve.engine.native.runner import Runner
from serve.engine.native.weights import dense_weights
from serve.engine.transformers import TransformersEngine

TOKENIZER = AutoTokenizer.from_pretrained(TINY_MODEL)
BLOCKS = 1200
"""Of the KV cache: 9,592 tokens, more than two of the longest sequences."""


@functools.cache
def embedded_model():
    """Never changed: engines get copies."""
    return AutoModelForCausalLM.from_pretrained(TINY_MODEL, dtype=torch.float32).eval()


@functools.cache
def embedded_weights() -> tuple[Sizes, Weights]:
    checkpoint = inspect(TINY_MODEL)
    sizes = Sizes.of(checkpoint.config)
    return sizes, dense_weights(checkpoint, sizes, torch.device("cpu"), torch.float32)


def transformers_engine(model=None, **options) -> TransformersEngine:
    return TransformersEngine(copy.deepcopy(model or embedded_model()), TOKENIZER, **options)


def native_engine(
    model=None, *, blocks: int = BLOCKS, adapter_slots: int = 8, max_lora_rank: int = 32, **options
) -> NativeEngine:
    """`model` is there for `transformers_engine`'s sake: the native engine knows only the embedded one."""
    sizes, weights = embedded_weights()
    options.setdefault("max_batch", 16)
    runner = Runner(
        sizes,
        weights,
        blocks=blocks,
        max_batch=options["max_batch"],
        adapter_slots=adapter_slots,
        max_lora_rank=max_lora_rank,
    )
    return NativeEngine(runner, TOKENIZER, **options)


ENGINES: dict[str, Callable] = {"transformers": transformers_engine, "native": native_engine}


@contextmanager
def running(make: Callable, *args, **options) -> Iterator:
    engine = make(*args, **options)
    try:
        yield engine
    finally:
        engine.close()


def change_logits(monkeypatch, engine, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Let `change` see, and replace, the logits of every forward pass of the engine."""
    model = engine._model if isinstance(engine, TransformersEngine) else engine._runner.model
    forward = model.forward

    def changed(*args, **how):
        out = forward(*args, **how)
        if isinstance(out, torch.Tensor):
            return change(out)
        out.logits = change(out.logits)
        return out

    monkeypatch.setattr(model, "forward", changed)
