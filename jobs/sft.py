"""Supervised fine-tuning: the work inside the pinned actor, from data to a published adapter.

It publishes; that something serves, it does not know. Heavy imports sit inside the functions, because a driver imports
this module only to name `execute`, and because Unsloth must come before transformers and TRL.
"""

import json
import math
import platform
import time
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from actors.control import Directive
from actors.run import RunState
from actors.trainer import Link
from configs import durable
from configs.errors import TrainingError
from configs.paths import Home
from configs.schema import RunConfig
from jobs import checkpoints, dataset, gate
from jobs.metrics_log import MetricsLog

VERSIONS = ("torch", "transformers", "trl", "peft", "datasets", "ray", "bitsandbytes", "unsloth", "unsloth_zoo")


@dataclass(frozen=True)
class Outcome:
    """How `execute` ended: SUCCEEDED with an adapter's version, or STOPPED with a checkpoint."""

    state: RunState
    reason: str
    adapter: str | None = None


def execute(run: dict, home: Home, device: str, link: Link) -> Outcome:
    """Train as `run["config"]` says and publish the adapter.

    `device` is `cuda` or `cpu`. Raises TandemError for what a person can mend; then nothing is published.
    """
    config, folder = RunConfig(**run["config"]), home.run(run["id"])
    started = time.monotonic()
    if link.starting() is Directive.STOP:
        return Outcome(RunState.STOPPED, "stopped before the model was loaded")
    rows = dataset.read(config.data)
    base, model, tokenizer, trainable = _load(config)
    data = dataset.prepare(rows, tokenizer, config.data, config.model.max_seq_length)
    print(f"base {base.name}; trainable {trainable}; data: {data.report}")
    _write_resolved(folder, run, base, trainable, data.report)
    begin = _begin(run, home)
    work = _trainer(model, tokenizer, data, config, folder, device, link)
    if link.training() is Directive.STOP:
        return Outcome(RunState.STOPPED, "stopped before the first step")
    work.train(resume_from_checkpoint=str(begin.path) if begin else None)
    if work.state.global_step < work.state.max_steps:
        return Outcome(RunState.STOPPED, f"stopped at step {work.state.global_step}; its checkpoint is kept")
    manifest = _publish(run, home, config, base, model, trainable, seconds=time.monotonic() - started)
    return Outcome(RunState.SUCCEEDED, f"published {manifest.version}", manifest.version)


def _load(config: RunConfig):
    """The base's description, the model with a fresh adapter, its tokenizer, and how many parameters train by group."""
    from models import checkpoint  # imports torch; on a GPU Unsloth comes in here, before transformers and TRL

    path = checkpoint.resolve(config.model.base)
    model = checkpoint.load_for_training(path, config)
    return checkpoint.inspect(path), model, checkpoint.load_tokenizer(path), checkpoint.trainable_counts(model)


def _begin(run: dict, home: Home) -> checkpoints.Checkpoint | None:
    """Where to go on: this run's newest checkpoint, or its parent's. Cuts the loss curve to what that has seen."""
    folder = home.run(run["id"])
    parent = home.run(run["parent"]) if run["parent"] else None
    begin = checkpoints.newest(folder / "checkpoints", *([parent / "checkpoints"] if parent else []))
    if begin is None and parent is not None:
        raise TrainingError(f"run {run['parent']} left no complete checkpoint", hint="train anew without --resume")
    step = begin.step if begin else 0
    earlier = MetricsLog(parent / "metrics.jsonl") if parent else None
    MetricsLog(folder / "metrics.jsonl").begin_after(step, earlier)
    if begin:
        print(f"going on after step {step} from {begin.path}")
    return begin


def _trainer(model, tokenizer, data: dataset.Prepared, config: RunConfig, folder: Path, device: str, link: Link):
    """TRL's SFTTrainer over rows that are labelled already, reporting every step through `link`."""
    from datasets import Dataset
    from transformers import PrinterCallback, Trainer, TrainerCallback
    from trl import SFTConfig, SFTTrainer
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    class Progress(TrainerCallback):
        """Writes the loss curve, marks checkpoints, and stops when the control actor says so."""

        def __init__(self) -> None:
            self.log = MetricsLog(folder / "metrics.jsonl")
            self.seen = (time.monotonic(), 0)

        def on_train_begin(self, args, state, control, **kwargs) -> None:
            self.seen = (time.monotonic(), state.num_input_tokens_seen)

        def on_log(self, args, state, control, logs=None, **kwargs) -> None:
            if "loss" not in (logs or {}):
                return
            if not math.isfinite(logs["loss"]):
                raise TrainingError(
                    f"the loss is {logs['loss']} at step {state.global_step}",
                    hint="lower training.learning_rate, or look for a broken row in the data",
                )
            now, tokens = time.monotonic(), state.num_input_tokens_seen
            rate = (tokens - self.seen[1]) / max(now - self.seen[0], 1e-9)
            self.seen = (now, tokens)
            line = {"step": state.global_step, "loss": logs["loss"], "grad_norm": logs.get("grad_norm")}
            line |= {"learning_rate": logs.get("learning_rate"), "tokens_per_s": rate, "at": time.time()}
            self.log.append(line)
            print(f"step {state.global_step}/{state.max_steps} loss {logs['loss']:.4f} {rate:.0f} tok/s")
            directive = link.report(
                step=state.global_step, max_steps=state.max_steps, loss=logs["loss"], tokens_per_s=rate
            )
            if directive is Directive.STOP and state.global_step < state.max_steps:
                control.should_save = control.should_training_stop = True

        def on_save(self, args, state, control, **kwargs) -> None:
            checkpoints.mark_complete(folder / "checkpoints", state.global_step)

    class ModelLossTrainer(SFTTrainer):
        """TRL 1.15 computes the loss in a Triton kernel; without a GPU the model's own takes its place."""

        compute_loss = Trainer.compute_loss

    training, cpu = config.training, device == "cpu"
    micro_batch = min(2, training.effective_batch) if training.micro_batch == "auto" else training.micro_batch
    if cpu and training.optimizer == "adamw_8bit":
        print("adamw_8bit needs a GPU; using adamw_torch")
    arguments = SFTConfig(
        output_dir=str(folder / "checkpoints"),
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=training.effective_batch // micro_batch,
        max_steps=training.max_steps or -1,
        num_train_epochs=training.epochs,
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.scheduler,
        warmup_steps=training.warmup_steps,
        optim="adamw_torch" if cpu else training.optimizer,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        bf16=training.bf16 and not cpu,
        use_cpu=cpu,
        gradient_checkpointing=training.gradient_checkpointing,
        router_aux_loss_coef=training.router_aux_loss_coef,
        seed=training.seed,
        data_seed=training.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,  # its default hides a NaN loss
        include_num_input_tokens_seen="all",
        save_steps=training.save_steps,
        save_total_limit=training.keep_checkpoints,
        max_length=None,  # cut, and counted, in jobs.dataset
        packing=False,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=not cpu,
    )
    trainer = (ModelLossTrainer if cpu else SFTTrainer)(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(data.training),
        processing_class=tokenizer,
        data_collator=DataCollatorForLanguageModeling(pad_token_id=tokenizer.pad_token_id),
        callbacks=[Progress()],
    )
    trainer.remove_callback(PrinterCallback)  # Progress says it in one line
    return trainer


def _publish(run: dict, home: Home, config: RunConfig, base, model, trainable: dict[str, int], seconds: float):
    from models.registry import Registry

    log = MetricsLog(home.run(run["id"]) / "metrics.jsonl")
    lines = log.lines()
    return Registry(home.models).publish(
        lambda folder: model.save_pretrained(folder, safe_serialization=True),
        base=config.model.base,
        base_fingerprint=base.fingerprint,
        rank=config.lora.r,
        alpha=config.lora.alpha,
        target_modules=list(config.lora.target_modules),
        train_experts=config.lora.train_experts,
        trainable=trainable,
        run_id=run["id"],
        profile=config.profile,
        metrics={
            "steps": lines[-1]["step"],
            "loss": lines[-1]["loss"],
            "mean_loss": log.mean_loss(),
            "seconds": round(seconds, 1),
        },
    )


def _write_resolved(folder: Path, run: dict, base, trainable: dict[str, int], report: gate.Report) -> None:
    """What this run really was: configuration, versions, base, data. Written at every attempt."""
    versions = {name: metadata.version(name) for name in VERSIONS if _installed(name)}
    record = {"run": run["id"], "attempt": run["attempt"], "config": run["config"], "python": platform.python_version()}
    record |= {"versions": versions, "base": {"name": base.name, "fingerprint": base.fingerprint}}
    record |= {"trainable": trainable, "data": asdict(report)}
    durable.write_text(folder / "resolved.json", json.dumps(record, indent=1))


def _installed(name: str) -> bool:
    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False
