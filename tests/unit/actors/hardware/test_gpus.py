"""Readings of GPUs and host; a reading that the driver refuses is left out."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import psutil
import pynvml
import pytest

from actors.hardware import gpus


def field_value(value: int, result: int = pynvml.NVML_SUCCESS) -> pynvml.c_nvmlFieldValue_t:
    field = pynvml.c_nvmlFieldValue_t(nvmlReturn=result)
    field.value.uiVal = value
    return field


class Nvml:
    """One GPU as pynvml shows it; functions in `refused` raise, as the driver does."""

    NVMLError = pynvml.NVMLError
    NVML_TEMPERATURE_GPU = pynvml.NVML_TEMPERATURE_GPU
    NVML_SUCCESS = pynvml.NVML_SUCCESS
    NVML_FI_DEV_GET_GPU_RECOVERY_ACTION = pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED = pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED
    NVML_VOLATILE_ECC = pynvml.NVML_VOLATILE_ECC
    NVML_CLOCK_SM = pynvml.NVML_CLOCK_SM

    def __init__(self, *refused: str) -> None:
        self.answers = {
            "nvmlDeviceGetHandleByIndex": "handle",
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=24 * 2**30, used=2**30),
            "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=37, memory=5),
            "nvmlDeviceGetTemperature": 61,
            "nvmlDeviceGetPowerUsage": 250_500,
            "nvmlDeviceGetEnforcedPowerLimit": 350_000,
            "nvmlDeviceGetClockInfo": 1695,
            "nvmlDeviceGetMaxClockInfo": 2100,
            "nvmlDeviceGetFanSpeed": 45,
            "nvmlDeviceGetTotalEnergyConsumption": 7_200_500,
            "nvmlDeviceGetUUID": b"GPU-1234",
            "nvmlDeviceGetName": "RTX 3090",
            "nvmlDeviceGetTotalEccErrors": 3,
            "nvmlDeviceGetRemappedRows": (5, 1, 1, 0),
            "nvmlDeviceGetFieldValues": [field_value(pynvml.NVML_GPU_RECOVERY_ACTION_GPU_RESET)],
        }
        self.refused = refused

    def __getattr__(self, name: str):
        def call(*args):
            if name in self.refused:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
            return self.answers[name]

        return call


def test_a_reading_is_in_base_units():
    assert gpus._read(Nvml(), 1) == gpus.GpuReading(
        index=1, uuid="GPU-1234", name="RTX 3090", memory_total=24 * 2**30, memory_used=2**30,
        utilization=0.37, temperature=61.0, power=250.5, power_limit=350.0, clock=1.695e9, clock_max=2.1e9, fan=0.45,
        energy=7200.5,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("refused", "field"),
    [
        ("nvmlDeviceGetUtilizationRates", "utilization"),
        ("nvmlDeviceGetTemperature", "temperature"),
        ("nvmlDeviceGetPowerUsage", "power"),
        ("nvmlDeviceGetEnforcedPowerLimit", "power_limit"),
        ("nvmlDeviceGetClockInfo", "clock"),
        ("nvmlDeviceGetMaxClockInfo", "clock_max"),
        ("nvmlDeviceGetFanSpeed", "fan"),
        ("nvmlDeviceGetTotalEnergyConsumption", "energy"),
    ],
)
def test_a_reading_that_the_driver_refuses_is_none_and_the_others_stay(refused, field):
    whole, reading = gpus._read(Nvml(), 0), gpus._read(Nvml(refused), 0)
    assert getattr(reading, field) is None
    assert {key: value for key, value in vars(reading).items() if key != field} == {
        key: value for key, value in vars(whole).items() if key != field
    }


def test_without_a_driver_there_are_no_gpus(monkeypatch):
    def no_driver():
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", no_driver)
    assert gpus.readings() == []


def test_a_gpu_that_fell_off_the_bus_does_not_hide_the_others(monkeypatch):
    def handle(index):
        if index == 1:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return "handle"

    for name, answer in Nvml().answers.items():
        monkeypatch.setattr(pynvml, name, lambda *args, answer=answer: answer)
    for name in ("nvmlInit", "nvmlShutdown"):
        monkeypatch.setattr(pynvml, name, lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 3)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", handle)
    assert [gpu.index for gpu in gpus.readings()] == [0, 2]


def test_a_gpus_health_is_what_the_driver_counts():
    assert gpus._read_health(Nvml(), 0) == gpus.GpuHealth(
        uuid="GPU-1234", uncorrectable_errors=3, remap_pending=True, remap_failed=False, recovery_action=1
    )


@pytest.mark.parametrize(
    ("refused", "lost"),
    [
        ("nvmlDeviceGetTotalEccErrors", {"uncorrectable_errors"}),
        ("nvmlDeviceGetRemappedRows", {"remap_pending", "remap_failed"}),
        ("nvmlDeviceGetFieldValues", {"recovery_action"}),
    ],
)
def test_a_part_of_a_gpus_health_that_the_driver_refuses_is_none(refused, lost):
    reading = vars(gpus._read_health(Nvml(refused), 0))
    assert {key for key, value in reading.items() if value is None} == lost


def test_a_driver_that_does_not_know_recovery_actions_asks_for_none():
    nvml = Nvml()
    nvml.answers["nvmlDeviceGetFieldValues"] = [field_value(7, pynvml.NVML_ERROR_NOT_SUPPORTED)]
    assert gpus._read_health(nvml, 0).recovery_action is None


def test_the_health_of_a_lost_gpu_is_missing_and_without_a_library_nothing_is_known(monkeypatch):
    def memory(handle):
        if lost:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)

    for name, answer in Nvml().answers.items():
        monkeypatch.setattr(pynvml, name, lambda *args, answer=answer: answer)
    for name in ("nvmlInit", "nvmlShutdown"):
        monkeypatch.setattr(pynvml, name, lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 1)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", memory)
    lost = False
    assert list(gpus.health()) == ["GPU-1234"]
    lost = True
    assert gpus.health() == {}

    def no_driver():
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)

    monkeypatch.setattr(pynvml, "nvmlInit", no_driver)
    assert gpus.health() is None


def test_the_load_is_of_the_time_since_the_last_look_in_whatever_thread(monkeypatch):
    times = psutil.cpu_times()
    clock = [times._replace(user=100.0, idle=100.0, guest=50.0)]
    monkeypatch.setattr(psutil, "cpu_times", lambda: clock[0])
    load = gpus._Load()
    clock[0] = clock[0]._replace(user=101.0, idle=103.0, guest=51.0)
    with ThreadPoolExecutor(1) as other:
        assert other.submit(load.look).result() == 0.25
    assert load.look() == 0.25, "no time has passed"


def test_the_hosts_reading_is_plausible():
    host = gpus.host()
    assert host.cpu_count == psutil.cpu_count()
    assert 0 <= host.cpu_utilization <= 1
    assert 0 < host.memory_used < host.memory_total == psutil.virtual_memory().total
