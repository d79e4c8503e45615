"""The meter on a real GPU: its counter against its power readings while it works."""

import time

import pytest

from actors.energy.meter import EnergyMeter, NvmlCard, Reading, own_card
from tests.gpu.conftest import WITHOUT_GPU

pytestmark = WITHOUT_GPU

SECONDS = 10


class PowerOnly(NvmlCard):
    """A card that does not count."""

    def read(self) -> Reading:
        return Reading(None, self._attempt(self._nvml.nvmlDeviceGetPowerUsage) / 1000)


def test_power_readings_come_to_what_the_card_counts():
    import torch

    counter, power = EnergyMeter(own_card("cuda")), EnergyMeter(PowerOnly(0))
    if counter.source != "counter":
        pytest.skip("this card does not count its energy")
    matrix = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        for _ in range(50):
            matrix @ matrix
        torch.cuda.synchronize()
    counted, added = counter.joules(), power.joules()
    counter.close()
    power.close()
    assert counted > 0
    assert added == pytest.approx(counted, rel=0.15)
    assert (power.source, counter.source) == ("power", "counter")
    assert max(power.unmeasured_s, counter.unmeasured_s) < 0.1, "but for its first reading"
