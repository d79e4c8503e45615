"""The one control actor: queue, leases, quarantine, aliases. It owns the ledger; everybody else asks it.

`tick` is the whole of it: look after what holds a slot, judge the hardware, grant free slots to the queue, tell who
wants to be told. It survives its own death and the cluster's: what it knows is in the ledger, and a run whose processes
are gone goes back to the queue.
Knows Ray's jobs only through `RayJobs`; knows nothing of training or HTTP.
"""

import asyncio
import contextlib
import logging
import math
import os
import signal
import sqlite3
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Any

import psutil

from actors import health, logs
from actors.cluster import MARKER
from actors.daily_notice import DailyNotice
from actors.health import EngineWatch, GpuWatch, Sign
from actors.ledger import AdapterState, Ledger, Quarantine
from actors.notifier import Notifier
from actors.placement import die_with_parent
from actors.ray_jobs import JobState, RayJobs
from actors.run import Run, RunState, check_run_id
from configs.errors import ClusterError, NotFoundError, StateError, TandemError
from configs.paths import Home
from configs.schema import ClusterConfig, Slot

NAME = "tandem_control"
NAMESPACE = "tandem"
TICK_S = 0.5
RETRY_S = 5
"""After a tick that failed."""
LONG_POLL_S = 20
EXIT_GRACE_S = 5
"""How long a process that is done with its slot may take to exit before it is killed."""
TROUBLE = ("error", "failed", "interrupted", "refused", "quarantine", "device_error", "engine_down")
"""Events that are warnings in the log."""

log = logging.getLogger(__name__)


class Directive(StrEnum):
    CONTINUE = "CONTINUE"
    STOP = "STOP"  # write a checkpoint and end


class Control:
    """The control actor's class; `start` makes the actor. Every method is safe to call again after a lost answer."""

    async def __init__(
        self, home: Home, slots: tuple[Slot, ...], config: ClusterConfig, jobs: RayJobs, *, ticking: bool = True
    ) -> None:
        self._home = home
        self._slots = {slot.name: slot for slot in slots}
        self._config = config
        self._jobs = jobs
        self._ledger = Ledger(home.ledger)
        self._changed = asyncio.Condition()
        self._launching: set[str] = set()
        self._gpus = GpuWatch(slots)
        self._engines = EngineWatch(config.engine_patience_s)
        self._notifier = Notifier(config.notify, self._ledger)
        self._daily: DailyNotice | None = None
        if config.notify.is_on and "summary" in config.notify.events:
            self._daily = DailyNotice(home, self._ledger, config.notify.summary_at, config.energy)
        self._look: asyncio.Task | None = None
        self._looked_at = self._engines_at = -math.inf
        self._stopping_since: dict[str, float] = {}
        self._logged = self._ledger.last_event()
        if ticking:
            die_with_parent()
            logs.begin(home, "control")
            logs.begin(home, "notifier", names=("actors.notifier", "actors.delivery"))
            log.info("the control actor is up")
            self._loop = asyncio.create_task(self._run_forever())

    async def _run_forever(self) -> None:
        while True:
            try:
                await self.tick()
            except Exception as error:  # one bad tick must not end the queue; it is in the log and tried again
                log.exception("a tick failed")
                with contextlib.suppress(TandemError, sqlite3.Error):  # a full disk refuses this line as well
                    self._ledger.note("error", f"control: {type(error).__name__}: {error}")
                await asyncio.sleep(RETRY_S)
            await asyncio.sleep(TICK_S)

    async def tick(self) -> None:
        """Look after every run that should have processes and after the hardware, grant free slots, tell people."""
        for run in self._ledger.runs(active=True, limit=10_000):
            if run.id not in self._launching:
                try:
                    await self._look_after(run)
                except (RuntimeError, OSError) as error:  # Ray's job API did not answer: asked again at the next tick
                    log.warning("%s: %s", type(error).__name__, error, extra={"run": run.id})
        await self._judge_hardware()
        await self._judge_engines()
        await self._grant_free_slots()
        if self._daily:
            await asyncio.to_thread(self._daily.offer)
        self._notifier.offer()
        self._log_events()

    def _log_events(self) -> None:
        """The ledger's events since the last tick as lines of the log."""
        for event in self._ledger.events(after=self._logged):
            level = logging.WARNING if event.kind in TROUBLE else logging.INFO
            log.log(level, event.text or event.kind, extra={"event": event.kind, "run": event.run_id, "at": event.at})
            self._logged = event.seq

    # The queue

    async def submit(self, run_id: str, config: dict, **how: Any) -> dict:
        """Queue a run; `how` are the keyword arguments of `Ledger.submit`. Returns the run as a dict.

        The id is the caller's, so that a submission whose answer was lost can be sent again.
        Raises StateError if `slot_wanted` cannot train, NotFoundError if `parent` does not exist.
        """
        wanted = how.get("slot_wanted")
        if wanted is not None and "train" not in getattr(self._slots.get(wanted), "roles", ()):
            trainable = ", ".join(slot.name for slot in self._slots.values() if "train" in slot.roles)
            raise StateError(f"slot {wanted} does not train", hint=f"slots that do: {trainable}")
        if how.get("parent") is not None:
            self._ledger.run(how["parent"])
        check_run_id(run_id)
        try:
            return asdict(self._ledger.run(run_id))
        except NotFoundError:
            run = self._ledger.submit(run_id, config=config, **how)
        await self._notify()
        return asdict(run)

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
                self._launching.add(run.id)
                asyncio.create_task(self._launch(run))  # noqa: RUF006  kept alive by _launching's discard below
            await self._notify()

    async def _launch(self, run: Run) -> None:
        job_id = f"{run.id}-{run.attempt}"
        try:
            self._ledger.attach_job(run.id, job_id, attached=False)
            await asyncio.to_thread(self._jobs.submit, job_id, run.id, run.kind)
        except Exception as error:
            await self._end(run.id, RunState.FAILED, f"its job could not be started: {error}")
        finally:
            self._launching.discard(run.id)

    async def wait_for_slot(self, run_id: str, wait_s: float = LONG_POLL_S) -> dict | None:
        """Until the run holds a slot: `{"slot": ..., "attempt": ...}`. None if `wait_s` seconds pass first: ask again.

        Raises StateError if the run ended instead.
        """
        async with self._changed:
            with contextlib.suppress(TimeoutError):
                waiting = lambda: self._ledger.run(run_id).state is not RunState.QUEUED  # noqa: E731
                await asyncio.wait_for(self._changed.wait_for(waiting), wait_s)
        run = self._ledger.run(run_id)
        if run.state.holds_slot and run.slot in self._slots:
            return {"slot": self._slots[run.slot].model_dump(), "attempt": run.attempt}
        if run.state is RunState.QUEUED:
            return None
        raise StateError(f"run {run_id} is {run.state}: {run.reason}")

    async def stop(self, run_id: str, reason: str = "stopped by request") -> dict:
        """Stop a run wherever it is. Returns the run as it is now; one that is stopping already is no error.

        Raises StateError if it has ended.
        """
        run = self._ledger.run(run_id)
        if run.state.is_terminal:
            raise StateError(f"run {run_id} has ended already: {run.state}", hint=f"`tandem runs show {run_id}`")
        if run.state in (RunState.QUEUED, RunState.INTERRUPTED):
            self._ledger.transition(run_id, RunState.STOPPED, reason)
        elif run.state is not RunState.STOPPING:
            self._ledger.transition(run_id, RunState.STOPPING, reason)
            self._stopping_since[run_id] = time.monotonic()
            if run.state is RunState.STARTING and run.job_id and run_id not in self._launching:
                with contextlib.suppress(RuntimeError):  # a job that is gone already is found by the next tick
                    await asyncio.to_thread(self._jobs.stop, run.job_id)
        await self._notify()
        return asdict(self._ledger.run(run_id))

    # What a run's processes say

    async def starting(self, run_id: str, attempt: int, pid: int) -> Directive:
        """The run's trainer is up, in process `pid` of the slot's node."""
        directive = self._directive(run_id, attempt)
        if directive is Directive.CONTINUE:
            self._ledger.set_lease_pid(run_id, pid)
            self._ledger.heartbeat(run_id)
        return directive

    async def training(self, run_id: str, attempt: int) -> Directive:
        """Everything is loaded and the first step is about to run."""
        directive = self._directive(run_id, attempt)
        if directive is Directive.CONTINUE and self._ledger.run(run_id).state is RunState.STARTING:
            self._ledger.transition(run_id, RunState.RUNNING, "at work")
        return directive

    async def report(self, run_id: str, attempt: int, **progress: Any) -> Directive:
        """A step is done; `progress` are the keyword arguments of `Ledger.progress`."""
        run = self._ledger.run(run_id)
        if run.attempt == attempt and run.state.holds_slot:
            self._ledger.progress(run_id, **progress)
        return self._directive(run_id, attempt)

    def _directive(self, run_id: str, attempt: int) -> Directive:
        run = self._ledger.run(run_id)
        mine = run.attempt == attempt and run.state in (RunState.STARTING, RunState.RUNNING)
        return Directive.CONTINUE if mine else Directive.STOP

    async def finish(self, run_id: str, attempt: int, state: RunState, reason: str, adapter: str | None = None) -> dict:
        """The run's driver says how it ended. From an older attempt's driver, or after the end, it changes nothing."""
        run = self._ledger.run(run_id)
        if run.attempt == attempt and run.state.holds_slot:
            if adapter is not None:
                self._ledger.set_adapter(run_id, adapter)
            if state is RunState.INTERRUPTED:
                await self._interrupt(run, reason)
            else:
                await self._end(run_id, state, reason)
            await self._notify()
        return asdict(self._ledger.run(run_id))

    # Looking after runs

    async def _look_after(self, run: Run) -> None:
        if run.state is RunState.INTERRUPTED:
            self._requeue(run)
        elif run.state is RunState.QUEUED:
            if run.attached and (job := await self._job_state(run)) is not JobState.ALIVE:
                self._lost_driver_while_queued(run.id, job)
        else:
            await self._look_after_holder(run)

    async def _look_after_holder(self, run: Run) -> None:
        job = await self._job_state(run)
        run = self._ledger.run(run.id)  # it may have ended while the job was asked for
        if not run.state.holds_slot:
            return
        if job is not JobState.ALIVE:
            reason = await self._why_gone(run, job)
            if run.state is RunState.STOPPING or job is JobState.STOPPED:
                await self._end(run.id, RunState.STOPPED, run.reason if run.state is RunState.STOPPING else reason)
            else:
                await self._interrupt(run, reason)
        elif run.state is RunState.STOPPING:
            since = self._stopping_since.setdefault(run.id, time.monotonic())
            if time.monotonic() - since > self._config.stop_grace_s:
                await self._kill(run)
                await self._end(run.id, RunState.STOPPED, f"killed: not stopped after {self._config.stop_grace_s:g} s")
        elif time.time() - (run.heartbeat_at or 0) > self._config.heartbeat_timeout_s:
            await self._kill(run)
            await self._interrupt(run, f"no sign of life for {self._config.heartbeat_timeout_s:g} s")

    async def _job_state(self, run: Run) -> JobState:
        if not run.job_id:
            return JobState.UNKNOWN
        return await asyncio.to_thread(self._jobs.state, run.job_id)

    async def _why_gone(self, run: Run, job: JobState) -> str:
        if job is JobState.UNKNOWN:
            return "the cluster was restarted"
        return f"its job ended ({job}): {await asyncio.to_thread(self._jobs.message, run.job_id)}"

    def _lost_driver_while_queued(self, run_id: str, job: JobState) -> None:
        """A waiting driver that is gone with its cluster leaves a run behind that is ours to start; one that was ended
        takes its run with it."""
        if self._ledger.run(run_id).state is not RunState.QUEUED:
            return
        if job is JobState.UNKNOWN:
            self._ledger.attach_job(run_id, None, attached=False)
            self._ledger.note("adopted", "its driver is gone with the cluster; it will be started from here", run_id)
        else:
            self._ledger.transition(run_id, RunState.STOPPED, "its driver ended while it was queued")

    async def _interrupt(self, run: Run, reason: str) -> None:
        await self._end_holder(run.id)
        self._judge_attempt(run.id, RunState.INTERRUPTED, reason)
        now = self._ledger.run(run.id)  # it may have been stopped, or have ended, while its process was waited for
        if now.state is RunState.STOPPING:
            await self._end(run.id, RunState.STOPPED, reason)
        elif now.state.holds_slot:
            self._ledger.transition(run.id, RunState.INTERRUPTED, reason)
            self._requeue(self._ledger.run(run.id))

    def _requeue(self, run: Run) -> None:
        if run.attempt >= self._config.max_attempts:
            self._ledger.transition(run.id, RunState.FAILED, f"interrupted {run.attempt} times, last: {run.reason}")
            return
        self._ledger.attach_job(run.id, None, attached=False)
        self._ledger.transition(run.id, RunState.QUEUED, f"again after: {run.reason}")

    async def _end(self, run_id: str, state: RunState, reason: str) -> None:
        await self._end_holder(run_id)
        self._stopping_since.pop(run_id, None)
        self._judge_attempt(run_id, state, reason)
        now = self._ledger.run(run_id).state
        if not now.holds_slot:
            return  # it ended, or went back to the queue, while its process was waited for
        if state is RunState.SUCCEEDED and now is RunState.STARTING:
            self._ledger.transition(run_id, RunState.RUNNING, "at work")
        if state is RunState.STOPPED and now is not RunState.STOPPING:
            self._ledger.transition(run_id, RunState.STOPPING, reason)
        self._ledger.transition(run_id, state, reason)
        if state is RunState.FAILED and (tail := _last_lines(self._home.run(run_id) / "log.txt")):
            self._ledger.note("log", tail, run_id)

    async def _kill(self, run: Run) -> None:
        with contextlib.suppress(RuntimeError):
            await asyncio.to_thread(self._jobs.stop, run.job_id)
        await self._end_holder(run.id, grace_s=0)

    async def _end_holder(self, run_id: str, grace_s: float = EXIT_GRACE_S) -> None:
        """No slot is given back while the process that held it lives."""
        for lease in self._ledger.leases():
            if lease.holder == run_id and lease.pid is not None:
                await asyncio.to_thread(_end_process, lease.pid, self._home, grace_s)

    # Quarantine

    async def quarantine(self, slot: str, reason: str, by: str = "a person") -> dict:
        """Give `slot` to nobody from now on; what holds it goes on. Returns the quarantine as a dict.

        Raises NotFoundError for an unknown slot, StateError if it is in quarantine already.
        """
        if known := self._ledger.quarantines().get(self._known(slot)):
            since = time.strftime("%F %T", time.localtime(known.since))
            raise StateError(
                f"slot {slot} is in quarantine already, since {since}: {known.reason}",
                hint=f"for another reason `tandem slots release {slot}` first",
            )
        self._ledger.quarantine(slot, reason, by)
        return asdict(self._ledger.quarantines()[slot])

    async def release_quarantine(self, slot: str) -> dict:
        """Let `slot` be given again; what is wrong with its GPU now counts as accepted until it changes.

        Returns `{"slot": ..., "accepted": ...}`. Raises NotFoundError for an unknown slot, StateError if it is not in
        quarantine or its GPU is still missing.
        """
        signs = await asyncio.to_thread(GpuWatch([self._slots[self._known(slot)]]).look_once)
        sign = signs.get(slot)
        if sign is not None and sign.gone:
            raise StateError(f"slot {slot} stays in quarantine: {sign.reason}", hint="check `nvidia-smi -L`")
        self._ledger.release_quarantine(slot, accepted=sign and sign.reason)
        return {"slot": slot, "accepted": sign and sign.reason}

    async def quarantines(self) -> dict[str, Quarantine]:
        """The slots that are given to nobody."""
        return self._ledger.quarantines()

    def _known(self, slot: str) -> str:
        if slot not in self._slots:
            raise NotFoundError(f"no slot {slot}", hint=f"slots: {', '.join(self._slots)}")
        return slot

    async def _judge_hardware(self) -> None:
        """Act on the last look at the GPUs. A look may take as long as the driver likes, so no tick waits for it."""
        if self._look is None:
            if time.monotonic() - self._looked_at >= health.LOOK_S:
                self._look = asyncio.create_task(asyncio.to_thread(self._gpus.look))
        elif self._look.done():
            look, self._look, self._looked_at = self._look, None, time.monotonic()
            for slot, sign in look.result().items():
                await self._judge_slot(slot, sign)

    async def _judge_slot(self, slot: str, sign: Sign | None) -> None:
        """Quarantine for what a person has not accepted; a run on a GPU that is gone goes back to the queue."""
        if sign is None:
            if self._ledger.accepted(slot):
                self._ledger.forget_accepted(slot)
            return
        if sign.reason != self._ledger.accepted(slot):
            self._ledger.quarantine(slot, sign.reason, "tandem")
        for lease in self._ledger.leases() if sign.gone else ():
            if (lease.slot, lease.role) == (slot, "train") and lease.holder not in self._launching:
                run = self._ledger.run(lease.holder)
                await self._kill(run)
                hope = f"it waits for another slot or for `tandem slots release {slot}`"
                await self._interrupt(run, f"slot {slot} is in quarantine: {sign.reason}; {hope}")

    def _judge_attempt(self, run_id: str, state: RunState, reason: str) -> None:
        """Count attempts that the device of their slot ended; quarantine after `quarantine_after` of them in a row."""
        run = self._ledger.run(run_id)
        if not run.state.holds_slot or state is RunState.STOPPED:
            return
        failed = state in (RunState.FAILED, RunState.INTERRUPTED)
        log = _last_lines(self._home.run(run_id) / "log.txt", 500)
        error = failed and health.device_error(f"{health.log_of_attempt(log, run.attempt)}\n{reason}")
        if error:
            count = self._ledger.count_device_error(run.slot)
            self._ledger.note("device_error", f"slot {run.slot}, {count} in a row: {error}", run_id)
            if count >= self._config.quarantine_after:
                what = "run" if count == 1 else f"{count} runs in a row"
                self._ledger.quarantine(run.slot, f"{what} ended by a device error, last {run_id}: {error}", "tandem")
        elif state is RunState.SUCCEEDED or run.state is RunState.RUNNING:
            self._ledger.forget_device_errors(run.slot)

    # Serving

    async def _judge_engines(self) -> None:
        """On a clock of its own: a driver that hangs must not hide that an engine is gone."""
        if time.monotonic() - self._engines_at < health.LOOK_S:
            return
        self._engines_at = time.monotonic()
        alive = {lease.slot: lease.pid for lease in self._ledger.leases() if lease.role == "serve"}
        for slot in self._slots.values():
            if "serve" in slot.roles:
                lives = await asyncio.to_thread(_is_ours, alive.get(slot.name), self._home)
                if line := self._engines.see(slot.name, lives):
                    self._ledger.note("engine" if lives else "engine_down", line)

    async def take_serve_slot(self, slot: str, holder: str, pid: int) -> None:
        """An engine holds its slot. A holder whose process is gone loses it. Raises StateError while it is alive."""
        for lease in self._ledger.leases():
            if (lease.slot, lease.role) != (slot, "serve"):
                continue
            if (lease.holder, lease.pid) == (holder, pid):
                return
            if not _is_ours(lease.pid, self._home):
                self._ledger.release(lease.holder, "its process is gone")
        self._ledger.take(slot, "serve", holder, pid)

    async def aliases(self, known: dict[str, str | None] | None = None) -> dict[str, str | None]:
        """Alias to version (None: the base). With `known`, waits until they differ from it, at most LONG_POLL_S."""
        if known is not None:
            async with self._changed:
                with contextlib.suppress(TimeoutError):
                    differs = lambda: self._ledger.aliases() != known  # noqa: E731
                    await asyncio.wait_for(self._changed.wait_for(differs), LONG_POLL_S)
        return self._ledger.aliases()

    async def set_adapter_state(self, version: str, state: AdapterState, reason: str) -> None:
        self._ledger.set_adapter_state(version, state, reason)

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
        self._ledger.refuse_swap(alias, version, reason=reason, seconds=seconds)

    async def note(self, kind: str, text: str, run_id: str | None = None) -> None:
        self._ledger.note(kind, text, run_id)

    # Reading

    async def run(self, run_id: str) -> dict:
        return asdict(self._ledger.run(run_id))

    async def slots(self) -> list[dict]:
        """Every slot as a dict, with the leases on it and its quarantine, None without one."""
        leases = [asdict(lease) for lease in self._ledger.leases()]
        quarantines = {name: asdict(quarantine) for name, quarantine in self._ledger.quarantines().items()}
        return [
            {
                "slot": slot.model_dump(),
                "leases": [lease for lease in leases if lease["slot"] == slot.name],
                "quarantine": quarantines.get(slot.name),
            }
            for slot in self._slots.values()
        ]

    async def ready(self) -> bool:
        return True

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


def start(home: Home, slots: tuple[Slot, ...], config: ClusterConfig, dashboard: str):
    """Create the control actor in the connected cluster and wait for it. Returns its handle."""
    import ray

    options = {"name": NAME, "namespace": NAMESPACE, "lifetime": "detached", "num_cpus": 0, "max_restarts": -1}
    handle = ray.remote(Control).options(**options, max_task_retries=3, max_concurrency=1000).remote(
        home, slots, config, RayJobs(dashboard)
    )  # fmt: skip
    ray.get(handle.ready.remote())
    return handle


def find():
    """The control actor's handle. Raises NotFoundError if the connected cluster has none."""
    import ray

    try:
        return ray.get_actor(NAME, namespace=NAMESPACE)
    except ValueError:
        raise NotFoundError("this Ray cluster has no control actor", hint="start it with `tandem up`") from None


def ask(method, *args: Any, timeout: float = 60, **kwargs: Any) -> Any:
    """Call a method of the control actor and wait, through its restarts, for at most `timeout` seconds.

    Raises the TandemError that the method raised, or ClusterError if no answer came.
    """
    import ray

    deadline = time.monotonic() + timeout
    while True:
        try:
            return ray.get(method.remote(*args, **kwargs), timeout=max(1.0, deadline - time.monotonic()))
        except ray.exceptions.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, TandemError) else error) from None
        except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError) as error:
            if time.monotonic() > deadline:
                raise ClusterError(f"the control actor does not answer: {error}", hint="`tandem status`") from None
            time.sleep(0.5)


class Client:
    """The control actor's methods as coroutines, for code that runs in an event loop.

    Raises the TandemError that a method raised, or ClusterError while the actor is being restarted.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self._handle, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            import ray

            try:
                return await method.remote(*args, **kwargs)
            except ray.exceptions.RayTaskError as error:
                raise (error.cause if isinstance(error.cause, TandemError) else error) from None
            except ray.exceptions.RayActorError:
                raise ClusterError("the control actor is being restarted", hint="try again in a moment") from None

        return call


def _is_ours(pid: int | None, home: Home) -> bool:
    """Whether the process lives and belongs to this cluster; after a restart of the machine its number may not."""
    try:
        return pid is not None and psutil.Process(pid).environ().get(MARKER) == str(home.root)
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return False


def _end_process(pid: int, home: Home, grace_s: float) -> None:
    """Give a process of this cluster `grace_s` seconds to exit by itself, then kill it and wait until it is gone."""
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        process = psutil.Process(pid)
        if pid == os.getpid() or process.environ().get(MARKER) != str(home.root):
            return  # the number was given to somebody else
        with contextlib.suppress(psutil.TimeoutExpired):
            process.wait(timeout=grace_s)
            return
        process.send_signal(signal.SIGKILL)
        with contextlib.suppress(psutil.TimeoutExpired):
            process.wait(timeout=5)


def _last_lines(log: Path, count: int = 20) -> str:
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 20_000))
        return "\n".join(file.read(20_000).decode(errors="replace").splitlines()[-count:])
    return ""
