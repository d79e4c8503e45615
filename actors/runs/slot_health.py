"""What the control actor sees of its slots' hardware, and does about it: quarantine, runs moved away, engines missed.

The rules are those of `actors.runs.quarantine`. Called by the control actor alone, at every tick; no look makes a tick
wait.
"""

import asyncio
import math
import time
from collections.abc import Iterable

from actors.runs import quarantine
from actors.runs.event import EventKind
from actors.runs.ledger import Ledger
from actors.runs.lifecycle import RunLifecycle
from actors.runs.quarantine import EngineWatch, GpuFault, GpuWatch
from configs.schema import Slot


class SlotWatch:
    """Over one ledger and one cluster's slots."""

    def __init__(self, slots: Iterable[Slot], ledger: Ledger, attempts: RunLifecycle, engine_patience_s: float) -> None:
        self._slots = tuple(slots)
        self._ledger = ledger
        self._attempts = attempts
        self._gpus = GpuWatch(self._slots)
        self._engines = EngineWatch(engine_patience_s)
        self._look: asyncio.Task | None = None
        self._looked_at = self._engines_at = -math.inf

    async def judge_gpus(self) -> None:
        """Act on the last look at the GPUs. A look may take as long as the driver likes, so no tick waits for it."""
        if self._look is None:
            if time.monotonic() - self._looked_at >= quarantine.LOOK_S:
                self._look = asyncio.create_task(asyncio.to_thread(self._gpus.look))
        elif self._look.done():
            look, self._look, self._looked_at = self._look, None, time.monotonic()
            for slot, sign in look.result().items():
                await self._judge_slot(slot, sign)

    async def _judge_slot(self, slot: str, sign: GpuFault | None) -> None:
        """Quarantine for what a person has not accepted; a run on a GPU that is gone goes back to the queue."""
        if sign is None:
            if self._ledger.accepted(slot):
                self._ledger.forget_accepted(slot)
            return
        if sign.reason != self._ledger.accepted(slot):
            self._ledger.quarantine(slot, sign.reason, "tandem")
        for lease in self._ledger.leases() if sign.gone else ():
            if (lease.slot, lease.role) == (slot, "train") and lease.holder not in self._attempts.launching:
                run = self._ledger.run(lease.holder)
                await self._attempts.kill(run)
                hope = f"it waits for another slot or for `tandem slots release {slot}`"
                reason = f"slot {slot} is in quarantine: {sign.reason}; {hope}"
                await self._attempts.interrupt(run, reason, own_fault=False)

    async def judge_engines(self) -> None:
        """An engine counts from when it says that it is up, for as long as its process lives.

        On a clock of its own: a driver that hangs must not hide that an engine is gone.
        """
        if time.monotonic() - self._engines_at < quarantine.LOOK_S:
            return
        self._engines_at = time.monotonic()
        up = {lease.slot: lease.process for lease in self._ledger.leases() if lease.role == "serve" and lease.is_up}
        for slot in self._slots:
            if "serve" in slot.roles:
                process = up.get(slot.name)
                lives = process is not None and process.lives
                if line := self._engines.see(slot.name, lives):
                    self._ledger.note(EventKind.ENGINE if lives else EventKind.ENGINE_DOWN, line)
