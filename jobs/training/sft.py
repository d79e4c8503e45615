"""Supervised fine-tuning: the work inside the pinned actor, from data to a published adapter.

It publishes; that something serves, it does not know. Heavy imports sit inside the functions, because a driver imports
this module only to name `execute`, and because Unsloth must come before transformers and TRL.
"""

import errno
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.client import Directive
from actors.energy.meter import EnergyMeter, own_card
from actors.energy.usage import Recorder
from actors.hardware import gpus
from actors.runs.curve import MetricsLog
from actors.runs.event import EventKind
from actors.runs.run import Outcome, Run, RunState
from actors.trainer import ControlLink
from configs.errors import TrainingError
from configs.paths import Home
from configs.schema import RunConfig
from jobs.data import dataset, gate
from jobs.training import checkpoints, provenance
from jobs.training.memory import micro_batch
from jobs.training.memory.ladder import Plan, first_plan
from jobs.training.run_record import RunRecord
from jobs.training.watchdog import verdict
from models.lora.adapter import Manifest

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

    from jobs.training.context import Rows, TrainingContext
    from jobs.training.loop import TrainingEnd
    from models.base import checkpoint


def execute(run: Run, home: Home, device: str, link: ControlLink) -> Outcome:
    """Train as `run.config` says and publish the adapter.

    `device` is `cuda` or `cpu`. Raises TandemError for what a person can fix; then nothing is published.
    """
    consumption = _consumption(run, home, device, link.share)
    try:
        return _execute(run, home, device, link, consumption)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise TrainingError(
            f"the disk that holds {home.root} is full", hint="free some space, then `tandem runs resume`"
        ) from error
    finally:
        consumption.close()


def _execute(run: Run, home: Home, device: str, link: ControlLink, consumption: Recorder) -> Outcome:
    config, folder, began = RunConfig(**run.config), home.run(run.id), time.monotonic()
    record = RunRecord(folder, run.started_at, link.check_s, tell=lambda words: _tell(link, words))
    if link.starting() is Directive.STOP:
        return Outcome(RunState.STOPPED, "stopped before the model was loaded")
    with record.stage("read data"):
        rows = dataset.read(config.data)
    base, model, tokenizer = load(config, device, link.share, record)
    with record.stage("prepare data"):
        data = dataset.prepare(rows, tokenizer, config.data, config.model.max_seq_length)
    context = _context(run, folder, config, base, model, tokenizer, rows, data, device, link, record)
    context.consumption = consumption
    context.parents = (home.run(run.parent) / "checkpoints",) if run.parent else ()
    print(f"base {base.name}; data: {data.report}")
    begin = _begin(run, home, context.origin)
    plan = _plan(context, home, base, data.report)
    if link.training() is Directive.STOP:
        return Outcome(RunState.STOPPED, "stopped before the first step")
    from jobs.training import loop

    try:
        ended = loop.train(context, plan, begin)
    finally:
        record.peak(_peak(device))
    if ended.stopped:
        return Outcome(RunState.STOPPED, f"stopped at step {ended.step}; its checkpoint is kept")
    doubts = _doubts(context, ended.taken, data.report)
    with record.stage("publish"):
        manifest = _publish(context, run, home, base, ended, doubts, seconds=time.monotonic() - began)
    record.peak(_peak(device))
    early = f", early: {ended.early}" if ended.early else ""
    suspect = f" as suspect: {'; '.join(manifest.suspect)}" if manifest.suspect else ""
    return Outcome(RunState.SUCCEEDED, f"published {manifest.version}{suspect}{early}", manifest.version)


def _tell(link: ControlLink, words: str) -> None:
    print(words)
    link.stage(words)


def load(
    config: RunConfig, device: str, share: float, record: RunRecord
) -> "tuple[checkpoint.Checkpoint, PeftModel, PreTrainedTokenizerBase]":
    """The base's description, the model with a fresh adapter, and its tokenizer."""
    with record.stage("import libraries"):
        from models.base import checkpoint, loading

        path = checkpoint.resolve(config.model.base)
        base = checkpoint.inspect(path)
        loading.import_libraries(base, device)  # on a GPU Unsloth comes in here, before transformers and TRL
    if device == "cuda":
        _cap_memory(config, share)
    with record.stage("load model"):
        model = loading.load_for_training(path, config, stage=record.stage)
    return base, model, checkpoint.load_tokenizer(path)


def _cap_memory(config: RunConfig, share: float) -> None:
    """Let an allocation beyond the run's budget fail here, and not in the process that shares the GPU."""
    import torch

    total = torch.cuda.get_device_properties(0).total_memory
    budget = micro_batch.budget_bytes(total, share, config.training.vram_gib)
    torch.cuda.set_per_process_memory_fraction(budget / total)


def _context(
    run: Run,
    folder: Path,
    config: RunConfig,
    base: "checkpoint.Checkpoint",
    model: "PeftModel",
    tokenizer: "PreTrainedTokenizerBase",
    rows: dataset.Rows,
    data: dataset.Prepared,
    device: str,
    link: ControlLink,
    record: RunRecord,
) -> "TrainingContext":
    """What the loop works on; also writes what the run is made of."""
    from jobs.training.context import TrainingContext
    from models.base import trainable

    report = data.report
    origin = provenance.origin(
        config,
        base=base.fingerprint,
        data=report.data_fingerprint,
        template=report.template_fingerprint,
        device=gpus.device_name(device),
    )
    record.resolved(
        run,
        origin,
        base=base.name,
        base_fingerprint=base.fingerprint,
        trainable=trainable.counts(model),
        data=report,
    )

    def cut(max_seq_length: int) -> "tuple[Rows, Rows]":
        if max_seq_length == config.model.max_seq_length:
            return data.training, data.held_out
        shorter = dataset.measure(rows, tokenizer, config.data, max_seq_length)  # consent counts, not the gate
        training, held_out = (
            [each.row for each in side if each.teaches] for side in (shorter.training, shorter.held_out)
        )
        return training, held_out

    return TrainingContext(model, tokenizer, config, folder, device, link, record, origin, cut)


def _begin(run: Run, home: Home, origin: dict[str, Any]) -> checkpoints.Checkpoint | None:
    """Where to go on: this run's newest checkpoint, or its parent's. Brings the parent's curve along.

    Raises TrainingError if that is a checkpoint of something else.
    """
    folder = home.run(run.id)
    parent = home.run(run.parent) if run.parent else None
    begin = checkpoints.newest(folder / "checkpoints", *([parent / "checkpoints"] if parent else []))
    if begin is None and parent is not None:
        raise TrainingError(f"run {run.parent} left no complete checkpoint", hint="train anew without --resume")
    if begin:
        provenance.refuse_other(begin.origin(), origin)
        earlier = MetricsLog(parent / "metrics.jsonl") if parent else None
        MetricsLog(folder / "metrics.jsonl").begin_after(begin.step, earlier)
        print(f"going on after step {begin.step} from {begin.path}")
    return begin


def _plan(context: "TrainingContext", home: Home, base: "checkpoint.Checkpoint", report: gate.Report) -> Plan:
    """How to cut the work: as configured, or as measured on this device."""
    training = context.config.training
    if training.micro_batch != "auto":
        return first_plan(context.config, training.micro_batch)
    from jobs.training import probe

    config = context.config.model_dump(mode="json", include={"profile", "model", "lora"})
    how = {
        "batch": training.effective_batch,
        "checkpointing": training.gradient_checkpointing,
        "optimizer": training.optimizer,
        "memory": _memory_limit(context.device),
    }
    key = micro_batch.key_of(
        config=config, how=how, base=base.fingerprint, versions=provenance.versions(), on=context.origin["device"]
    )

    def measure(rows: int) -> micro_batch.Trial:
        context.link.starting()  # a sign of life: on a new GPU every size compiles first
        return probe.probe(context, first_plan(context.config, rows))

    longest = min(report.longest_row, context.config.model.max_seq_length)
    with context.record.stage("probe"):
        cache = home.cache / "fit"
        chosen = micro_batch.choose(training.effective_batch, measure, longest_row=longest, key=key, cache=cache)
    context.record.fits(chosen)
    context.forget_fit = lambda: micro_batch.forget(cache, key)
    context.say(EventKind.FIT, str(chosen))
    return first_plan(context.config, chosen.micro_batch)


def _memory_limit(device: str) -> int | None:
    """GiB of GPU memory that this process may use."""
    if device == "cpu":
        return None
    import torch

    total = torch.cuda.get_device_properties(0).total_memory
    return round(total * torch.cuda.get_per_process_memory_fraction() / 2**30)


def _consumption(run: Run, home: Home, device: str, share: float) -> Recorder:
    """Joules and tokens of this attempt, beside those of the run's earlier ones."""
    parent = home.run(run.parent) if run.parent else None
    return Recorder(
        home.run(run.id),
        EnergyMeter(own_card(device)),
        attempt=run.attempt,
        slot=run.slot,
        device=device,
        shared=share < 1,
        parent=parent,
    )


def _peak(device: str) -> int | None:
    """Bytes of GPU memory that were held at the most; None on a CPU."""
    if device != "cuda":
        return None
    import torch

    return torch.cuda.max_memory_allocated()


def _doubts(context: "TrainingContext", taken: int, data: gate.Report) -> tuple[str, ...]:
    """Why the adapter is to be published as suspect. Raises TrainingError if the profile wants none of these."""
    action = context.config.watchdog.on_doubt
    reasons = () if action == "ignore" else verdict.doubts(context.log, taken, data)
    if reasons and action == "stop":
        hint = "nothing was published; watchdog.on_doubt=suspect publishes it as suspect"
        raise TrainingError(f"the result is not to be trusted: {'; '.join(reasons)}", hint=hint)
    for reason in reasons:
        context.say(EventKind.SUSPECT, reason)
    return reasons


def _publish(
    context: "TrainingContext",
    run: Run,
    home: Home,
    base: "checkpoint.Checkpoint",
    ended: "TrainingEnd",
    doubts: tuple[str, ...],
    seconds: float,
) -> Manifest:
    from models.base import trainable
    from models.lora.registry import Registry

    config, lines = context.config, context.log.losses()
    held_out = {line["step"]: line["eval_loss"] for line in context.log.evaluations()}
    losses = {
        "loss": lines[-1]["loss"] if lines else None,
        "mean_loss": context.log.mean_loss(),
        "eval_loss": held_out.get(ended.taken),
        "base_eval_loss": held_out.get(0),
    }
    metrics: dict[str, int | float] = {"steps": ended.step}
    metrics |= {name: loss for name, loss in losses.items() if loss is not None}
    return Registry(home.models).publish(
        lambda folder: context.model.save_pretrained(folder, safe_serialization=True),
        base=config.model.base,
        base_fingerprint=base.fingerprint,
        rank=config.lora.r,
        alpha=config.lora.alpha,
        target_modules=list(config.lora.target_modules),
        train_experts=config.lora.train_experts,
        trainable=trainable.counts(context.model),
        run_id=run.id,
        profile=config.profile,
        metrics=metrics | {"seconds": round(seconds, 1)},
        suspect=doubts,
    )
