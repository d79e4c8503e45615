"""The gateway's own metrics, of requests and engines, relayed from its `/metrics` by an exporter that outlives it."""

from collections.abc import Iterator

import httpx
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families

from actors import cluster, http_clients
from actors.metrics.requests import MetricsPart
from configs.errors import TandemError
from configs.paths import Home

TIMEOUT_S = 8
"""Prometheus waits 10 s; the gateway itself waits 5 s for an engine."""
RELAYED = [part for part in MetricsPart if part is not MetricsPart.CLUSTER]
"""Every family of these parts; the exporter reads the cluster itself."""


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
            answer = http.get("/metrics", params={"collect[]": RELAYED})
        return list(text_string_to_metric_families(answer.raise_for_status().text))
