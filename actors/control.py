"""The one control actor: queue, leases, quarantine, aliases. It owns the ledger; everybody else asks it.

`tick` is the whole of it: look after what holds a slot, judge the hardware, grant free slots to the queue, tell who
wants to be told. It survives its own death and the cluster's: what it knows is in the ledger, and a run whose processes
are gone goes back to the queue.
What becomes of a run's attempt is `actors.runs.lifecycle`, what is seen of the hardware `actors.runs.slot_health`;
it knows nothing of training or HTTP.
"""

import asyncio
import contextlib
import logging
import sqlite3
import time
from typing import TYPE_CHECKING

from actors import cluster, logs
from actors.client import NAME, NAMESPACE, Directive
from actors.hardware.placement import die_with_parent
from actors.home import locks
from actors.home.process_id import ProcessId
from actors.notify.daily_notice import DailyNotice
from actors.notify.queue import Notifier
from actors.ray_edge.jobs import RayJobs
from actors.runs.adapter_state import AdapterState
from actors.runs.event import EventKind, Severity
from actors.runs.ledger import Ledger, Quarantine, SlotStatus
from actors.runs.lifecycle import RunLifecycle
from actors.runs.quarantine import GpuWatch
from actors.runs.run import Grant, Run, RunState, Submission, check_run_id
from actors.runs.slot_health import SlotWatch
from configs import paths
from configs.errors import ClusterError, NotFoundError, StateError, TandemError
from configs.paths import Home
from configs.schema import ClusterConfig, Slot

if TYPE_CHECKING:
    from ray.actor import ActorHandle

TICK_S = 0.5
RETRY_S = 5
"""After a tick that failed."""
LONG_POLL_S = 20
LOGGED_ELSEWHERE = (EventKind.NOTIFY, EventKind.LOG)
"""Events whose words are in a log already: the notifier's, and the run's own."""

GATEWAY_GONE = "its gateway is gone"
"""Why an adapter is not being loaded any more."""

log = logging.getLogger(__name__)


class Control:
    """The control actor's class; `start` makes the actor. Every method is safe to call again after a lost answer."""

    async def __init__(  # type: ignore[misc]  # Ray awaits it
        self, home: Home, slots: tuple[Slot, ...], config: ClusterConfig, jobs: RayJobs, *, ticking: bool = True
    ) -> None:
        self._home = home
        self._slots = {slot.name: slot for slot in slots}
        self._ledger = Ledger(home.ledger)
        self._changed = asyncio.Condition()
        self._attempts = RunLifecycle(home, config, self._ledger, jobs)
        self._watch = SlotWatch(slots, self._ledger, self._attempts, config.engine_patience_s)
        self._notifier = Notifier(config.notify, self._ledger)
        self._daily: DailyNotice | None = None
        if config.notify.is_on and "summary" in config.notify.events:
            self._daily = DailyNotice(home, self._ledger, config.notify.summary_at, config.energy)
        self._logged = self._ledger.last_event()
        self._end_lost_attempts()
        if ticking:
            die_with_parent()
            logs.begin(home, "control")
            logs.begin(home, "notifier", names=("actors.notify.queue", "actors.notify.targets"))
            log.info("the control actor is up")
            self._loop = asyncio.create_task(self._run_forever())

    async def _run_forever(self) -> None:
        while True:
            try:
                await self.tick()
            except Exception as error:  # one bad tick must not end the queue; it is in the log and tried again
                log.exception("a tick failed")
                with contextlib.suppress(TandemError, sqlite3.Error):  # a full disk refuses this line as well
                    self._ledger.note(EventKind.ERROR, f"control: {type(error).__name__}: {error}")
                await asyncio.sleep(RETRY_S)
            await asyncio.sleep(TICK_S)

    async def tick(self) -> None:
        """Look after every run that should have processes and after the hardware, grant free slots, tell people."""
        for run in self._ledger.runs(active=True, limit=10_000):
            if run.id not in self._attempts.launching:
                try:
                    await self._attempts.look_after(run)
                except (RuntimeError, OSError) as error:  # Ray's job API did not answer: asked again at the next tick
                    log.warning("%s: %s", type(error).__name__, error, extra={"run": run.id})
        await self._watch.judge_gpus()
        await self._watch.judge_engines()
        await self._grant_free_slots()
        self._ledger.end_attempts(lambda process: process is not None and process.has_ended, GATEWAY_GONE)
        if self._daily:
            await asyncio.to_thread(self._daily.offer)
        self._notifier.offer()
        self._log_events()

    def _log_events(self) -> None:
        """The ledger's events since the last tick as lines of the log."""
        for event in self._ledger.events(after=self._logged):
            self._logged = event.seq
            if event.kind in LOGGED_ELSEWHERE:
                continue
            level = logging.WARNING if event.severity in (Severity.WARNING, Severity.FAILURE) else logging.INFO
            log.log(level, event.text or event.kind, extra={"event": event.kind, "run": event.run_id, "at": event.at})

    # The queue

    async def submit(self, wanted: Submission) -> Run:
        """Queue a run. One that is in the ledger already is returned as it is.

        Raises StateError if `slot_wanted` cannot train, NotFoundError if `parent` does not exist.
        """
        if wanted.slot_wanted is not None and "train" not in getattr(self._slots.get(wanted.slot_wanted), "roles", ()):
            trainable = ", ".join(slot.name for slot in self._slots.values() if "train" in slot.roles)
            raise StateError(f"slot {wanted.slot_wanted} does not train", hint=f"slots that do: {trainable}")
        if wanted.parent is not None:
            self._ledger.run(wanted.parent)
        check_run_id(wanted.run_id)
        try:
            return self._ledger.run(wanted.run_id)
        except NotFoundError:
            run = self._ledger.submit(
                wanted.run_id,
                config=wanted.config,
                kind=wanted.kind,
                profile=wanted.profile,
                max_steps=wanted.max_steps,
                priority=wanted.priority,
                slot_wanted=wanted.slot_wanted,
                parent=wanted.parent,
                attached=wanted.attached,
                job_id=wanted.job_id,
            )
        await self._notify()
        return run

    async def _grant_free_slots(self) -> None:
        held = {(lease.slot, lease.role) for lease in self._ledger.leases()}
        quarantines = self._ledger.quarantines()
        sound = [s for s in self._slots.values() if "train" in s.roles and s.name not in quarantines]
        for run in self._ledger.queue():
            free = [s for s in sound if (s.name, "train") not in held]
            slot = next((s for s in free if run.slot_wanted in (None, s.name)), None)
            if slot is None or self._ledger.run(run.id).state is not RunState.QUEUED:  # stopped in the meantime
                continue
            run = self._ledger.grant(run.id, slot)
            held.add((slot.name, "train"))
            if not run.attached:
                self._attempts.launch(run)
            await self._notify()

    async def wait_for_slot(self, run_id: str, wait_s: float = LONG_POLL_S) -> Grant | None:
        """Until the run holds a slot. None if `wait_s` seconds pass first: ask again.

        Raises StateError if the run ended instead.
        """
        async with self._changed:
            with contextlib.suppress(TimeoutError):
                waiting = lambda: self._ledger.run(run_id).state is not RunState.QUEUED  # noqa: E731
                await asyncio.wait_for(self._changed.wait_for(waiting), wait_s)
        run = self._ledger.run(run_id)
        if run.state.holds_slot and run.slot in self._slots:
            return Grant(self._slots[run.slot], run.attempt)
        if run.state is RunState.QUEUED:
            return None
        raise StateError(f"run {run_id} is {run.state}: {run.reason}")

    async def stop(self, run_id: str, reason: str = "stopped by request") -> Run:
        """Stop a run wherever it is. Returns the run as it is now; one that is stopping already is not an error.

        Raises StateError if it has ended, ClusterError while `tandem down` is running, whose signals drivers pass on.
        """
        run = self._ledger.run(run_id)
        if run.state.is_terminal:
            raise StateError(f"run {run_id} has ended already: {run.state}", hint=f"`tandem runs show {run_id}`")
        if locks.is_ending(self._home):
            raise ClusterError(f"`tandem down` is running; run {run_id} goes on after `tandem up`", hint="stop it then")
        if run.state in (RunState.QUEUED, RunState.INTERRUPTED):
            self._ledger.transition(run_id, RunState.STOPPED, reason)
        elif run.state is not RunState.STOPPING:
            self._ledger.transition(run_id, RunState.STOPPING, reason)
            await self._attempts.stop(run)
        await self._notify()
        return self._ledger.run(run_id)

    # What a run's processes say

    async def starting(self, run_id: str, attempt: int, process: ProcessId) -> Directive:
        """The run's trainer is up, in `process` of the slot's node."""
        directive = self._directive(run_id, attempt)
        if directive is Directive.CONTINUE:
            self._ledger.set_lease_process(run_id, process)
            self._ledger.heartbeat(run_id)
        return directive

    async def stage(self, run_id: str, attempt: int, stage: str) -> Directive:
        """What the run is doing now that it takes no step."""
        directive = self._directive(run_id, attempt)
        if directive is Directive.CONTINUE:
            self._ledger.set_stage(run_id, stage)
        return directive

    async def training(self, run_id: str, attempt: int) -> Directive:
        """Everything is loaded and the first step is about to run."""
        directive = self._directive(run_id, attempt)
        if directive is Directive.CONTINUE and self._ledger.run(run_id).state is RunState.STARTING:
            self._ledger.transition(run_id, RunState.RUNNING, "at work")
        return directive

    async def report(
        self, run_id: str, attempt: int, *, step: int, max_steps: int, loss: float | None, tokens_per_s: float | None
    ) -> Directive:
        """A step is done."""
        run = self._ledger.run(run_id)
        if run.attempt == attempt and run.state.holds_slot:
            self._ledger.progress(run_id, step=step, max_steps=max_steps, loss=loss, tokens_per_s=tokens_per_s)
        return self._directive(run_id, attempt)

    def _directive(self, run_id: str, attempt: int) -> Directive:
        run = self._ledger.run(run_id)
        mine = run.attempt == attempt and run.state in (RunState.STARTING, RunState.RUNNING)
        return Directive.CONTINUE if mine else Directive.STOP

    async def finish(self, run_id: str, attempt: int, state: RunState, reason: str, adapter: str | None = None) -> Run:
        """The run's driver says how it ended. From an older attempt's driver, after the end, and while `tandem down`
        ends the processes, unless it has succeeded, it changes nothing."""
        run = self._ledger.run(run_id)
        counts = state is RunState.SUCCEEDED or not locks.is_ending(self._home)
        if run.attempt == attempt and run.state.holds_slot and counts:
            if adapter is not None:
                self._ledger.set_adapter(run_id, adapter)
            if state is RunState.INTERRUPTED:
                await self._attempts.interrupt(run, reason)
            else:
                await self._attempts.end(run_id, state, reason)
            await self._notify()
        return self._ledger.run(run_id)

    # Slots

    async def quarantine(self, slot: str, reason: str, by: str = "a person") -> Quarantine:
        """Give `slot` to nobody from now on; what holds it goes on.

        Raises NotFoundError for an unknown slot, StateError if it is in quarantine already.
        """
        if known := self._ledger.quarantines().get(self._known(slot)):
            since = time.strftime("%F %T", time.localtime(known.since))
            raise StateError(
                f"slot {slot} is in quarantine already, since {since}: {known.reason}",
                hint=f"for another reason `tandem slots release {slot}` first",
            )
        self._ledger.quarantine(slot, reason, by)
        return self._ledger.quarantines()[slot]

    async def release_quarantine(self, slot: str) -> str | None:
        """Let `slot` be given again; what is wrong with its GPU now counts as accepted until it changes.

        Returns what is accepted, None if nothing is wrong. Raises NotFoundError for an unknown slot, StateError if it
        is not in quarantine or its GPU is still missing.
        """
        signs = await asyncio.to_thread(GpuWatch([self._slots[self._known(slot)]]).look_once)
        sign = signs.get(slot)
        if sign is not None and sign.gone:
            raise StateError(f"slot {slot} stays in quarantine: {sign.reason}", hint="check `nvidia-smi -L`")
        accepted = sign.reason if sign else None
        self._ledger.release_quarantine(slot, accepted=accepted)
        return accepted

    async def quarantines(self) -> dict[str, Quarantine]:
        """The slots that are given to nobody."""
        return self._ledger.quarantines()

    def _known(self, slot: str) -> str:
        if slot not in self._slots:
            raise NotFoundError(f"no slot {slot}", hint=f"slots: {', '.join(self._slots)}")
        return slot

    # Serving

    async def take_serve_slot(self, slot: str, holder: str, process: ProcessId) -> None:
        """An engine holds its slot. A holder whose process is gone loses it. Raises StateError while it is alive."""
        for lease in self._ledger.leases():
            if (lease.slot, lease.role) != (slot, "serve"):
                continue
            if (lease.holder, lease.process) == (holder, process):
                return
            if lease.process is None or not lease.process.lives:
                self._ledger.release(lease.holder, "its process is gone")
        self._ledger.take(slot, "serve", holder, process)

    async def engine_is_up(self, slot: str, process: ProcessId) -> None:
        """The engine that took the slot has loaded its base and its adapters, and answers."""
        self._ledger.set_lease_up(slot, process)

    async def aliases(self, known: dict[str, str | None] | None = None) -> dict[str, str | None]:
        """Alias to version (None: the base). With `known`, waits until they differ from it, at most LONG_POLL_S."""
        if known is not None:
            async with self._changed:
                with contextlib.suppress(TimeoutError):
                    differs = lambda: self._ledger.aliases() != known  # noqa: E731
                    await asyncio.wait_for(self._changed.wait_for(differs), LONG_POLL_S)
        return self._ledger.aliases()

    async def gateway_starts(self) -> None:
        """A gateway is about to serve. What another one had begun, whose process is gone, is over."""
        self._end_lost_attempts()

    def _end_lost_attempts(self) -> None:
        self._ledger.end_attempts(lambda process: process is None or not process.lives, GATEWAY_GONE)

    async def set_adapter_state(
        self, version: str, state: AdapterState, reason: str, process: ProcessId | None = None
    ) -> None:
        """Change an adapter's state as `Ledger.set_adapter_state` does, and raises what that raises."""
        self._ledger.set_adapter_state(version, state, reason, process=process)

    async def end_attempt(self, version: str, reason: str, process: ProcessId) -> None:
        """The gateway in `process` gives up what it began with `version`, if it has not ended already."""
        self._ledger.end_attempt(version, reason, process)

    async def flip(self, alias: str, version: str | None, *, expected: str | None, reason: str, seconds: float) -> None:
        """Point `alias` at `version` if it still points at `expected`. Raises StateError if somebody was quicker."""
        now = self._ledger.aliases().get(alias)
        if now == version:
            return
        if now != expected:
            raise StateError(f"alias {alias} moved to {now or 'the base'} meanwhile", hint="swap again")
        self._ledger.flip(alias, version, reason=reason, seconds=seconds)
        await self._notify()

    async def refuse_swap(self, alias: str, version: str, *, reason: str, seconds: float) -> None:
        if self._ledger.adapter_states().get(version) == (AdapterState.REFUSED, reason):
            return  # the answer was lost
        self._ledger.refuse_swap(alias, version, reason=reason, seconds=seconds)

    async def note(self, kind: EventKind, text: str, run_id: str | None = None) -> None:
        self._ledger.note(kind, text, run_id)

    # Reading

    async def run(self, run_id: str) -> Run:
        return self._ledger.run(run_id)

    async def slots(self) -> list[Slot]:
        return [*self._slots.values()]

    async def describe_slots(self) -> list[SlotStatus]:
        """Every slot, with the leases on it and its quarantine."""
        leases, quarantines = self._ledger.leases(), self._ledger.quarantines()
        return [
            SlotStatus(slot, tuple(lease for lease in leases if lease.slot == name), quarantines.get(name))
            for name, slot in self._slots.items()
        ]

    async def ready(self) -> bool:
        return True

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


def start(home: Home, slots: tuple[Slot, ...], config: ClusterConfig, dashboard: str) -> "ActorHandle":
    """Create the control actor in the connected cluster and wait for it. Returns its handle."""
    import ray

    options = {"name": NAME, "namespace": NAMESPACE, "lifetime": "detached", "get_if_exists": True}
    options |= {"num_cpus": 0, "max_restarts": -1}
    handle = ray.remote(Control).options(**options, max_task_retries=3, max_concurrency=1000).remote(
        home, slots, config, RayJobs(dashboard, home.token)
    )  # fmt: skip
    ray.get(handle.ready.remote())
    return handle


def main() -> None:
    """`start` in the running cluster of TANDEM_HOME, as a program of its own: what `tandem up` calls."""
    home = paths.home()
    running = cluster.require(home)
    cluster.connect(home, running)
    start(home, running.slots, running.config, running.dashboard)
