"""Following a run until it ends: a progress bar for people, a line per change otherwise.

Reads the ledger's file, so nothing can be disconnected: a follower survives the cluster's death and goes on with the
run when it comes back.
"""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from actors import cluster
from actors.runs.ledger import Ledger
from actors.runs.run import Run, RunState
from cli import output
from configs.errors import TandemError
from configs.paths import Home
from models.lora.registry import Registry

POLL_S = 0.3
EXIT_CODES = {RunState.SUCCEEDED: 0, RunState.FAILED: 1, RunState.STOPPED: 3}


def follow(home: Home, run_id: str) -> int:
    """Show the run until it ends. Returns the run's own result: 0 succeeded, 1 failed, 3 stopped."""
    ledger = Ledger(home.ledger, read_only=True)
    try:
        run = _bar(home, ledger, run_id) if sys.stderr.isatty() else _lines(home, ledger, run_id)
    except KeyboardInterrupt:
        return left(run_id)
    finally:
        ledger.close()
    return ended(home, run)


def ended(home: Home, run: Run) -> int:
    """Say how the run ended; its own result: 0 succeeded, 1 failed, 3 stopped."""
    output.say(f"{run.state}: {run.reason}")
    if run.adapter is not None and Registry(home.models).doubts(run.adapter):
        output.say(f"it is not `latest`; serve it all the same: tandem swap {run.adapter} --force")
    elif run.adapter is not None:
        output.say(f"serve it: tandem swap {run.adapter}")
    return EXIT_CODES[run.state]


def left(run_id: str) -> int:
    """Say that nobody looks any more; the exit code of an interrupted command."""
    output.say(f"\nno longer following; the run goes on -> tandem runs logs -f {run_id}, tandem runs stop {run_id}")
    return 130


def _bar(home: Home, ledger: Ledger, run_id: str) -> Run:
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[news]}"),
        TextColumn("elapsed"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(run_id, total=None, news="")
        while True:
            run = ledger.run(run_id)
            progress.update(
                task, completed=run.step, total=run.max_steps, description=_title(home, run), news=_news(run)
            )
            if run.state.is_terminal:
                return run
            time.sleep(POLL_S)


def _lines(home: Home, ledger: Ledger, run_id: str) -> Run:
    shown = ("", -1)
    while True:
        run = ledger.run(run_id)
        tenth = max(1, (run.max_steps or 10) // 10)
        title = _title(home, run)
        if (title, run.step // tenth) != shown:
            shown = (title, run.step // tenth)
            output.say(f"{title} {run.step}/{run.max_steps or '?'} {_news(run)}".rstrip())
        if run.state.is_terminal:
            return run
        time.sleep(POLL_S)


def _title(home: Home, run: Run) -> str:
    if run.state is RunState.QUEUED and not is_up(home):
        return "QUEUED (Tandem is down: it starts after `tandem up`)"
    return f"{run.state}, {run.stage}," if run.stage else str(run.state)


def is_up(home: Home) -> bool:
    """Whether the home's cluster runs."""
    try:
        return cluster.require(home).is_alive
    except TandemError:
        return False


def _news(run: Run) -> str:
    parts = [f"loss {run.loss:.4f}" if run.loss is not None else "", ""]
    if run.tokens_per_s is not None:
        parts[1] = f"{run.tokens_per_s:,.0f} tok/s"
    return "  ".join(part for part in parts if part)
