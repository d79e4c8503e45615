"""What is scraped: values from a real ledger and real folders, read back by prometheus_client's own parser."""

import json
import math
import os
import platform
import shutil
import sys
import threading
import time
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import PackageNotFoundError, version

import psutil
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from actors import cluster
from actors.cluster import Cluster
from actors.hardware import gpus
from actors.hardware.gpus import GpuReading
from actors.home.process_id import ProcessId
from actors.metrics import ClusterCollector, EngineMetrics, GatewayCollector, RequestMetrics, ray_targets
from actors.runs.ledger import Ledger
from actors.runs.run import RunState
from configs.paths import Home
from configs.schema import ClusterConfig, Slot
from models.lora.registry import Registry
from serve.engine.protocol import EngineStats
from tests.nvml import pynvml as driver
from tests.samples import RUN_CONFIG, go_live, publish, verify

SLOTS = (Slot(name="0", roles=("train",)), Slot(name="1", roles=("serve",)))
PARTS = ("gateway", "queue", "prefill")


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


def note_cluster(home, pid: int = os.getpid(), slots: tuple[Slot, ...] = SLOTS, http_port: int = 1) -> None:
    """Leave a cluster.json as `tandem up` does, with `pid` as the head."""
    started = psutil.Process(os.getpid()).create_time()
    head = replace(ProcessId.own(), pid=pid)
    known = Cluster(head, started, "127.0.0.1:1", http_port, 2, slots, ClusterConfig())
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
    note_cluster(home)
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
    assert values[("tandem_run_info", "train", "custom", "a", "0")] == 1


def start(home: Home, ledger: Ledger, run_id: str = "a") -> None:
    note_cluster(home)
    ledger.submit(run_id, config=RUN_CONFIG)
    ledger.grant(run_id, SLOTS[0])
    ledger.progress(run_id, step=7, max_steps=60, loss=1.25, tokens_per_s=830.5)


def curve(home: Home, *lines: str) -> None:
    home.run("a").mkdir(parents=True, exist_ok=True)
    (home.run("a") / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))


def test_a_runs_curve_gives_its_newest_losses_also_those_that_are_no_numbers(home, ledger):
    start(home, ledger)
    assert ("tandem_run_eval_loss", "a") not in scrape(ClusterCollector(home)), "it was never evaluated"
    curve(
        home,
        '{"step": 6, "loss": 1.5, "at": 1.0}',
        '{"step": 6, "eval_loss": 1.75, "at": 2.0}',
        '{"step": 7, "loss": NaN, "at": 3.0}',
        '{"step": 8, "lo',
    )
    values = scrape(ClusterCollector(home))
    assert math.isnan(values[("tandem_run_loss", "a")])
    assert values[("tandem_run_eval_loss", "a")] == 1.75


ODD = ['"x"', "[1]", "null", "true", "9" * 400]
ODD = [f'{{"step": 7, "loss": {value}, "at": 1}}' for value in ODD] + ['{"step": Infinity, "loss": 9, "at": 1}']


@pytest.mark.parametrize("lines", ["", "\xff\x00", "[]", '"loss"', "{", *ODD], ids=lambda line: repr(line[:40]))
def test_a_damaged_curve_leaves_what_the_ledger_knows(lines, home, ledger):
    start(home, ledger)
    curve(home, lines)
    values = scrape(ClusterCollector(home))
    assert values[("tandem_run_loss", "a")] == 1.25
    assert values[("tandem_scrape_errors", "runs")] == 0


def test_a_long_curve_is_read_from_its_end(home, ledger):
    start(home, ledger)
    steps = (f'{{"step": {step}, "loss": {step}.5, "at": {step}}}' for step in range(20_000))
    curve(home, '{"step": 1, "eval_loss": 9.0, "at": 0}', *steps)
    values = scrape(ClusterCollector(home))
    assert values[("tandem_run_loss", "a")] == 19999.5
    assert ("tandem_run_eval_loss", "a") not in values, "further back than is read"


def test_a_runs_watchdog_and_sign_of_life_are_shown(home, ledger, monkeypatch):
    start(home, ledger)
    assert scrape(ClusterCollector(home))[("tandem_run_watchdog_total", "a")] == 0
    ledger.note("watchdog", "the loss is 3 times its median", "a")
    ledger.note("rollback", "back to step 5", "a")
    ledger.note("fit", "micro-batch 4", "a")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 100)
    values = scrape(ClusterCollector(home))
    assert values[("tandem_run_watchdog_total", "a")] == 2
    assert values[("tandem_run_heartbeat_age_seconds", "a")] == pytest.approx(100, abs=5)
    monkeypatch.setattr(time, "time", lambda: now - 1000)
    assert scrape(ClusterCollector(home))[("tandem_run_heartbeat_age_seconds", "a")] == 0, "the clock was set back"


def test_how_long_a_run_may_be_silent_is_the_clusters(home):
    assert ("tandem_heartbeat_timeout_seconds",) not in scrape(ClusterCollector(home))
    note_cluster(home)
    assert scrape(ClusterCollector(home))[("tandem_heartbeat_timeout_seconds",)] == ClusterConfig().heartbeat_timeout_s


def test_a_full_queue_hides_no_run_and_makes_no_series(home, ledger):
    start(home, ledger)
    before = scrape(ClusterCollector(home))
    for index in range(150):
        ledger.submit(f"waiting-{index}", config=RUN_CONFIG)
    values = scrape(ClusterCollector(home))
    assert values[("tandem_run_step", "a")] == 7
    assert values[("tandem_queue_length",)] == 150
    assert values.keys() == before.keys()


def test_while_down_a_run_that_waits_for_the_next_up_makes_no_series(home, ledger):
    start(home, ledger)
    home.cluster.unlink()
    values = scrape(ClusterCollector(home))
    assert values[("tandem_runs", RunState.STARTING)] == 1
    assert not [key for key in values if key[0].startswith("tandem_run_")]


def test_a_run_that_has_ended_is_no_label_any_more(home, ledger):
    note_cluster(home)
    ledger.submit("a", config=RUN_CONFIG)
    ledger.grant("a", SLOTS[0])
    ledger.progress("a", step=7, max_steps=60, loss=1.25, tokens_per_s=830.5)
    ledger.transition("a", RunState.FAILED, "no")
    assert not [key for key in scrape(ClusterCollector(home)) if key[0].startswith("tandem_run_")]


def test_before_the_first_swap_prod_is_the_base(home, ledger):
    values = scrape(ClusterCollector(home))
    assert [key for key in values if key[0] == "tandem_alias_info"] == [("tandem_alias_info", "prod", "base")]


def test_adapters_aliases_and_swaps_are_shown(home, ledger):
    adapter = publish(Registry(home.models)).version
    go_live(ledger, adapter, seconds=0.5)
    verify(ledger, "broken")
    ledger.refuse_swap("prod", "broken", reason="x", seconds=0.5)
    verify(ledger, "foreign")
    ledger.refuse_swap("prod", "foreign", reason="x", seconds=0.5)
    values = scrape(ClusterCollector(home))
    assert (values[("tandem_adapters",)], values[("tandem_adapters_suspect",)]) == (1, 0)
    publish(Registry(home.models), run_id="b", suspect=["why"])
    assert scrape(ClusterCollector(home))[("tandem_adapters_suspect",)] == 1
    assert values[("tandem_alias_info", "prod", adapter)] == 1
    assert values[("tandem_alias_info", "previous", "base")] == 1
    assert values[("tandem_swaps_total", "done")] == 1
    assert values[("tandem_swaps_total", "refused")] == 2


def test_gpus_are_shown_in_base_units_and_unknown_readings_left_out(home, monkeypatch):
    readings = [
        GpuReading(
            0,
            "GPU-a",
            "RTX 3090",
            24 * 2**30,
            2**30,
            0.5,
            61.0,
            250.5,
            power_limit=350.0,
            clock=1.695e9,
            fan=0.45,
            energy=7200.5,
        ),
        GpuReading(1, "GPU-b", "RTX 3090", 24 * 2**30, 0, None, None, None),
    ]
    monkeypatch.setattr(gpus, "readings", lambda: readings)
    values = scrape(ClusterCollector(home))
    assert values[("tandem_gpu_memory_bytes", "0", "RTX 3090", "GPU-a")] == 24 * 2**30
    assert values[("tandem_gpu_memory_used_bytes", "0", "RTX 3090", "GPU-a")] == 2**30
    assert values[("tandem_gpu_utilization_ratio", "0", "RTX 3090", "GPU-a")] == 0.5
    assert values[("tandem_gpu_temperature_celsius", "0", "RTX 3090", "GPU-a")] == 61
    assert values[("tandem_gpu_power_watts", "0", "RTX 3090", "GPU-a")] == 250.5
    assert values[("tandem_gpu_power_limit_watts", "0", "RTX 3090", "GPU-a")] == 350
    assert values[("tandem_gpu_fan_ratio", "0", "RTX 3090", "GPU-a")] == 0.45
    assert values[("tandem_gpu_clock_hertz", "0", "RTX 3090", "GPU-a")] == 1.695e9
    assert values[("tandem_gpu_energy_joules_total", "0", "RTX 3090", "GPU-a")] == 7200.5
    assert ("tandem_gpu_power_watts", "1", "RTX 3090", "GPU-b") not in values
    assert ("tandem_gpu_energy_joules_total", "1", "RTX 3090", "GPU-b") not in values
    assert values[("tandem_gpu_memory_bytes", "1", "RTX 3090", "GPU-b")] == 24 * 2**30


def test_a_slots_gpu_that_the_driver_does_not_find_is_shown(home, monkeypatch):
    slots = (
        Slot(name="0", gpu=0, uuid="GPU-a", roles=("train",)),
        Slot(name="1", gpu=1, uuid="GPU-b", roles=("serve",)),
    )
    monkeypatch.setattr(gpus, "readings", lambda: [GpuReading(0, "GPU-b", "RTX 3090", 1, 0, None, None, None)])
    note_cluster(home, slots=slots)
    values = scrape(ClusterCollector(home))
    assert values[("tandem_slot_gpu_up", "0", "GPU-a")] == 0, "another card has its index now"
    assert values[("tandem_slot_gpu_up", "1", "GPU-b")] == 1


def test_a_package_that_is_not_installed_has_an_unknown_version(home, monkeypatch):
    def missing(package):
        raise PackageNotFoundError(package)

    monkeypatch.setattr("importlib.metadata.version", missing)
    assert scrape(ClusterCollector(home))[("tandem_info", platform.python_version(), "unknown", "unknown")] == 1


def test_versions_and_the_homes_disk_are_shown(home):
    values = scrape(ClusterCollector(Home(home.root / "not" / "made" / "yet")))
    versions = (platform.python_version(), version("ray"), version("tandem"))
    assert values[("tandem_info", *versions)] == 1
    usage = shutil.disk_usage(home.root)
    assert values[("tandem_disk_bytes",)] == usage.total
    assert values[("tandem_disk_free_bytes",)] == pytest.approx(usage.free, rel=0.2)


def test_a_driver_that_does_not_count_its_gpus_shows_as_slots_without_one(home, monkeypatch):
    slots = (Slot(name="0", gpu=0, uuid=driver.UUIDS[0], roles=("train",)),)
    note_cluster(home, slots=slots)
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    assert scrape(ClusterCollector(home))[("tandem_slot_gpu_up", "0", driver.UUIDS[0])] == 1
    monkeypatch.setenv("NVML_COUNT_FAILS", "1")
    values = scrape(ClusterCollector(home))
    assert values[("tandem_slot_gpu_up", "0", driver.UUIDS[0])] == 0
    assert {value for key, value in values.items() if key[0] == "tandem_scrape_errors"} == {0}


def test_a_part_that_cannot_be_read_shows_and_hides_no_other(home, ledger, monkeypatch):
    whole = scrape(ClusterCollector(home))
    assert {value for key, value in whole.items() if key[0] == "tandem_scrape_errors"} == {0}

    def broken():
        raise RuntimeError("the driver was replaced under us")

    monkeypatch.setattr(gpus, "host", broken)
    values = scrape(ClusterCollector(home))
    assert [key[1] for key, value in values.items() if key[0] == "tandem_scrape_errors" and value] == ["host"]
    assert values[("tandem_queue_length",)] == 0
    assert ("tandem_host_cpus",) not in values


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
    assert values[("tandem_scrape_errors", "cluster")] == 1
    assert values[("tandem_ledger_readable",)] == 1


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
    assert values[("tandem_ledger_readable",)] == 0
    assert any(values[("tandem_scrape_errors", part)] for part in ("ledger", "queue", "runs", "adapters"))
    assert values[("tandem_scrape_errors", "host")] == 0


def test_engine_gauges_follow_the_engine_and_fall_to_zero_without_it():
    registry = CollectorRegistry()
    engines = EngineMetrics(registry, "gpt-oss-20b")
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
    assert values[("tandem_engine_info", "gpt-oss-20b", "cpu", "engine_1")] == 1
    engines.update("engine_1", None)
    assert scrape(registry=registry)[("tandem_engine_requests_running", "engine_1")] == 0


def test_every_name_has_our_prefix_and_base_units(home, ledger):
    registry = CollectorRegistry()
    RequestMetrics(registry)
    EngineMetrics(registry, "tiny")
    registry.register(ClusterCollector(home))
    families = list(text_string_to_metric_families(generate_latest(registry).decode()))
    assert len(families) > 25
    for family in families:
        assert family.name.startswith("tandem_"), family.name
        assert not family.name.endswith(("_ms", "_mib", "_gib", "_percent", "_milliseconds")), family.name
        assert family.documentation, family.name


def test_the_exporter_shows_nothing_of_a_gateway_that_does_not_run(home):
    assert scrape(GatewayCollector(home)) == {("tandem_gateway_up",): 0}
    note_cluster(home)
    config = json.loads(home.cluster.read_text())
    assert config["http_port"] == 1, "nothing listens there"
    assert scrape(GatewayCollector(home)) == {("tandem_gateway_up",): 0}


def test_no_proxy_of_the_environment_is_asked_for_the_gateway(home, monkeypatch):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"tandem_requests_active 3.0\n")

        def log_message(self, *args: object) -> None: ...

    for name in ("http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as gateway:
        threading.Thread(target=gateway.serve_forever, args=(0.01,), daemon=True).start()
        note_cluster(home, http_port=gateway.server_port)
        values = scrape(GatewayCollector(home))
        gateway.shutdown()
    assert values == {("tandem_gateway_up",): 1, ("tandem_requests_active",): 3}


def test_ray_is_where_its_own_discovery_file_says_and_nowhere_while_the_cluster_is_down(home):
    home.ray.mkdir()
    told = [{"labels": {"job": "ray"}, "targets": ["127.0.0.1:1234", "127.0.0.1:1235"]}]
    (home.ray / "prom_metrics_service_discovery.json").write_text(json.dumps(told))
    assert ray_targets(home) == []
    note_cluster(home)
    assert ray_targets(home) == told
    note_cluster(home, pid=2**22 - 1)
    assert ray_targets(home) == [], "the file outlives the cluster"


@pytest.mark.parametrize("text", ["", "{", "{}", "null"])
def test_a_damaged_discovery_file_of_ray_is_no_target(text, home):
    note_cluster(home)
    home.ray.mkdir()
    assert ray_targets(home) == [], "not written yet"
    (home.ray / "prom_metrics_service_discovery.json").write_text(text)
    assert ray_targets(home) == []


def test_the_parts_of_the_first_tokens_time_add_up_to_it():
    registry = CollectorRegistry()
    metrics = RequestMetrics(registry)
    metrics.began("prod", 1.0, queue=0.25, prefill=0.5)
    metrics.began("base", 0.5, queue=0.0, prefill=0.25)
    metrics.began("prod", 0.125, queue=0.0625, prefill=0.25)  # a clock that jumped in the engine
    values = scrape(registry=registry)
    part = {name: values[("tandem_time_to_first_token_part_seconds_sum", name)] for name in PARTS}
    assert part == {"gateway": 0.5, "queue": 0.3125, "prefill": 0.8125}
    assert sum(part.values()) == sum(
        values[("tandem_time_to_first_token_seconds_sum", target)] for target in ("prod", "base")
    )
    assert {values[("tandem_time_to_first_token_part_seconds_count", name)] for name in PARTS} == {3}


@pytest.mark.parametrize(("seconds", "below"), [(0.004, "0.005"), (0.3, "0.5"), (45.0, "60.0"), (119.0, "120.0")])
def test_the_buckets_tell_the_embedded_model_from_a_20b_one_that_waits(seconds, below):
    registry = CollectorRegistry()
    RequestMetrics(registry).began("prod", seconds)
    buckets = {
        key[1]: value
        for key, value in scrape(registry=registry).items()
        if key[0] == "tandem_time_to_first_token_seconds_bucket"
    }
    assert min((bound for bound, value in buckets.items() if value), key=float) == below
