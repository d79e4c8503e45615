"""A base model on disk: find it, prove that it is whole, load it with nothing missing and nothing left over.

Two layouts are known. `full` is whatever Transformers itself loads. `split-nf4` is that of
`unsloth/gpt-oss-20b-unsloth-bnb-4bit`: every expert a bitsandbytes NF4 linear of its own, the router one module deeper;
stock Transformers loads it with random experts and only a warning (transformers 5.17.0), so it is read here, or by
Unsloth on a GPU. Any missing, unexpected or misshapen key ends in CheckpointError.

Callers: trainers (`load_for_training`, `check_trainable`), engines (`load_for_inference`), everyone who names a base
(`resolve`, `inspect`). Knows no data set, no Ray and no adapter on disk. Unsloth patches Transformers when it is
imported, so on a GPU call `load_for_training` or `load_for_inference` before anything that imports Transformers.
"""

import difflib
import hashlib
import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from configs import paths
from configs.errors import CheckpointError, TrainingError
from models import hub

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from configs.schema import RunConfig

Stage = Callable[[str], AbstractContextManager]


def _untimed(name: str) -> AbstractContextManager:
    return nullcontext()


TINY, TINY_4BIT = "tiny", "tiny-bnb-4bit"
KNOWN_NAMES = (TINY, TINY_4BIT, "unsloth/gpt-oss-20b-unsloth-bnb-4bit", "unsloth/gpt-oss-20b", "openai/gpt-oss-20b")

ATTENTION = frozenset(("q_proj", "k_proj", "v_proj", "o_proj"))
EXPERT_PARAMETERS = {"gate_proj": "gate_up_proj", "up_proj": "gate_up_proj", "down_proj": "down_proj"}
"""Target module to the fused expert parameter that holds it: gpt-oss keeps gate and up interleaved in one matrix."""

QUANT_STATE = ("absmax", "quant_map", "nested_absmax", "nested_quant_map", "quant_state.bitsandbytes__nf4")
"""What bitsandbytes stores beside a doubly quantised NF4 weight, each as `<weight>.<suffix>`."""


@dataclass(frozen=True)
class TensorFile:
    """One safetensors file: its path, its length in bytes and the position of its data, its tensors' headers."""

    path: Path
    size: int
    start: int
    tensors: Mapping[str, Mapping]


@dataclass(frozen=True)
class Checkpoint:
    """A base model whose files are all there and as long as they say. Made by `inspect`."""

    path: Path
    name: str
    revision: str
    """The hub's commit, empty for a local folder."""
    layout: Literal["full", "split-nf4"]
    fingerprint: str
    """SHA-256 over config.json, every shard's header and length, and the first 64 bytes of every tensor."""
    architecture: str
    vocab_size: int
    tensor_bytes: int
    config: Mapping = field(repr=False)
    files: tuple[TensorFile, ...] = field(repr=False)


def resolve(name: str) -> Path:
    """The folder of base model `name`: `tiny`, `tiny-bnb-4bit`, a local folder, or a hub name (`openai/gpt-oss-20b`).

    The embedded model's 4-bit form is made on first use, a hub model is downloaded unless it is in the local cache.
    Raises CheckpointError if there is no such model or it cannot be had offline.
    """
    if name == TINY:
        return paths.TINY_MODEL
    if name == TINY_4BIT:
        return _tiny_4bit()
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise CheckpointError(f"{folder} holds no config.json", hint="name the folder that holds the model's files")
        return folder.absolute()
    if hub.NAME.fullmatch(name):
        return hub.obtain(name, inspect)
    nearest = difflib.get_close_matches(name, KNOWN_NAMES, n=1)
    raise CheckpointError(
        f"no base model {name!r}: not a folder, and a hub name has the form owner/name",
        hint=f"did you mean {nearest[0]!r}?" if nearest else f"known ones: {', '.join(KNOWN_NAMES)}",
    )


def _tiny_4bit() -> Path:
    """Under the fingerprint of the model it was made from, so that it never outlives a rebuilt embedded model."""
    folder = paths.home().bases / TINY_4BIT / inspect(paths.TINY_MODEL).fingerprint[:12]
    if not folder.is_dir():
        # Imports bitsandbytes, which takes a second and is needed once.
        from models.tiny.quantize import quantize

        quantize(paths.TINY_MODEL, folder)
    return folder


def inspect(path: Path) -> Checkpoint:
    """Read every header of the model in folder `path` and the first bytes of each tensor, no whole weights.

    Raises CheckpointError naming the file or key if config, index or a shard is missing, a shard is shorter or longer
    than its header says, or index and shards disagree about a key.
    """
    config = _read_json(path / "config.json")
    files = tuple(read_header(file) for file in _shards(path))
    name, revision = _name_of(path)
    headers = {key: header for file in files for key, header in file.tensors.items()}
    split = any(".mlp.experts.gate_up_projs." in key and header["dtype"] == "U8" for key, header in headers.items())
    return Checkpoint(
        path=path,
        name=name,
        revision=revision,
        layout="split-nf4" if split else "full",
        fingerprint=_fingerprint(path, files),
        architecture=(config.get("architectures") or ["unknown"])[0],
        vocab_size=int(config.get("vocab_size", 0)),
        tensor_bytes=sum(end - begin for begin, end in (header["data_offsets"] for header in headers.values())),
        config=config,
        files=files,
    )


def _name_of(path: Path) -> tuple[str, str]:
    """(name, revision) of a resolved folder, the inverse of `resolve`."""
    if path == paths.TINY_MODEL:
        return TINY, ""
    if path.parent.name == TINY_4BIT:
        return TINY_4BIT, ""
    if path.parent.name == "snapshots" and path.parent.parent.name.startswith("models--"):
        return path.parent.parent.name.removeprefix("models--").replace("--", "/", 1), path.name
    return path.name, ""


def _read_json(file: Path) -> dict:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{file} is missing", hint=_AGAIN) from error
    except ValueError as error:
        raise CheckpointError(f"{file} is not JSON: {error}", hint=_AGAIN) from error


_AGAIN = "`tandem model check` says what is wrong with it, `tandem model fetch` brings what a hub model lacks"


def _shards(path: Path) -> list[Path]:
    """The safetensors files of the model, by name; checked against the index where there is one."""
    index = path / "model.safetensors.index.json"
    if not index.is_file():
        single = path / "model.safetensors"
        if not single.is_file():
            raise CheckpointError(f"{path} holds neither {single.name} nor {index.name}", hint=_AGAIN)
        return [single]
    weight_map: dict[str, str] = _read_json(index).get("weight_map", {})
    files = [path / name for name in sorted(set(weight_map.values()))]
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise CheckpointError(f"{path} lacks {len(absent)} of {len(files)} shards: {_few(absent)}", hint=_AGAIN)
    stored = {(key, file.name) for file in files for key in read_header(file).tensors}
    promised = set(weight_map.items())
    refuse(path, missing={key for key, _ in promised - stored}, unexpected={key for key, _ in stored - promised})
    return files


def read_header(file: Path) -> TensorFile:
    """The header of a safetensors file: https://huggingface.co/docs/safetensors, "Format".

    Raises CheckpointError if there is none, or if the file is shorter or longer than it says.
    """
    size = file.stat().st_size
    with file.open("rb") as handle:
        prefix = handle.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 0 < length <= size - 8:
            raise CheckpointError(f"{file} has {size} bytes and no whole header", hint=_AGAIN)
        try:
            tensors = json.loads(handle.read(length))
            tensors.pop("__metadata__", None)
            wanted = 8 + length + max((header["data_offsets"][1] for header in tensors.values()), default=0)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{file} has a damaged header: {error}", hint=_AGAIN) from error
    if size != wanted:
        raise CheckpointError(f"{file} has {size} bytes, its header says {wanted}", hint=_AGAIN)
    return TensorFile(file, size, 8 + length, tensors)


def _fingerprint(path: Path, files: Iterable[TensorFile]) -> str:
    digest = hashlib.sha256((path / "config.json").read_bytes())
    for file in files:
        digest.update(f"\n{file.path.name} {file.size}\n".encode())
        with file.path.open("rb") as handle:
            digest.update(handle.read(file.start))
            for begin, end in sorted(header["data_offsets"] for header in file.tensors.values()):
                handle.seek(file.start + begin)
                digest.update(handle.read(min(64, end - begin)))
    return digest.hexdigest()


def tokenizer_of(name: str) -> "PreTrainedTokenizerBase":
    """The tokenizer of base model `name`, without its weights: of a hub model only the small files are fetched.

    Raises CheckpointError if it cannot be had.
    """
    if not hub.NAME.fullmatch(name) or Path(name).expanduser().is_dir():
        return load_tokenizer(resolve(name))
    try:
        return load_tokenizer(name)
    except CheckpointError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        raise CheckpointError(
            f"the tokenizer of base model {name!r} is not in the local cache, and the hub did not give it",
            hint=f"check the name and the network; `tandem model fetch {name}` says what is wrong",
        ) from error


def load_tokenizer(path: Path | str) -> "PreTrainedTokenizerBase":
    """The tokenizer in a folder or of a hub name. Raises CheckpointError if it is missing or has no chat template."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} holds no usable tokenizer: {error}", hint=_AGAIN) from error
    if not tokenizer.chat_template:
        raise CheckpointError(f"the tokenizer in {path} has no chat template", hint="name an instruction-tuned model")
    return tokenizer


def end_token_ids(path: Path) -> tuple[int, ...]:
    """What `generation_config.json` says ends a generation of the model in folder `path`; empty if it says nothing."""
    file = path / "generation_config.json"
    found = _read_json(file).get("eos_token_id") if file.is_file() else None
    return tuple(found) if isinstance(found, list) else () if found is None else (found,)


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
    """Import what loading and training this base on `device` needs, in the order that Unsloth asks for."""
    if device == "cuda" and checkpoint.layout == "split-nf4":
        _unsloth()
    import peft  # noqa: F401
    import transformers  # noqa: F401
    import trl  # noqa: F401


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
        model = _attach_lora(base, config)
    check_trainable(model, config)
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
    sources = {name: split_names(name, model.config.num_local_experts) for name in parameters}
    dtypes = {key: header["dtype"] for file in checkpoint.files for key, header in file.tensors.items()}
    wanted = {key for names in sources.values() for key in names}
    wanted |= {f"{key}.{suffix}" for key in wanted if dtypes.get(key) == "U8" for suffix in QUANT_STATE}
    refuse(checkpoint.path, missing=wanted - dtypes.keys(), unexpected=dtypes.keys() - wanted)
    with ExitStack() as stack:
        read = Reader(checkpoint, stack).read
        for name, target in parameters.items():
            parts = [read(key) for key in sources[name]]
            # Fused experts are [experts, in, out], linears [out, in]; the interleaving of gate and up is the same.
            value = torch.stack([p.T if p.ndim == 2 else p for p in parts]) if ".mlp.experts." in name else parts[0]
            if value.shape != target.shape:
                refuse(checkpoint.path, misshapen={f"{name} {tuple(value.shape)} for {tuple(target.shape)}"})
            target.copy_(value)


def split_names(name: str, experts: int) -> list[str]:
    """The keys of the split layout that one parameter of the fused layout is made of, in order."""
    stem, _, leaf = name.rpartition(".")
    if stem.endswith(".mlp.experts"):
        kind = "bias" if leaf.endswith("_bias") else "weight"
        return [f"{stem}.{leaf.removesuffix('_bias')}s.{i}.{kind}" for i in range(experts)]
    return [f"{stem}.linear.{leaf}" if stem.endswith(".mlp.router") else name]


class Reader:
    """Tensors of a checkpoint by key, on the CPU, NF4 already dequantised to the type it was made from."""

    def __init__(self, checkpoint: Checkpoint, stack: ExitStack) -> None:
        from safetensors import safe_open

        self.handles = {}
        for file in checkpoint.files:
            handle = stack.enter_context(safe_open(file.path, framework="pt"))
            self.handles |= dict.fromkeys(file.tensors, handle)

    def read_raw(self, key: str) -> torch.Tensor:
        """As it is stored."""
        return self.handles[key].get_tensor(key)

    def read(self, key: str) -> torch.Tensor:
        tensor = self.read_raw(key)
        if tensor.dtype != torch.uint8:
            return tensor
        from bitsandbytes.functional import QuantState, dequantize_4bit

        parts = {suffix: self.handles[f"{key}.{suffix}"].get_tensor(f"{key}.{suffix}") for suffix in QUANT_STATE}
        return dequantize_4bit(tensor, QuantState.from_dict(parts, device=torch.device("cpu")))


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
        target_modules=list(_targets(config)),
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
            f"{len(differing)} parameters do not hold what {checkpoint.path} does: {_few(differing)}",
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


def _attach_lora(model: "PreTrainedModel", config: "RunConfig") -> "PeftModel":
    from peft import LoraConfig, get_peft_model

    if config.lora.train_experts and config.lora.dropout and _fused_experts(model):
        raise TrainingError(
            f"lora.dropout is {config.lora.dropout} and lora.train_experts is true: fused experts take no dropout",
            hint="set lora.dropout=0 or lora.train_experts=false",
        )
    torch.manual_seed(config.lora.seed)
    targets = _targets(config)
    experts = sorted({EXPERT_PARAMETERS[t] for t in targets - ATTENTION}) if _fused_experts(model) else []
    lora = LoraConfig(
        r=config.lora.r,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=sorted(targets & ATTENTION if _fused_experts(model) else targets),
        target_parameters=[f"mlp.experts.{name}" for name in experts] or None,
        bias="none",
        task_type="CAUSAL_LM",
    )
    if config.training.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return get_peft_model(model, lora)


def _targets(config: "RunConfig") -> frozenset[str]:
    """The projections to train; the experts' only where the configuration says so."""
    targets = frozenset(config.lora.target_modules)
    return targets if config.lora.train_experts else targets & ATTENTION


def _fused_experts(model: torch.nn.Module) -> bool:
    return any(p.ndim == 3 and ".mlp.experts." in name for name, p in model.named_parameters())


def trainable_counts(model: torch.nn.Module) -> dict[str, int]:
    """Trainable numbers in `model`, by where they sit: "attention", "experts", "other"."""
    counts = {"attention": 0, "experts": 0, "other": 0}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            counts[_group(name)] += parameter.numel()
    return counts


def expected_counts(model: torch.nn.Module, config: "RunConfig") -> dict[str, int]:
    """What `trainable_counts` must say under `config`: r x (in + out) for every targeted matrix of the base."""
    counts = {"attention": 0, "experts": 0, "other": 0}
    targets = _targets(config)
    fused = {EXPERT_PARAMETERS[t] for t in targets - ATTENTION}
    for name, module in model.named_modules():
        leaf = _leaf(name)
        if isinstance(module, torch.nn.Linear) and "lora_" not in name and leaf in targets | {f"{f}s" for f in fused}:
            counts[_group(name)] += config.lora.r * (module.in_features + module.out_features)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 3 and "lora_" not in name and _leaf(name) in fused:
            experts, rows, columns = parameter.shape
            counts[_group(name)] += config.lora.r * experts * (rows + columns)
    return counts


def check_trainable(model: torch.nn.Module, config: "RunConfig") -> None:
    """Raises TrainingError naming both counts unless `model` trains exactly what `config` says."""
    found, wanted = trainable_counts(model), expected_counts(model, config)
    if found != wanted or not sum(wanted.values()):
        raise TrainingError(
            f"the adapter has {_spelled(found)} trainable parameters, the configuration asks for {_spelled(wanted)}",
            hint="compare lora.target_modules and lora.train_experts with what this model and this machine can train",
        )


def _leaf(name: str) -> str:
    """`q_proj` of `...self_attn.q_proj.base_layer`, `gate_up_projs` of `...experts.gate_up_projs.3`."""
    parts = [part for part in name.split(".") if part not in ("base_layer", "original") and not part.isdigit()]
    return parts[-1] if parts else ""


def _group(name: str) -> str:
    if ".experts." in name:
        return "experts"
    return "attention" if ".self_attn." in name else "other"


def _spelled(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {group}" for group, count in counts.items() if count) or "no"


def _few(keys: Iterable[str], count: int = 5) -> str:
    names = sorted(keys)
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")


def refuse(
    path: Path,
    *,
    missing: Iterable[str] = (),
    unexpected: Iterable[str] = (),
    misshapen: Iterable[str] = (),
    errors: Iterable[str] = (),
) -> None:
    """Raises CheckpointError naming the first keys of each kind and how many there are; nothing if there are none."""
    kinds = {"missing": set(missing), "unexpected": set(unexpected), "misshapen": set(misshapen), "broken": set(errors)}
    complaints = [f"{len(keys)} {kind}: {_few(keys)}" for kind, keys in kinds.items() if keys]
    if complaints:
        raise CheckpointError(
            f"{path} does not fit its architecture; keys {'; '.join(complaints)}",
            hint="take the checkpoint that config.json describes; nothing was loaded",
        )
