"""What becomes of an attempt of a run: its job is started, looked after, killed if it must be, and its end is judged.

An attempt that is lost sends its run back to the queue; one that keeps losing them by itself and gets no further fails
after `max_attempts`. While `tandem down` ends the processes, nothing that they do says anything about a run. No slot is
given back while the process that held it lives. Called by the control actor alone, whose ledger it writes; knows Ray's
jobs only through `RayJobs`.
"""

import asyncio
import contextlib
import time
from pathlib import Path

from actors.home import locks
from actors.logs.growing import end_of
from actors.ray_edge.jobs import JobState, RayJobs
from actors.runs import quarantine
from actors.runs.event import EventKind
from actors.runs.ledger import Ledger
from actors.runs.run import Run, RunState
from configs.paths import Home
from configs.schema import ClusterConfig

EXIT_GRACE_S = 5
"""How long a process that is done with its slot may take to exit before it is killed."""


class RunLifecycle:
    """Every method may be called again: a run that has moved on meanwhile is left as it is."""

    def __init__(self, home: Home, config: ClusterConfig, ledger: Ledger, jobs: RayJobs) -> None:
        self._home = home
        self._config = config
        self._ledger = ledger
        self._jobs = jobs
        self.launching: dict[str, asyncio.Task] = {}
        """Runs whose job is being submitted: nobody looks after them yet."""
        self._stopping_since: dict[str, float] = {}  # on the monotonic clock

    def launch(self, run: Run) -> None:
        """Submit the job of a run that was granted its slot, in a task of its own."""
        self.launching[run.id] = asyncio.create_task(self._submit(run))

    async def _submit(self, run: Run) -> None:
        job_id = f"{run.id}-{run.attempt}"
        try:
            self._ledger.attach_job(run.id, job_id, attached=False)
            await asyncio.to_thread(self._jobs.submit, job_id, run.id, run.kind)
        except Exception as error:
            if not locks.is_ending(self._home):
                await self.end(run.id, RunState.FAILED, f"its job could not be started: {error}")
        finally:
            del self.launching[run.id]

    async def look_after(self, run: Run) -> None:
        """What the state of the run's job asks for. Raises RuntimeError or OSError if Ray's job API does not answer."""
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
                await self.end(run.id, RunState.STOPPED, run.reason if run.state is RunState.STOPPING else reason)
            else:
                await self.interrupt(run, reason, own_fault=job is not JobState.UNKNOWN)
        elif run.state is RunState.STOPPING:
            since = self._stopping_since.setdefault(run.id, time.monotonic())
            if time.monotonic() - since > self._config.stop_grace_s:
                await self.kill(run)
                await self.end(run.id, RunState.STOPPED, f"killed: not stopped after {self._config.stop_grace_s:g} s")
        elif time.time() - (run.heartbeat_at or 0) > self._config.heartbeat_timeout_s:
            await self.kill(run)
            await self.interrupt(run, f"no sign of life for {self._config.heartbeat_timeout_s:g} s")

    async def _job_state(self, run: Run) -> JobState:
        """Raises RuntimeError or OSError if it cannot be known."""
        if not run.job_id:
            return JobState.UNKNOWN
        state = await asyncio.to_thread(self._jobs.state, run.job_id)
        if locks.is_ending(self._home):
            raise RuntimeError("the cluster is being ended, so the state of a job says nothing")
        return state

    async def _why_gone(self, run: Run, job: JobState) -> str:
        if job is JobState.UNKNOWN or run.job_id is None:
            return "the cluster was restarted"
        return f"its job ended ({job}): {await asyncio.to_thread(self._jobs.message, run.job_id)}"

    def _lost_driver_while_queued(self, run_id: str, job: JobState) -> None:
        """A waiting driver that is gone with its cluster leaves a run behind that is ours to start; one that was ended
        takes its run with it."""
        if self._ledger.run(run_id).state is not RunState.QUEUED:
            return
        if job is JobState.UNKNOWN:
            self._ledger.attach_job(run_id, None, attached=False)
            self._ledger.note(
                EventKind.ADOPTED, "its driver is gone with the cluster; it will be started from here", run_id
            )
        else:
            self._ledger.transition(run_id, RunState.STOPPED, "its driver ended while it was queued")

    async def stop(self, run: Run) -> None:
        """From now on `stop_grace_s` counts. A trainer hears of it when it reports; `run` as it was before STOPPING."""
        self._stopping_since[run.id] = time.monotonic()
        if run.state is RunState.STARTING and run.job_id and run.id not in self.launching:
            with contextlib.suppress(RuntimeError):  # a job that is gone already is found by the next tick
                await asyncio.to_thread(self._jobs.stop, run.job_id)

    async def interrupt(self, run: Run, reason: str, *, own_fault: bool = True) -> None:
        """The attempt is lost: back to the queue, or FAILED after `max_attempts` that were lost in a row by the run's
        `own_fault`, as far as can be told, and got no further."""
        await self._end_holder(run.id)
        self._judge(run.id, RunState.INTERRUPTED, reason)
        now = self._ledger.run(run.id)  # it may have been stopped, or have ended, while its process was waited for
        if now.state is RunState.STOPPING:
            await self.end(run.id, RunState.STOPPED, reason)
        elif now.state.holds_slot:
            self._requeue(self._ledger.interrupt(run.id, reason, own_fault=own_fault))

    def _requeue(self, run: Run) -> None:
        if run.lost >= self._config.max_attempts:
            reason = f"interrupted {run.lost} times, last: {run.reason}; no attempt got beyond step {run.furthest}"
            self._ledger.transition(run.id, RunState.FAILED, reason)
            return
        self._ledger.attach_job(run.id, None, attached=False)
        self._ledger.transition(run.id, RunState.QUEUED, f"again after: {run.reason}")

    async def end(self, run_id: str, state: RunState, reason: str) -> None:
        """The run ends in `state`, once its process is gone."""
        await self._end_holder(run_id)
        self._stopping_since.pop(run_id, None)
        self._judge(run_id, state, reason)
        now = self._ledger.run(run_id).state
        if not now.holds_slot:
            return  # it ended, or went back to the queue, while its process was waited for
        if state is RunState.SUCCEEDED and now is RunState.STARTING:
            self._ledger.transition(run_id, RunState.RUNNING, "at work")
        if state is RunState.STOPPED and now is not RunState.STOPPING:
            self._ledger.transition(run_id, RunState.STOPPING, reason)
        self._ledger.transition(run_id, state, reason)
        if state is RunState.FAILED and (tail := _last_lines(self._home.run(run_id) / "log.txt")):
            self._ledger.note(EventKind.LOG, tail, run_id)

    async def kill(self, run: Run) -> None:
        """End the attempt's job and process now; the run's state stays."""
        if run.job_id is not None:
            with contextlib.suppress(RuntimeError):
                await asyncio.to_thread(self._jobs.stop, run.job_id)
        await self._end_holder(run.id, grace_s=0)

    async def _end_holder(self, run_id: str, grace_s: float = EXIT_GRACE_S) -> None:
        for lease in self._ledger.leases():
            if lease.holder == run_id and lease.process is not None:
                await asyncio.to_thread(lease.process.end, grace_s)

    def _judge(self, run_id: str, state: RunState, reason: str) -> None:
        """Count attempts that the device of their slot ended; quarantine after `quarantine_after` of them in a row."""
        run = self._ledger.run(run_id)
        if not run.state.holds_slot or run.slot is None or state is RunState.STOPPED:
            return
        failed = state in (RunState.FAILED, RunState.INTERRUPTED)
        log = _last_lines(self._home.run(run_id) / "log.txt", 500)
        error = failed and quarantine.device_error(f"{quarantine.log_of_attempt(log, run.attempt)}\n{reason}")
        if error:
            count = self._ledger.count_device_error(run.slot)
            self._ledger.note(EventKind.DEVICE_ERROR, f"slot {run.slot}, {count} in a row: {error}", run_id)
            if count >= self._config.quarantine_after:
                what = "run" if count == 1 else f"{count} runs in a row"
                self._ledger.quarantine(run.slot, f"{what} ended by a device error, last {run_id}: {error}", "tandem")
        elif state is RunState.SUCCEEDED or run.state is RunState.RUNNING:
            self._ledger.forget_device_errors(run.slot)


def _last_lines(log: Path, count: int = 20) -> str:
    with contextlib.suppress(OSError):
        text, _ = end_of(log, 20_000)
        return "\n".join(text.decode(errors="replace").splitlines()[-count:])
    return ""
