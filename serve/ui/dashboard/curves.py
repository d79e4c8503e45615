"""The curves of runs, read once and then only what was added: one cache for everybody who looks.

`actors.runs.curve` reads the lines; one that is damaged is counted, not fatal.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass, field

from actors.logs.growing import GrowingFile
from actors.runs.curve import parse
from configs.paths import Home

MOST_KEPT = 8


@dataclass
class Curve:
    """What `metrics.jsonl` says so far; points are (step, value), steps rising."""

    train: list[tuple[int, float]] = field(default_factory=list)
    held_out: list[tuple[int, float]] = field(default_factory=list)
    rollbacks: int = 0
    unreadable: int = 0
    """Lines that are not JSON, or have another shape."""

    def take(self, line: bytes) -> None:
        """Add one whole line."""
        content = parse(line)
        if content is None:
            self.unreadable += 1
        elif "loss" in content:
            self.train.append((content["step"], float(content["loss"])))
        elif "eval_loss" in content:
            self.held_out.append((content["step"], float(content["eval_loss"])))
        elif "rollback" in content:
            self.rollbacks += 1


class Curves:
    """The curves of the runs that were looked at last; for any thread."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._known: OrderedDict[str, tuple[GrowingFile, Curve]] = OrderedDict()
        self._one_at_a_time = threading.Lock()

    def of(self, run_id: str) -> Curve:
        """The run's curve as it is now. Raises OSError if its file is there and cannot be read."""
        path = self._home.run(run_id) / "metrics.jsonl"
        with self._one_at_a_time:
            file, curve = self._known.pop(run_id, None) or (GrowingFile(path), Curve())
            if not path.exists():
                file.close()
                return Curve()
            for begins, lines in file.new_parts():
                curve = Curve() if begins else curve  # a resumed run writes it anew
                for line in lines:
                    curve.take(line)
            self._known[run_id] = file, curve
            while len(self._known) > MOST_KEPT:
                self._known.popitem(last=False)[1][0].close()
            return curve
