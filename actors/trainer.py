"""The actor that holds a training slot: one process, one GPU, one task. It does not know what the task is.

The task gets a `ControlLink` to the control actor and is told through its answers when to stop.
"""

import io
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from actors import logs
from actors.client import BlockingClient, Directive
from actors.hardware.placement import actor_options, check_slot, die_with_parent
from actors.home.process_id import ProcessId
from actors.runs.event import EventKind
from actors.runs.run import Outcome, Run
from configs import durable
from configs.errors import TandemError
from configs.paths import Home
from configs.schema import Slot

if TYPE_CHECKING:
    from ray.actor import ActorHandle

REPORT_TIMEOUT_S = 10

log = logging.getLogger(__name__)


class ControlLink:
    """What a task tells the control actor, and what it hears back.

    Training outlives the control actor: while that is being restarted an answer counts as `CONTINUE`.
    """

    def __init__(self, run_id: str, attempt: int, share: float, check_s: float) -> None:
        self._run = (run_id, attempt)
        self.share = share
        """The part of its slot's GPU that the task may use."""
        self.check_s = check_s
        """Seconds that looking at the slot's GPU took; on a GPU that is the import of torch."""
        self._control: BlockingClient | None = None

    def starting(self) -> Directive:
        return self._tell(lambda control: control.starting(*self._run, ProcessId.own()))

    def stage(self, words: str) -> Directive:
        """What the task is doing now that it takes no step, such as `loading the model`."""
        return self._tell(lambda control: control.stage(*self._run, words))

    def training(self) -> Directive:
        return self._tell(lambda control: control.training(*self._run))

    def report(self, *, step: int, max_steps: int, loss: float | None, tokens_per_s: float | None) -> Directive:
        return self._tell(
            lambda control: control.report(
                *self._run, step=step, max_steps=max_steps, loss=loss, tokens_per_s=tokens_per_s
            )
        )

    def note(self, kind: EventKind, text: str) -> None:
        """Put a line into the run's events."""
        self._tell(lambda control: control.note(kind, text, self._run[0]))

    def _tell(self, say: Callable[[BlockingClient], Directive | None]) -> Directive:
        """CONTINUE if the control actor does not answer, or fails. It is looked up once: a handle outlives restarts."""
        from ray.exceptions import RayError

        try:
            self._control = self._control or BlockingClient(REPORT_TIMEOUT_S)
            return say(self._control) or Directive.CONTINUE
        except (TandemError, RayError) as error:
            log.warning("%s; going on", str(error).splitlines()[0])
            return Directive.CONTINUE


Task = Callable[[Run, Home, str, ControlLink], Outcome]
"""`task(run, home, device, link)`; `device` is `cuda` or `cpu`."""


class Trainer:
    """The actor's class; `start` makes the actor on a slot."""

    def __init__(self, slot: Slot, home: Home, run_id: str) -> None:
        die_with_parent()
        _print_to(home.run(run_id) / "log.txt")
        logs.begin(home, "trainer", run=run_id, names=logs.OWN)
        self._slot = slot

    def run(self, task: Task, run: Run, home: Home) -> Outcome:
        """Check the slot, then return what the task returns."""
        print(f"attempt {run.attempt} on slot {self._slot.name}, process {os.getpid()}")
        log.info("attempt %d on slot %s", run.attempt, self._slot.name)
        try:
            began = time.monotonic()
            device = check_slot(self._slot)
            link = ControlLink(run.id, run.attempt, self._slot.share, time.monotonic() - began)
            outcome = task(run, home, device, link)
        except BaseException as error:
            traceback.print_exc()  # the driver gets the reason, the run's own log the whole of it
            log.error("the attempt failed: %s: %s", type(error).__name__, error)
            raise
        log.info("the attempt ended")
        return outcome


def start(slot: Slot, run_id: str, home: Home, neighbours: int) -> "ActorHandle":
    """An actor pinned to `slot`, writing its output to the run's log. Returns its handle; it dies with the driver."""
    import ray

    options = actor_options(slot, "train", neighbours=neighbours, cache=home.cache)
    return ray.remote(Trainer).options(name=f"trainer_{run_id}", max_restarts=0, **options).remote(slot, home, run_id)


class TimestampedText(io.TextIOWrapper):
    """Text whose lines begin with the local time at which they were begun."""

    _begins = True

    def write(self, text: str) -> int:
        for part in text.splitlines(keepends=True):
            super().write(f"{time.strftime('%F %T')} {part}" if self._begins else part)
            self._begins = part.endswith("\n")
        return len(text)


def _print_to(path: Path) -> None:
    """Append this process's stdout and stderr to `path`, those of C libraries too, and give Python's stdout the time.

    Python's stderr has none: tracebacks and progress bars are easier to read without.
    """
    durable.private_folder(path.parent)
    descriptor = durable.private(str(path), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    raw = os.fdopen(1, "wb", buffering=0, closefd=False)
    sys.stdout = TimestampedText(raw, encoding="utf-8", errors="backslashreplace", write_through=True)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
