"""What one look at everything costs: processor time of `overview.read` and of drawing it, with a home of many runs.

    python -m tests.bench.overview --runs 1000

The cluster is down, so no HTTP is counted. Half of the runs' adapters are published, a tenth of the runs wait. Medians.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from rich.console import Console

from actors.runs.ledger import Ledger
from actors.runs.run import RunState
from actors.status import overview
from cli.screens.board import Board
from configs.paths import Home
from models.lora.registry import Registry
from tests.samples import TRAIN, publish


def fill(home: Home, runs: int) -> None:
    ledger = Ledger(home.ledger)
    ledger._db.execute("PRAGMA synchronous=OFF")
    for index in range(runs):
        ledger.submit(f"r{index}", **TRAIN)
        if index % 10:
            ledger.transition(f"r{index}", RunState.STOPPED, "made up")
    ledger.close()
    version = publish(Registry(home.models)).version
    for index in range(runs // 2):
        shutil.copytree(home.models / version, home.models / f"v{index}")


def milliseconds(context: Callable[[], object], times: int = 20) -> float:
    taken = []
    for _ in range(times):
        begin = time.process_time()
        context()
        taken.append(time.process_time() - begin)
    return median(taken) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        fill(home, runs)
        seen = overview.read(home)
        console = Console(width=120, file=Path("/dev/null").open("w"))  # noqa: SIM115
        print(f"{runs} runs: read {milliseconds(lambda: overview.read(home)):.1f} ms", end=", ")
        print(f"draw {milliseconds(lambda: console.print(Board(seen, height=50))):.1f} ms of processor time")


if __name__ == "__main__":
    main()
