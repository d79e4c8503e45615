"""NVIDIA's library with two cards, for a process that has this folder on its PYTHONPATH. One counts no energy.

With NVML_COUNT_FAILS in its environment the driver starts and then does not say how many cards there are.
"""

import os
import time
from types import SimpleNamespace

NVML_TEMPERATURE_GPU = NVML_CLOCK_SM = 0
UUIDS = ("GPU-aaaaaaaa", "GPU-bbbbbbbb")


class NVMLError(Exception):
    """What the driver refuses."""


def nvmlInit() -> None: ...


def nvmlShutdown() -> None: ...


def nvmlDeviceGetCount() -> int:
    if "NVML_COUNT_FAILS" in os.environ:
        raise NVMLError
    return len(UUIDS)


def nvmlDeviceGetHandleByIndex(index: int) -> int:
    return index


def nvmlDeviceGetUUID(handle: int) -> str:
    return UUIDS[handle]


def nvmlDeviceGetName(handle: int) -> str:
    return "NVIDIA GeForce RTX 3090"


def nvmlDeviceGetMemoryInfo(handle: int) -> SimpleNamespace:
    return SimpleNamespace(total=24 * 2**30, used=(handle + 1) * 6 * 2**30)


def nvmlDeviceGetUtilizationRates(handle: int) -> SimpleNamespace:
    return SimpleNamespace(gpu=90, memory=40)


def nvmlDeviceGetTemperature(handle: int, sensor: int) -> int:
    return 60 + handle


def nvmlDeviceGetPowerUsage(handle: int) -> int:
    return 250_000


def nvmlDeviceGetEnforcedPowerLimit(handle: int) -> int:
    return 350_000


def nvmlDeviceGetClockInfo(handle: int, kind: int) -> int:
    return 1695


def nvmlDeviceGetMaxClockInfo(handle: int, kind: int) -> int:
    return 2100


def nvmlDeviceGetFanSpeed(handle: int) -> int:
    return 45


def nvmlDeviceGetTotalEnergyConsumption(handle: int) -> int:
    if handle:
        raise NVMLError
    return int(time.monotonic() * 250_000)
