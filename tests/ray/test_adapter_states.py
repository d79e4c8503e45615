"""A gateway that is killed in the middle of a swap leaves no adapter in a state that only a gateway can end.

The engine's process is stopped, so that what the gateway asks it for lasts until the gateway is killed.
"""

import contextlib
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import psutil
import pytest

from actors import cluster
from tests.loopback import http

pytestmark = pytest.mark.usefixtures("on_base")


def _wait(until: Callable[[], object], what: str, timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not until():
        assert time.monotonic() < deadline, f"{what}: not within {timeout} s"
        time.sleep(0.02)


def _gateway(tandem) -> psutil.Process:
    for process in cluster.processes(tandem.home):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "ServeReplica:tandem:gateway" in " ".join(process.cmdline()):
                return process
    raise AssertionError("no gateway runs")


def _engine(tandem) -> psutil.Process:
    (lease,) = [lease for lease in tandem.ledger().leases() if lease.role == "serve"]
    return psutil.Process(lease.pid)


def _states(tandem) -> dict[str, str]:
    with contextlib.closing(tandem.ledger()) as ledger:
        return {version: state for version, (state, _) in ledger.adapter_states().items()}


def _loaded(tandem, version: str) -> bool:
    engine = http.get(f"{tandem.http}/readyz", timeout=30).json()["engines"]["engine_1"]
    return version in engine.get("adapters", ())


@contextlib.contextmanager
def _asking(tandem, version: str) -> Iterator[None]:
    """A client that asks for the swap and hears nothing: its gateway dies."""

    def ask() -> None:
        with contextlib.suppress(httpx.HTTPError):
            tandem.post("/api/aliases/prod", {"adapter": version})

    client = threading.Thread(target=ask)
    client.start()
    yield
    client.join(timeout=120)


@contextlib.contextmanager
def _no_writing(tandem) -> Iterator[None]:
    """The ledger is locked, as by a backup: what the control actor wants to write waits, readers go on."""
    db = sqlite3.connect(tandem.home.ledger, isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        db.execute("ROLLBACK")
        db.close()


def _kill_while_loading(tandem, version: str, engine: psutil.Process) -> None:
    with _asking(tandem, version):
        _wait(lambda: _states(tandem)[version] == "LOADING", "the engine is to load it, and is stopped")
        _gateway(tandem).kill()


def _kill_while_verifying(tandem, version: str, engine: psutil.Process) -> None:
    """The engine goes on and loads while VERIFYING cannot be written, and is stopped before it can."""
    with _asking(tandem, version):
        _wait(lambda: _states(tandem)[version] == "LOADING", "the engine is to load it, and is stopped")
        while True:
            with _no_writing(tandem):
                if _states(tandem)[version] == "VERIFYING":
                    break
                engine.send_signal(signal.SIGCONT)
                _wait(lambda: _loaded(tandem, version), "the engine loads it")
                time.sleep(0.2)  # usually enough for the gateway to hear of it; if not, once more
                engine.send_signal(signal.SIGSTOP)
            with contextlib.suppress(AssertionError):
                _wait(lambda: _states(tandem)[version] == "VERIFYING", "the gateway heard of it", timeout=3)
        _gateway(tandem).kill()


@pytest.mark.parametrize(("kill", "state"), [(_kill_while_loading, "LOADING"), (_kill_while_verifying, "VERIFYING")])
def test_a_gateway_killed_in_a_swap_leaves_the_adapter_as_it_was_and_the_next_swap_works(tandem, trained, kill, state):
    version = trained.adapter
    before, engine = _states(tandem)[version], _engine(tandem)
    dead, seen = _gateway(tandem).pid, tandem.ledger().last_event()
    engine.send_signal(signal.SIGSTOP)
    try:
        kill(tandem, version, engine)
    finally:
        engine.send_signal(signal.SIGCONT)
    tandem.wait_ready()
    assert _gateway(tandem).pid != dead
    states = _states(tandem)
    assert states[version] == before and not {"LOADING", "VERIFYING"} & set(states.values())
    told = [event.text for event in tandem.ledger().events(after=seen) if "again" in event.text]
    assert told == [f"{version} is {before} again, no longer {state}: its gateway is gone"]
    tandem.json("swap", version)
    assert _states(tandem)[version] == "LIVE"
    assert tandem.json("status")["aliases"]["prod"] == version
    assert "Tandem" in tandem.ask()
