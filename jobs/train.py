"""The driver of one training run, the entrypoint that Ray starts: `python -m jobs.train`.

It waits for a slot, starts the trainer on it, and says how it ended. With `--run-id` the run is in the ledger already;
without, it registers itself first and waits for its lease like everyone else.
"""

import json
import os
import signal
import sys
from typing import Any

import click

from actors import control, trainer
from actors.control import ask
from actors.run import RunState, check_run_id, new_run_id
from configs.errors import ClusterError, ConfigError, TandemError
from configs.paths import home
from configs.schema import Slot
from jobs import request, sft
from jobs.sft import Outcome

FINISH_TIMEOUT_S = 300
"""How long the outcome waits for a control actor that is being restarted."""


def drive(run_id: str) -> RunState:
    """Wait for the run's slot, train on it, record the outcome. Returns the run's final state.

    SIGTERM and Ctrl-C stop the run as `tandem runs stop` does: it writes a checkpoint first.
    """
    import ray

    actor = control.find()
    stopping = _Signals()
    ticket = _await_slot(actor, run_id, stopping)
    slot, attempt, run = Slot(**ticket["slot"]), ticket["attempt"], ask(actor.run, run_id)
    print(f"run {run_id}: slot {slot.name}, attempt {attempt}", flush=True)
    place = home()
    pinned = trainer.start(slot, run_id, place, neighbours=len(ask(actor.slots)))
    work = pinned.run.remote(sft.execute, run, place)
    try:
        outcome = _follow(actor, run_id, work, stopping)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause if isinstance(error.cause, TandemError) else error
        outcome = Outcome(RunState.FAILED, _words(cause))
    except ray.exceptions.RayActorError as error:
        outcome = Outcome(RunState.INTERRUPTED, f"its trainer died: {str(error).splitlines()[0]}")
    if ray.wait([work], timeout=0)[0]:
        pinned.__ray_terminate__.remote()
    else:
        ray.kill(pinned)  # it is still loading
    how = (outcome.state, outcome.reason, outcome.adapter)
    ended = ask(actor.finish, run_id, attempt, *how, timeout=FINISH_TIMEOUT_S)
    print(f"run {run_id}: {ended['state']}: {ended['reason']}", flush=True)
    return RunState(ended["state"])


class _Signals:
    """Remembers that the process was asked to end."""

    def __init__(self) -> None:
        self.caught = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._catch)

    def _catch(self, number: int, frame: Any) -> None:
        self.caught = True


def _await_slot(actor, run_id: str, stopping: _Signals) -> dict:
    while not stopping.caught:
        if ticket := ask(actor.wait_for_slot, run_id, wait_s=1):
            return ticket
    ended = ask(actor.stop, run_id, "its driver was asked to end")
    raise SystemExit(f"run {run_id}: {ended['state']}: {ended['reason']}")


def _follow(actor, run_id: str, work, stopping: _Signals) -> Outcome:
    """Until the work is done: print each step, and pass a signal on to the control actor once."""
    import ray

    told, shown = False, 0
    while True:
        done, _ = ray.wait([work], timeout=0.5)
        if done:
            return ray.get(work)
        run = ask(actor.run, run_id, timeout=FINISH_TIMEOUT_S)
        if stopping.caught and not told:
            if run["state"] in (RunState.STARTING, RunState.RUNNING):
                ask(actor.stop, run_id, "its driver was asked to end")
            told = True
        if stopping.caught and run["step"] == 0:
            return Outcome(RunState.STOPPED, "stopped before the first step")
        if run["step"] != shown:
            shown = run["step"]
            print(f"step {shown}/{run['max_steps']} loss {run['loss']:.4f}", flush=True)


def _words(error: Exception) -> str:
    if isinstance(error, TandemError):
        return f"{error.message}{f' ({error.hint})' if error.hint else ''}"
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def _submission_id() -> str:
    """The id under which Ray knows this driver's job. Raises ClusterError outside a Ray job."""
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
    if submission := job.get("metadata", {}).get("job_submission_id"):
        return submission
    raise ClusterError(
        "jobs.train is the entrypoint of a Ray job", hint="`tandem train`, or `ray job submit -- python -m jobs.train`"
    )


@click.command()
@click.option("--run-id", metavar="ID", help="A queued run; without it the other options describe a new one.")
@request.options
def main(run_id: str | None, **flags: Any) -> None:
    """Run one training job inside a Ray cluster that `tandem up` started."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a driver sees no GPU
    try:
        job_id = _submission_id()
        import ray

        ray.init(address="auto", namespace=control.NAMESPACE, log_to_driver=False, logging_level="error")
        if run_id is None:
            wanted = request.resolve(home(), **flags)
            run_id = new_run_id(wanted.config.profile)
            ask(control.find().submit, run_id, attached=True, job_id=job_id, **wanted.submission())
        elif any(value for value in flags.values()):
            raise ConfigError("--run-id takes no other option", hint="the run's configuration is in the ledger")
        state = drive(check_run_id(run_id))
    except TandemError as error:
        raise SystemExit(f"error: {_words(error)}") from None
    sys.exit(0 if state in (RunState.SUCCEEDED, RunState.STOPPED, RunState.QUEUED) else 1)


if __name__ == "__main__":
    main()
