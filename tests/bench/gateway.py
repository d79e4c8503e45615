"""What the gateway adds to an engine: to the first token, to each gap, and how many tokens it lets through.

    python -m tests.bench.gateway --out tests/bench/results/gateway-cpu.json

A real Ray and Serve with the real proxy, gateway and wire, and an engine replica whose engine costs nothing
(`paced_engine`); the measure is the same engine called directly in one process, in the same run. Streams begin evenly
spread; one token per stream and step. All times are those of a client's socket (`sse_load`).

`first` is how long after the engine had it the first token arrived, plus how long the request took to the engine.
`gap` is |gap between two tokens at the client - gap at the engine|. `lag` is how long a token took from the engine to
the client. `added` is the gateway's figure less that of the direct call, medians and 99th percentiles each. Tokens per
second are counted while all streams are open. The last line offers more than goes through. Takes under five minutes.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

from actors import cluster, control
from configs.load import load_cluster
from configs.paths import Home
from configs.schema import ServeConfig
from models.base import checkpoint
from tests.bench.main_job import machine
from tests.bench.sse_load import OPENING_TOKENS

PACES = ((1, 25, 0.02), (16, 50, 0.025), (64, 50, 0.04), (200, 50, 0.1))
"""Open streams, tokens of an answer, seconds between steps: 50, 640, 1,600 and 2,000 tokens/s."""
FLOOD = (64, 400, 0.004)
"""16,000 tokens/s: more than goes through, to see how much does."""
NAMES = {
    "haproxy": "proxy",
    "ProxyActor": "proxy",
    "HAProxyManager": "proxy",
    "gateway": "gateway",
    "engine_": "engine",
    "raylet": "raylet",
    "gcs_server": "gcs",
}
"""Words of a process's title, and what it is called here."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2, help="of load per turn, pace and way")
    parser.add_argument("--turns", type=int, default=3, help="every figure is the median of so many")
    parser.add_argument("--streams", type=int, nargs="+", help="only the paces of so many streams; 0 is the flood")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    home = Home(Path(tempfile.mkdtemp(prefix="tdb", dir="/tmp")))
    os.environ["TANDEM_HOME"] = str(home.root)
    arguments = " ".join(argument.rpartition("/")[2] for argument in sys.argv[1:])
    result = {"command": f"python -m {__spec__.name} {arguments}".strip(), "date": date.today().isoformat()}
    result |= {"machine": machine(), "turns": options.turns, "load_before": os.getloadavg()[0]}
    turns: list[list[dict[str, Any]]] = []
    try:
        with _Endpoint(home) as endpoint:
            wanted = [pace for pace in PACES if not options.streams or pace[0] in options.streams]
            for _ in range(options.turns):
                turns.append([compare(endpoint, *pace, options.seconds) for pace in wanted])
                if not options.streams or 0 in options.streams:
                    turns[-1].append(measure(endpoint, *FLOOD, options.seconds))
    finally:
        cluster.end_processes(home)
        shutil.rmtree(home.root, ignore_errors=True)
    result["load_after"] = os.getloadavg()[0]
    result["paces"] = [median(same) for same in zip(*turns, strict=True)]
    print(table(result["paces"]))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


class _Endpoint:
    """The chat endpoint with a paced engine, up while the context is open."""

    def __init__(self, home: Home) -> None:
        self.home, self.base = home, checkpoint.resolve("tiny")

    def __enter__(self) -> "_Endpoint":
        http, dashboard = cluster.free_ports(2)
        settings = load_cluster(sets=(f"http_port={http}", f"dashboard_port={dashboard}"))
        running = cluster.start(self.home, settings, print)
        cluster.connect(self.home, running)
        from ray import serve as ray_serve  # reads at import what `connect` sets

        from serve import app
        from tests.bench.paced_engine import PacedReplica

        control.start(self.home, running.slots, settings, running.dashboard)
        ray_serve.start(http_options={"host": "127.0.0.1", "port": http})
        slot = running.slots[-1]
        app.EngineReplica = PacedReplica
        engine = app._engine(ServeConfig(), self.base, slot, len(running.slots))
        ray_serve.run(app._gateway().bind(ServeConfig(), self.base, {slot.name: engine}), name="tandem")
        self.url = running.http
        self.engine = ray_serve.get_deployment_handle(f"engine_{slot.name}", "tandem")
        self.load(streams=1, tokens=5, gap=0.01, seconds=3)
        return self

    def __exit__(self, *failure: object) -> None:
        import ray

        ray.shutdown()

    def load(self, **how: Any) -> dict[str, Any]:
        """The load's result, with the engine's `ready_at` and the CPU seconds of each of the cluster's processes."""
        self.engine.pace.remote(how["gap"]).result()
        self.engine.ready_at.remote().result()
        before = self.cpu_seconds()
        found = run_load({"url": self.url} | how)
        after = self.cpu_seconds()
        found["ready_at"] = self.engine.ready_at.remote().result()
        found["cpu"] = {"client": found["cpu_seconds"]} | {name: after[name] - before[name] for name in before}
        return found

    def cpu_seconds(self) -> dict[str, float]:
        spent = dict.fromkeys(NAMES.values(), 0.0) | {"others": 0.0}
        for process in cluster.processes(self.home):
            title = " ".join(process.cmdline()[:1]) or process.name()
            name = next((name for words, name in NAMES.items() if words in title), "others")
            spent[name] += sum(process.cpu_times()[:2])
        return spent


def compare(endpoint: _Endpoint, streams: int, tokens: int, gap: float, seconds: float) -> dict[str, Any]:
    """The gateway and the direct call under the same load."""
    plain = run_load({"base": str(endpoint.base), "streams": streams, "tokens": tokens, "gap": gap, "seconds": seconds})
    plain = figures(plain)
    through = measure(endpoint, streams, tokens, gap, seconds)
    added = {
        kind: {at: round(through[kind][at] - plain[kind][at], 2) for at in through[kind]}
        for kind in ("first_ms", "gap_ms", "lag_ms")
    }
    return through | {"direct": plain, "added": added}


def measure(endpoint: _Endpoint, streams: int, tokens: int, gap: float, seconds: float) -> dict[str, Any]:
    found = endpoint.load(streams=streams, tokens=tokens, gap=gap, seconds=seconds)
    about = {"streams": streams, "tokens_per_answer": tokens, "step_ms": gap * 1000}
    cpu = {name: round(spent / found["seconds"], 2) for name, spent in found["cpu"].items()}
    return about | figures(found) | {"cpu_cores": cpu}


def figures(found: dict[str, Any]) -> dict[str, Any]:
    """Medians and 99th percentiles in milliseconds, and tokens per second."""
    first, gaps, lags, sizes = [], [], [], []
    ready_at = {int(number): times for number, times in found["ready_at"].items()}
    for request in found["requests"]:
        came, *ready = ready_at[request["number"]]
        seen = [at for at, tokens in request["arrivals"] for _ in range(tokens)]
        ready = ready[:1] + ready[OPENING_TOKENS:]
        assert len(seen) == len(ready), f"{len(seen)} of {len(ready)} tokens came"
        first.append(seen[0] - request["sent"] - (ready[0] - came))
        lags += [at - was for at, was in zip(seen, ready, strict=True)]
        gaps += [abs((seen[i] - seen[i - 1]) - (ready[i] - ready[i - 1])) for i in range(2, len(seen))]
        sizes += [tokens for _, tokens in request["arrivals"]]
    begin, end = found["all_open"]
    inside = sum(tokens for request in found["requests"] for at, tokens in request["arrivals"] if begin <= at < end)
    return {
        "requests": len(first),
        "tokens_per_second": round(inside / (end - begin)),
        "tokens_per_arrival": round(statistics.mean(sizes), 2),
        "first_ms": spread(first),
        "gap_ms": spread(gaps),
        "lag_ms": spread(lags),
    }


def spread(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        "median": round(statistics.median(ordered) * 1000, 2),
        "p99": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1000, 2),
    }


def run_load(how: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.bench.sse_load", json.dumps(how)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10 * how["seconds"] + 60)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


def median(turns: tuple[Any, ...]) -> Any:
    """The same figures of several turns as one: the median of each."""
    if isinstance(turns[0], dict):
        return {key: median(tuple(turn[key] for turn in turns)) for key in turns[0]}
    return round(statistics.median(turns), 2)


def table(paces: list[dict[str, Any]]) -> str:
    head = ("streams", "step ms", "tokens/s", "first +ms", "p99", "gap +ms", "p99", "lag +ms", "p99", "CPU cores")
    rows = []
    for pace in paces:
        added = pace.get("added", pace)
        spreads = [added[kind][at] for kind in ("first_ms", "gap_ms", "lag_ms") for at in ("median", "p99")]
        cores = " ".join(f"{name} {cores:.2f}" for name, cores in pace["cpu_cores"].items())
        rows.append((pace["streams"], pace["step_ms"], pace["tokens_per_second"], *spreads, cores))
    return "\n".join("  ".join(f"{cell!s:>9}" for cell in row) for row in (head, *rows))


if __name__ == "__main__":
    main()
