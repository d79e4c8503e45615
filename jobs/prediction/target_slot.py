"""Where a run that is not queued yet would be computed: the slot that suits it best, its device and its memory."""

from dataclasses import dataclass

from actors.hardware import gpus, placement
from configs import load
from configs.errors import ConfigError
from configs.paths import Home
from configs.schema import RunConfig, Slot
from jobs.prediction.costs import Device
from jobs.training.memory import micro_batch


@dataclass(frozen=True)
class TargetSlot:
    """A device and what of its memory, in bytes, the run may use. `slot` is None if no slot is known."""

    device: Device
    slot: Slot | None
    budget: float

    @property
    def is_shared(self) -> bool:
        return self.device.on_gpu and self.slot is not None and self.slot.share < 1

    def __str__(self) -> str:
        return f"slot {self.slot.name} ({self.device.name})" if self.slot else "this machine"


def choose(home: Home, config: RunConfig, slot_wanted: str | None) -> TargetSlot:
    """Of the slots that the run may have, the one with the most memory for it."""
    by_index = {gpu.index: gpu for gpu in gpus.readings()}
    host = Device("CPU", False, gpus.host().memory_total)
    slots = []
    for slot in _slots(home):
        if "train" in slot.roles and slot_wanted in (None, slot.name) and (slot.gpu is None or slot.gpu in by_index):
            gpu = by_index.get(slot.gpu)
            device = Device(gpu.name, True, gpu.memory_total) if gpu else host
            slots.append(TargetSlot(device, slot, _budget(device, slot, config)))
    return max(
        slots,
        key=lambda slot: slot.budget,
        default=TargetSlot(host, None, host.memory_total * (1 - micro_batch.CUSHION)),
    )


def _slots(home: Home) -> tuple[Slot, ...]:
    """Of the running cluster, or those that `tandem up` would make."""
    if home.cluster.exists():
        from actors import cluster  # imports the HTTP client, which takes 0.1 s

        return cluster.find(home).slots
    try:
        return placement.resolve_slots(load.load_cluster())
    except ConfigError:  # `tandem up` will say it
        return ()


def _budget(device: Device, slot: Slot, config: RunConfig) -> float:
    """On a CPU the whole host's memory: it is not divided."""
    share, limit = (slot.share, config.training.vram_gib) if device.on_gpu else (1, None)
    return micro_batch.budget_bytes(device.memory_total, share, limit)
