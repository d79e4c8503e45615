"""`tandem status`: everything on one screen, once; also while the cluster is down."""

import math
import os
import shutil
import sys
from dataclasses import asdict

import click
from rich.console import Console

from actors.status import overview
from actors.status.overview import AdapterReading, Overview, RunReading
from cli import output
from cli.screens.board import NARROWEST, Board
from configs import paths

TIMEOUT_S = 6
"""A person rather waits so long than reads that a busy machine does not answer."""


@click.command()
@output.json_option
def status(as_json: bool) -> None:
    """Show GPUs, slots, runs, adapters, requests and processes. Exit code 1 if Tandem is not running.

    \b
    Examples:
      tandem status
      tandem status --json
    """
    seen = overview.read(paths.home(), timeout_s=TIMEOUT_S, strict=True)
    if as_json:
        output.print_json(report(seen))
    else:
        console().print(Board(seen))
    if not seen.up:
        if not as_json:
            output.say("start it with `tandem up`")
        raise SystemExit(1)


def console() -> Console:
    """One that prints in the terminal's width, but in no less than a board needs, and never in colour into a pipe.

    COLUMNS is the width of both.
    """
    if sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdecimal():
        return Console(width=max(NARROWEST, shutil.get_terminal_size().columns), highlight=False)
    return Console(width=output.PIPED_WIDTH, highlight=False)


def report(seen: Overview) -> dict:
    """What `--json` prints: plain values under names that stay."""
    traffic = seen.traffic
    quarantines = {name: asdict(quarantine) for name, quarantine in seen.quarantines.items()}
    return {
        "up": seen.up,
        "home": seen.home,
        "http": seen.http,
        "dashboard": seen.dashboard,
        "base": seen.base,
        "control": seen.control,
        "slots": [asdict(slot) | {"quarantine": quarantines.get(slot.name)} for slot in seen.slots],
        "active_runs": [_run(reading) for reading in seen.active],
        "ended_runs": [_run(reading) for reading in seen.runs if reading.run.state.is_terminal],
        "runs": seen.run_counts,
        "aliases": seen.aliases,
        "adapters": [_adapter(reading) for reading in seen.adapters],
        "swaps": [asdict(swap) for swap in seen.swaps],
        "events": [asdict(event) for event in seen.events],
        "gpus": [asdict(gpu) for gpu in seen.gpus],
        "host": asdict(seen.host),
        "processes": [asdict(process) for process in seen.processes],
        "engines": seen.engines,
        "holds": list(seen.holds),
        "requests": traffic
        and {
            "answered": traffic.answered,
            "errors": traffic.errors,
            "by_status": traffic.by_status,
            "active": traffic.active,
            "abandoned": traffic.abandoned,
            "prompt_tokens": traffic.prompt_tokens,
            "output_tokens": traffic.output_tokens,
            "latency_seconds": {
                name: {"count": one.count, "p50": one.quantile(0.5), "p95": one.quantile(0.95)}
                for name, one in traffic.latencies.items()
            },
        },
        "starting": seen.starting,
        "problems": list(seen.problems),
    }


def _run(reading: RunReading) -> dict:
    """Its row, and what is known of its way; `losses` are of the newest steps, the oldest first."""
    said = asdict(reading.run) | {"loss": _json_number(reading.run.loss), "progress": reading.progress}
    said |= {"losses": reading.losses, "waits_for": reading.waits_for, "position": reading.position}
    return said | {"eta": reading.eta and asdict(reading.eta)}


def _adapter(reading: AdapterReading) -> dict:
    said = {"state": reading.state, "reason": reading.reason, "aliases": reading.aliases, "loaded": reading.loaded}
    return asdict(reading.manifest) | said


def _json_number(value: float | None) -> float | None:
    """JSON has no NaN and no infinity; `problems` has a sentence for a loss that is one."""
    return value if value is not None and math.isfinite(value) else None
