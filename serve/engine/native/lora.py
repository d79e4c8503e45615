"""A PEFT adapter of gpt-oss in the shape that the engine's slots have. For any thread; knows no slots.

What PEFT can say beyond LoRA matrices on attention projections and experts is refused. Names follow peft 0.21: an
expert's matrices are a pair of their own in the split 4-bit layout, and stacked in one pair per layer in the fused one
(experts outermost in A's rows, innermost in B's columns).
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from configs.errors import AdapterError
from models.lora.delta import NEUTRAL
from serve.engine.adapter_files import AdapterFiles

PREFIX = "base_model.model."
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
EXPERTS = ("gate_up_proj", "down_proj")
PATTERNS = ("rank_pattern", "alpha_pattern")
TENSOR = re.compile(r"(.+)\.lora_([AB])\.weight")
FUSED = re.compile(r"(model\.layers\.\d+\.mlp\.experts)(\.base_layer)*")
SPLIT = re.compile(r"model\.layers\.(\d+)\.mlp\.experts\.(\w+)s\.(\d+)")


@dataclass(frozen=True)
class LoraShape:
    """What adapters may change: per module its width in and out."""

    layers: int
    experts: int
    attention: Mapping[str, tuple[int, int]]
    expert: Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class LoraPair:
    """A of [layers, ..., rank, in] and B of [layers, ..., out, rank] of one kind of module; B holds the scale."""

    a: torch.Tensor
    b: torch.Tensor

    @property
    def rank(self) -> int:
        return self.b.shape[-1]


@dataclass(frozen=True)
class LoraWeights:
    """By module: attention [layers, ...], experts [layers, experts, ...]. A module without an entry is not changed."""

    pairs: dict[str, LoraPair]

    @property
    def experts(self) -> bool:
        return any(name in EXPERTS for name in self.pairs)

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for pair in self.pairs.values() for tensor in (pair.a, pair.b))


def lora_weights(files: AdapterFiles, shape: LoraShape, most_rank: int, dtype: torch.dtype) -> LoraWeights:
    """The adapter's matrices, stacked over layers and experts.

    Raises AdapterError naming the file and the key for what is missing, unknown, of another shape or of too high a
    rank, and for a configuration that says more than LoRA matrices.
    """
    config, path = files.config, files.path
    for key, neutral in NEUTRAL.items():
        value = config.get(key, neutral)
        if key not in PATTERNS and value != neutral and (value or neutral):
            raise AdapterError(f"{path} has {key} = {value!r}, which the native engine cannot serve", hint=_HINT)
    modules = _modules(config, shape)
    if not modules:
        raise AdapterError(f"{path} does not fit GptOssForCausalLM: it has no {config.get('target_modules')}")
    named = _named(files, shape)
    expected = {f"{module}.lora_{side}.weight" for module in modules for side in "AB"}
    missing, unknown = expected - named.keys(), named.keys() - expected
    if missing or unknown:
        examples = ", ".join([*sorted(missing)[:1], *sorted(unknown)[:1]])
        raise AdapterError(
            f"{path}: {len(missing)} of the {len(expected)} tensors that its configuration asks of GptOssForCausalLM "
            f"are missing and {len(unknown)} are unknown to it, such as {examples}"
        )
    found: dict[str, list[tuple[tuple[int, ...], torch.Tensor, torch.Tensor]]] = {}
    for module in modules:
        kind, place, (into, out) = _place(module, shape)
        rank = int(_pattern(config, "rank_pattern", module, config["r"]))
        if rank > most_rank:
            raise AdapterError(f"{path} has rank {rank}; this engine takes up to {most_rank}", hint=_RANK_HINT)
        stack = shape.experts if kind in EXPERTS and len(place) == 1 else 1
        a, b = (named[f"{module}.lora_{side}.weight"] for side in "AB")
        for name, tensor, needed in (("A", a, (stack * rank, into)), ("B", b, (out, stack * rank))):
            if tuple(tensor.shape) != needed:
                key = f"{PREFIX}{module}.lora_{name}.weight"
                raise AdapterError(f"{path}: {key} is {list(tensor.shape)}, the model needs {list(needed)}")
        scale = _pattern(config, "alpha_pattern", module, config["lora_alpha"]) / (
            math.sqrt(rank) if config.get("use_rslora") else rank
        )
        a, b = a.float(), b.float() * scale
        if stack > 1:
            a, b = a.view(stack, rank, into), b.view(out, rank, stack).permute(2, 0, 1)
        found.setdefault(kind, []).append((place, a, b))
    return LoraWeights({kind: _stacked(kind, parts, shape, dtype) for kind, parts in found.items()})


_HINT = "set engine: transformers in serve.yaml"
_RANK_HINT = "raise max_lora_rank in serve.yaml"


def _stacked(kind: str, parts: list, shape: LoraShape, dtype: torch.dtype) -> LoraPair:
    into, out = (shape.expert if kind in EXPERTS else shape.attention)[kind]
    rank = max(b.shape[-1] for _, _, b in parts)
    sizes = (shape.layers, shape.experts) if kind in EXPERTS else (shape.layers,)
    pair = LoraPair(torch.zeros(*sizes, rank, into, dtype=dtype), torch.zeros(*sizes, out, rank, dtype=dtype))
    for place, a, b in parts:
        pair.a[place][..., : a.shape[-2], :] = a
        pair.b[place][..., : b.shape[-1]] = b
    return pair


def _modules(config: Mapping[str, Any], shape: LoraShape) -> list[str]:
    """The model's modules that the configuration names, as PEFT matches them."""
    targets, parameters = config.get("target_modules") or [], config.get("target_parameters") or []
    excluded, layers = config.get("exclude_modules") or [], config.get("layers_to_transform")
    if targets == "all-linear":
        targets = list(ATTENTION)
    modules = []
    for layer in range(shape.layers):
        if layers is not None and layer not in ([layers] if isinstance(layers, int) else layers):
            continue
        stem = f"model.layers.{layer}"
        linears = [f"{stem}.self_attn.{name}" for name in ATTENTION]
        linears += [f"{stem}.mlp.experts.{name}s.{index}" for name in EXPERTS for index in range(shape.experts)]
        modules += [name for name in linears if _matches(name, targets) and not _matches(name, excluded)]
        fused = [f"{stem}.mlp.experts.{name}" for name in EXPERTS]
        modules += [name for name in fused if _matches(name, parameters)]
    return modules


def _matches(name: str, targets: str | Iterable[str]) -> bool:
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _pattern(config: Mapping[str, Any], key: str, module: str, default: float) -> float:
    """The value of the first of PEFT's patterns that the module's name ends in."""
    for pattern, value in (config.get(key) or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _named(files: AdapterFiles, shape: LoraShape) -> dict[str, torch.Tensor]:
    """The file's tensors by module; fused experts, which PEFT names after their wrapper, by their parameter."""
    named = {}
    for key, tensor in files.tensors.items():
        name = key.removeprefix(PREFIX)
        if (found := TENSOR.fullmatch(name)) and (fused := FUSED.fullmatch(found[1])):
            other = files.tensors.get(f"{PREFIX}{found[1]}.lora_{'BA'['AB'.index(found[2])]}.weight")
            a, b = (tensor, other) if found[2] == "A" else (other, tensor)
            for parameter, (into, out) in shape.expert.items():
                if a is not None and b is not None and (a.shape[1], b.shape[0]) == (into, out):
                    name = f"{fused[1]}.{parameter}.lora_{found[2]}.weight"
        named[name] = tensor
    return named


def _place(module: str, shape: LoraShape) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    """The kind of a module, its layer and expert, and its widths in and out."""
    if split := SPLIT.fullmatch(module):
        return split[2], (int(split[1]), int(split[3])), shape.expert[split[2]]
    layer, kind = int(module.split(".")[2]), module.rpartition(".")[2]
    return kind, (layer,), (shape.expert if kind in EXPERTS else shape.attention)[kind]
