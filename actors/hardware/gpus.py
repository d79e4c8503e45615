"""Readings of the GPUs and the host. NVML where there is a driver, psutil for the rest; torch is never imported.

Monitoring must not break what it watches: a reading that the driver refuses is None, and no driver means no GPUs.
"""

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psutil


@dataclass(frozen=True)
class GpuReading:
    """One GPU at one moment."""

    index: int
    """NVML index, the order of `nvidia-smi`."""
    uuid: str
    name: str
    memory_total: int
    """Bytes."""
    memory_used: int
    """Bytes, by all processes."""
    utilization: float | None
    """Part of the last sample period in which a kernel ran, 0 to 1."""
    temperature: float | None
    """Degrees Celsius."""
    power: float | None
    """Watts."""
    power_limit: float | None = None
    """Watts that it may draw."""
    clock: float | None = None
    """Of the streaming multiprocessors, in Hz."""
    clock_max: float | None = None
    """The highest that it has, in Hz."""
    fan: float | None = None
    """Part of the fan's full speed, 0 to 1; None also for a card without one."""
    energy: float | None = None
    """Joules since the driver was loaded; cards before Volta do not count them."""


@dataclass(frozen=True)
class GpuHealth:
    """What the driver says about one GPU's faults; a reading that it refuses, as most of them on a card without ECC, is
    None."""

    uuid: str
    uncorrectable_errors: int | None
    """Memory errors that ECC could not correct, since the driver was loaded."""
    remap_pending: bool | None
    """A row of memory is to be replaced at the next reset of the GPU."""
    remap_failed: bool | None
    """A row of memory could not be replaced."""
    recovery_action: int | None
    """What the driver asks for after a fatal error (an Xid): 0 for nothing, otherwise nvmlDeviceGpuRecoveryAction_t."""


@dataclass(frozen=True)
class HostReading:
    """The machine at one moment."""

    cpu_count: int
    cpu_utilization: float
    """0 to 1 since the last reading in this process."""
    memory_total: int
    """Bytes."""
    memory_used: int
    """Bytes."""


def readings() -> list[GpuReading]:
    """Every GPU that the NVIDIA driver knows, whatever CUDA_VISIBLE_DEVICES says; empty if no driver answers."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    found = []
    try:
        for index in range(pynvml.nvmlDeviceGetCount()):
            with contextlib.suppress(pynvml.NVMLError):  # one that fell off the bus must not hide the others
                found.append(_read(pynvml, index))
        return found
    except pynvml.NVMLError:
        return found
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def driver_fault() -> str | None:
    """Why the NVIDIA driver's library does not start or count its GPUs, in its own words; None if it does."""
    import pynvml

    try:
        pynvml.nvmlInit()
        pynvml.nvmlDeviceGetCount()
        pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        return str(error) or type(error).__name__
    return None


def health() -> dict[str, GpuHealth] | None:
    """Every GPU that answers, by UUID. None if the driver's library itself does not start: then nothing is known.

    A GPU that fell off the bus may take the driver seconds: call it beside an event loop, not in it.
    """
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    found = {}
    try:
        for index in range(pynvml.nvmlDeviceGetCount()):
            with contextlib.suppress(pynvml.NVMLError):
                reading = _read_health(pynvml, index)
                found[reading.uuid] = reading
        return found
    except pynvml.NVMLError:
        return None
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def device_name(device: str) -> str:
    """What this process computes on, in words: the name of its GPU, or `cpu`. `device` is `cuda` or `cpu`."""
    mine = own_gpu() if device == "cuda" else None
    return mine.name if mine else device


def own_gpu() -> GpuReading | None:
    """The GPU whose UUID CUDA_VISIBLE_DEVICES is, as in an actor on a slot; without that variable the first."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return next((reading for reading in readings() if visible in (None, reading.uuid)), None)


class _Load:
    """The busy part of all processors since the last look, by whatever thread; psutil's own is kept for each thread, so
    an HTTP server with a thread per request would always see the first one's 0."""

    def __init__(self) -> None:
        self._seen, self._part = self._times(), 0.0

    def look(self) -> float:
        """0 to 1; the same as before if no time has passed."""
        before, now = self._seen, self._times()
        if now[1] > before[1]:
            self._part = min(1.0, max(0.0, (now[0] - before[0]) / (now[1] - before[1])))
            self._seen = now
        return self._part

    @staticmethod
    def _times() -> tuple[float, float]:
        """Seconds that were worked and all, of all processors since the machine's start."""
        times = psutil.cpu_times()
        total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)  # user has them already
        return total - times.idle - getattr(times, "iowait", 0.0), total


_LOAD = _Load()
"""Since the import, so that the first reading is one too."""


def host() -> HostReading:
    memory = psutil.virtual_memory()
    return HostReading(
        cpu_count=psutil.cpu_count() or 1,
        cpu_utilization=_LOAD.look(),
        memory_total=memory.total,
        memory_used=memory.total - memory.available,
    )


def _attempts(nvml, handle: Any) -> Callable[..., Any]:
    """Asks for one reading of a card; None if the driver refuses it."""

    def attempt(reading: Callable[..., Any], *args: Any) -> Any:
        try:
            return reading(handle, *args)
        except nvml.NVMLError:
            return None

    return attempt


def _read(nvml, index: int) -> GpuReading:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    attempt = _attempts(nvml, handle)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    utilization = attempt(nvml.nvmlDeviceGetUtilizationRates)
    temperature = attempt(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU)
    milliwatts = attempt(nvml.nvmlDeviceGetPowerUsage)
    limit = attempt(nvml.nvmlDeviceGetEnforcedPowerLimit)
    megahertz = attempt(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM)
    highest = attempt(nvml.nvmlDeviceGetMaxClockInfo, nvml.NVML_CLOCK_SM)
    fan = attempt(nvml.nvmlDeviceGetFanSpeed)
    millijoules = attempt(nvml.nvmlDeviceGetTotalEnergyConsumption)
    return GpuReading(
        index=index,
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        name=_text(nvml.nvmlDeviceGetName(handle)),
        memory_total=memory.total,
        memory_used=memory.used,
        utilization=None if utilization is None else utilization.gpu / 100,
        temperature=None if temperature is None else float(temperature),
        power=None if milliwatts is None else milliwatts / 1000,
        power_limit=None if limit is None else limit / 1000,
        clock=None if megahertz is None else megahertz * 1e6,
        clock_max=None if highest is None else highest * 1e6,
        fan=None if fan is None else fan / 100,
        energy=None if millijoules is None else millijoules / 1000,
    )


def _read_health(nvml, index: int) -> GpuHealth:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    attempt = _attempts(nvml, handle)
    nvml.nvmlDeviceGetMemoryInfo(handle)  # a GPU that is lost has a handle and a UUID still, and nothing else
    remapped = attempt(nvml.nvmlDeviceGetRemappedRows)  # correctable, uncorrectable, pending, failed
    action = attempt(nvml.nvmlDeviceGetFieldValues, [nvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION])
    known = action is not None and action[0].nvmlReturn == nvml.NVML_SUCCESS  # a driver before 570 has no such field
    kind = (nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC)
    return GpuHealth(
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        uncorrectable_errors=attempt(nvml.nvmlDeviceGetTotalEccErrors, *kind),
        remap_pending=None if remapped is None else bool(remapped[2]),
        remap_failed=None if remapped is None else bool(remapped[3]),
        recovery_action=action[0].value.uiVal if known else None,
    )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
