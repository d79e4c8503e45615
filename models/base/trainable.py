"""What a run trains of a base: its fresh LoRA, and the proof that exactly the configured parameters are trainable.

Unsloth skips experts silently on a CPU, and a list of targets may cover every expert or none, so the counts are
compared with the configuration's before the first step. Called by `models.base.loading` and by trainers; knows no
files.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from configs.errors import TrainingError

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    from configs.schema import RunConfig

ATTENTION = frozenset(("q_proj", "k_proj", "v_proj", "o_proj"))
EXPERT_PARAMETERS = {"gate_proj": "gate_up_proj", "up_proj": "gate_up_proj", "down_proj": "down_proj"}
"""Target module to the fused expert parameter that holds it: gpt-oss keeps gate and up interleaved in one matrix."""


def attach_lora(model: "PreTrainedModel", config: "RunConfig") -> "PeftModel":
    """`model` with a fresh adapter, by PEFT. Raises TrainingError for a dropout that fused experts cannot have."""
    from peft import LoraConfig, get_peft_model

    if config.lora.train_experts and config.lora.dropout and _fused_experts(model):
        raise TrainingError(
            f"lora.dropout is {config.lora.dropout} and lora.train_experts is true: fused experts take no dropout",
            hint="set lora.dropout=0 or lora.train_experts=false",
        )
    torch.manual_seed(config.lora.seed)
    targets = targets_of(config)
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


def targets_of(config: "RunConfig") -> frozenset[str]:
    """The projections to train; the experts' only where the configuration says so."""
    targets = frozenset(config.lora.target_modules)
    return targets if config.lora.train_experts else targets & ATTENTION


def _fused_experts(model: torch.nn.Module) -> bool:
    return any(p.ndim == 3 and ".mlp.experts." in name for name, p in model.named_parameters())


def counts(model: torch.nn.Module) -> dict[str, int]:
    """Trainable numbers in `model`, by where they sit: "attention", "experts", "other"."""
    found = {"attention": 0, "experts": 0, "other": 0}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            found[_group(name)] += parameter.numel()
    return found


def expected(model: torch.nn.Module, config: "RunConfig") -> dict[str, int]:
    """What `counts` must say under `config`: r x (in + out) for every targeted matrix of the base."""
    wanted = {"attention": 0, "experts": 0, "other": 0}
    targets = targets_of(config)
    fused = {EXPERT_PARAMETERS[t] for t in targets - ATTENTION}
    for name, module in model.named_modules():
        leaf = _leaf(name)
        if isinstance(module, torch.nn.Linear) and "lora_" not in name and leaf in targets | {f"{f}s" for f in fused}:
            wanted[_group(name)] += config.lora.r * (module.in_features + module.out_features)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 3 and "lora_" not in name and _leaf(name) in fused:
            experts, rows, columns = parameter.shape
            wanted[_group(name)] += config.lora.r * experts * (rows + columns)
    return wanted


def check(model: torch.nn.Module, config: "RunConfig") -> None:
    """Raises TrainingError naming both counts unless `model` trains exactly what `config` says."""
    found, wanted = counts(model), expected(model, config)
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


def _spelled(found: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {group}" for group, count in found.items() if count) or "no"
