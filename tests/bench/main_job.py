"""The main job, timed: up, answer, train while answering, publish, swap, way back, down.

    python -m tests.bench.main_job --out tests/bench/results/main_job-cpu.json
    python -m tests.bench.main_job --base DIR --profile quick_test --max-steps 6 --out FILE      # on a GPU

Everything is a real process below a temporary home. On a GPU give a local checkpoint folder; one GPU holds both roles.
"""

import argparse
import itertools
import json
import os
import platform
import shutil
import statistics
import tempfile
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from actors import cluster
from actors.hardware import gpus
from actors.runs.curve import MetricsLog
from actors.runs.ledger import Ledger
from actors.runs.run import Run, RunState, new_run_id
from cli.api import Api
from cli.machine.bring_up import bring_up
from cli.machine.demo import Load, ask
from configs.load import load_cluster, load_run, load_serve
from configs.paths import Home

QUESTION = "What is Tandem?"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="tiny", help="the embedded model, or a local checkpoint folder")
    parser.add_argument("--profile", default="tiny")
    parser.add_argument("--max-steps", type=int)
    parser.add_argument("--max-tokens", type=int, help="longest answer; a model of random weights never ends one")
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    home = Home(Path(tempfile.mkdtemp(prefix="tdb", dir="/tmp")))
    os.environ["TANDEM_HOME"] = str(home.root)
    try:
        result = measure(home, options)
    finally:
        cluster.end_processes(home)
        shutil.rmtree(home.root, ignore_errors=True)
    text = json.dumps(result, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


def measure(home: Home, options: argparse.Namespace) -> dict[str, Any]:
    http, dashboard = cluster.free_ports(2)
    settings = load_cluster(sets=(f"http_port={http}", f"dashboard_port={dashboard}"))
    started = time.monotonic()
    running = bring_up(home, settings, load_serve({"base": options.base}), print)
    up = time.monotonic() - started
    api = Api()
    started = time.monotonic()
    before = ask(running, QUESTION, options.max_tokens)
    first_answer = time.monotonic() - started
    sets = [f"model.base={options.base}", "data.dataset=tiny-demo", *options.sets]
    if options.max_steps:
        sets.append(f"training.max_steps={options.max_steps}")
    config = load_run(options.profile, sets)
    with PeakMemory() as memory, Load(running, options.max_tokens) as load:
        run_id = new_run_id(config.profile)
        api.post("/api/runs", {"run_id": run_id, "config": config.model_dump(mode="json")})
        run = _wait(home, run_id)
        while_training = load.answered
        swapped = api.post("/api/aliases/prod", {"adapter": "latest"})
        after = ask(running, QUESTION, options.max_tokens)
        returned = api.post("/api/aliases/prod", {"back": True})
        during_swaps = load.wait_for_more(while_training)
    record = json.loads((home.run(run_id) / "resolved.json").read_text())
    return {
        "command": f"python -m tests.bench.main_job --base {Path(options.base).name} --profile {options.profile}",
        "machine": machine(),
        "versions": record["versions"],
        "up_seconds": round(up, 1),
        "first_answer_seconds": round(first_answer, 2),
        "training": training(home, run) | {"trainable": record["trainable"]},
        "peak_gpu_memory_bytes": memory.peak,
        "swap_seconds": round(swapped["seconds"], 3),
        "swap_max_logit_difference": swapped["max_difference"],
        "swap_back_seconds": round(returned["seconds"], 3),
        "answer_changed": after != before,
        "requests": {"while_training": while_training, "during_swaps": during_swaps, "lost": load.lost},
    }


def training(home: Home, run: Run) -> dict[str, Any]:
    """Where a run's time went. Seconds; the first step includes compilation on a GPU."""
    events = {event.kind: event.at for event in Ledger(home.ledger, read_only=True).events(run_id=run.id)}
    lines = MetricsLog(home.run(run.id) / "metrics.jsonl").losses()
    steps = [after["at"] - before["at"] for before, after in itertools.pairwise(lines)]
    return {
        "steps": run.step,
        "queued_to_granted": round(events["starting"] - events["queued"], 2),
        "granted_to_training": round(events["running"] - events["starting"], 2),
        "first_step": round(lines[0]["at"] - events["running"], 2),
        "median_later_step": round(statistics.median(steps), 3),
        "last_step_to_published": round(events["published"] - lines[-1]["at"], 2),
        "first_loss": lines[0]["loss"],
        "last_loss": lines[-1]["loss"],
        "median_tokens_per_second": round(statistics.median(line["tokens_per_s"] for line in lines[1:])),
    }


def machine() -> dict[str, Any]:
    cards = [{"name": gpu.name, "memory_bytes": gpu.memory_total} for gpu in gpus.readings()]
    host = asdict(gpus.host())
    return {"cpus": host["cpu_count"], "memory_bytes": host["memory_total"], "cpu": _cpu_name(), "gpus": cards}


class PeakMemory:
    """The most memory that all GPUs together held while the context was open, in bytes; None without a GPU."""

    def __enter__(self) -> "PeakMemory":
        self.peak: int | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._ending.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._ending.wait(0.2):
            if cards := gpus.readings():
                self.peak = max(self.peak or 0, sum(gpu.memory_used for gpu in cards))


def _wait(home: Home, run_id: str) -> Run:
    ledger = Ledger(home.ledger, read_only=True)
    while not (run := ledger.run(run_id)).state.is_terminal:
        time.sleep(0.2)
    if run.state is not RunState.SUCCEEDED:
        raise SystemExit(f"the run ended {run.state}: {run.reason}")
    return run


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
