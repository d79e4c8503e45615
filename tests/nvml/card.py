"""NVIDIA's library with one card whose answers a test sets; `None` is refused, as the driver does."""

from collections.abc import Callable
from types import SimpleNamespace

UUID = "GPU-cccccccc"


class FakeNvml:
    """Stands in for the module `pynvml`. What it does not know is refused."""

    class NVMLError(Exception):
        """What the driver refuses."""

    def __init__(self, *, joules: float | None = 1000.0, watts: float | None = 200.0) -> None:
        self.joules, self.watts = joules, watts
        self.gone = False
        self.opened = 0

    def nvmlInit(self) -> None:
        self.opened += 1

    def nvmlShutdown(self) -> None:
        self.opened -= 1

    def nvmlDeviceGetCount(self) -> int:
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return UUID

    def nvmlDeviceGetName(self, handle: int) -> str:
        return "NVIDIA GeForce RTX 3090"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
        return SimpleNamespace(total=24 * 2**30, used=2**30)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        return round(1000 * self._answer(self.joules))

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        return round(1000 * self._answer(self.watts))

    def _answer(self, value: float | None) -> float:
        if self.gone or value is None:
            raise self.NVMLError
        return value

    def __getattr__(self, name: str) -> int | Callable:
        if name.startswith("NVML_"):
            return 0

        def refuse(*args: object) -> None:
            raise self.NVMLError

        return refuse
