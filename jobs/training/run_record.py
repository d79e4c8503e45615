"""A run's own account in its folder: `resolved.json`, what it was made of, and `measured.json`, what it took."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from actors.runs.run import Run
from configs import durable
from jobs.data import gate
from jobs.training.memory.micro_batch import MicroBatchChoice

RESOLVED, MEASURED = "resolved.json", "measured.json"
WORDS = {
    "read data": "reading the data", "import libraries": "importing libraries", "load model": "loading the model",
    "verify model": "verifying the model", "prepare data": "rendering the data", "probe": "measuring the micro-batch",
    "build trainer": "building the trainer", "evaluate base": "measuring the base",
    "first step": "taking the first step", "compile": "compiling, with the first step", "publish": "publishing",
}  # fmt: skip
"""What a stage is called while it goes on."""


class RunRecord:
    """The account of one attempt; a later attempt writes it anew."""

    def __init__(
        self,
        folder: Path,
        granted_at: float | None,
        check_s: float = 0.0,
        *,
        tell: Callable[[str], None] = lambda words: None,
    ) -> None:
        """`granted_at` is when the slot was granted, `check_s` how long this process took to look at its GPU; `tell`
        hears in words which stage begins."""
        self._folder, self._tell = folder, tell
        self._within: list[str] = []
        self._granted_at = granted_at or time.time()
        self._measured: dict[str, Any] = {"stages": {}}
        if granted_at is not None:
            began = psutil.Process().create_time()
            self.took("driver", began - granted_at)
            self.took("actor", time.time() - began - check_s)
            self.took("import libraries", check_s)

    @property
    def stages(self) -> dict[str, float]:
        """Seconds by stage so far."""
        return dict(self._measured["stages"])

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what happens inside as `stages[name]`, in seconds."""
        self.begins(name)
        self._within.append(name)
        started = time.monotonic()
        yield
        self.took(name, time.monotonic() - started)
        self._within.pop()
        if self._within:
            self.begins(self._within[-1])

    def begins(self, name: str) -> None:
        """Say that a stage begins which is timed elsewhere."""
        self._tell(WORDS.get(name, name))

    def took(self, name: str, seconds: float) -> None:
        """Note that a stage took so long; of a stage that comes again the sum."""
        stages = self._measured["stages"]
        stages[name] = round(stages.get(name, 0) + seconds, 3)

    def first_step(self, seconds: float) -> None:
        """The first step took so long; note it, and the seconds from the slot's grant until now."""
        self.took("first step", seconds)
        self._measured["granted_to_first_step"] = round(time.time() - self._granted_at, 3)
        self.write()

    def fits(self, chosen: MicroBatchChoice) -> None:
        """Note which micro-batch was chosen, and what was tried."""
        trials = [vars(trial) for trial in chosen.trials]
        self._measured["fit"] = {"micro_batch": chosen.micro_batch, "cached": chosen.cached, "trials": trials}
        self.write()

    def peak(self, memory_bytes: int | None) -> None:
        """Note the most GPU memory that was held; None on a CPU."""
        if memory_bytes is not None:
            self._measured["peak_memory_bytes"] = memory_bytes
        self.write()

    def write(self) -> None:
        """All that was noted so far, `stages` in seconds included."""
        durable.write_text(self._folder / MEASURED, json.dumps(self._measured, indent=1))

    def resolved(
        self,
        run: Run,
        origin: dict[str, Any],
        *,
        base: str,
        base_fingerprint: str,
        trainable: dict[str, int],
        data: gate.Report,
    ) -> None:
        """Write what the run is made of: configuration, origin, base, trainable parameters by group, data."""
        made_of = {
            "run": run.id,
            "attempt": run.attempt,
            "config": run.config,
            "origin": origin,
            "versions": origin["versions"],
            "base": {"name": base, "fingerprint": base_fingerprint},
            "trainable": trainable,
            "data": asdict(data),
        }
        durable.write_text(self._folder / RESOLVED, json.dumps(made_of, indent=1))


def read_measured(folder: Path) -> dict[str, Any]:
    """What a run took, as far as it got; empty before its first attempt."""
    try:
        return json.loads((folder / MEASURED).read_text())
    except (FileNotFoundError, ValueError):
        return {}
