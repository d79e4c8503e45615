"""Training against the plain Unsloth script, in the same run: seconds per step, memory, and where the time goes.

    python -m tests.bench.training --base DIR --baseline .gpu/baseline_train.py --out FILE            # on a GPU
    python -m tests.bench.training --base DIR --baseline .gpu/baseline_train.py --experts --out FILE
    python -m tests.bench.training --base tiny --micro-batches 2 auto --out FILE                      # without one

The baseline is run first, as a program of its own, at micro-batch 2; then Tandem's runs go through a real Ray, queue,
driver and pinned actor, one after another, without a chat endpoint. All work on rows of 1,024 tokens, 16 per step,
LoRA rank 8, at most 24 GiB.
"""

import argparse
import itertools
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from actors import cluster, control
from actors.client import ask
from actors.energy import usage
from actors.runs.ledger import Ledger
from actors.runs.run import RunState, new_run_id
from configs.load import load_cluster, load_run
from configs.paths import Home
from jobs.training.run_record import read_measured
from models import harmony
from models.base import checkpoint
from tests.bench.main_job import machine

ROW_TOKENS = 1024
CAP_GIB = 24
BASELINE_STEP = re.compile(r"micro-batch=(\d+) step (\d+): ([\d.]+) s, peak ([\d.]+) GiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="`tiny`, or a local checkpoint folder")
    parser.add_argument("--baseline", type=Path, help="the plain Unsloth script; it takes DIR [experts] MICRO_BATCH")
    parser.add_argument("--experts", action="store_true", help="train the experts too")
    parser.add_argument("--micro-batches", nargs="+", default=["2", "auto"])
    parser.add_argument("--max-steps", type=int, default=6)
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    result: dict[str, Any] = {"command": f"python -m {__spec__.name} {' '.join(shown(sys.argv[1:]))}"}
    result |= {"machine": machine(), "cap_gib": CAP_GIB, "experts": options.experts, "runs": []}
    try:
        if options.baseline:
            result["baseline"] = baseline(options)
        for run in runs(options):
            result["runs"].append(run | _ratio(run, result.get("baseline")))
            _write(result, options.out)
    finally:
        _write(result, options.out)
    print(json.dumps(result, indent=1))


def baseline(options: argparse.Namespace) -> dict[str, Any]:
    """The plain script's median step after the first, in seconds, and its peak memory in GiB."""
    command = [
        sys.executable,
        str(options.baseline.absolute()),
        options.base,
        *(["experts"] if options.experts else []),
        "2",
    ]
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, cwd=tempfile.gettempdir())
    steps = [(int(s), float(t), float(p)) for _, s, t, p in BASELINE_STEP.findall(done.stdout)]
    if len(steps) < 2:
        raise SystemExit(f"the baseline gave no steps: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return {
        "micro_batch": 2,
        "first_step_seconds": steps[0][1],
        "median_step_seconds": statistics.median(t for _, t, _ in steps[1:]),
        "step_seconds": [t for _, t, _ in steps],
        "peak_gib": max(p for _, _, p in steps),
        "seconds_in_all": round(time.monotonic() - started, 1),
    }


def runs(options: argparse.Namespace):
    """Each micro-batch's run through a cluster that trains only; yields what it took."""
    home = Home(Path(tempfile.mkdtemp(prefix="tdb", dir="/tmp")))
    os.environ["TANDEM_HOME"] = str(home.root)
    http, dashboard = cluster.free_ports(2)
    slots = [{"name": "0", "gpu": 0 if machine()["gpus"] else None, "roles": ["train"]}]
    slots.append({"name": "1", "gpu": None, "roles": ["serve"]})
    sets = (f"http_port={http}", f"dashboard_port={dashboard}", f"slots={json.dumps(slots)}")
    data = home.root / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows_of(options.base)))
    try:
        running = cluster.start(home, load_cluster(sets=sets), print)
        cluster.connect(home, running)
        actor = control.start(home, running.slots, load_cluster(sets=sets), running.dashboard)
        for micro_batch in options.micro_batches:
            yield _run(home, actor, options, data, micro_batch)
    finally:
        cluster.end_processes(home)
        shutil.rmtree(home.root, ignore_errors=True)


def _run(home: Home, actor, options: argparse.Namespace, data: Path, micro_batch: str) -> dict[str, Any]:
    profile = "tiny" if options.base == "tiny" else "quick_test"
    sets = [
        *settings(options, data),
        f"training.micro_batch={micro_batch}",
        f"training.max_steps={options.max_steps}",
        *options.sets,
    ]
    config = load_run(profile, sets)
    run_id = new_run_id(config.profile)
    ask(actor.submit, run_id, config=config.model_dump(mode="json"))
    ledger = Ledger(home.ledger, read_only=True)
    while not (run := ledger.run(run_id)).state.is_terminal:
        time.sleep(0.2)
    if run.state is not RunState.SUCCEEDED:
        log = home.run(run_id) / "log.txt"
        raise SystemExit(f"{run.reason}\n{log.read_text()[-6000:] if log.exists() else ''}")
    lines = [json.loads(line) for line in (home.run(run_id) / "metrics.jsonl").read_text().splitlines()]
    times = [after["at"] - before["at"] for before, after in itertools.pairwise(lines)]
    measured = read_measured(home.run(run_id))
    record = json.loads((home.run(run_id) / "resolved.json").read_text())
    peak = measured.get("peak_memory_bytes")
    return {
        "micro_batch": measured.get("fit", {}).get("micro_batch", micro_batch),
        "asked_for": micro_batch,
        "median_step_seconds": round(statistics.median(times), 3),
        "step_seconds": [round(each, 3) for each in times],
        "peak_gib": round(peak / 2**30, 2) if peak else None,
        "energy_joules": consumed.joules if (consumed := usage.read(home.run(run_id))) else None,
        "granted_to_first_step_seconds": measured["granted_to_first_step"],
        "stages_seconds": measured["stages"],
        "fit": measured.get("fit"),
        "trainable": record["trainable"],
        "losses": [line["loss"] for line in lines],
        "versions": record["versions"],
    }


def settings(options: argparse.Namespace, data: Path) -> list[str]:
    """What every measured run has in common, for `load_run`."""
    return [
        f"model.base={options.base}",
        f"model.max_seq_length={512 if options.base == 'tiny' else ROW_TOKENS}",
        f"data.dataset={json.dumps(str(data))}",
        "data.holdout=0",
        "lora.r=8",
        "lora.alpha=16",
        f"lora.train_experts={json.dumps(options.experts)}",
        "training.effective_batch=16",
        "training.save_steps=1000",
        f"training.vram_gib={CAP_GIB}",
        "training.report_to=[]",
    ]


def _ratio(run: dict[str, Any], plain: dict[str, Any] | None) -> dict[str, Any]:
    if not plain:
        return {}
    return {"times_as_fast_as_baseline": round(plain["median_step_seconds"] / run["median_step_seconds"], 3)}


def rows_of(base: str) -> list[dict]:
    """200 dialogues of exactly ROW_TOKENS tokens (of 512 for the embedded model) once rendered."""
    tokenizer = checkpoint.load_tokenizer(checkpoint.resolve(base))
    wanted = 512 if base == "tiny" else ROW_TOKENS
    letters = itertools.cycle("etaoinshrdlucmfwypvbgkjqxz")
    rows = []
    for number in range(200):
        said = f"{number:03d} " + "".join(next(letters) for _ in range(wanted))
        row = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": said}]}
        while (excess := len(harmony.render(tokenizer, row["messages"], add_generation_prompt=False)) - wanted) > 0:
            row["messages"][1]["content"] = row["messages"][1]["content"][: -max(1, excess // 2)]
        rows.append(row)
    return rows


def shown(arguments: list[str]) -> list[str]:
    """The command without folders of one machine."""
    return [Path(argument).name if "/" in argument and "=" not in argument else argument for argument in arguments]


def _write(result: dict[str, Any], out: Path | None) -> None:
    if out:
        out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
