"""What a run will take, said before it is queued: memory, disk and time, each with how sure that is.

From the base's headers, the size of the data and the formulas of `jobs.prediction.costs`; where this home has measured
runs of the same kind on the same device, from those. Imports no torch: `tandem train` calls it every time.
"""

import json
import math
import shutil
import statistics
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from configs import durable, load
from configs.errors import TrainingError
from configs.paths import Home
from configs.schema import RunConfig
from jobs.prediction import costs, earlier, target_slot
from jobs.prediction.costs import GIB, Range
from jobs.prediction.data_size import DataSize
from jobs.prediction.target_slot import TargetSlot
from jobs.request import TrainRequest
from jobs.training import checkpoints
from jobs.training.memory import micro_batch
from jobs.training.memory.ladder import divisors
from models.base.model_shape import ModelShape, model_shape

BASELINES = "measured baselines, scaled to this device"


@dataclass(frozen=True)
class Prediction:
    """The figures, in bytes, tokens and seconds. None is unknown."""

    basis: str
    """Where the figures come from, in words."""
    device: str
    slot: str | None
    budget: float
    """Bytes of memory that the run may use."""
    disk_free: float
    kind: dict[str, Any]
    """What another run must have in common with this one to tell its time and memory."""
    mean_row: Range
    longest_row: Range
    steps: int | None
    """That are left to do."""
    micro_batch: int | None = None
    """The likely one."""
    parts: dict[str, Range] | None = None
    """Memory by component at `micro_batch`."""
    memory: Range | None = None
    """From the smallest micro-batch that will do to the likely one's most."""
    disk: Range | None = None
    step_s: Range | None = None
    start_s: Range | None = None
    total_s: Range | None = None
    refusal: str = ""
    """Why it must not be queued; `hint` says what to change."""
    hint: str = ""
    warnings: tuple[str, ...] = ()

    def check(self) -> None:
        """Raises TrainingError for a run that cannot fit."""
        if self.refusal:
            raise TrainingError(self.refusal, hint=self.hint)

    def save(self, folder: Path) -> None:
        """Keep it in the run's folder, to be compared with what was measured."""
        durable.private_folder(folder)
        durable.write_text(folder / earlier.PREDICTION, json.dumps(asdict(self), indent=1))


def predict(home: Home, wanted: TrainRequest, size: DataSize) -> Prediction:
    """What this run would take on the slot that suits it best."""
    config, where = wanted.config, target_slot.choose(home, wanted.config, wanted.slot)
    prediction = Prediction(
        basis=f"base {config.model.base} is not on this machine, so its size is unknown",
        device=where.device.name,
        slot=where.slot.name if where.slot else None,
        budget=where.budget,
        disk_free=shutil.disk_usage(_existing(home.root)).free,
        kind=_kind(config),
        mean_row=size.mean_row,
        longest_row=size.longest_row,
        steps=_steps(home, wanted, size.rows),
    )
    if (base := model_shape(config.model.base)) is None:
        return prediction
    case = _Case(base, config, where, size)
    prediction = case.from_costs(prediction)
    found = list(earlier.runs(home, prediction.device, prediction.kind))
    prediction = case.with_total(_from_earlier(prediction, found))
    return case.judged(prediction, has_fitted=any(_tells_memory(run, size) for run in found))


@dataclass(frozen=True)
class _Case:
    """One run on one device, asked about."""

    base: ModelShape
    config: RunConfig
    where: TargetSlot
    size: DataSize

    def from_costs(self, prediction: Prediction) -> Prediction:
        """Filled in from formulas. Time goes from the micro-batch that might fit to the one that surely does."""
        args = (self.base, self.config, self.where.device)
        surely, likely, possibly = (self._largest(end) for end in ("high", "likely", "low"))
        step = costs.step_seconds(*args, likely, self.size.mean_row)
        fastest = costs.step_seconds(*args, possibly, self.size.mean_row).low
        slowest = costs.step_seconds(*args, surely, self.size.mean_row).high
        kept, checkpoint = self.config.training.keep_checkpoints, costs.checkpoint_bytes(*args)
        logs = Range.around(2e6, 0.1, 5)
        return replace(
            prediction,
            basis=BASELINES,
            micro_batch=likely,
            parts=costs.memory(*args, likely, self.size.longest_row.likely),
            memory=replace(self._memory(likely), low=self._memory(self._choices[0]).low),
            disk=checkpoint * Range(kept, kept + 1, kept + 2) + costs.adapter_bytes(self.base, self.config) + logs,
            step_s=replace(step, low=min(fastest, step.low), high=max(slowest, step.high)),
            start_s=costs.start_seconds(self.base, self.where.device),
        )

    def with_total(self, prediction: Prediction) -> Prediction:
        """The whole time: loading and compiling, all steps, all evaluations on the held-out rows, the base's first."""
        if prediction.steps is None:
            return prediction
        training = self.config.training
        evaluations = 1 + math.ceil(prediction.steps / training.eval_steps)
        held_out = (self.size.rows or 0) * self.config.data.holdout
        row = costs.row_seconds(self.base, self.where.device, self.size.mean_row)
        work = prediction.step_s * prediction.steps + row * (held_out * evaluations)
        return replace(prediction, total_s=prediction.start_s + work)

    def judged(self, prediction: Prediction, *, has_fitted: bool) -> Prediction:
        """With what is refused and what is warned about. What has fitted here before is not asked for memory again."""
        least, disk = self._memory(self._choices[0]), prediction.disk
        if not has_fitted and least.low > self.where.budget:
            needs = f"this run needs at least {gib(least.low)} of memory, most likely {gib(least.likely)}"
            refusal = f"{needs}; {self.where} has {gib(self.where.budget)} for it"
            return replace(prediction, refusal=refusal, hint=self._ways_to_fit())
        if disk.low > prediction.disk_free:
            refusal = f"checkpoints and adapter need at least {gib(disk.low)} below TANDEM_HOME"
            return replace(
                prediction,
                refusal=f"{refusal}; its disk has {gib(prediction.disk_free)} free",
                hint=f"free {gib(disk.high - prediction.disk_free)}, or lower training.keep_checkpoints or lora.r",
            )
        warnings = []
        if not has_fitted and least.high > self.where.budget:
            needs = (
                f"it may not fit: up to {gib(least.high)} of memory, {self.where} has {gib(self.where.budget)} for it"
            )
            warnings.append(f"{needs}; {self._ways_to_fit()}")
        if disk.high > prediction.disk_free:
            needs = f"the disk may fill up: checkpoints and adapter need up to {gib(disk.high)}"
            warnings.append(f"{needs}, {gib(prediction.disk_free)} are free; lower training.keep_checkpoints")
        return replace(prediction, warnings=tuple(warnings))

    def _ways_to_fit(self) -> str:
        """The single changes that would make it fit, most harmless first, each with the memory it then needs."""
        length = max(16, self.config.model.max_seq_length // 2)
        ways = {
            "training.micro_batch=auto": ("training", {"micro_batch": "auto"}),
            "training.gradient_checkpointing=true": ("training", {"gradient_checkpointing": True}),
            f"model.max_seq_length={length}": ("model", {"max_seq_length": length}),
            "lora.train_experts=false": ("lora", {"train_experts": False}),
            "lora.r=8": ("lora", {"r": min(8, self.config.lora.r)}),
        }
        helps, now = [], self._memory(self._choices[0]).likely
        for words, (section, update) in ways.items():
            values = getattr(self.config, section).model_copy(update=update)
            changed = replace(self, config=self.config.model_copy(update={section: values}))
            needed = changed._memory(changed._choices[0]).likely
            if needed < now and needed <= self.where.budget:
                helps.append(f"{words} ({gib(needed)})")
        if self.where.is_shared and now <= self.where.budget / self.where.slot.share:
            helps.append("a slot of this GPU for training alone in configs/cluster.yaml")
        if helps:
            return f"what helps: {', '.join(helps)}"
        larger = "a larger GPU" if self.where.device.on_gpu else "a machine with a GPU"
        fitting = self._profiles_that_fit()
        if same := [name for name, config in fitting.items() if config.model.base == self.config.model.base]:
            return f"what fits: {', '.join(f'--profile {name}' for name in same)}; otherwise {larger}"
        return f"{larger}, or --profile tiny" if "tiny" in fitting else larger

    def _profiles_that_fit(self) -> dict[str, RunConfig]:
        """The shipped profiles that would most likely fit here with this data."""
        found = {}
        for name, config in ((name, load.load_run(name)) for name in load.profiles()):
            if (base := model_shape(config.model.base)) is not None:
                case = replace(self, base=base, config=config)
                if case._memory(case._choices[0]).likely <= self.where.budget:
                    found[name] = config
        return found

    @property
    def _choices(self) -> list[int]:
        """The micro-batches that the run may use, ascending."""
        training = self.config.training
        if training.micro_batch != "auto":
            return [training.micro_batch]
        return divisors(training.effective_batch, micro_batch.MOST)

    def _largest(self, end: str) -> int:
        """The largest micro-batch of which this end of the range is within the budget."""
        fitting = [n for n in self._choices if getattr(self._memory(n), end) <= self.where.budget]
        return max(fitting, default=self._choices[0])

    def _memory(self, micro_batch: int) -> Range:
        row = min(self.size.longest_row.likely, self.config.model.max_seq_length)
        parts = costs.memory(self.base, self.config, self.where.device, micro_batch, row)
        return sum(parts.values(), Range.exactly(0))


def gib(number: float) -> str:
    return f"{number / GIB:.1f} GiB" if number >= GIB / 10 else f"{number / 2**20:.0f} MiB"


def _from_earlier(prediction: Prediction, found: list[earlier.EarlierRun]) -> Prediction:
    """Measured step times, scaled by the rows' mean length, and measured memory take the formulas' place."""
    steps = [
        run.step_s * prediction.mean_row.likely / run.predicted["mean_row"]["likely"]
        for run in found
        if run.step_s is not None
    ]
    starts = [run.start_s for run in found if run.start_s is not None]
    peaks = [run.peak_bytes for run in found if run.peak_bytes is not None]
    if steps:
        basis = f"{len(steps)} earlier run{'s' if len(steps) > 1 else ''} of this kind on this device"
        prediction = replace(prediction, basis=basis, step_s=_spread(steps))
    if starts:
        prediction = replace(prediction, start_s=_spread(starts))
    return replace(prediction, memory=_spread(peaks)) if peaks else prediction


def _spread(values: list[float]) -> Range:
    """Of one run a fifth to each side, of several a tenth beyond what they were."""
    slack = 0.2 if len(values) == 1 else 0.1
    return Range(min(values) * (1 - slack), statistics.median(values), max(values) * (1 + slack))


def _tells_memory(run: earlier.EarlierRun, size: DataSize) -> bool:
    """Whether the run made steps, with rows at least as long as this one's."""
    return run.step_s is not None and run.predicted["longest_row"]["likely"] >= size.longest_row.likely


def _kind(config: RunConfig) -> dict[str, Any]:
    model, lora, training = config.model, config.lora, config.training
    return {
        "base": model.base,
        "max_seq_length": model.max_seq_length,
        "r": lora.r,
        "train_experts": lora.train_experts,
        "effective_batch": training.effective_batch,
        "micro_batch": training.micro_batch,
        "gradient_checkpointing": training.gradient_checkpointing,
        "optimizer": training.optimizer,
    }


def _steps(home: Home, wanted: TrainRequest, rows: int | None) -> int | None:
    """Optimiser steps that are left to do."""
    training, steps = wanted.config.training, wanted.config.training.max_steps
    if steps is None and rows is not None:
        kept = rows * (1 - wanted.config.data.holdout)
        steps = max(1, math.ceil(kept * training.epochs / training.effective_batch))
    begin = checkpoints.newest(home.run(wanted.parent) / "checkpoints") if wanted.parent else None
    return steps if steps is None or begin is None else max(0, steps - begin.step)


def _existing(path: Path) -> Path:
    return next(each for each in (path, *path.parents) if each.exists())
