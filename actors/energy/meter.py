"""The joules of this process's GPU while it works: by the card's own counter, or by adding up its power.

Cards from Volta on count their energy. Of one that does not, a thread reads the power every second, and the readings
are joined by straight lines. Energy is the whole card's: whoever else works on it is in it too. Monitoring must not
break what it watches: a reading that the driver refuses is None and never an error.
"""

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from actors.hardware import gpus

PERIOD_S = 1.0
LONGEST_GAP_S = 60.0
"""Between two readings of power; what a longer one used is not guessed, it counts as unmeasured."""

Source = Literal["counter", "power"]


@dataclass(frozen=True)
class Reading:
    """What a card says at one moment; None is refused."""

    joules: float | None
    """Since its driver was loaded."""
    watts: float | None


class Card(Protocol):
    """One GPU's readings, and its end."""

    def read(self) -> Reading: ...

    def close(self) -> None: ...


class NvmlCard:
    """The GPU with this NVML index, its handle held open."""

    def __init__(self, index: int) -> None:
        """Raises pynvml.NVMLError without a driver or such a GPU."""
        import pynvml

        self._nvml = pynvml
        pynvml.nvmlInit()
        self._handle = pynvml.nvmlDeviceGetHandleByIndex(index)

    def read(self) -> Reading:
        millijoules = self._attempt(self._nvml.nvmlDeviceGetTotalEnergyConsumption)
        milliwatts = self._attempt(self._nvml.nvmlDeviceGetPowerUsage) if millijoules is None else None
        return Reading(
            None if millijoules is None else millijoules / 1000, None if milliwatts is None else milliwatts / 1000
        )

    def close(self) -> None:
        with contextlib.suppress(self._nvml.NVMLError):
            self._nvml.nvmlShutdown()

    def _attempt(self, reading: Callable[[Any], int]) -> int | None:
        try:
            return reading(self._handle)
        except self._nvml.NVMLError:
            return None


def own_card(device: str) -> NvmlCard | None:
    """The GPU that this process computes on; None on a CPU or without a driver. `device` is `cuda` or `cpu`."""
    import pynvml

    with contextlib.suppress(pynvml.NVMLError):
        mine = gpus.own_gpu() if device == "cuda" else None
        return NvmlCard(mine.index) if mine else None
    return None


class EnergyMeter:
    """Joules of `card` since the meter was made. Safe to ask from any thread; `close` it."""

    def __init__(
        self, card: Card | None, *, clock: Callable[[], float] = time.monotonic, period_s: float = PERIOD_S
    ) -> None:
        self.source: Source | None = None
        """How the joules came about; None while nothing could be read."""
        self._card, self._clock = card, clock
        self._joules = 0.0
        self._counted: float | None = None
        self._watts: float | None = None
        self._unmeasured_s = self._silent_s = 0.0
        self._at = clock()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self.joules()
        if card is not None and self.source != "counter":
            threading.Thread(target=self._sample_forever, args=(period_s,), name="energy", daemon=True).start()

    def joules(self) -> float | None:
        """Used so far; None if the card never said anything. After the card fell silent what it had used until then."""
        with self._lock:
            if self._card is not None:
                self._add(self._card.read(), self._clock())
            return None if self.source is None else self._joules

    @property
    def unmeasured_s(self) -> float:
        """Seconds that `joules` knows nothing of: readings were refused, or came too seldom."""
        return self._unmeasured_s + self._silent_s

    def close(self) -> None:
        """The last reading; later ones repeat it."""
        self.joules()
        self._ended.set()
        with self._lock:
            if self._card is not None:
                self._card.close()
            self._card = None

    def _sample_forever(self, period_s: float) -> None:
        while not self._ended.wait(period_s):
            self.joules()

    def _add(self, reading: Reading, now: float) -> None:
        took = max(0.0, now - self._at)
        if reading.joules is not None:
            self._add_counted(reading.joules, took)
        elif self.source == "counter":  # when it speaks again it tells of all that lies between
            self._silent_s = took
            return
        elif reading.watts is not None:
            self._add_power(reading.watts, took)
        else:
            self._unmeasured_s, self._watts = self._unmeasured_s + took, None
        self._at = now

    def _add_counted(self, joules: float, took: float) -> None:
        if self._counted is not None and joules >= self._counted:
            self._joules += joules - self._counted
        elif self._counted is not None:  # the driver was loaded again and counts from 0
            self._joules += joules
            self._unmeasured_s += took
        self.source, self._counted, self._silent_s = "counter", joules, 0.0

    def _add_power(self, watts: float, took: float) -> None:
        if self._watts is None or took > LONGEST_GAP_S:
            self._unmeasured_s += took
        else:
            self._joules += (self._watts + watts) / 2 * took
        self.source, self._watts = "power", watts
