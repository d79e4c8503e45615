"""When a slot is not to be trusted: the rules that put it into quarantine, and what a run that waits for one is told.

Judges readings and texts; keeps nothing but what the last look saw, decides nothing. The control actor acts on it.
"""

import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from actors.hardware import gpus
from actors.hardware.gpus import GpuHealth
from actors.runs.ledger import Quarantine
from actors.runs.run import Run
from configs.schema import Slot

LOOK_S = 10
"""Seconds between two looks at the GPUs."""

_ACTIONS = {
    1: "reset the GPU", 2: "reboot the node", 3: "end its peer-to-peer traffic", 4: "end its work and reset the GPU",
    5: "recover the IMEX domain", 6: "reset the GPU's PCIe bus", 7: "reboot the system",
}  # fmt: skip
"""nvmlDeviceGpuRecoveryAction_t in words."""

_PROGRAMS_OWN = (
    "out of memory", "device-side assert", "no kernel image", "invalid device function", "invalid argument",
    "invalid configuration", "capturing", "ALLOC_FAILED", "INVALID_VALUE", "NOT_SUPPORTED", "BAD_PARAM",
)  # fmt: skip
"""CUDA's words for what a program did wrong; no other GPU would do better."""

_DEVICE_ERROR = re.compile(
    r"CUDA(?: driver)? error: .*|CUDA_ERROR_\w+.*|CUBLAS_STATUS_\w+|CUDNN_STATUS_\w+|Triton Error \[CUDA\]: .*"
    r"|No CUDA GPUs are available|no CUDA-capable device.*|slot \w+ is GPU-\S+, this process sees .*"
)

_ATTEMPT = re.compile(r"attempt (\d+) on slot")  # `actors.trainer` begins its log with it


@dataclass(frozen=True)
class GpuFault:
    """Something is wrong with a slot's GPU. `gone`: no process can use it any more."""

    reason: str
    gone: bool = False


def judge(slot: Slot, gpus: Mapping[str, GpuHealth]) -> GpuFault | None:
    """What is wrong with the GPU of `slot`, the worst first; None if nothing is, or the driver does not tell."""
    gpu = gpus.get(slot.uuid) if slot.uuid else None
    if gpu is None:
        return GpuFault(f"its GPU {slot.gpu} ({slot.uuid}) is missing: the driver does not find it any more", gone=True)
    if gpu.recovery_action:
        action = _ACTIONS.get(gpu.recovery_action, f"do its recovery action {gpu.recovery_action}")
        return GpuFault(f"after a fatal error of its GPU the driver asks to {action}")
    if gpu.remap_failed:
        return GpuFault("a bad row of its GPU's memory could not be replaced")
    if gpu.uncorrectable_errors:
        return GpuFault(f"uncorrectable memory errors since the driver was loaded: {gpu.uncorrectable_errors}")
    if gpu.remap_pending:
        return GpuFault("a bad row of its GPU's memory will be replaced at the GPU's next reset")
    return None


class GpuWatch:
    """Looks at the GPUs of the slots that have one. Not at other nodes': NVML sees its own machine."""

    def __init__(self, slots: Iterable[Slot]) -> None:
        self._slots = [slot for slot in slots if slot.uuid is not None]
        self._gone: set[str] = set()

    def look(self) -> dict[str, GpuFault | None]:
        """Slot to what is wrong with it; blocks. A GPU counts as gone when two looks in a row did not find it, so that
        one reading that failed ends no run. Empty without GPUs and while the driver's library does not answer."""
        signs = self.look_once()
        before, self._gone = self._gone, {name for name, sign in signs.items() if sign and sign.gone}
        return {name: sign for name, sign in signs.items() if name not in self._gone - before}

    def look_once(self) -> dict[str, GpuFault | None]:
        """The same with this one look alone."""
        found = gpus.health() if self._slots else None
        return {} if found is None else {slot.name: judge(slot, found) for slot in self._slots}


@dataclass
class EngineWatch:
    """Which serving slots have been without an engine, since when, and whether that was told."""

    patience_s: float
    _since: dict[str, float] = field(default_factory=dict)
    _told: set[str] = field(default_factory=set)

    def see(self, slot: str, up: bool) -> str | None:
        """A line for the events if the engine has just been away for `patience_s` seconds, or is back after that."""
        if up:
            self._since.pop(slot, None)
            if slot in self._told:
                self._told.discard(slot)
                return f"the engine on slot {slot} is back"
            return None
        since = self._since.setdefault(slot, time.monotonic())
        if slot in self._told or time.monotonic() - since < self.patience_s:
            return None
        self._told.add(slot)
        return f"no engine has been up on slot {slot} for {self.patience_s:g} s"


def log_of_attempt(log: str, attempt: int) -> str:
    """The part of a run's log that its trainer wrote in this attempt; `log` may have lost its beginning."""
    *_, newest, rest = str(attempt), *_ATTEMPT.split(log)
    return rest if newest == str(attempt) else ""


def device_error(text: str) -> str | None:
    """The last line of a reason or log that blames the device, such as `CUDA error: unspecified launch failure`; None
    if there is none, or if it is the program's own fault, such as memory that ran out."""
    found = [match for match in _DEVICE_ERROR.findall(text) if not any(word in match for word in _PROGRAMS_OWN)]
    return found[-1].strip()[:200] if found else None


def why_waiting(run: Run, slots: Iterable[Slot], quarantines: Mapping[str, Quarantine]) -> str | None:
    """Why a queued run cannot start at all: every slot that it could have is in quarantine. None if one is not."""
    wanted = [slot.name for slot in slots if "train" in slot.roles and run.slot_wanted in (None, slot.name)]
    if not wanted or any(name not in quarantines for name in wanted):
        return None
    reasons = "; ".join(f"slot {name}: {quarantines[name].reason}" for name in wanted)
    return f"every slot that it could have is in quarantine ({reasons}); it waits for `tandem slots release`"
