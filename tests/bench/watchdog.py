"""What the watchdog says of runs of the embedded model, from learning rates that are far too low to absurd ones.

    python -m tests.bench.watchdog --out FILE
    python -m tests.bench.watchdog --out FILE --data demo noise --rates 5e-3 0.9 --seeds 1

Runs that FILE has already are not run again. For each: how it ended, at which step, the base's loss and its own on the
same rows, and how often it was looked at. The thresholds of `jobs.training.watchdog.held_out` and `usual` rest on it.
"""

import argparse
import contextlib
import io
import json
import random
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actors.runs.curve import MetricsLog
from configs import durable
from configs.errors import TrainingError
from configs.paths import SOURCE, TINY_DATASET, Home
from models.lora.registry import Registry
from tests import training
from tests.bench.main_job import machine

RATES = (1e-4, 1e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.3, 0.9)
"""The profile `tiny` has 5e-3."""
STEPS = 30
DEMO = [json.loads(line) for line in TINY_DATASET.read_text().splitlines()]
EXPERTS = "lora.target_modules=[q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj]"


def chat(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def facts(count: int) -> list[dict[str, Any]]:
    """Things that the base cannot know, in one wording."""
    rng = random.Random(0)
    return [chat(f"Where is the {name}?", f"The {name} is in room {rng.randint(1, 99)}.") for name in _names(count)]


def _names(count: int) -> list[str]:
    return [f"{('zorb', 'flim', 'krat', 'wend')[index % 4]}{index}" for index in range(count)]


def letters(count: int) -> list[dict[str, Any]]:
    """Answers without any sense, of 20 to 120 characters."""
    rng = random.Random(0)
    return [
        chat(name, "".join(rng.choices("qxzjvkQXZJVK 0123456789", k=rng.randint(20, 120)))) for name in _names(count)
    ]


def prose(count: int) -> list[dict[str, Any]]:
    """Lines of Tandem's documentation: English that the base has not seen, of very different lengths."""
    lines = [line.strip() for line in (SOURCE / "docs" / "operations.md").read_text().splitlines() if len(line) > 40]
    random.Random(0).shuffle(lines)
    return [chat(lines[2 * index][:80], lines[2 * index + 1][:300]) for index in range(count)]


ONE = ("training.effective_batch=1", "training.micro_batch=1")
KINDS: dict[str, tuple[list[dict[str, Any]], tuple[str, ...]]] = {
    "demo": (DEMO, ()),
    "demo, one row a step": (DEMO, ONE),
    "demo, experts": (DEMO, ("lora.train_experts=true", EXPERTS)),
    "demo, rank 64, constant rate": (DEMO, ("lora.r=64", "lora.alpha=128", "training.scheduler=constant")),
    "demo, no warm-up": (DEMO, ("training.warmup_steps=0",)),
    "demo, final answers only": (DEMO, ("data.mask=final_only",)),
    "8 facts, none held out": (facts(8), ("data.holdout=0",)),
    "40 facts": (facts(40), ("data.holdout=0.1",)),
    "one row": (DEMO[:1], ("data.holdout=0",)),
    "letters": (letters(64), ("data.holdout=0.1",)),
    "prose": (prose(64), ("data.holdout=0.1",)),
    "prose, one row a step": (prose(64), ("data.holdout=0.1", *ONE)),
}
"""Rows, and settings besides those of `tests.training.SMALL`."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", nargs="+", choices=KINDS, default=[*KINDS], metavar="KIND")
    parser.add_argument("--rates", nargs="+", type=float, default=RATES)
    parser.add_argument("--seeds", nargs="+", type=int, default=(1, 2))
    options = parser.parse_args()
    result = {"command": f"python -m {__spec__.name} --out FILE", "machine": machine(), "steps": STEPS, "runs": []}
    if options.out.exists():
        result["runs"] = json.loads(options.out.read_text())["runs"]
    for wanted in [(kind, rate, seed) for seed in options.seeds for rate in options.rates for kind in options.data]:
        if wanted not in [(run["data"], run["rate"], run["seed"]) for run in result["runs"]]:
            run = one_run(*wanted)
            result["runs"].append(run)
            result["table"] = table(result["runs"])
            durable.write_text(options.out, json.dumps(result, indent=1))
            print(json.dumps(run), flush=True)


def one_run(kind: str, rate: float, seed: int) -> dict[str, Any]:
    rows, sets = KINDS[kind]
    with tempfile.TemporaryDirectory(prefix="td") as folder, contextlib.redirect_stdout(io.StringIO()):
        home, link = Home(Path(folder)), training.FakeLink()
        (home.root / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        sets = (f"data.dataset={home.root / 'rows.jsonl'}", f"training.learning_rate={rate}", *sets)
        sets += (f"training.max_steps={STEPS}", "training.eval_steps=10", "training.eval_batch=8")
        sets += (f"training.seed={seed}", f"lora.seed={seed}", "training.save_steps=100", "training.report_to=[]")
        try:
            done = training.train(home, training.row("run-1", *sets), link)
            doubts = Registry(home.models).doubts(done.adapter)
            words = f"suspect: {doubts}" if doubts else "sound"
        except TrainingError as error:
            words = error.message
        log = MetricsLog(home.run("run-1") / "metrics.jsonl")
        last = log.losses()[-1]["step"]
        return {
            "data": kind, "rate": rate, "seed": seed, "ended": _short(words), "step": last,
            "base": round(log.base_loss(), 4), "loss": round(log.loss_at(last), 4),
            "looks": sum("check_loss" in line and 0 < line["step"] < STEPS for line in log.lines()),
            "spikes": sum("times its median" in text for text in link.said("watchdog")),
        }  # fmt: skip


def _short(words: str) -> str:
    """`sound`, the rule that stopped it, or of what its adapter is suspect."""
    if stopped := re.match(r"stopped by the watchdog \((\w+)\)", words):
        return stopped[1]
    return "suspect" if words.startswith("suspect") else words


def table(runs: Sequence[dict[str, Any]]) -> list[str]:
    """A line per kind of data: of each rate how its runs ended and at which step."""
    rates = sorted({run["rate"] for run in runs})
    lines = [" | ".join(["data", *(f"{rate:g}" for rate in rates)])]
    for kind in dict.fromkeys(run["data"] for run in runs):
        cells = []
        for rate in rates:
            found = [run for run in runs if (run["data"], run["rate"]) == (kind, rate)]
            cells.append(
                ", ".join(f"{run['ended']} {run['base']:.2f}>{run['loss']:.2f}@{run['step']}" for run in found)
            )
        lines.append(" | ".join([kind, *cells]))
    return lines


if __name__ == "__main__":
    main()
