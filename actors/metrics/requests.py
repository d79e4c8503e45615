"""What the gateway counts and what it hears from its engines. Knows no HTTP; the gateway and what answers call it."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

SECONDS_TO_FIRST_TOKEN = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120)
"""From the embedded model on a CPU to a long prompt that waits for an engine's return."""
SECONDS_OF_A_PART = (0.001, 0.002, *SECONDS_TO_FIRST_TOKEN)
SECONDS_BETWEEN_TOKENS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5)
SECONDS_PER_REQUEST = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600)


class MetricsPart(StrEnum):
    """Parts of the gateway's `/metrics`, each a registry of its own; `?collect[]=PART` asks for some of them."""

    REQUESTS = "requests"  # counted by the gateway: costs nothing
    ENGINES = "engines"  # asks every engine
    CLUSTER = "cluster"  # reads ledger, home and GPUs; also in every other process of the head node


class RequestMetrics:
    """What the gateway counts. `target` is `base`, the alias, or `version` where a client named one."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"tandem_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, label: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"tandem_{name}_seconds", text, [label], buckets=buckets, registry=registry)

        self.requests = counter(
            "requests", "Chat and completion requests answered, by HTTP status.", "target", "status"
        )
        self.active = Gauge(
            "tandem_requests_active", "Chat and completion requests being answered now.", registry=registry
        )
        self.abandoned = counter("requests_abandoned", "Chat and completion requests whose client left.")
        self.broken = counter("requests_broken", "Answers that an engine's error ended after their first token.")
        self.prompt_tokens = counter("prompt_tokens", "Prompt tokens read.", "target")
        self.output_tokens = counter("output_tokens", "Tokens generated.", "target")
        self._first_token = histogram(
            "time_to_first_token", "From the request to its first generated token.", "target", SECONDS_TO_FIRST_TOKEN
        )
        self._first_token_part = histogram(
            "time_to_first_token_part",
            "Where the time to the first token went: gateway, queue or prefill.",
            "part",
            SECONDS_OF_A_PART,
        )
        self.between_tokens = histogram(
            "inter_token_latency",
            "Between two deliveries of tokens, divided by the tokens delivered.",
            "target",
            SECONDS_BETWEEN_TOKENS,
        )
        self.duration = histogram(
            "request_duration", "From the request to the end of its answer.", "target", SECONDS_PER_REQUEST
        )
        self.swap_seconds = histogram(
            "swap_duration", "From a swap's request to its outcome.", "outcome", SECONDS_PER_REQUEST
        )
        for part in ("gateway", "queue", "prefill"):
            self._first_token_part.labels(part)

    def began(self, target: str, seconds: float, *, queue: float = 0.0, prefill: float = 0.0) -> None:
        """A first token came after `seconds`, of which the engine says that it spent `queue` and `prefill`.

        The rest is the gateway's, so the parts add up; two processes' clocks may make it 0 at the least.
        """
        self._first_token.labels(target).observe(seconds)
        queue = min(queue, seconds)
        prefill = min(prefill, seconds - queue)
        for part, value in (("gateway", seconds - queue - prefill), ("queue", queue), ("prefill", prefill)):
            self._first_token_part.labels(part).observe(value)


class EngineMetrics:
    """What the engines of a gateway that serves `base` say of themselves, asked at scrape time. `engine` is the
    deployment's name."""

    def __init__(self, registry: CollectorRegistry, base: str) -> None:
        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"tandem_engine_{name}", text, ["engine"], registry=registry)

        self._base = base
        self._info = Info("tandem_engine", "Base model and device of an engine.", ["engine"], registry=registry)
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
        if stats:
            self._info.labels(engine).info({"base": self._base, "device": stats["device"]})
