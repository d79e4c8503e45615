"""A stage for swaps and holds (real control actor, ledger and registry, two fake engines), and a gateway over HTTP."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator

import psutil
import pytest
from prometheus_client import CollectorRegistry

from actors import cluster
from actors.cluster import Cluster
from actors.control import Control
from actors.home.process_id import ProcessId
from actors.metrics import RequestMetrics
from actors.runs.adapter_state import AdapterState
from configs.paths import TINY_MODEL, Home
from configs.schema import ClusterConfig, Slot
from models.lora.registry import Registry
from serve.adapters.keep_loaded import KeptAdapters
from serve.adapters.swap import Swapper
from serve.engine.transformers import TransformersEngine
from serve.generation.catalog import Catalog
from serve.generation.engines import Engines
from tests.fakes import FakeEngine, FakeJobs, FakeRemote
from tests.gateway_server import TOKENIZER, Server
from tests.samples import FINGERPRINT, publish

SLOTS = (Slot(name="0", roles=("train",)), Slot(name="1", roles=("serve",)))


class Stage:
    """Everything that a swap touches, with two engines."""

    def __init__(self, home) -> None:
        self.home = home
        self.registry = Registry(home.models)
        self.fakes = [FakeEngine(delay=0.001), FakeEngine(delay=0.001)]
        self.engines = Engines([FakeRemote(f"engine_{number}", engine) for number, engine in enumerate(self.fakes)])
        self.scrape = CollectorRegistry()

    async def open(self) -> "Stage":
        self.control = Control.__new__(Control)
        await self.control.__init__(self.home, SLOTS, ClusterConfig(), FakeJobs(), ticking=False)
        self.ledger = self.control._ledger
        self.catalog = Catalog("tiny", self.control.aliases)
        metrics = RequestMetrics(self.scrape)
        self.swapper = Swapper(self.control, self.engines, self.catalog, self.registry, FINGERPRINT, metrics)
        self.kept_adapters = KeptAdapters(self.swapper, self.engines, self.catalog)
        return self

    def publish(self, run_id: str = "tiny-1", **about) -> str:
        return publish(self.registry, run_id=run_id, **about).version

    def loaded(self) -> list[tuple[str, ...]]:
        return [engine.adapters() for engine in self.fakes]

    def outcomes(self) -> list[tuple]:
        return [(swap.outcome, swap.old, swap.new) for swap in reversed(self.ledger.swaps())]

    def state(self, version: str) -> AdapterState:
        return self.ledger.adapter_states()[version][0]

    def observed(self, outcome: str) -> float | None:
        return self.scrape.get_sample_value("tandem_swap_duration_seconds_count", {"outcome": outcome})


@pytest.fixture
def play(home):
    def run(scenario: Callable[[Stage], Awaitable[None]]) -> None:
        async def main() -> None:
            stage = await Stage(home).open()
            await asyncio.wait_for(scenario(stage), 20)
            stage.ledger.close()

        asyncio.run(main())

    return run


@pytest.fixture
def server(home) -> Iterator[Server]:
    with Server(home) as running:
        yield running


@pytest.fixture
def running(server) -> Server:
    """The server as the gateway of a cluster whose head is this process; Ray answers nothing."""
    began, port = psutil.Process(os.getpid()).create_time(), int(server.url.rpartition(":")[2])
    cluster._write(server.home.cluster, Cluster(ProcessId.own(), began, "127.0.0.1:1", port, 1, SLOTS, ClusterConfig()))
    server.home.token.write_text("secret\n")
    return server


@pytest.fixture(scope="module")
def one_for_all(tmp_path_factory) -> Iterator[Server]:
    with Server(Home(tmp_path_factory.mktemp("gateway"))) as running:
        yield running


@pytest.fixture(scope="session")
def speaking(tmp_path_factory) -> Iterator[Server]:
    """A gateway in front of the embedded model itself."""
    import torch
    from transformers import AutoModelForCausalLM

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    running = Server(Home(tmp_path_factory.mktemp("speaking")))
    model = AutoModelForCausalLM.from_pretrained(TINY_MODEL, dtype=torch.float32)
    running.engine = running.remote.engine = TransformersEngine(model, TOKENIZER, max_batch=8)
    running.start()
    yield running
    running.stop()
    running.engine.close()
    torch.set_num_threads(threads)


@pytest.fixture
def refusing(one_for_all) -> Iterator[Server]:
    """A server that several tests share, because what they ask for is refused and leaves nothing behind."""
    one_for_all.engine.requests.clear()
    yield one_for_all
    assert one_for_all.engine.requests == []
    assert one_for_all.control._ledger.events() == []
