"""What the dashboard costs and how soon it is there, in a real Chromium, with 1,000 runs in the ledger:

    python -m tests.bench.dashboard --out tests/bench/results/dashboard.json

The page's server is a process of its own, and its CPU time is what is counted, as a share of one core: with no window
open, with a window at another tab, with one and with three windows at the dashboard, while a run takes a step and a
request is answered every second. Opening is from the address to the first row of runs, in a browser that has the page's
files in its cache; `empty` is the same with no run in the ledger. Ray's two tables are made up
(`tests.browser.machine`), so what Ray itself spends on answering is not in it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from actors.runs.curve import MetricsLog
from configs.paths import Home
from tests.browser.conftest import free_port
from tests.browser.machine import Card, Machine
from tests.chromium import launched
from tests.samples import publish

RUNS, ADAPTERS, OPENINGS, WINDOW_S, LONGEST = 1000, 20, 7, 30, 4000
LONG_RUN = "long-20260101-000000-ffff"
SERVE = """
import sys
from pathlib import Path
from configs.paths import Home
from serve.ui.server import Access, Server
server = Server(sys.argv[1], Home(Path(sys.argv[2])), Access(port=int(sys.argv[3])), tab="dashboard")
server.start()
print(server.url, flush=True)
server.wait()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the result there as JSON")
    parser.add_argument("--seconds", type=int, default=WINDOW_S, help="of each window of CPU time")
    arguments = parser.parse_args()
    result = {"command": "python -m tests.bench.dashboard", "machine": machine(), "runs": RUNS, "adapters": ADAPTERS}
    result |= measure(arguments.seconds)
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


def measure(seconds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="td", dir="/tmp") as folder, launched() as browser:
        machine = Machine(Home(Path(folder)), Card("GPU-aaaa", 93), Card("GPU-bbbb", 34))
        try:
            with page_server(machine) as (url, server):
                opening = {"empty": openings(browser, url)}
                fill(machine)
                opening["runs"] = openings(browser, url)
                with working(machine):
                    return {"open_s": opening, "cpu_share": shares(browser, url, server, seconds), "seconds": seconds}
        finally:
            machine.close()


@contextmanager
def page_server(machine: Machine) -> Iterator[tuple[str, psutil.Process]]:
    command = [sys.executable, "-c", SERVE, f"{machine.gateway.url}/v1", str(machine.home.root), str(free_port())]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield started.stdout.readline().strip(), psutil.Process(started.pid)
    finally:
        started.terminate()
        started.wait()


def fill(machine: Machine) -> None:
    """Runs that have ended, with an event each, and adapters."""
    for number in range(RUNS):
        machine.ledger._db.execute(
            "INSERT INTO runs (id, kind, state, reason, profile, config, priority, attached, step, max_steps, loss,"
            " created_at, started_at, ended_at) VALUES (?, 'train', 'SUCCEEDED', 'published', 'tiny', '{}', 0, 0, 60,"
            " 60, 0.5, ?, ?, ?)",
            (f"tiny-20260101-000000-{number:04x}", *[time.time() - RUNS + number] * 3),
        )
    for number in range(ADAPTERS):
        publish(machine.gateway.registry, run_id=f"r-{number}")
    machine.begin(LONG_RUN, steps=50, max_steps=LONGEST)


@contextmanager
def working(machine: Machine) -> Iterator[None]:
    """A step and a request every second, so that there is always something new to show."""
    over = threading.Event()
    log = MetricsLog(machine.home.run(LONG_RUN) / "metrics.jsonl")

    def context() -> None:
        step = 50
        while not over.wait(1):
            step += 1
            machine.step(LONG_RUN, log, step, LONGEST)
            machine.gateway.post()

    worker = threading.Thread(target=context)
    worker.start()
    yield
    over.set()
    worker.join()


def openings(browser: Any, url: str) -> dict[str, float]:
    """Seconds until the table of runs, or the words in its place, is there; the first one fills the cache."""
    context = browser.new_context(viewport={"width": 1360, "height": 900})
    took = []
    for _ in range(OPENINGS + 1):
        page = context.new_page()
        started = time.perf_counter()
        page.goto(url, wait_until="commit")
        page.locator("#part-runs tbody tr, #part-runs .empty:has(code)").first.wait_for()
        took.append(time.perf_counter() - started)
        page.close()
    context.close()
    return {"first": round(took[0], 3), "median": round(statistics.median(took[1:]), 3), "best": round(min(took), 3)}


def shares(browser: Any, url: str, server: psutil.Process, seconds: int) -> dict[str, float]:
    """The server's share of one core in each state."""
    context = browser.new_context(viewport={"width": 1360, "height": 900})
    found = {"no window": share(server, seconds)}
    pages = [context.new_page()]
    pages[0].goto(url)
    pages[0].locator("#part-runs tbody tr").first.wait_for()
    pages[0].get_by_role("tab", name="Chat").click()
    found["window at another tab"] = share(server, seconds)
    pages[0].get_by_role("tab", name="Dashboard").click()
    found["one window"] = share(server, seconds)
    for _ in range(2):  # a page in the background beats only if its browser says that it is seen, as headless ones do
        pages.append(browser.new_context().new_page())
        pages[-1].goto(url)
        pages[-1].locator("#part-runs tbody tr").first.wait_for()
    found["three windows"] = share(server, seconds)
    return found


def share(process: psutil.Process, seconds: int) -> float:
    time.sleep(3)  # what opening costs is not what being open costs
    before, started = process.cpu_times(), time.monotonic()
    time.sleep(seconds)
    after, took = process.cpu_times(), time.monotonic() - started
    return round((after.user + after.system - before.user - before.system) / took, 4)


def machine() -> dict[str, Any]:
    return {"cpus": os.cpu_count(), "load_average": os.getloadavg()[0]}


if __name__ == "__main__":
    main()
