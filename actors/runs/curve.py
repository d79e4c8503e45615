"""A run's `metrics.jsonl`: a line per optimiser step, per evaluation and per rollback, each step once, whatever was
interrupted in between. A line that a broken disk or an editor damaged is left out and counted.

The one reader and writer of the file. `parse` reads a line, `tail` the newest, `MetricsLog` all of them.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actors.logs.growing import end_of
from configs import durable

LOOKS = ("eval_loss", "check_loss")
NUMBERS = ("loss", *LOOKS)
TAIL_BYTES = 32 * 1024
"""About 150 lines, read at every look at a running run."""
NUMBERS_OR_NULL = ("grad_norm", "learning_rate", "tokens_per_s", "tokens", "energy_joules", "at")


def parse(text: bytes) -> dict[str, Any] | None:
    """One line; None for what is not JSON, has no step, or has something else where a number belongs."""
    line = _object(text)
    if line is None:
        return None
    wrong = [name for name in NUMBERS if name in line and number(line[name]) is None]
    wrong += [name for name in NUMBERS_OR_NULL if line.get(name) is not None and number(line[name]) is None]
    return None if wrong else line


def number(value: object) -> float | None:
    """A value of a line as a float; None for what is not a number, or an integer that no float can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def tail(path: Path, size: int = TAIL_BYTES) -> tuple[list[dict[str, Any]], int]:
    """(the lines in the last `size` bytes, how many of them cannot be read); one that is being written is left out.

    A line has a step and a time; any other value may be odd, so that one of them costs no look at the rest.

    A file that is not there has no lines. Raises OSError for one that cannot be read.
    """
    try:
        text, is_cut = end_of(path, size)
    except FileNotFoundError:
        return [], 0
    texts = text.split(b"\n")[is_cut:-1]
    lines = [line for line in map(_object, texts) if line is not None and _is_timed(line)]
    return lines, len(texts) - len(lines)


def _object(text: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    has_step = isinstance(line, dict) and isinstance(line.get("step"), int) and number(line["step"]) is not None
    return line if has_step else None


def _is_timed(line: dict[str, Any]) -> bool:
    at = number(line.get("at"))
    return at is not None and math.isfinite(at)


class MetricsLog:
    """Append and read. A step is `{"step", "loss", "grad_norm", "learning_rate", "tokens_per_s", "tokens",
    "energy_joules", "at"}`, an evaluation on the held-out rows `{"step", "eval_loss", "at"}`; a look that no schedule
    asked for, or at trained rows, has `check_loss` instead; of step 0 both are the base's own, with `eval_batch` and
    `max_seq_length`. A rollback is `{"step", "rollback", "from", "at"}` with the step that it went back to. `tokens`
    and `energy_joules` are those of the whole run so far, as `actors.energy.usage` counts them; joules are null where
    nothing measures them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, line: dict[str, Any]) -> None:
        with open(self.path, "a", opener=durable.private) as handle:
            handle.write(json.dumps(line) + "\n")

    def lines(self) -> list[dict[str, Any]]:
        """Every line that can be read; a last one that a kill cut off is left out."""
        return [line for line in map(parse, self._texts()) if line is not None]

    def damaged(self) -> int:
        """How many whole lines cannot be read."""
        return sum(parse(text) is None for text in self._texts())

    def _texts(self) -> list[bytes]:
        return self.path.read_bytes().split(b"\n")[:-1] if self.path.exists() else []

    def begin_after(self, step: int, earlier: "MetricsLog | None" = None) -> None:
        """Keep the lines up to `step`, of `earlier` where this log has none: what was computed after it comes again."""
        lines = self.lines() or (earlier.lines() if earlier else [])
        durable.write_text(self.path, "".join(json.dumps(line) + "\n" for line in lines if line["step"] <= step))

    def losses(self) -> list[dict[str, Any]]:
        """The lines of optimiser steps."""
        return [line for line in self.lines() if "loss" in line]

    def evaluations(self) -> list[dict[str, Any]]:
        """The lines of evaluations on the held-out rows."""
        return [line for line in self.lines() if "eval_loss" in line]

    def base_loss(self) -> float | None:
        """The base's own loss on the rows that are looked at, of step 0; None where it was not measured."""
        return self.loss_at(0)

    def keep_base(self, how: Mapping[str, int]) -> None:
        """Forget the base's loss, unless it was measured in the same way: `how` is what its line has besides."""
        lines = self.lines()
        kept = [line for line in lines if line["step"] or not {*LOOKS} & {*line} or how.items() <= line.items()]
        if len(kept) < len(lines):
            durable.write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))

    def loss_at(self, step: int) -> float | None:
        """The loss after `step` on the rows that are looked at: the held-out ones, or a few that are trained."""
        lines = (line for line in reversed(self.lines()) if line["step"] == step)
        return next((line[name] for line in lines for name in LOOKS if name in line), None)

    def rollbacks(self) -> int:
        """How often the run went back to an earlier checkpoint."""
        return sum("rollback" in line for line in self.lines())

    def mean_loss(self) -> float | None:
        """Mean over all steps. The trainer's own figure covers only the part since the last resume."""
        losses = [line["loss"] for line in self.losses()]
        return sum(losses) / len(losses) if losses else None
