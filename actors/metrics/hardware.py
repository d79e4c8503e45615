"""Host, disk and GPUs as metrics, read now. Every name is declared, with or without a value."""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from actors.hardware import gpus
from actors.hardware.gpus import GpuReading

GPU_LABELS = ("gpu", "uuid", "name")


def host_families() -> Iterator[Metric]:
    reading = gpus.host()
    yield GaugeMetricFamily("tandem_host_cpus", "Logical processors of the head node.", value=reading.cpu_count)
    yield GaugeMetricFamily(
        "tandem_host_cpu_utilization_ratio", "Busy part of all processors, 0 to 1.", value=reading.cpu_utilization
    )
    yield GaugeMetricFamily("tandem_host_memory_bytes", "Memory of the head node.", value=reading.memory_total)
    yield GaugeMetricFamily("tandem_host_memory_used_bytes", "Memory in use.", value=reading.memory_used)


def disk(folder: Path) -> Iterator[Metric]:
    """The file system of `folder`, or of where it would be made."""
    while not folder.exists():
        folder = folder.parent
    usage = shutil.disk_usage(folder)
    yield GaugeMetricFamily("tandem_disk_bytes", "Size of the file system of TANDEM_HOME.", value=usage.total)
    yield GaugeMetricFamily("tandem_disk_free_bytes", "Free space for TANDEM_HOME.", value=usage.free)


def gpu_families(readings: Iterable[GpuReading]) -> Iterator[Metric]:
    """What the driver tells; a reading that it refuses is left out."""
    families = {
        "memory_used": _gauge("memory_used_bytes", "GPU memory in use by all processes."),
        "memory_total": _gauge("memory_bytes", "GPU memory."),
        "utilization": _gauge("utilization_ratio", "Part of time a kernel ran, 0 to 1."),
        "temperature": _gauge("temperature_celsius", "GPU temperature."),
        "power": _gauge("power_watts", "GPU power draw."),
        "power_limit": _gauge("power_limit_watts", "GPU power that the driver allows."),
        "fan": _gauge("fan_ratio", "Fan speed, 0 to 1; none for a card without a fan of its own."),
        "clock": _gauge("clock_hertz", "Clock of the GPU's multiprocessors."),
        "energy": CounterMetricFamily(
            "tandem_gpu_energy_joules", "Energy that the GPU used since its driver was loaded.", labels=GPU_LABELS
        ),
    }
    for reading in readings:
        where = [str(reading.index), reading.uuid, reading.name]
        for field, family in families.items():
            if (value := getattr(reading, field)) is not None:
                family.add_metric(where, value)
    yield from families.values()


def _gauge(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"tandem_gpu_{name}", text, labels=GPU_LABELS)
