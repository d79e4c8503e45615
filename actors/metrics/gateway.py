"""The gateway's request and engine metrics, passed on from its own `/metrics` by an exporter that outlives it."""

from collections.abc import Iterator

import httpx
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families

from actors import cluster, http_clients
from configs.errors import TandemError
from configs.paths import Home

TIMEOUT_S = 8
"""Prometheus waits 10 s; the gateway itself waits 5 s for an engine."""
PREFIXES = ("tandem_requests", "tandem_prompt", "tandem_output", "tandem_time_to", "tandem_inter_token")
PREFIXES += ("tandem_request_duration", "tandem_swap_duration", "tandem_engine")


class GatewayCollector:
    """Nothing but `tandem_gateway_up 0` while the gateway does not answer: monitoring must not break."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def collect(self) -> Iterator[Metric]:
        try:
            families = self._read()
        except (TandemError, httpx.HTTPError, ValueError):
            families = None
        yield GaugeMetricFamily("tandem_gateway_up", "1 if the gateway answers.", value=float(families is not None))
        yield from families or ()

    def _read(self) -> list[Metric]:
        with http_clients.client(cluster.require(self._home).http, TIMEOUT_S) as http:
            answer = http.get("/metrics")
        families = text_string_to_metric_families(answer.raise_for_status().text)
        return [family for family in families if family.name.startswith(PREFIXES)]
