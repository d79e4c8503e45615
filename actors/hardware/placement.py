"""From a slot to Ray options, and the check that a process really sees its slot's GPU and no other.

Ray's `num_gpus=1` takes any free index, so a slot is also a custom resource and CUDA_VISIBLE_DEVICES is set here, by
UUID, before CUDA starts (the cluster runs with RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES=1).
"""

import ctypes
import os
import signal
from pathlib import Path
from typing import Any

from actors.hardware import gpus
from configs.errors import ConfigError, PlacementError
from configs.schema import ClusterConfig, Role, Slot

GPU_BASE = "unsloth/gpt-oss-20b-unsloth-bnb-4bit"
CPU_BASE = "tiny"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def resolve_slots(config: ClusterConfig) -> tuple[Slot, ...]:
    """The slots of this machine with their GPUs' UUIDs filled in.

    Raises ConfigError for a slot whose GPU does not exist or has another UUID.
    """
    by_index = {gpu.index: gpu for gpu in gpus.readings()}
    if config.slots != "auto":
        return tuple(_with_uuid(slot, by_index) for slot in config.slots)
    if not by_index:
        return Slot(name="0", roles=("train",)), Slot(name="1", roles=("serve",))
    if len(by_index) == 1:
        return (_with_uuid(Slot(name="0", gpu=0, roles=("train", "serve")), by_index),)
    return tuple(_with_uuid(Slot(name=str(i), gpu=i, roles=(r,)), by_index) for i, r in ((0, "train"), (1, "serve")))


def _with_uuid(slot: Slot, by_index: dict[int, gpus.GpuReading]) -> Slot:
    if slot.gpu is None:
        return slot
    if slot.gpu not in by_index:
        seen = ", ".join(map(str, by_index)) or "none"
        raise ConfigError(f"slot {slot.name} names gpu {slot.gpu}; this machine has {seen}", hint="fix cluster.yaml")
    uuid = by_index[slot.gpu].uuid
    if slot.uuid not in (None, uuid):
        raise ConfigError(f"slot {slot.name} wants GPU {slot.uuid}; gpu {slot.gpu} is {uuid}", hint="fix cluster.yaml")
    return slot.model_copy(update={"uuid": uuid})


def default_base() -> str:
    """The base model that this machine serves unless told otherwise: gpt-oss-20b in 4 bit, or `tiny` without a GPU."""
    return GPU_BASE if gpus.readings() else CPU_BASE


def cluster_resources(slots: tuple[Slot, ...]) -> dict[str, float]:
    """The custom resources that a node with these slots offers."""
    return {slot.resource: 1.0 for slot in slots}


def actor_options(slot: Slot, role: Role, *, neighbours: int, cache: Path) -> dict[str, Any]:
    """Ray actor options that pin an actor to its share of a slot.

    `neighbours` is how many slots divide the machine's cores; `cache` is where compiled kernels are kept per role.
    """
    threads = str(max(1, (os.cpu_count() or 1) // max(1, neighbours)))
    env = {
        "CUDA_VISIBLE_DEVICES": slot.uuid or "",
        "OMP_NUM_THREADS": threads,
        "TOKENIZERS_PARALLELISM": "false",
        "UNSLOTH_COMPILE_LOCATION": str(cache / f"unsloth_{role}"),  # its default is relative to the working directory
    }
    return {
        "num_cpus": 0,
        "num_gpus": slot.share if slot.gpu is not None else 0,
        "resources": {slot.resource: slot.share},
        "runtime_env": {"env_vars": env},
    }


def check_slot(slot: Slot) -> str:
    """What this process computes on: `cuda` or `cpu`.

    Raises PlacementError if it sees another GPU than the slot's, more than one, or any at all on a CPU slot.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if slot.gpu is None:
        if visible:
            raise PlacementError(f"slot {slot.name} is a CPU slot, but CUDA_VISIBLE_DEVICES is {visible!r}")
        return "cpu"
    import torch  # only a GPU slot pays for it here

    seen = [f"GPU-{torch.cuda.get_device_properties(i).uuid}" for i in range(torch.cuda.device_count())]
    if seen != [slot.uuid]:
        raise PlacementError(
            f"slot {slot.name} is {slot.uuid}, this process sees {', '.join(seen) or 'no GPU'}",
            hint="check `nvidia-smi -L` and `tandem status`",
        )
    return "cuda"


def die_with_parent() -> None:
    """Have the kernel kill this process when its raylet dies.

    Without it an actor goes on for minutes after its raylet or the GCS is killed (measured on Ray 2.60).
    """
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
