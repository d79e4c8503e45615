"""Kills a run at random moments and starts it again, as often as asked; then lets it end. A program of its own:

    python -m tests.killed HOME KILLS SEED

Every attempt is a fork of this process, which imports everything and computes nothing (a fork of a process that has
used OpenMP hangs). Prints one JSON line per attempt: the step it was killed after, and the newest whole checkpoint.
"""

import json
import os
import random
import signal
import sys
import threading
from pathlib import Path

from actors.client import Directive
from configs.paths import Home
from jobs.training import checkpoints, loop  # noqa: F401  heavy, before the first fork
from tests import training

STEPS, SAVE_STEPS = 24, 2
RUN = training.row("killed-1", f"training.max_steps={STEPS}", f"training.save_steps={SAVE_STEPS}")
LONGEST_DELAY_S = 0.25


def main(home: Home, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(kills):
        begin = _newest(home)
        step = min(begin + chance.randint(1, 4), STEPS - 1)
        _attempt(home, kill_after=step, delay_s=chance.uniform(0, LONGEST_DELAY_S))
        print(json.dumps({"killed_after": step, "checkpoint": _newest(home)}), flush=True)
    print(json.dumps({"ended": _attempt(home)}), flush=True)


def _attempt(home: Home, kill_after: int | None = None, delay_s: float = 0) -> int:
    """Fork, train, wait. The child's exit status: 0, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        with (home.root / "log.txt").open("a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)

        def kill(step: int) -> Directive | None:
            if step == kill_after:
                threading.Timer(delay_s, os.kill, (os.getpid(), signal.SIGKILL)).start()
            return None

        training.train(home, RUN, training.FakeLink(kill))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _newest(home: Home) -> int:
    found = checkpoints.newest(home.run(RUN.id) / "checkpoints", say=lambda text: None)
    return found.step if found else 0


if __name__ == "__main__":
    main(Home(Path(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3]))
