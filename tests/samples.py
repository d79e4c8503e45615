"""Small real things that several tests need: a run's configuration and a published adapter."""

import json
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from actors.home.process_id import ProcessId
from actors.runs.adapter_state import AdapterState
from actors.runs.ledger import Ledger
from actors.runs.run import Run, RunKind, RunState, Submission
from configs import load
from configs.schema import RunConfig
from models.lora.adapter import PEFT_CONFIG, WEIGHTS, Manifest
from models.lora.registry import Registry

RUN_CONFIG = load.load_run("tiny").model_dump(mode="json")
TRAIN = {"config": RUN_CONFIG, "profile": RUN_CONFIG["profile"], "max_steps": RUN_CONFIG["training"]["max_steps"]}
"""Keyword arguments of `Ledger.submit` for a training run."""
EXPORT = {
    "kind": "export",
    "config": {"adapter": "tiny_tiny_1", "to": "merged", "out": "/nowhere/out", "base": None, "dtype": "auto"},
    "profile": "merged",
}
"""The same for an export."""
FINGERPRINT = "f" * 64


def submission(run_id: str, **wanted: Any) -> Submission:
    """A training run as a person asks for one; `wanted` are fields of `Submission`."""
    return Submission(run_id, **({"kind": RunKind.TRAIN, "profile": "custom", "config": RUN_CONFIG} | wanted))


def run(run_id: str, config: dict, **about: Any) -> Run:
    """A run that was granted its slot; `about` are fields of `Run`."""
    fresh = dict.fromkeys(field.name for field in fields(Run) if field.default is MISSING)
    fresh |= {"kind": RunKind.TRAIN, "state": RunState.STARTING, "attempt": 1, "priority": 0, "step": 0}
    return Run(**(fresh | {"id": run_id, "config": config} | about))


def verify(ledger: Ledger, version: str) -> None:
    """Take `version` to where a swap flips or refuses it."""
    for state in (AdapterState.LOADING, AdapterState.VERIFYING):
        ledger.set_adapter_state(version, state, "x", process=ProcessId.own())


def go_live(ledger: Ledger, version: str, *, reason: str = "x", seconds: float = 0) -> str | None:
    """What a swap of `prod` leaves in the ledger. Returns the version before."""
    verify(ledger, version)
    return ledger.flip("prod", version, reason=reason, seconds=seconds)


def save_lora(folder: Path, *, rank: int = 4, up_rank: int | None = None, fill: float = 0.5) -> None:
    """PEFT's two files with one LoRA pair, B filled with `fill`, and the README that PEFT leaves behind."""
    import torch
    from safetensors.torch import save_file

    pair = {
        "base_model.model.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(rank, 8),
        "base_model.model.layers.0.self_attn.q_proj.lora_B.weight": torch.full((8, up_rank or rank), fill),
    }
    save_file(pair, folder / WEIGHTS)
    (folder / PEFT_CONFIG).write_text(json.dumps({"peft_type": "LORA", "r": rank}))
    (folder / "README.md").write_text("[More Information Needed]")


def train_lora(base: Path, out: Path, *, experts: bool) -> Any:
    """PEFT's files of an adapter for `base` in folder `out`, as training saves them, with random B matrices.

    Returns the model that has it, in evaluation mode.
    """
    import torch

    from models.base import loading

    wanted = {"lora": {"r": 8, "alpha": 16, "train_experts": experts}, "training": {"gradient_checkpointing": False}}
    model = loading.load_for_training(base, RunConfig.model_validate(wanted)).eval()
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    model.save_pretrained(out)
    return model


def about(**changes: Any) -> dict[str, Any]:
    """The manifest's fields that a run knows."""
    return {
        "base": "tiny", "base_fingerprint": FINGERPRINT, "rank": 4, "alpha": 8, "target_modules": ["q_proj"],
        "train_experts": False, "trainable": {"attention": 64, "experts": 0, "other": 0}, "run_id": "tiny-1",
        "profile": "tiny", "metrics": {"steps": 3, "loss": 0.5, "seconds": 1.5},
    } | changes  # fmt: skip


def publish(registry: Registry, **changes: Any) -> Manifest:
    """A valid adapter in `registry`."""
    return registry.publish(save_lora, **about(**changes))
