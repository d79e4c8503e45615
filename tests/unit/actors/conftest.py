"""The control actor as a plain object, ticked by hand over a real ledger: only Ray's job API is a fake."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from actors.client import Directive
from actors.cluster import MARKER
from actors.control import Control
from actors.home.process_id import ProcessId
from actors.runs.ledger import Ledger
from actors.runs.run import Run, RunState
from configs.paths import Home
from configs.schema import ClusterConfig, Slot
from tests.fakes import FakeJobs
from tests.samples import submission

TRAIN = Slot(name="0", roles=("train",))
SERVE = Slot(name="1", roles=("serve",))


class Desk:
    """A control actor with what a test looks at; `drive` runs a coroutine function over one in a fresh loop."""

    control: Control

    def __init__(self, home: Home, slots: tuple[Slot, ...] = (TRAIN, SERVE), **config) -> None:
        self.home, self.slots, self.config = home, slots, ClusterConfig(**config)
        self.jobs = FakeJobs()

    async def open(self) -> "Desk":
        self.control = Control.__new__(Control)  # its constructor is a coroutine, as Ray's actors allow
        await self.control.__init__(self.home, self.slots, self.config, self.jobs, ticking=False)
        self.ledger: Ledger = self.control._ledger
        return self

    async def restart(self) -> None:
        """The control actor dies and comes back; jobs and ledger stay."""
        self.ledger.close()
        await self.open()

    async def submit(self, run_id: str, **how) -> Run:
        return await self.control.submit(submission(run_id, **how))

    async def tick(self, times: int = 1) -> None:
        """Tick, and let the launches that it began end."""
        for _ in range(times):
            await self.control.tick()
            while self.control._attempts.launching:
                await asyncio.sleep(0.001)

    async def running(self, run_id: str, **how) -> int:
        """A run that reports steps; returns its attempt."""
        await self.submit(run_id, **how)
        await self.tick()
        return await self.begin(run_id)

    async def begin(self, run_id: str) -> int:
        attempt = self.ledger.run(run_id).attempt
        await self.control.starting(run_id, attempt, process=ProcessId.own())
        assert await self.control.training(run_id, attempt) is Directive.CONTINUE
        return attempt

    async def step(self, run_id: str, attempt: int, step: int = 1) -> Directive:
        return await self.control.report(run_id, attempt, step=step, max_steps=9, loss=1.0, tokens_per_s=10.0)

    def state(self, run_id: str) -> RunState:
        return self.ledger.run(run_id).state

    def holders(self) -> dict[str, str]:
        return {lease.slot: lease.holder for lease in self.ledger.leases()}


def marked_process(home: Home, program: str = "time.sleep(60)") -> subprocess.Popen:
    """A process of this home's cluster."""
    environment = os.environ | {MARKER: str(home.root)}
    return subprocess.Popen([sys.executable, "-S", "-c", f"import time; {program}"], env=environment)


class Clock:
    """Time that a test can move forward, on top of the time that passes."""

    def __init__(self, monkeypatch) -> None:
        self.ahead = 0.0
        for name in ("time", "monotonic"):
            real = getattr(time, name)
            monkeypatch.setattr(time, name, lambda real=real: real() + self.ahead)

    def advance(self, seconds: float) -> None:
        self.ahead += seconds


@pytest.fixture
def clock(monkeypatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def drive(home):
    def run(scenario: Callable, slots: tuple[Slot, ...] = (TRAIN, SERVE), **config) -> None:
        async def main() -> None:
            desk = await Desk(home, slots, **config).open()
            await asyncio.wait_for(scenario(desk), timeout=60)
            desk.ledger.close()

        asyncio.run(main())

    return run
