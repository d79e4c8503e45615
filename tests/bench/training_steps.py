"""A step of Tandem against a step of plain Unsloth + TRL, in one process and in turns, so that neither machine nor
compilation differs. On a GPU:

    python -m tests.bench.training_steps --base DIR --out FILE
    python -m tests.bench.training_steps --base DIR --experts --out FILE

`plain` is SFTTrainer as scripts use it, `tandem` the run's own loop; each at 2 x 8 rows and at the micro-batch that
Tandem's probe chose (`auto`). At 2 x 8 launching kernels is the limit and steps scatter widely; at 16 x 1 they do not,
so that is where the two loops are best compared. 16 rows of 1,024 tokens a step, LoRA rank 8, at
most 24 GiB. A step is timed from the end of the one before, so data, logging and reports are in it.
"""

import argparse
import itertools
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from actors.hardware import gpus
from configs.load import load_run
from configs.paths import Home
from jobs.data import dataset
from jobs.training import provenance
from jobs.training.memory import micro_batch as fit
from jobs.training.memory.ladder import first_plan
from jobs.training.run_record import RunRecord
from tests.bench.main_job import machine
from tests.bench.training import CAP_GIB, ROW_TOKENS, rows_of, settings, shown

STEPS = 6
TIGHT_GIB = 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="`tiny`, or a local checkpoint folder")
    parser.add_argument("--experts", action="store_true", help="train the experts too")
    parser.add_argument("--turns", type=int, default=3, help="how often each is measured")
    parser.add_argument("--quick", action="store_true", help="without Tandem at 2 x 8")
    parser.add_argument("--faults", action="store_true", help=f"then run out of memory at {TIGHT_GIB} GiB, and resume")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    result: dict[str, Any] = {"command": f"python -m {__spec__.name} {' '.join(shown(sys.argv[1:]))}"}
    result |= {"machine": machine(), "cap_gib": CAP_GIB, "experts": options.experts}
    folder = Path(tempfile.mkdtemp(prefix="tdb", dir="/tmp"))
    try:
        for part in measure(options, Home(folder)):
            result |= part
            text = json.dumps(result, indent=1)
            if options.out:
                options.out.write_text(text + "\n")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(text)


def measure(options: argparse.Namespace, home: Home):
    from jobs.training import sft

    device = "cuda" if gpus.readings() else "cpu"
    tiny = options.base == "tiny"
    data = home.root / "rows.jsonl"
    own = [f"training.max_steps={STEPS}", "training.warmup_steps=0", "watchdog.on_spike=ignore"]
    config = load_run("tiny" if tiny else "quick_test", [*settings(options, data), *own])
    record = RunRecord(home.run("bench"), None)
    home.run("bench").mkdir(parents=True)
    _, model, tokenizer = sft.load(config, device, 1.0, record)
    data.write_text("".join(json.dumps(row) + "\n" for row in rows_of(options.base)))
    prepared = dataset.prepare(dataset.read(config.data), tokenizer, config.data, config.model.max_seq_length)
    context = _work(home, config, model, tokenizer, prepared, device, record)
    chosen = _probe(context, home)
    yield {"fit": {"micro_batch": chosen.micro_batch, "trials": [vars(trial) for trial in chosen.trials]}}
    yield {"versions": provenance.versions(), "load_seconds": record.stages}
    legs = {f"{kind} {size}": [] for size in ("auto", "2 x 8") for kind in ("plain", "tandem")}
    for _ in range(options.turns):
        for name, turns in legs.items():
            if not (options.quick and name == "tandem 2 x 8"):
                micro_batch = 2 if name.endswith("2 x 8") else chosen.micro_batch
                turns.append((_plain if name.startswith("plain") else _tandem)(context, micro_batch))
                yield _summary(legs)
    if options.faults:
        yield {"resume": _resume(context, chosen.micro_batch)}
        yield {"out_of_memory": _out_of_memory(context)}


def _summary(legs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    done = {name: turns for name, turns in legs.items() if turns}
    median = {name: statistics.median(s for leg in turns for s in leg["seconds"]) for name, turns in done.items()}
    return {
        "median_step_seconds": {name: round(value, 3) for name, value in median.items()},
        "step_seconds": {name: [leg["seconds"] for leg in turns] for name, turns in done.items()},
        "peak_gib": {name: max(leg["peak_gib"] or 0 for leg in turns) for name, turns in done.items()},
        "slower_than_plain_by_percent": {
            size: round(100 * (median[f"tandem {size}"] / median[f"plain {size}"] - 1), 2)
            for size in ("auto", "2 x 8")
            if {f"tandem {size}", f"plain {size}"} <= median.keys()
        },
        "tandem_auto_times_as_fast_as_plain_2_x_8": round(median["plain 2 x 8"] / median["tandem auto"], 3)
        if {"plain 2 x 8", "tandem auto"} <= median.keys()
        else None,
    }


def _work(home: Home, config, model, tokenizer, prepared, device: str, record: RunRecord):
    from jobs.training.context import TrainingContext
    from tests.training import FakeLink

    origin = provenance.origin(config, base="", data="", template="", device=device)
    rows = (prepared.training, prepared.held_out)
    return TrainingContext(
        model, tokenizer, config, home.run("bench"), device, FakeLink(), record, origin, lambda length: rows
    )


def _probe(context, home: Home) -> fit.MicroBatchChoice:
    from jobs.training import probe

    def trial(micro_batch: int) -> fit.Trial:
        return probe.probe(context, first_plan(context.config, micro_batch))

    return fit.choose(16, trial, longest_row=context.config.model.max_seq_length, key="bench", cache=home.cache)


def _tandem(context, micro_batch: int) -> dict[str, Any]:
    from jobs.training import loop

    _clear(context)
    _reset_peak()
    began = time.time()
    loop.train(context, first_plan(context.config, micro_batch), None)
    ends = [line["at"] for line in context.log.losses()]
    return {"seconds": _between(ends), "peak_gib": _peak_gib(), "all_seconds": round(time.time() - began, 2)}


def _out_of_memory(context) -> dict[str, Any]:
    """Train at 16 x 1 with too little memory for it: which rungs were taken, and what the loss was then."""
    import torch

    from jobs.training import loop

    _clear(context)
    if context.device == "cuda":
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(TIGHT_GIB * 2**30 / total)
    context.link.notes.clear()
    loop.train(context, first_plan(context.config, 16), None)
    lines = context.log.losses()
    return {"cap_gib": TIGHT_GIB, "rungs": context.link.said("memory"), "losses": [line["loss"] for line in lines]}


def _resume(context, micro_batch: int) -> dict[str, Any]:
    """The losses of a run, and those after its checkpoint in the middle once more, from that checkpoint."""
    from jobs.training import checkpoints, loop

    _clear(context)
    plan = first_plan(context.config, micro_batch)
    whole = context.config
    context.config = whole.model_copy(update={"training": whole.training.model_copy(update={"save_steps": 3})})
    loop.train(context, plan, None)
    first = {line["step"]: line["loss"] for line in context.log.losses()}
    checkpoints.drop_after(context.checkpoints, 3)
    context.reset()
    loop.train(context, plan, checkpoints.newest(context.checkpoints))
    again = {line["step"]: line["loss"] for line in context.log.losses()}
    differences = [abs(again[step] - first[step]) for step in first]
    return {"losses": list(first.values()), "resumed": list(again.values()), "largest_difference": max(differences)}


def _clear(context) -> None:
    context.reset()
    context.log.path.unlink(missing_ok=True)
    shutil.rmtree(context.checkpoints, ignore_errors=True)


def _plain(context, micro_batch: int) -> dict[str, Any]:
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *args, **kwargs) -> None:
            _wait()
            ends.append(time.time())

    context.reset()
    _reset_peak()
    cpu = context.device == "cpu"
    texts = Dataset.from_list([{"text": context.tokenizer.decode(row["input_ids"])} for row in context.rows(0)[0]])
    arguments = SFTConfig(
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=16 // micro_batch,
        max_steps=STEPS,
        learning_rate=2e-4,
        optim="adamw_torch" if cpu else "adamw_8bit",
        logging_steps=100,
        output_dir=str(context.folder / "plain"),
        report_to="none",
        max_length=ROW_TOKENS,
        bf16=not cpu,
        use_cpu=cpu,
        save_strategy="no",
        dataset_num_proc=1,
        disable_tqdm=True,
    )
    from jobs.training import trainers

    kind = trainers.trainer_class(context) if cpu else SFTTrainer
    kind(
        model=context.model,
        processing_class=context.tokenizer,
        train_dataset=texts,
        callbacks=[Clock()],
        args=arguments,
    ).train()
    return {"seconds": _between(ends), "peak_gib": _peak_gib()}


def _between(ends: list[float]) -> list[float]:
    return [round(after - before, 4) for before, after in itertools.pairwise(ends)]


def _wait() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _reset_peak() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _peak_gib() -> float | None:
    import torch

    return round(torch.cuda.max_memory_allocated() / 2**30, 2) if torch.cuda.is_available() else None


if __name__ == "__main__":
    main()
