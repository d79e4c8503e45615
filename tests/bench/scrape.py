"""What a scrape costs beside a large ledger: 1,000 ended runs, a curve of 20,000 steps, 50 adapters.

python -m tests.bench.scrape
"""

import json
import tempfile
import time
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest

from actors.metrics import ClusterCollector
from actors.runs.ledger import Ledger
from actors.runs.run import RunState
from configs.paths import Home
from configs.schema import Slot
from models.lora.registry import Registry
from tests.samples import TRAIN, publish
from tests.unit.actors.metrics.test_metrics import note_cluster

SCRAPES = 50


def fill(home: Home) -> None:
    ledger = Ledger(home.ledger)
    for number in range(1000):
        ledger.submit(f"ended-{number}", **TRAIN)
        ledger.transition(f"ended-{number}", RunState.FAILED, "no")
    ledger.submit("running", **TRAIN)
    ledger.grant("running", Slot(name="0", roles=("train",)))
    ledger.close()
    note_cluster(home)
    home.run("running").mkdir(parents=True)
    line = {"loss": 1.5, "grad_norm": 0.5, "learning_rate": 2e-4, "tokens_per_s": 512.25, "at": 1.7e9}
    curve = "".join(json.dumps({"step": step} | line) + "\n" for step in range(20_000))
    (home.run("running") / "metrics.jsonl").write_text(curve)
    for _ in range(50):
        publish(Registry(home.models))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        fill(Home(Path(folder)))
        registry = CollectorRegistry()
        registry.register(ClusterCollector(Home(Path(folder))))
        generate_latest(registry)
        started = time.process_time()
        for _ in range(SCRAPES):
            size = len(generate_latest(registry))
        seconds = (time.process_time() - started) / SCRAPES
    print(f"{1000 * seconds:.1f} ms of CPU a scrape, {size} bytes; every 5 s: {seconds / 5:.2%} of a core")


if __name__ == "__main__":
    main()
