"""Joules of a card: by its counter, by its power, and through everything that a driver may refuse."""

import sys
import threading

import pytest

from actors.energy import meter as energy_meter
from actors.energy.meter import EnergyMeter, NvmlCard
from tests.nvml.card import UUID, FakeNvml


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def nvml(monkeypatch) -> FakeNvml:
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


def metered(clock: Clock) -> EnergyMeter:
    """A meter on the fake card, read by hand only."""
    return EnergyMeter(NvmlCard(0), clock=clock, period_s=1e6)


def test_a_card_that_counts_is_asked_for_its_count(nvml):
    meter = metered(Clock())
    assert meter.joules() == 0
    nvml.joules += 250.5
    assert (meter.joules(), meter.source, meter.unmeasured_s) == (250.5, "counter", 0)
    meter.close()
    nvml.joules += 100
    assert meter.joules() == 250.5, "nothing is added after the end"
    assert nvml.opened == 0, "the library is let go"


def test_power_readings_are_joined_by_straight_lines(nvml):
    nvml.joules, clock = None, Clock()
    meter = metered(clock)
    for nvml.watts, clock.now in ((100, 1), (300, 3), (300, 4)):
        meter.joules()
    assert meter.joules() == pytest.approx(150 + 400 + 300)
    assert (meter.source, meter.unmeasured_s) == ("power", 0)
    meter.close()


def test_a_thread_reads_the_power_while_nobody_asks(nvml):
    nvml.joules, clock, seen = None, Clock(), threading.Event()
    card = NvmlCard(0)
    read, looks = card.read, []

    def look():
        looks.append(clock.now)
        clock.now += 1
        if len(looks) > 3:
            seen.set()
        return read()

    card.read = look
    meter = EnergyMeter(card, clock=clock, period_s=0.001)
    assert seen.wait(20)
    meter.close()
    assert meter.joules() == pytest.approx(200 * (len(looks) - 1), abs=200)


def test_of_a_gap_without_power_readings_nothing_is_guessed(nvml):
    nvml.joules, clock = None, Clock()
    meter = metered(clock)
    nvml.watts, clock.now = None, 2  # refused
    meter.joules()
    nvml.watts, clock.now = 200, 5
    meter.joules()
    clock.now = 10
    assert (meter.joules(), meter.unmeasured_s) == (1000, 5)
    clock.now = 10 + energy_meter.LONGEST_GAP_S + 1
    assert (meter.joules(), meter.unmeasured_s) == (1000, 5 + energy_meter.LONGEST_GAP_S + 1)
    meter.close()


def test_a_clock_that_goes_back_takes_nothing_away(nvml):
    nvml.joules, clock = None, Clock()
    meter = metered(clock)
    clock.now = 10
    assert meter.joules() == 2000
    clock.now = 3
    assert meter.joules() == 2000
    clock.now = 4
    assert meter.joules() == 2200
    meter.close()


def test_a_counter_that_is_refused_for_a_while_tells_later_of_all_between(nvml):
    clock = Clock()
    meter = metered(clock)
    nvml.joules, clock.now = None, 30
    assert (meter.joules(), meter.source, meter.unmeasured_s) == (0, "counter", 30)
    nvml.joules, clock.now = 1700.0, 60
    assert (meter.joules(), meter.unmeasured_s) == (700, 0)
    meter.close()


def test_a_counter_that_begins_anew_loses_only_what_it_cannot_tell(nvml):
    clock = Clock()
    meter = metered(clock)
    nvml.joules = 1500.0
    assert meter.joules() == 500
    nvml.joules, clock.now = 20.0, 8
    assert (meter.joules(), meter.unmeasured_s) == (520, 8)
    meter.close()


def test_a_gpu_that_vanishes_leaves_what_it_had_used(nvml):
    clock = Clock()
    meter = metered(clock)
    nvml.joules = 1400.0
    meter.joules()
    nvml.gone, clock.now = True, 12
    assert (meter.joules(), meter.unmeasured_s) == (400, 12)
    meter.close()
    assert meter.joules() == 400


def test_a_card_that_says_nothing_has_no_joules_and_not_0(nvml):
    nvml.joules = nvml.watts = None
    clock = Clock()
    meter = metered(clock)
    clock.now = 7
    assert (meter.joules(), meter.source, meter.unmeasured_s) == (None, None, 7)
    meter.close()


def test_the_own_card_is_that_of_the_slot_and_a_cpu_has_none(nvml, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", UUID)
    card = energy_meter.own_card("cuda")
    assert card.read().joules == 1000
    card.close()
    assert energy_meter.own_card("cpu") is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-another")
    assert energy_meter.own_card("cuda") is None
    assert nvml.opened == 0


def test_without_a_driver_there_is_no_card_and_no_error(nvml, monkeypatch):
    def refuse():
        raise nvml.NVMLError

    monkeypatch.setattr(nvml, "nvmlInit", refuse, raising=False)
    assert energy_meter.own_card("cuda") is None
    meter = EnergyMeter(None)
    assert meter.joules() is None
    meter.close()
