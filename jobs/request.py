"""What a person asks for when they ask for training, the same from `tandem train` and from `ray job submit`."""

import functools
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, get_args

import click

from actors.hardware import gpus
from actors.runs.ledger import Ledger
from actors.runs.run import RunKind, Submission, check_run_id
from configs import load
from configs.errors import ConfigError, NotFoundError, StateError
from configs.paths import Home
from configs.schema import MaskMode, RunConfig
from jobs.data import dataset
from jobs.training import checkpoints, provenance

PROFILE_DEFAULT = "[default: standard; tiny without a GPU]"


@dataclass(frozen=True)
class TrainFlags:
    """What the options of a training request parse to."""

    profile: str | None = None
    slot: str | None = None
    dataset: str | None = None
    max_steps: int | None = None
    resume: str | None = None
    priority: int = 0
    sets: tuple[str, ...] = ()
    max_bad_rows: int | None = None
    mask: str | None = None
    micro_batch: str | None = None

    @property
    def overrides(self) -> list[str]:
        """The settings that they change, each as `KEY=VALUE`; flags of their own win over --set."""
        flags = [*self.sets]
        if self.dataset is not None:
            flags.append(load.literal("data.dataset", self.dataset))
        if self.max_bad_rows is not None:
            flags.append(f"data.max_bad_rows={self.max_bad_rows}")
        if self.mask is not None:
            flags.append(f"data.mask={self.mask}")
        if self.micro_batch is not None:
            flags.append(f"training.micro_batch={self.micro_batch}")
        if self.max_steps is not None:
            flags.append(f"training.max_steps={self.max_steps}")
        return flags


@dataclass(frozen=True)
class TrainRequest:
    """A resolved request: everything that queues a run."""

    config: RunConfig
    priority: int
    slot: str | None
    parent: str | None

    def body(self, run_id: str) -> dict[str, Any]:
        """The body of `POST /api/runs`."""
        config = self.config.model_dump(mode="json")
        about = {"priority": self.priority, "slot_wanted": self.slot, "parent": self.parent}
        return {"run_id": run_id, "config": config, **about}

    def submission(self, run_id: str, *, job_id: str) -> Submission:
        """The same from a driver that somebody else has started as Ray's job `job_id`."""
        return Submission(
            run_id,
            RunKind.TRAIN,
            self.config.profile,
            self.config.model_dump(mode="json"),
            max_steps=self.config.training.max_steps,
            priority=self.priority,
            slot_wanted=self.slot,
            parent=self.parent,
            attached=True,
            job_id=job_id,
        )


def options(command: Callable[..., None]) -> Callable[..., None]:
    """The click options of a training request; the command gets what they parse to as `flags`, for `resolve`."""

    @functools.wraps(command)
    def collected(**given: Any) -> None:  # click calls a command with keywords
        own = {field.name: given.pop(field.name) for field in fields(TrainFlags)}
        command(flags=TrainFlags(**own), **given)

    decorated: Callable[..., None] = collected
    for option in (
        click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Override any setting; repeatable."),
        click.option("--priority", type=int, default=0, show_default=True, help="Higher is granted a slot earlier."),
        click.option("--resume", metavar="RUN", help="Continue this ended run from its newest checkpoint."),
        click.option("--max-steps", type=click.IntRange(min=1), help="Optimiser steps, instead of the profile's."),
        click.option(
            "--mask", type=click.Choice(get_args(MaskMode)), help="What is learned, instead of the profile's."
        ),
        click.option(
            "--max-bad-rows", type=click.IntRange(min=0), help="Leave out up to so many rows that are broken."
        ),
        click.option("--micro-batch", metavar="N", help="Rows per forward pass, or auto: measure what is fastest."),
        click.option("--dataset", metavar="D", help="A .jsonl, .json, .csv or .parquet file, a folder, a hub name."),
        click.option("--gpu", "slot", metavar="N", help="Only this slot will do. Default: any that trains."),
        click.option("--profile", metavar="P", help=f"A profile or a YAML file. {PROFILE_DEFAULT}"),
    ):
        decorated = option(decorated)
    return decorated


def resolve(home: Home, flags: TrainFlags) -> TrainRequest:
    """Flags to a validated request.

    Raises ConfigError, NotFoundError, StateError or TrainingError before anything is queued.
    """
    if flags.resume is None:
        config = load.load_run(flags.profile or default_profile(), flags.overrides)
    else:
        if flags.profile is not None:
            raise ConfigError("--resume keeps the run's own profile", hint="leave --profile out")
        config = _resumed(home, flags.resume, flags.overrides)
    _check_reporters(config)
    return TrainRequest(_with_local_paths(config), flags.priority, flags.slot, flags.resume)


def default_profile() -> str:
    return "standard" if gpus.readings() else "tiny"


def _resumed(home: Home, run_id: str, overrides: list[str]) -> RunConfig:
    if not home.ledger.exists():
        raise NotFoundError(f"no run {run_id}", hint="nothing has been submitted yet")
    run = Ledger(home.ledger, read_only=True).run(check_run_id(run_id))
    if run.kind is not RunKind.TRAIN:
        raise StateError(f"run {run_id} is of kind {run.kind} and leaves no checkpoint", hint="queue it again")
    if not run.state.is_terminal:
        raise StateError(f"run {run_id} is {run.state}, it has not ended", hint=f"`tandem runs stop {run_id}` first")
    folders = [home.run(each) / "checkpoints" for each in (run.id, run.parent) if each]
    begin = checkpoints.newest(*folders, say=lambda text: None)
    if begin is None:
        raise StateError(
            f"run {run_id} left no complete checkpoint", hint=f"train anew: tandem train --profile {run.profile}"
        )
    config = load.override(RunConfig, run.config, overrides, source=f"run {run_id}")
    provenance.refuse_other(begin.origin(), provenance.of_config(config))
    steps = config.training.max_steps or run.max_steps
    if steps is not None and begin.step >= steps:
        raise StateError(
            f"run {run_id} has done all its {steps} steps", hint=f"--max-steps with more than {begin.step} trains on"
        )
    return config


def _check_reporters(config: RunConfig) -> None:
    for name in config.training.report_to:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"training.report_to names {name}, which is not installed",
                hint=f".venv/bin/python -m pip install {name}",
            )


def _with_local_paths(config: RunConfig) -> RunConfig:
    """The same with the data set's path absolute: the run happens in another process and folder."""
    path = dataset.locate(config.data.dataset)
    if path is None or config.data.dataset in dataset.BUNDLED:
        return config
    return config.model_copy(update={"data": config.data.model_copy(update={"dataset": str(path)})})
