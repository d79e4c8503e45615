"""A real Prometheus with the shipped files scrapes `tandem metrics`, with a gateway that answers and two fake GPUs."""

import math
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from actors import cluster
from actors.home.process_id import ProcessId
from configs.paths import SOURCE, Home
from configs.schema import Slot
from tests.debian import program
from tests.gateway_server import BASIC, Server
from tests.nvml.pynvml import UUIDS
from tests.prometheus import Prometheus, exporting, running
from tests.samples import TRAIN, publish
from tests.unit.actors.metrics.test_metrics import note_cluster
from tests.unit.configs.monitoring.test_files import PANELS

SLOTS = tuple(Slot(name=str(n), gpu=n, uuid=UUIDS[n], roles=(role,)) for n, role in enumerate(("train", "serve")))


@dataclass
class Stage:
    prometheus: Prometheus
    server: Server
    home: Home

    def restarted(self, **changes) -> None:
        """cluster.json says something else."""
        cluster._write(self.home.cluster, replace(cluster.find(self.home), **changes))


@pytest.fixture(scope="module")
def stage(tmp_path_factory) -> Iterator[Stage]:
    program("prometheus")
    folder = tempfile.mkdtemp(prefix="td", dir="/tmp")  # pytest's own are too long for a TANDEM_HOME
    home = Home(Path(folder))
    with Server(home) as server, exporting(fake_gpus(home)) as port, asking(server):
        at_work(server)
        note_cluster(home, slots=SLOTS, http_port=int(server.url.rpartition(":")[2]))
        with running(tmp_path_factory.mktemp("prometheus"), port) as prometheus:
            yield Stage(prometheus, server, home)
    shutil.rmtree(folder, ignore_errors=True)


def fake_gpus(home: Home) -> dict[str, str]:
    """An environment in which the fake NVML is the driver's."""
    python_path = os.pathsep.join((str(SOURCE / "tests" / "nvml"), str(SOURCE)))
    return os.environ | {"TANDEM_HOME": str(home.root), "PYTHONPATH": python_path}


@contextmanager
def asking(server: Server) -> Iterator[None]:
    """Chat requests, five a second."""
    enough = threading.Event()
    client = threading.Thread(target=ask, args=(server, enough))
    client.start()
    try:
        yield
    finally:
        enough.set()
        client.join()


def at_work(server: Server) -> None:
    """A swap was done, and a run is at its seventh step."""
    server.post("/api/aliases/prod", {"adapter": publish(server.registry).version})
    ledger = server.control._ledger
    ledger.submit("tiny-1", **TRAIN)
    ledger.grant("tiny-1", SLOTS[0])
    ledger.progress("tiny-1", step=7, max_steps=60, loss=1.25, tokens_per_s=830.5)
    server.home.run("tiny-1").mkdir(parents=True)
    lines = '{"step": 6, "eval_loss": 1.5, "at": 1.0}\n{"step": 7, "loss": 1.25, "at": 2.0}\n'
    (server.home.run("tiny-1") / "metrics.jsonl").write_text(lines)


def ask(server: Server, enough: threading.Event) -> None:
    server.engine.delay = 0.001
    while not enough.wait(0.2):
        server.post(body=BASIC | {"stream": True})


def test_every_panel_of_the_dashboard_has_data(stage):
    left = {
        f"{panel['title']}: {target['expr']}": target["expr"].replace("$__rate_interval", "10s")
        for panel in PANELS
        for target in panel["targets"]
    }
    assert len(left) > 50

    def all_there() -> bool:
        for panel, query in [*left.items()]:
            found = stage.prometheus.query(query)
            if found and all(math.isfinite(value) for _, value in found):
                del left[panel]
        return not left

    stage.prometheus.wait(all_there, 40)
    assert [*left] == []


def test_the_parts_of_the_first_tokens_time_add_up(stage):
    parts, whole = (f"sum(tandem_time_to_first_token_{name}_sum)" for name in ("part_seconds", "seconds"))
    assert stage.prometheus.wait(lambda: stage.prometheus.query(whole) != [])
    assert stage.prometheus.query(f"abs({parts} - {whole}) < 0.000001") != []


def test_cards_are_what_their_driver_says(stage):
    assert stage.prometheus.wait(lambda: len(stage.prometheus.query("tandem_slot_gpu_up == 1")) == 2)
    query = stage.prometheus.query
    assert {(labels["uuid"], value) for labels, value in query("tandem_gpu_clock_hertz")} == {
        (uuid, 1.695e9) for uuid in UUIDS
    }
    ((counting, joules),) = query("tandem_gpu_energy_joules_total")
    assert (counting["uuid"], joules > 0) == (UUIDS[0], True)
    assert stage.prometheus.wait(lambda: query("rate(tandem_gpu_energy_joules_total[5s]) > 200 < 300") != [])


def test_no_alert_speaks_while_all_is_well_and_the_right_ones_begin_when_the_cluster_dies(stage):
    """The last one: it takes the stage down."""
    pending = 'ALERTS{alertstate=~"pending|firing"}'
    own = {"TandemDiskNearlyFull"}  # this machine's disk, which is not a business of the test

    def speaking() -> set[str]:
        return {labels["alertname"] for labels, _ in stage.prometheus.query(pending)} - own

    assert stage.prometheus.wait(lambda: stage.prometheus.query("tandem_up == 1") != [])
    assert stage.prometheus.wait(lambda: speaking() == set())
    stage.restarted(head=replace(ProcessId.own(), pid=2**22 - 1))
    assert stage.prometheus.wait(lambda: speaking() == {"TandemDown"}), speaking()
    assert stage.prometheus.query("tandem_gateway_up") != [] and stage.prometheus.query("tandem_engine_up") == []
    assert stage.prometheus.query('tandem_runs{state="STARTING"}')[0][1] == 1, "the ledger is still read"
    assert stage.prometheus.query('tandem_run_step{run="tiny-1"}') == [], "it does not step"
    for file in stage.home.root.glob("ledger.db*"):  # the gateway keeps the old one open, its readers get the new one
        file.unlink()
    stage.home.ledger.write_bytes(b"no ledger" * 1000)
    assert stage.prometheus.wait(
        lambda: speaking() == {"TandemDown", "TandemLedgerUnreadable", "TandemExporterBlind"}
    ), speaking()
