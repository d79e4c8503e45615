"""A base model in memory, with nothing missing and nothing left over: any such key ends in CheckpointError.

Transformers loads the `full` layout, Unsloth the `split-nf4` one on a GPU; on a CPU that one is read here. What another
loader made is compared with the files. Callers: trainers (`load_for_training`), engines (`load_for_inference`). Unsloth
patches Transformers when it is imported, so on a GPU call one of these before anything that imports Transformers.
"""

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from configs.errors import CheckpointError
from models.base.checkpoint import Checkpoint, few, inspect, refuse
from models.base.split_nf4 import QUANT_STATE, Reader, read_fused, split_names
from models.base.trainable import attach_lora, check, targets_of

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    from configs.schema import RunConfig

Stage = Callable[[str], AbstractContextManager]


def _untimed(name: str) -> AbstractContextManager:
    return nullcontext()


def load_for_inference(path: Path, device: str | torch.device, *, max_seq_length: int = 4096) -> "PreTrainedModel":
    """The base in folder `path` on `device`, in evaluation mode: float32 on a CPU, bfloat16 (or as quantised) on a GPU.

    `max_seq_length` in tokens matters to Unsloth only. Raises CheckpointError if a key is missing or left over.
    """
    checkpoint, device = inspect(path), torch.device(device)
    if device.type == "cuda" and checkpoint.layout == "split-nf4":
        return _unsloth().for_inference(_load_with_unsloth(checkpoint, max_seq_length, torch.bfloat16))
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    return _load_with_transformers(checkpoint, device, dtype).eval()


def import_libraries(checkpoint: Checkpoint, device: str) -> None:
    """Import what loading and training this base on `device` needs, in the order that Unsloth asks for.

    What the libraries make, they keep, so the garbage collector looks at it neither meanwhile nor later: the imports
    take 7 instead of 9 s of CPU on two cores, each full collection of the training 0.5 s less.
    """
    gc.disable()
    try:
        if device == "cuda" and checkpoint.layout == "split-nf4":
            _unsloth()
        import peft  # noqa: F401
        import transformers  # noqa: F401
        import trl  # noqa: F401
    finally:
        gc.freeze()
        gc.enable()


def load_for_training(path: Path, config: "RunConfig", *, stage: Stage = _untimed) -> "PeftModel":
    """The base in folder `path` with a fresh LoRA adapter, in training mode, on the first visible GPU or else the CPU.

    `stage` wraps the parts that take time, by name.
    Raises CheckpointError if a key is missing or left over, TrainingError if the adapter cannot be as configured.
    """
    checkpoint, on_gpu = inspect(path), torch.cuda.is_available()
    if on_gpu and checkpoint.layout == "split-nf4":
        model = _train_with_unsloth(checkpoint, config, stage)
    else:
        dtype = getattr(torch, config.model.dtype) if on_gpu else torch.float32
        base = _load_with_transformers(checkpoint, torch.device("cuda" if on_gpu else "cpu"), dtype)
        model = attach_lora(base, config)
    check(model, config)
    return model.train()


def _load_with_transformers(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> "PreTrainedModel":
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(checkpoint.path)
    # Attention sinks exist in eager and flex attention only; grouped_mm decodes a gpt-oss on a CPU 1.7 times faster
    # than eager experts (300 against 180 tokens/s, embedded model, two cores).
    how = {"attn_implementation": "eager", "experts_implementation": "grouped_mm"} if _is_gpt_oss(checkpoint) else {}
    if checkpoint.layout == "split-nf4":
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, **how)
        _load_split(model, checkpoint)
        _adopt_generation_config(model, checkpoint.path)
    else:
        # Misshapen keys are let through to be named in our error; the default raises one that names none.
        model, report = AutoModelForCausalLM.from_pretrained(
            checkpoint.path, config=config, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **how
        )
        refuse(
            checkpoint.path,
            missing=report["missing_keys"],
            unexpected=report["unexpected_keys"],
            misshapen={f"{key} {tuple(stored)} for {tuple(want)}" for key, stored, want in report["mismatched_keys"]},
            errors=report["error_msgs"],
        )
    return model.to(device)


def _is_gpt_oss(checkpoint: Checkpoint) -> bool:
    return checkpoint.config.get("model_type") == "gpt_oss"


def _adopt_generation_config(model: "PreTrainedModel", path: Path) -> None:
    """Stop tokens live in generation_config.json; `from_config` does not read it."""
    from transformers import GenerationConfig

    if (path / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(path)


def _load_split(model: "PreTrainedModel", checkpoint: Checkpoint) -> None:
    """Fill a fused gpt-oss from a split NF4 checkpoint, dequantised, every parameter exactly once."""
    parameters = model.state_dict()
    dtypes = {key: header["dtype"] for file in checkpoint.files for key, header in file.tensors.items()}
    wanted = {key for name in parameters for key in split_names(name, model.config.num_local_experts)}
    wanted |= {f"{key}.{suffix}" for key in wanted if dtypes.get(key) == "U8" for suffix in QUANT_STATE}
    refuse(checkpoint.path, missing=wanted - dtypes.keys(), unexpected=dtypes.keys() - wanted)
    with ExitStack() as stack:
        reader = Reader(checkpoint, stack)
        for name, target in parameters.items():
            value = read_fused(reader, name, model.config.num_local_experts)
            if value.shape != target.shape:
                refuse(checkpoint.path, misshapen={f"{name} {tuple(value.shape)} for {tuple(target.shape)}"})
            target.copy_(value)


def _unsloth():
    """Unsloth's entry point. Its import patches Transformers, so it comes before any model class; GPU set-ups only."""
    try:
        from unsloth import FastLanguageModel
    except ImportError as error:
        raise CheckpointError(
            f"a 4-bit gpt-oss needs Unsloth on a GPU, and it does not import: {error}",
            hint="run ./setup.sh, which adds it where there is a GPU",
        ) from error
    return FastLanguageModel


def _load_with_unsloth(
    checkpoint: Checkpoint, max_seq_length: int, dtype: torch.dtype, stage: Stage = _untimed
) -> "PreTrainedModel":
    model, _ = _unsloth().from_pretrained(
        model_name=str(checkpoint.path), max_seq_length=max_seq_length, dtype=dtype, load_in_4bit=True
    )
    with stage("verify model"):
        verify_loaded(dict(model.named_parameters()), checkpoint)
    return model


def _train_with_unsloth(checkpoint: Checkpoint, config: "RunConfig", stage: Stage) -> "PeftModel":
    if not config.model.load_in_4bit:
        raise CheckpointError(
            f"{checkpoint.name} is stored in 4 bit and model.load_in_4bit is false",
            hint="set model.load_in_4bit=true, or name a 16-bit base",
        )
    dtype = getattr(torch, config.model.dtype)
    base = _load_with_unsloth(checkpoint, config.model.max_seq_length, dtype, stage)
    return _unsloth().get_peft_model(
        base,
        r=config.lora.r,
        target_modules=list(targets_of(config)),
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        bias="none",
        use_gradient_checkpointing="unsloth" if config.training.gradient_checkpointing else False,
        random_state=config.lora.seed,
        max_seq_length=config.model.max_seq_length,
    )


def verify_loaded(parameters: Mapping[str, torch.Tensor], checkpoint: Checkpoint) -> None:
    """Compare a loaded model with its checkpoint, key by key and by the first rows of each.

    For loaders that are not ours. Parameters have the checkpoint's names; quantised ones hold the packed bytes. Raises
    CheckpointError naming keys that are missing, left over, on the meta device or not what the file holds.
    """
    stored = {key: file for file in checkpoint.files for key in file.tensors if not key.endswith(QUANT_STATE)}
    refuse(checkpoint.path, missing=parameters.keys() - stored.keys(), unexpected=stored.keys() - parameters.keys())
    with ExitStack() as stack:
        heads = dict(_heads(checkpoint, stored, stack))
    differing = _differing(parameters, heads)
    if differing:
        raise CheckpointError(
            f"{len(differing)} parameters do not hold what {checkpoint.path} does: {few(differing)}",
            hint="the loader left them random; check that the versions of unsloth and transformers fit together",
        )


def _heads(checkpoint: Checkpoint, keys: Iterable[str], stack: ExitStack) -> Iterator[tuple[str, torch.Tensor]]:
    """(key, the first 64 rows) of every tensor."""
    reader = Reader(checkpoint, stack)
    for key in keys:
        yield key, reader.handles[key].get_slice(key)[:64]


def _differing(parameters: Mapping[str, torch.Tensor], heads: Mapping[str, torch.Tensor]) -> set[str]:
    """Keys whose parameter is on the meta device, has another shape, or begins with other values.

    All are brought to the CPU together: one by one the 3,000 copies of gpt-oss-20b took longer than loading it.
    """
    odd = {k for k, head in heads.items() if parameters[k].is_meta or parameters[k].shape[1:] != head.shape[1:]}
    odd |= {k for k, head in heads.items() if k not in odd and parameters[k][: len(head)].shape != head.shape}
    keys = [key for key in heads if key not in odd]
    parts = [parameters[key].detach()[: len(heads[key])].flatten().float() for key in keys]
    found = torch.cat(parts).cpu().split([part.numel() for part in parts]) if parts else ()
    return odd | {
        key
        for key, value in zip(keys, found, strict=True)
        if not torch.allclose(value, heads[key].flatten().float(), rtol=1e-2, atol=1e-5)
    }
