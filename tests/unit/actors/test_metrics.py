"""What is scraped: values from a real ledger and real folders, read back by prometheus_client's own parser."""

import json
import os
from dataclasses import asdict

import psutil
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from actors import cluster, monitor
from actors.cluster import Cluster
from actors.ledger import Ledger
from actors.metrics import ClusterCollector, EngineMetrics, GatewayCollector, RequestMetrics
from actors.monitor import GpuReading
from actors.run import RunState
from configs.schema import ClusterConfig, Slot
from models.registry import Registry
from serve.engine.protocol import EngineStats
from tests.samples import RUN_CONFIG, publish

SLOTS = (Slot(name="0", roles=("train",)), Slot(name="1", roles=("serve",)))


def scrape(*collectors, registry: CollectorRegistry | None = None) -> dict[tuple, float]:
    """(name, label values in the order of their names) to value."""
    registry = registry or CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    values = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            key = (sample.name, *(value for _, value in sorted(sample.labels.items())))
            assert key not in values, f"{key} is exposed twice"
            values[key] = sample.value
    return values


def note_cluster(home, pid: int = os.getpid()) -> None:
    """Leave a cluster.json as `tandem up` does, with `pid` as the head."""
    known = Cluster(pid, psutil.Process(os.getpid()).create_time(), "127.0.0.1:1", 1, 2, SLOTS, ClusterConfig())
    cluster._write(home.cluster, known)


@pytest.fixture
def ledger(home):
    book = Ledger(home.ledger)
    yield book
    book.close()


def test_an_empty_home_is_a_valid_scrape(home):
    values = scrape(ClusterCollector(home))
    assert values[("tandem_up",)] == 0
    assert values[("tandem_host_cpus",)] == psutil.cpu_count()
    assert values[("tandem_host_memory_bytes",)] == psutil.virtual_memory().total
    assert not home.ledger.exists(), "reading makes no ledger"


def test_slots_show_who_is_held(home, ledger):
    note_cluster(home)
    ledger.submit("a", config=RUN_CONFIG)
    ledger.grant("a", SLOTS[0])
    values = scrape(ClusterCollector(home))
    assert values[("tandem_up",)] == 1
    assert values[("tandem_slot_held", "train", "0")] == 1
    assert values[("tandem_slot_held", "serve", "1")] == 0


def test_a_slot_in_quarantine_is_a_one(home, ledger):
    note_cluster(home)
    ledger.quarantine("1", "gone", "tandem")
    values = scrape(ClusterCollector(home))
    assert values[("tandem_slot_quarantined", "0")] == 0
    assert values[("tandem_slot_quarantined", "1")] == 1


def test_runs_are_counted_by_state_and_the_running_one_shows_its_progress(home, ledger):
    for run_id in ("a", "b", "c"):
        ledger.submit(run_id, config=RUN_CONFIG)
    ledger.grant("a", SLOTS[0])
    ledger.progress("a", step=7, max_steps=60, loss=1.25, tokens_per_s=830.5)
    ledger.transition("c", RunState.FAILED, "no")
    values = scrape(ClusterCollector(home))
    assert {state: values[("tandem_runs", state)] for state in RunState} == dict.fromkeys(RunState, 0) | {
        RunState.STARTING: 1,
        RunState.QUEUED: 1,
        RunState.FAILED: 1,
    }
    assert values[("tandem_queue_length",)] == 1
    assert values[("tandem_run_step", "a")] == 7
    assert values[("tandem_run_max_steps", "a")] == 60
    assert values[("tandem_run_loss", "a")] == 1.25
    assert values[("tandem_run_tokens_per_second", "a")] == 830.5
    assert ("tandem_run_step", "b") not in values


def test_a_run_that_has_ended_is_no_label_any_more(home, ledger):
    ledger.submit("a", config=RUN_CONFIG)
    ledger.grant("a", SLOTS[0])
    ledger.progress("a", step=7, max_steps=60, loss=1.25, tokens_per_s=830.5)
    ledger.transition("a", RunState.FAILED, "no")
    assert not [key for key in scrape(ClusterCollector(home)) if key[0].startswith("tandem_run_")]


def test_adapters_aliases_and_swaps_are_shown(home, ledger):
    version = publish(Registry(home.models)).version
    ledger.flip("prod", version, reason="x", seconds=0.5)
    ledger.refuse_swap("prod", "broken", reason="x", seconds=0.5)
    ledger.refuse_swap("prod", "foreign", reason="x", seconds=0.5)
    values = scrape(ClusterCollector(home))
    assert values[("tandem_adapters",)] == 1
    assert values[("tandem_alias_info", "prod", version)] == 1
    assert values[("tandem_alias_info", "previous", "base")] == 1
    assert values[("tandem_swaps_total", "done")] == 1
    assert values[("tandem_swaps_total", "refused")] == 2


def test_gpus_are_shown_in_base_units_and_unknown_readings_left_out(home, monkeypatch):
    readings = [
        GpuReading(0, "GPU-a", "RTX 3090", 24 * 2**30, 2**30, 0.5, 61.0, 250.5),
        GpuReading(1, "GPU-b", "RTX 3090", 24 * 2**30, 0, None, None, None),
    ]
    monkeypatch.setattr(monitor, "gpus", lambda: readings)
    values = scrape(ClusterCollector(home))
    assert values[("tandem_gpu_memory_bytes", "0", "RTX 3090", "GPU-a")] == 24 * 2**30
    assert values[("tandem_gpu_memory_used_bytes", "0", "RTX 3090", "GPU-a")] == 2**30
    assert values[("tandem_gpu_utilization_ratio", "0", "RTX 3090", "GPU-a")] == 0.5
    assert values[("tandem_gpu_temperature_celsius", "0", "RTX 3090", "GPU-a")] == 61
    assert values[("tandem_gpu_power_watts", "0", "RTX 3090", "GPU-a")] == 250.5
    assert ("tandem_gpu_power_watts", "1", "RTX 3090", "GPU-b") not in values
    assert values[("tandem_gpu_memory_bytes", "1", "RTX 3090", "GPU-b")] == 24 * 2**30


def test_the_ledger_is_shown_while_the_cluster_is_down(home, ledger):
    ledger.submit("a", config=RUN_CONFIG)
    note_cluster(home, pid=2**22 - 1)
    values = scrape(ClusterCollector(home))
    assert values[("tandem_up",)] == 0
    assert values[("tandem_queue_length",)] == 1


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"slots": null}', "\x00", '{"slots": [], "config": {"nope": 1}}'])
def test_a_damaged_cluster_file_counts_as_down_and_the_rest_is_still_shown(text, home, ledger):
    ledger.submit("a", config=RUN_CONFIG)
    home.cluster.write_text(text)
    values = scrape(ClusterCollector(home))
    assert values[("tandem_up",)] == 0
    assert values[("tandem_queue_length",)] == 1


@pytest.mark.parametrize("damage", ["whole file", "after the first page", "empty"])
def test_a_corrupt_ledger_leaves_the_hardware_readable(damage, home):
    book = Ledger(home.ledger)
    for index in range(50):
        book.submit(f"r{index}", config=RUN_CONFIG)
    book.close()
    content = home.ledger.read_bytes()
    kept = {"whole file": 0, "after the first page": 4096, "empty": 0}[damage]
    home.ledger.write_bytes(b"" if damage == "empty" else content[:kept] + b"\xff" * (len(content) - kept))
    values = scrape(ClusterCollector(home))
    assert values[("tandem_host_cpus",)] == psutil.cpu_count()
    assert values[("tandem_up",)] == 0


def test_engine_gauges_follow_the_engine_and_fall_to_zero_without_it():
    registry = CollectorRegistry()
    engines = EngineMetrics(registry)
    engines.update("engine_1", asdict(EngineStats(3, 2, 100, 4096, {"v1": 1, "v2": 0}, 9, "cpu", 2**20)))
    engines.update("engine_2", None)
    values = scrape(registry=registry)
    assert values[("tandem_engine_up", "engine_1")] == 1
    assert values[("tandem_engine_requests_running", "engine_1")] == 3
    assert values[("tandem_engine_requests_waiting", "engine_1")] == 2
    assert values[("tandem_engine_kv_cache_tokens", "engine_1")] == 100
    assert values[("tandem_engine_kv_cache_capacity_tokens", "engine_1")] == 4096
    assert values[("tandem_engine_adapters_loaded", "engine_1")] == 2
    assert values[("tandem_engine_memory_bytes", "engine_1")] == 2**20
    assert values[("tandem_engine_up", "engine_2")] == 0
    engines.update("engine_1", None)
    assert scrape(registry=registry)[("tandem_engine_requests_running", "engine_1")] == 0


def test_every_name_has_our_prefix_and_base_units(home, ledger):
    registry = CollectorRegistry()
    RequestMetrics(registry)
    EngineMetrics(registry)
    registry.register(ClusterCollector(home))
    families = list(text_string_to_metric_families(generate_latest(registry).decode()))
    assert len(families) > 25
    for family in families:
        assert family.name.startswith("tandem_"), family.name
        assert not family.name.endswith(("_ms", "_mib", "_gib", "_percent", "_milliseconds")), family.name
        assert family.documentation, family.name


def test_the_exporter_shows_nothing_of_a_gateway_that_does_not_run(home):
    assert scrape(GatewayCollector(home)) == {}
    note_cluster(home)
    config = json.loads(home.cluster.read_text())
    assert config["http_port"] == 1, "nothing listens there"
    assert scrape(GatewayCollector(home)) == {}
