"""A machine that the dashboard believes in: a real ledger, folders and gateway, Ray's two tables, and cards of NVML.

Only what needs hardware or Ray is made up, at its edge: `pynvml`'s functions and two answers over HTTP.
"""

import json
import os
import threading
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from unittest import mock

import psutil
import pynvml

from actors.cluster import Cluster
from actors.home.process_id import ProcessId
from actors.runs.curve import MetricsLog
from actors.runs.run import RunState
from configs.paths import Home
from configs.schema import ClusterConfig, Slot
from tests.gateway_server import Server as Gateway
from tests.samples import TRAIN

ME = os.getpid()


@dataclass
class Card:
    """What NVML says about one GPU; a `lost` one is not counted any more."""

    uuid: str
    utilization: int = 0
    memory_gib: float = 1.0
    temperature: int = 40
    watts: int = 60
    lost: bool = False


class Machine:
    """Two slots on two cards, up until `down`. `ledger` may be written to, as the control actor does."""

    def __init__(self, home: Home, *cards: Card) -> None:
        self.home, self.cards, self._begun_with = home, list(cards), cards
        self.actors = [self.actor("Control", "tandem_control")]
        self.deployments = {name: self.deployment(ME) for name in ("gateway", "engine_1")}
        self.gateway = Gateway(home)
        self.gateway.start()
        self.ledger = self.gateway.control._ledger
        self.ray = _serve(self)
        self._patched = ExitStack()
        for name, answer in _nvml(self.cards).items():
            self._patched.enter_context(mock.patch.object(pynvml, name, answer))
        self.up()

    @property
    def slots(self) -> tuple[Slot, ...]:
        if not self.cards:
            return (Slot(name="0", roles=("train",)), Slot(name="1", roles=("serve",)))
        roles = ("train", "serve")
        return tuple(Slot(name=str(i), roles=(roles[i],), gpu=i, uuid=card.uuid) for i, card in enumerate(self.cards))

    def up(self) -> None:
        cluster = Cluster(
            ProcessId.own(), psutil.Process().create_time(), "127.0.0.1:1", int(self.gateway.url.rpartition(":")[2]),
            self.ray.server_port, self.slots, ClusterConfig(),
        )  # fmt: skip
        described = asdict(cluster) | {
            "slots": [slot.model_dump() for slot in cluster.slots], "config": cluster.config.model_dump(mode="json")
        }  # fmt: skip
        self.home.token.write_text("secret")
        self.home.cluster.write_text(json.dumps(described))

    def reset(self) -> None:
        """Nothing runs, `prod` is the base, and cards and processes are well."""
        for run in self.ledger.runs(active=True):
            if run.state is not RunState.QUEUED:
                self.ledger.transition(run.id, RunState.FAILED, "the test ended")
            else:
                self.ledger.transition(run.id, RunState.STOPPED, "the test ended")
        self.cards[:] = [replace(card, lost=False) for card in self._begun_with]
        self.deployments |= {name: self.deployment(ME) for name in ("gateway", "engine_1")}
        self.up()
        if self.ledger.aliases().get("prod") is not None:
            self.gateway.post("/api/aliases/prod", {"adapter": "base"})

    def down(self) -> None:
        self.home.cluster.unlink(missing_ok=True)

    def close(self) -> None:
        self._patched.close()
        self.ray.shutdown()
        self.ray.server_close()
        self.gateway.stop()

    # What Ray and Serve say

    @staticmethod
    def actor(class_name: str, name: str, pid: int = ME, state: str = "ALIVE", restarts: int = 0) -> dict:
        return {"class_name": class_name, "name": name, "pid": pid, "state": state, "num_restarts": str(restarts)}

    @staticmethod
    def deployment(pid: int | None, state: str = "RUNNING", message: str = "", dead: int = 0) -> dict:
        replicas = [{"state": state, "start_time_s": time.time() - 60, "pid": pid}] if pid else []
        how = {"status": "UNHEALTHY" if message else "HEALTHY", "message": message, "target_num_replicas": 1}
        return how | {"replicas": replicas, "recent_dead_replicas": [{}] * dead}

    # What runs leave

    def begin(self, run_id: str, *, steps: int = 0, max_steps: int = 60) -> MetricsLog:
        """A run that computes on slot 0, after `steps` steps; its log, to go on with."""
        self.ledger.submit(run_id, **TRAIN | {"max_steps": max_steps})
        self.ledger.grant(run_id, self.slots[0])
        self.ledger.transition(run_id, RunState.RUNNING, "training")
        self.home.run(run_id).mkdir(parents=True)
        log = MetricsLog(self.home.run(run_id) / "metrics.jsonl")
        for step in range(1, steps + 1):
            self.step(run_id, log, step, max_steps)
        return log

    def step(self, run_id: str, log: MetricsLog, step: int, max_steps: int = 60) -> None:
        loss = 2.4 / step**0.5 + 0.05 * (step * 7 % 5)
        log.append({"step": step, "loss": loss, "tokens_per_s": 812.5, "at": time.time() - max_steps + step})
        if step % 10 == 0:
            log.append({"step": step, "eval_loss": 2.6 / step**0.4, "at": time.time() - max_steps + step})
        self.ledger.progress(run_id, step=step, max_steps=max_steps, loss=loss, tokens_per_s=812.5)


def _serve(machine: Machine) -> ThreadingHTTPServer:
    """Ray's dashboard, as far as it is asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/api/v0/actors"):
                content = {"result": True, "data": {"result": {"result": machine.actors}}}
            else:
                content = {"applications": {"tandem": {"deployments": machine.deployments}}}
            body = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def _nvml(cards: list[Card]) -> dict:
    """NVML's functions over these cards; without cards there is no driver."""

    def start() -> None:
        if not cards:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    def card(index: int) -> int:
        if cards[index].lost:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return index

    def refused(*arguments) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    memory = lambda index: SimpleNamespace(total=24 * 2**30, used=int(cards[index].memory_gib * 2**30))  # noqa: E731
    return {
        "nvmlInit": start,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: len(cards),
        "nvmlDeviceGetHandleByIndex": card,
        "nvmlDeviceGetUUID": lambda index: cards[index].uuid,
        "nvmlDeviceGetName": lambda index: "NVIDIA GeForce RTX 3090",
        "nvmlDeviceGetMemoryInfo": memory,
        "nvmlDeviceGetUtilizationRates": lambda index: SimpleNamespace(gpu=cards[index].utilization, memory=0),
        "nvmlDeviceGetTemperature": lambda index, sensor: cards[index].temperature,
        "nvmlDeviceGetPowerUsage": lambda index: 1000 * cards[index].watts,
        "nvmlDeviceGetEnforcedPowerLimit": lambda index: 350_000,
        "nvmlDeviceGetClockInfo": lambda index, kind: 1695,
        "nvmlDeviceGetMaxClockInfo": lambda index, kind: 2100,
        "nvmlDeviceGetFanSpeed": lambda index: 45,
        "nvmlDeviceGetTotalEnergyConsumption": refused,
    }
