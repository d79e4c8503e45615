"""`tandem benchmark` and NVIDIA's aiperf on the same endpoint at the same time: do they say the same? Needs no GPU.

    python -m tests.bench.benchmark_agreement --tool DIR --out FILE

DIR is a virtual environment with aiperf; it is made if it is not there. The endpoint is the gateway over HTTP with an
engine that gives one token every `--gap` seconds. Both tools ask at once, each with users of its own, so that whatever
else runs on the machine, aiperf's own processes included, is the same for both; our requests lie within the time of
aiperf's. Figures are medians over turns. aiperf calls TPOT "inter token latency" and our ITL "inter chunk latency"; its
telemetry is off and it has one worker.
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from configs.paths import SOURCE, TINY_MODEL, Home

AIPERF = "aiperf==0.13.0"
OUTPUT_TOKENS = 64
PROMPT_TOKENS = 128
TEMPLATE_TOKENS = 67
"""aiperf's lengths are without the chat template."""
REQUESTS_PER_USER = {"tandem": 14, "aiperf": 20}
READY_TIMEOUT_S = 180
ALLOWED = 0.05

OURS_AND_THEIRS = {
    "ttft_ms p50": (("ttft_ms", "p50"), ("time_to_first_token", "p50")),
    "ttft_ms mean": (("ttft_ms", "mean"), ("time_to_first_token", "avg")),
    "itl_ms p50": (("itl_ms", "p50"), ("inter_chunk_latency", "p50")),
    "itl_ms mean": (("itl_ms", "mean"), ("inter_chunk_latency", "avg")),
    "tpot_ms p50": (("tpot_ms", "p50"), ("inter_token_latency", "p50")),
    "tpot_ms mean": (("tpot_ms", "mean"), ("inter_token_latency", "avg")),
    "e2e_ms p50": (("e2e_ms", "p50"), ("request_latency", "p50")),
    "e2e_ms mean": (("e2e_ms", "mean"), ("request_latency", "avg")),
    "output_throughput": (("output_throughput",), ("output_token_throughput", "avg")),
    "output_throughput_per_user": (("output_throughput_per_user",), ("output_token_throughput_per_user", "avg")),
    "request_throughput": (("request_throughput",), ("request_throughput", "avg")),
    "output_tokens mean": (("output_tokens", "mean"), ("output_sequence_length", "avg")),
    "input_tokens mean": (("input_tokens", "mean"), ("input_sequence_length", "avg")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tool", type=Path, help="virtual environment of aiperf")
    parser.add_argument("--concurrency", default="2,8", help="users of each tool")
    parser.add_argument("--gap", type=float, default=0.04, help="seconds between two tokens")
    parser.add_argument("--turns", type=int, default=3, help="how often each is measured")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.gap)
        return
    if options.tool is None:
        parser.error("--tool DIR")
    aiperf = installed(options.tool)
    with tempfile.TemporaryDirectory(prefix="tdb", dir="/tmp") as folder, server(options.gap) as url:
        result = compare(aiperf, url, [int(level) for level in options.concurrency.split(",")], options, Path(folder))
    text = json.dumps(result, indent=1)
    if options.out:
        options.out.write_text(text + "\n")
    print(text)
    sys.exit(0 if result["worst"]["difference"] <= ALLOWED else 1)


def compare(aiperf: Path, url: str, levels: list[int], options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    cells = []
    for level in levels:
        turns = []
        for turn in range(options.turns):
            turns.append(together(aiperf, url, level, folder / f"{level}-{turn}"))
        figures = {}
        for name, (our_path, their_path) in OURS_AND_THEIRS.items():
            tandem = statistics.median(at(turn["tandem"], our_path) for turn in turns)
            other = statistics.median(at(turn["aiperf"], their_path) for turn in turns)
            figures[name] = {"tandem": tandem, "aiperf": other, "difference": tandem / other - 1}
        cells.append({"concurrency": level, "turns": options.turns, "figures": figures})
    every = [
        (abs(each["difference"]), name, cell["concurrency"]) for cell in cells for name, each in cell["figures"].items()
    ]
    worst, name, level = max(every)
    return {
        "command": f"python -m tests.bench.benchmark_agreement --concurrency {options.concurrency} --gap {options.gap} "
        f"--turns {options.turns}",
        "aiperf": AIPERF,
        "machine": {"cpus": os.cpu_count(), "load_average": os.getloadavg()[1]},
        "gap_s": options.gap,
        "output_tokens": OUTPUT_TOKENS,
        "requests_per_user": REQUESTS_PER_USER,
        "allowed": ALLOWED,
        "worst": {"difference": worst, "figure": name, "concurrency": level},
        "cells": cells,
    }


def at(value: Any, path: tuple[str, ...]) -> float:
    for name in path:
        value = value[name]
    return value


def together(aiperf: Path, url: str, level: int, folder: Path) -> dict[str, Any]:
    """What the two tools measure at the same time, each with `level` users."""
    common = ["--concurrency", str(level)]
    command = [aiperf, "profile", "--model", "prod", "--url", url, "--endpoint-type", "chat", "--streaming", *common]
    command += ["--request-count", str(level * REQUESTS_PER_USER["aiperf"]), "--warmup-request-count", str(level)]
    command += ["--tokenizer", str(TINY_MODEL), "--use-server-token-count", "--artifact-dir", str(folder)]
    command += ["--synthetic-input-tokens-mean", str(PROMPT_TOKENS - TEMPLATE_TOKENS)]
    command += ["--synthetic-input-tokens-stddev", "0", "--output-tokens-stddev", "0"]
    command += ["--output-tokens-mean", str(OUTPUT_TOKENS), "--ui", "none"]
    command += ["--extra-inputs", "ignore_eos:true", "--extra-inputs", f"min_tokens:{OUTPUT_TOKENS}"]
    command += ["--no-server-metrics", "--no-gpu-telemetry", "--workers-max", "1", "--record-processors", "1"]
    # offline, aiperf looks for a snapshot of the hub even where the tokenizer is a folder
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_OFFLINE")}
    environment.pop("PYTHONPATH", None)
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not (folder / "inputs.json").exists():  # written just before its warm-up
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"aiperf did not begin (exit code {process.returncode})")
            time.sleep(0.1)
        command = [sys.executable, "-c", "from cli.main import main; main()", "benchmark", "--url", url, "--json"]
        command += [*common, "--requests", str(level * REQUESTS_PER_USER["tandem"]), "--warmup", str(level)]
        command += ["--prompt-tokens", str(PROMPT_TOKENS), "--output-tokens", str(OUTPUT_TOKENS), "--ignore-eos"]
        done = subprocess.run(command, cwd=SOURCE, check=True, stdout=subprocess.PIPE, text=True)
        if process.wait(READY_TIMEOUT_S):
            raise SystemExit(f"aiperf failed with exit code {process.returncode}")
    finally:
        process.terminate()
        process.wait()
    (cell,) = json.loads(done.stdout)["cells"]
    return {"tandem": cell, "aiperf": json.loads((folder / "profile_export_aiperf.json").read_text())}


def installed(folder: Path) -> Path:
    """aiperf's command in the environment `folder`."""
    command = folder / "bin" / "aiperf"
    if not command.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([folder / "bin" / "pip", "install", "--quiet", AIPERF], check=True, stdout=sys.stderr)
    return command.absolute()


@contextlib.contextmanager
def server(gap: float) -> Iterator[str]:
    """The address of a paced gateway in a process of its own."""
    command = [sys.executable, "-m", "tests.bench.benchmark_agreement", "--serve", "--gap", str(gap)]
    process = subprocess.Popen(command, cwd=SOURCE, stdout=subprocess.PIPE, text=True)
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


def serve(gap: float) -> None:
    from tests.gateway_server import Server, tokens

    folder = tempfile.mkdtemp(prefix="tdb", dir="/tmp")
    try:
        running = Server(Home(Path(folder)))
        running.engine.script = tokens("<|channel|>final<|message|>" + " the of" * OUTPUT_TOKENS)
        running.engine.delay = gap
        running.start()
        print(running.url, flush=True)
        while True:
            time.sleep(60)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
