"""The driver of one run, the same for every kind: what `python -m jobs.<kind>` does inside a Ray cluster.

It waits for a slot, starts the pinned actor on it, runs the job's task there, follows it, and says how it ended. It
does not know what the task does. The entrypoints call `enter`.
"""

import logging
import os
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from actors import client, logs, trainer
from actors.ray_edge.jobs import own_id
from actors.runs.run import Grant, Outcome, Run, RunKind, RunState, check_run_id
from configs import paths
from configs.errors import ClusterError, StateError, TandemError

if TYPE_CHECKING:
    from ray import ObjectRef

_NAMED_ERROR = re.compile(r"[A-Za-z_][\w.]*(?:Error|Exception): \S")

FINISH_TIMEOUT_S = 300
"""How long the outcome waits for a control actor that is being restarted."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """A kind of work, as its entrypoint gives it to the driver."""

    kind: RunKind
    task: trainer.Task
    """Runs in the pinned actor."""
    instead: str
    """What a person types who started the entrypoint by hand."""
    clean: Callable[[Run], None] = lambda run: None
    """Removes what this attempt left unfinished; called when its process is gone, however it ended."""


def enter(job: Job, find_run: Callable[[str], str]) -> NoReturn:
    """The whole life of a driver: find the run, drive it, exit with its result.

    `find_run` gets Ray's id of this job and returns the run's; the cluster is connected by then.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a driver sees no GPU
    try:
        job_id = _submission_id(job)
        import ray

        ray.init(address="auto", namespace=client.NAMESPACE, log_to_driver=False, logging_level="error")
        run_id = check_run_id(find_run(job_id))
        logs.begin(paths.home(), "driver", run=run_id, names=logs.OWN)
        state = drive(job, run_id)
    except TandemError as error:
        raise SystemExit(f"error: {_words(error)}") from None
    sys.exit(0 if state in (RunState.SUCCEEDED, RunState.STOPPED, RunState.QUEUED) else 1)


def drive(job: Job, run_id: str) -> RunState:
    """Wait for the run's slot, do its work there, record the outcome. Returns the run's final state.

    SIGTERM and Ctrl-C stop the run as `tandem runs stop` does. Raises StateError for a run of another kind.
    """
    import ray

    control = client.BlockingClient()
    if (kind := control.run(run_id).kind) != job.kind:
        raise StateError(f"run {run_id} is of kind {kind}, this is jobs.{job.kind}", hint=f"python -m jobs.{kind}")
    stopping = _Signals()
    grant = _await_slot(control, run_id, stopping)
    slot, attempt, run = grant.slot, grant.attempt, control.run(run_id)
    print(f"run {run_id}: slot {slot.name}, attempt {attempt}", flush=True)
    log.info("slot %s, attempt %d", slot.name, attempt)
    home = paths.home()
    pinned = trainer.start(slot, run_id, home, neighbours=len(control.slots()))
    work = pinned.run.remote(job.task, run, home)
    try:
        outcome = _follow(control.within(FINISH_TIMEOUT_S), run_id, work, stopping)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause if isinstance(error.cause, TandemError) else error
        outcome = Outcome(RunState.FAILED, _words(cause))
    except ray.exceptions.RayActorError as error:
        outcome = Outcome(RunState.INTERRUPTED, f"its process died: {str(error).splitlines()[0]}")
    if ray.wait([work], timeout=0)[0]:
        pinned.__ray_terminate__.remote()
    else:
        ray.kill(pinned)  # it is still loading
    ended = control.within(FINISH_TIMEOUT_S).finish(run_id, attempt, outcome)
    if outcome.state is not RunState.SUCCEEDED:
        job.clean(run)
    print(f"run {run_id}: {ended.state}: {ended.reason}", flush=True)
    log.info("%s: %s", ended.state, ended.reason)
    return ended.state


class _Signals:
    """Remembers that the process was asked to end."""

    def __init__(self) -> None:
        self.caught = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._catch)

    def _catch(self, number: int, frame: FrameType | None) -> None:
        self.caught = True


def _await_slot(control: client.BlockingClient, run_id: str, stopping: _Signals) -> Grant:
    while not stopping.caught:
        if grant := control.wait_for_slot(run_id, wait_s=1):
            return grant
    ended = control.stop(run_id, "its driver was asked to end")
    raise SystemExit(f"run {run_id}: {ended.state}: {ended.reason}")


def _follow(control: client.BlockingClient, run_id: str, work: "ObjectRef[Outcome]", stopping: _Signals) -> Outcome:
    """Until the work is done: print each step, and pass a signal on to the control actor once."""
    import ray

    told, shown = False, 0
    while True:
        done, _ = ray.wait([work], timeout=0.5)
        if done:
            return ray.get(work)
        run = control.run(run_id)
        if stopping.caught and not told:
            if run.state in (RunState.STARTING, RunState.RUNNING):
                control.stop(run_id, "its driver was asked to end")
            told = True
        if stopping.caught and run.step == 0:
            return Outcome(RunState.STOPPED, "stopped before the first step")
        if run.step != shown:
            shown = run.step
            loss = "" if run.loss is None else f" loss {run.loss:.4f}"
            print(f"step {shown}/{run.max_steps}{loss}", flush=True)


def _words(error: Exception) -> str:
    if isinstance(error, TandemError):
        return error.sentence
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if _NAMED_ERROR.match(line)]  # torch's advice on CUDA errors follows in more lines
    return (named or lines or [type(error).__name__])[-1]


def _submission_id(wanted: Job) -> str:
    """The id under which Ray knows this driver's job. Raises ClusterError outside a Ray job."""
    if submission := own_id():
        return submission
    raise ClusterError(f"jobs.{wanted.kind} is the entrypoint of a Ray job", hint=wanted.instead)
