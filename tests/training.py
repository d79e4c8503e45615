"""A run's real work without a cluster: `jobs.training.sft.execute` on the embedded model, in this process."""

import json
from collections.abc import Callable
from pathlib import Path

from actors.client import Directive
from actors.runs.run import Outcome, Run
from configs.load import load_run
from configs.paths import Home
from jobs.training import sft
from tests import samples

SMALL = (
    "model.max_seq_length=256",
    "training.effective_batch=4",
    "training.micro_batch=4",
    "training.max_steps=6",
    "training.save_steps=2",
    "training.eval_steps=2",
    "training.eval_batch=1",
)
"""A run of seconds."""


class FakeLink:
    """Hears what a task says, and answers CONTINUE; `on_report` may answer otherwise, raise or kill."""

    share = 1.0
    check_s = 0.0

    def __init__(self, on_report: Callable[[int], Directive | None] = lambda step: None) -> None:
        self.on_report = on_report
        self.steps: list[int] = []
        self.notes: list[tuple[str, str]] = []
        self.stages: list[str] = []

    def starting(self) -> Directive:
        return Directive.CONTINUE

    def stage(self, words: str) -> Directive:
        self.stages.append(words)
        return Directive.CONTINUE

    def training(self) -> Directive:
        return Directive.CONTINUE

    def report(self, *, step: int, max_steps: int, loss: float | None, tokens_per_s: float | None) -> Directive:
        self.steps.append(step)
        return self.on_report(step) or Directive.CONTINUE

    def note(self, kind: str, text: str) -> None:
        self.notes.append((kind, text))

    def said(self, kind: str) -> list[str]:
        return [text for each, text in self.notes if each == kind]


def row(run_id: str = "tiny-1", *sets: str, parent: str | None = None, attempt: int = 1) -> Run:
    """What `execute` gets."""
    config = load_run("tiny", [*SMALL, *sets]).model_dump(mode="json")
    return samples.run(run_id, config, parent=parent, attempt=attempt)


def train(home: Home, run: Run, link: FakeLink | None = None) -> Outcome:
    home.run(run.id).mkdir(parents=True, exist_ok=True)
    return sft.execute(run, home, "cpu", link or FakeLink())


def curve(home: Home, run_id: str) -> list[tuple[int, float]]:
    """(step, loss) of every step."""
    lines = map(json.loads, (home.run(run_id) / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


def weights(home: Home, version: str) -> bytes:
    """The published adapter's tensors, as they are on disk."""
    return (Path(home.models) / version / "adapter_model.safetensors").read_bytes()
