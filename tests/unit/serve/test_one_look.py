"""What one look at the machine reads: a real gateway over a real ledger, with every reading counted."""

import asyncio
import sys
from collections import Counter

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Counter as CounterMetric

from actors import cluster
from actors.hardware import gpus
from actors.metrics import GatewayCollector, MetricsPart
from actors.runs.ledger import Ledger
from cli.machine import status
from configs import paths
from serve.ui.dashboard.reading import SharedReading
from tests.nvml import pynvml as driver


@pytest.fixture
def counted(monkeypatch, running) -> Counter:
    """How often the GPUs are read, an engine is asked, the ledger's file is opened."""
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    counts = Counter()

    def count(owner, name: str, what: str) -> None:
        call = getattr(owner, name)

        def counting(*args, **how):
            counts[what] += 1
            return call(*args, **how)

        monkeypatch.setattr(owner, name, counting)

    count(gpus, "readings", "GPUs")
    count(running.engine, "stats", "engine")
    count(Ledger, "_open", "ledger")
    count(cluster, "find", "cluster.json")
    return counts


ONCE = {"GPUs": 1, "engine": 1, "ledger": 1, "cluster.json": 1}


def test_a_look_of_the_dashboard_reads_every_fact_once(running, counted):
    seen = asyncio.run(SharedReading(running.home).now()).overview
    assert ([gpu.uuid for gpu in seen.gpus], list(seen.engines)) == (list(driver.UUIDS), ["engine_1"])
    assert seen.traffic.answered == 0
    assert counted == ONCE


def test_tandem_status_reads_every_fact_once(running, counted, monkeypatch):
    monkeypatch.setattr(paths, "home", lambda: running.home)
    status.status.main(["--json"], standalone_mode=False)
    assert counted == ONCE


def test_a_scrape_of_the_gateway_reads_the_gpus_once(running, counted):
    text = running.get("/metrics").text
    assert all(family in text for family in ("tandem_requests_active", "tandem_engine_up", "tandem_slot_gpu_up"))
    assert counted == ONCE


def test_the_exporter_relays_a_new_family_of_the_gateway_and_reads_nothing_else_there(running, counted):
    for part in (MetricsPart.REQUESTS, MetricsPart.ENGINES):
        CounterMetric(f"tandem_new_{part}", "Did not exist before.", registry=running.gateway.metrics[part]).inc()
    registry = CollectorRegistry()
    registry.register(GatewayCollector(running.home))
    text = generate_latest(registry).decode()
    assert "tandem_new_requests_total 1.0" in text
    assert "tandem_new_engines_total 1.0" in text
    assert "tandem_up" not in text, "the exporter reads the cluster itself"
    assert counted == {"engine": 1, "cluster.json": 1}


def test_a_part_of_the_metrics_that_does_not_exist_is_refused(refusing):
    answer = refusing.get("/metrics?collect[]=nothing")
    assert answer.status_code == 400
    assert "requests" in answer.json()["error"]["message"]
