"""Every Prometheus name that Tandem exposes, in base units, with bounded labels.

`RequestMetrics` counts in the process that answers requests; `ClusterCollector` reads the ledger, the adapters' folder
and the GPUs at scrape time, so it works in any process of the head node and while the cluster is down.
"""

import contextlib
from collections import Counter as Tally
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

import httpx
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families

from actors import cluster, monitor
from actors.ledger import Ledger
from configs.errors import TandemError
from configs.paths import Home
from models.registry import Registry

SCRAPE_TIMEOUT_S = 8
SECONDS_TO_FIRST_TOKEN = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
SECONDS_BETWEEN_TOKENS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5)
SECONDS_PER_REQUEST = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)


class RequestMetrics:
    """What the gateway counts. `target` is `base`, the alias, or `version` where a client named one."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "tandem_requests",
            "Chat and completion requests answered, by HTTP status.",
            ["target", "status"],
            registry=registry,
        )
        self.active = Gauge(
            "tandem_requests_active", "Chat and completion requests being answered now.", registry=registry
        )
        self.abandoned = Counter(
            "tandem_requests_abandoned", "Chat and completion requests whose client left.", registry=registry
        )
        self.prompt_tokens = Counter("tandem_prompt_tokens", "Prompt tokens read.", ["target"], registry=registry)
        self.output_tokens = Counter("tandem_output_tokens", "Tokens generated.", ["target"], registry=registry)
        self.first_token = Histogram(
            "tandem_time_to_first_token_seconds",
            "From the request to its first generated token.",
            ["target"],
            buckets=SECONDS_TO_FIRST_TOKEN,
            registry=registry,
        )
        self.between_tokens = Histogram(
            "tandem_inter_token_latency_seconds",
            "Between two deliveries of tokens, divided by the tokens delivered.",
            ["target"],
            buckets=SECONDS_BETWEEN_TOKENS,
            registry=registry,
        )
        self.duration = Histogram(
            "tandem_request_duration_seconds",
            "From the request to the end of its answer.",
            ["target"],
            buckets=SECONDS_PER_REQUEST,
            registry=registry,
        )
        self.swap_seconds = Histogram(
            "tandem_swap_duration_seconds",
            "From a swap's request to its outcome.",
            ["outcome"],
            buckets=SECONDS_PER_REQUEST,
            registry=registry,
        )


class EngineMetrics:
    """What the engines say of themselves, asked at scrape time. `engine` is the deployment's name."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"tandem_engine_{name}", text, ["engine"], registry=registry)

        self.up = gauge("up", "1 if the engine answers.")
        self._values = {
            "running": gauge("requests_running", "Requests that hold a row of the KV cache."),
            "waiting": gauge("requests_waiting", "Requests that wait for a row."),
            "kv_tokens": gauge("kv_cache_tokens", "Tokens in the KV cache."),
            "kv_capacity": gauge("kv_cache_capacity_tokens", "Tokens that fit into the KV cache."),
            "memory_bytes": gauge("memory_bytes", "Device memory of the engine's process; resident memory on a CPU."),
        }
        self._adapters = gauge("adapters_loaded", "Adapter versions in memory.")

    def update(self, engine: str, stats: Mapping[str, Any] | None) -> None:
        """Set an engine's gauges from its statistics; None if it did not answer."""
        self.up.labels(engine).set(float(stats is not None))
        for key, metric in self._values.items():
            metric.labels(engine).set(stats[key] if stats else 0)
        self._adapters.labels(engine).set(len(stats["adapters"]) if stats else 0)


class ClusterCollector:
    """Gauges of slots, queue, runs, adapters, swaps, GPUs and the host, read at every scrape.

    A part that cannot be read is left out of the scrape and shows in `tandem_up`: monitoring must not break.
    """

    def __init__(self, home: Home) -> None:
        self._home = home

    def collect(self) -> Iterator[Metric]:
        yield self._up()
        yield from self._hardware()
        if self._home.ledger.exists():
            with contextlib.suppress(TandemError), closing(Ledger(self._home.ledger, read_only=True)) as ledger:
                yield from self._slots(ledger)
                yield from self._runs(ledger)
                yield from self._adapters(ledger)

    def _up(self) -> Metric:
        try:
            found = cluster.find(self._home)
        except TandemError:
            found = None
        up = found is not None and found.is_alive
        return GaugeMetricFamily("tandem_up", "1 while the cluster's head process lives.", value=float(up))

    def _hardware(self) -> Iterator[Metric]:
        host = monitor.host()
        yield GaugeMetricFamily("tandem_host_cpus", "Logical processors of the head node.", value=host.cpu_count)
        yield GaugeMetricFamily(
            "tandem_host_cpu_utilization_ratio", "Busy part of all processors, 0 to 1.", value=host.cpu_utilization
        )
        yield GaugeMetricFamily("tandem_host_memory_bytes", "Memory of the head node.", value=host.memory_total)
        yield GaugeMetricFamily("tandem_host_memory_used_bytes", "Memory in use.", value=host.memory_used)
        labels = ["gpu", "uuid", "name"]
        used = GaugeMetricFamily("tandem_gpu_memory_used_bytes", "GPU memory in use by all processes.", labels=labels)
        total = GaugeMetricFamily("tandem_gpu_memory_bytes", "GPU memory.", labels=labels)
        busy = GaugeMetricFamily("tandem_gpu_utilization_ratio", "Part of time a kernel ran, 0 to 1.", labels=labels)
        heat = GaugeMetricFamily("tandem_gpu_temperature_celsius", "GPU temperature.", labels=labels)
        power = GaugeMetricFamily("tandem_gpu_power_watts", "GPU power draw.", labels=labels)
        for gpu in monitor.gpus():
            where = [str(gpu.index), gpu.uuid, gpu.name]
            readings = (gpu.memory_used, gpu.memory_total, gpu.utilization, gpu.temperature, gpu.power)
            for family, value in zip((used, total, busy, heat, power), readings, strict=True):
                if value is not None:
                    family.add_metric(where, value)
        yield from (used, total, busy, heat, power)

    def _slots(self, ledger: Ledger) -> Iterator[Metric]:
        held = {(lease.slot, lease.role) for lease in ledger.leases()}
        family = GaugeMetricFamily("tandem_slot_held", "1 while the slot's role is held.", labels=["slot", "role"])
        bad = GaugeMetricFamily("tandem_slot_quarantined", "1 while the slot is given to nobody.", labels=["slot"])
        quarantines = ledger.quarantines()
        try:
            found = cluster.find(self._home)
        except TandemError:
            found = None
        for slot in found.slots if found else ():
            bad.add_metric([slot.name], float(slot.name in quarantines))
            for role in slot.roles:
                family.add_metric([slot.name, role], float((slot.name, role) in held))
        yield family
        yield bad

    def _runs(self, ledger: Ledger) -> Iterator[Metric]:
        count = GaugeMetricFamily("tandem_runs", "Runs in the ledger, by state.", labels=["state"])
        for state, number in ledger.count_runs().items():
            count.add_metric([state], number)
        yield count
        yield GaugeMetricFamily("tandem_queue_length", "Runs waiting for a slot.", value=len(ledger.queue()))
        step = GaugeMetricFamily("tandem_run_step", "Optimiser step of a run that holds a slot.", labels=["run"])
        steps = GaugeMetricFamily("tandem_run_max_steps", "Optimiser steps that the run will take.", labels=["run"])
        loss = GaugeMetricFamily("tandem_run_loss", "Training loss of the newest step.", labels=["run"])
        rate = GaugeMetricFamily("tandem_run_tokens_per_second", "Training speed, newest step.", labels=["run"])
        for run in ledger.runs(active=True):
            if run.state.holds_slot:
                readings = (run.step, run.max_steps, run.loss, run.tokens_per_s)
                for family, value in zip((step, steps, loss, rate), readings, strict=True):
                    if value is not None:
                        family.add_metric([run.id], value)
        yield from (step, steps, loss, rate)

    def _adapters(self, ledger: Ledger) -> Iterator[Metric]:
        published = len(Registry(self._home.models).list())
        yield GaugeMetricFamily("tandem_adapters", "Published adapters on disk.", value=published)
        live = InfoMetricFamily("tandem_alias", "What each alias points to.", labels=["alias"])
        for alias, version in ledger.aliases().items():
            live.add_metric([alias], {"version": version or "base"})
        yield live
        swaps = CounterMetricFamily("tandem_swaps", "Tries to point an alias elsewhere.", labels=["outcome"])
        tally = Tally(swap.outcome for swap in ledger.swaps(limit=1_000_000))
        for outcome in ("done", "refused"):
            swaps.add_metric([outcome], tally[outcome])
        yield swaps


class GatewayCollector:
    """The gateway's request and engine metrics, passed on from its own `/metrics`; nothing while it does not answer."""

    PREFIXES = ("tandem_requests", "tandem_prompt", "tandem_output", "tandem_time_to", "tandem_inter_token")
    PREFIXES += ("tandem_request_duration", "tandem_swap_duration", "tandem_engine")

    def __init__(self, home: Home) -> None:
        self._home = home

    def collect(self) -> Iterator[Metric]:
        with contextlib.suppress(TandemError, httpx.HTTPError, ValueError):
            answer = httpx.get(f"{cluster.require(self._home).http}/metrics", timeout=SCRAPE_TIMEOUT_S)
            for family in text_string_to_metric_families(answer.raise_for_status().text):
                if family.name.startswith(self.PREFIXES):
                    yield family
