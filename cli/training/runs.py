"""`tandem runs`: list, show, compare, watch, follow, stop and resume. Reading works while the cluster is down."""

import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from actors.energy import cost, prices, usage
from actors.logs.growing import GrowingFile
from actors.runs.curve import MetricsLog
from actors.runs.ledger import Ledger
from actors.runs.run import Run, RunKind, RunState
from cli import output
from cli.screens import curves
from cli.training import prediction
from cli.training.follow import EXIT_CODES, is_up
from cli.training.run_lookup import ledger, resolve
from cli.training.watch import watch
from configs import units
from configs.paths import home
from configs.schema import ExportConfig
from jobs.reports import comparison
from models.lora.registry import Registry

LATEST = "latest"


@click.group()
def runs() -> None:
    """List, show, compare, watch, follow, stop and resume runs. `latest` is the newest one."""


@runs.command("list")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Newest runs first.")
@click.option("--active", is_flag=True, help="Only runs that have not ended.")
@output.json_option
def list_runs(limit: int, active: bool, as_json: bool) -> None:
    """List runs.

    \b
    Example:
      tandem runs list --active --json
    """
    found = ledger().runs(limit=limit, active=active) if home().ledger.exists() else []
    if as_json:
        output.print_json([asdict(run) for run in found])
        return
    rows = [
        (run.id, run.kind, output.state(run.state, run.stage), f"{run.step}/{run.max_steps or '?'}", run.loss)
        + (run.priority or None, run.slot, output.age(run.created_at), _adapter(run) or _short(run.reason))
        for run in found
    ]
    columns = ("RUN", "KIND", "STATE", "STEP", "LOSS", "PRIORITY", "SLOT", "AGE", "ADAPTER OR REASON")
    output.print_table(columns, rows, empty="no runs yet -> tandem train")
    if any(not run.state.is_terminal for run in found) and not is_up(home()):
        output.say("Tandem is down: states are the last known, and these runs go on after `tandem up`")


@runs.command()
@click.argument("run_id", metavar="RUN")
@curves.smooth_option
@curves.png_option
@output.json_option
def show(run_id: str, smooth: int, png: Path | None, as_json: bool) -> None:
    """Show one run: configuration, progress, events and its loss curve, if it trains.

    \b
    Example:
      tandem runs show tiny-20260101-120000-ab12 --smooth 5 --png loss.png
    """
    run = ledger().run(resolve(run_id))
    log = MetricsLog(home().run(run.id) / "metrics.jsonl")
    losses, evaluations = comparison.curves(log, run.id)
    _say_damaged(log)
    events = ledger().events(run_id=run.id)
    if png is not None:
        curves.write_png([losses], [evaluations], png, smooth)
    if as_json:
        consumed = usage.read(home().run(run.id))
        curve = {"metrics": log.lines(), "events": [asdict(event) for event in events]}
        output.print_json({**asdict(run), "energy": consumed and _energy_json(consumed), **curve})
        return
    took = (run.ended_at or time.time()) - run.started_at if run.started_at else None
    facts = [
        ("state", output.state(run.state, run.reason)),
        *([("stage", run.stage)] if run.stage else ()),
        ("kind", run.kind),
        *_asked(run),
        ("slot", run.slot),
        ("attempt", run.attempt),
        ("parent", run.parent),
        ("step", f"{run.step}/{run.max_steps or '?'}"),
        ("loss", run.loss),
        ("time", units.short_duration(took)),
        *_energy(run),
        *prediction.against_measured(home().run(run.id), took if run.state is RunState.SUCCEEDED else None),
        ("adapter", _adapter(run)),
        ("folder", home().run(run.id)),
    ]
    output.print_table(("", run.id), facts, empty="")
    if losses.steps or evaluations.steps:
        click.echo("")
        curves.draw([losses], [evaluations], smooth)
    rows = [(time.strftime("%F %T", time.localtime(event.at)), event.kind, event.text) for event in events]
    click.echo("")
    output.print_table(("WHEN", "EVENT", "WHAT"), rows, empty="no events")


@runs.command()
@click.argument("run_ids", metavar="RUN...", nargs=-1, required=True)
@curves.smooth_option
@curves.png_option
@output.json_option
def compare(run_ids: tuple[str, ...], smooth: int, png: Path | None, as_json: bool) -> None:
    """Compare runs: curves over each other, results side by side, and the settings that differ.

    \b
    Examples:
      tandem runs compare tiny-20260101-120000-ab12 tiny-20260101-130000-cd34
      tandem runs compare RUN1 RUN2 RUN3 --smooth 10 --png curves.png
    """
    run_ids = tuple(resolve(run_id) for run_id in run_ids)
    found = comparison.compare(home(), ledger(), run_ids, prices.current(home()))
    for run_id in dict.fromkeys(run_ids):
        _say_damaged(MetricsLog(home().run(run_id) / "metrics.jsonl"))
    if png is not None:
        curves.write_png(found.losses, found.evaluations, png, smooth)
    if as_json:
        output.print_json(found.to_json())
    else:
        curves.print_comparison(found, smooth)


@runs.command()
@click.argument("run_id", metavar="[RUN]", default=LATEST)
@click.option("-f", "--follow", is_flag=True, help="Go on until the run ends; exit with its result.")
def logs(run_id: str, follow: bool) -> None:
    """Print a run's log, from the start; without RUN the newest one's.

    \b
    Example:
      tandem runs logs -f tiny-20260101-120000-ab12
    """
    book, run_id = ledger(), resolve(run_id)
    run = book.run(run_id)
    log = home().run(run_id) / "log.txt"
    if not log.exists() and not run.state.is_terminal:
        _say_no_log(book, run)
    if not follow:
        if log.exists():
            click.echo(log.read_text(errors="replace"), nl=False)
        return
    _follow_log(log, lambda: book.run(run_id).state.is_terminal)
    ended = book.run(run_id)
    output.say(f"{ended.state}: {ended.reason}")
    sys.exit(EXIT_CODES[ended.state])


def _say_no_log(book: Ledger, run: Run) -> None:
    """Where a run is that has written nothing yet, and what is known of its way so far."""
    if not run.state.holds_slot:
        output.say("no log yet: the run has not started")
        return
    since = units.short_duration(time.time() - run.started_at) if run.started_at else "-"
    output.say(f"no log yet: the run is {run.state}{f', {run.stage}' if run.stage else ''}, for {since}")
    for event in book.events(run_id=run.id):
        output.say(f"{time.strftime('%F %T', time.localtime(event.at))} {event.kind} {event.text}")


runs.add_command(watch)


@runs.command()
@click.argument("run_id", metavar="RUN")
@output.json_option
def stop(run_id: str, as_json: bool) -> None:
    """Stop a run. Running training writes a checkpoint first, so it can be resumed; an export leaves nothing."""
    from cli.api import Api

    run = Api().post(f"/api/runs/{resolve(run_id)}/stop")
    if as_json:
        output.print_json(run)
    else:
        click.echo(f"{run['id']} is {run['state']}")


@runs.command()
@click.argument("run_id", metavar="RUN")
@click.option("-f", "--follow", is_flag=True, help="Show progress until the run ends; exit with its result.")
def resume(run_id: str, follow: bool) -> None:
    """Queue a run that continues RUN from its newest checkpoint; the same as `tandem train --resume RUN`."""
    from cli.training.train import resume as resume_run

    resume_run(home(), resolve(run_id), follow)


def _adapter(run: Run) -> str | None:
    """The version that it published, and whether that is suspect; `reason` says of what."""
    suspect = run.adapter and Registry(home().models).doubts(run.adapter)
    return f"{run.adapter} (suspect)" if suspect else run.adapter


def _say_damaged(log: MetricsLog) -> None:
    if damaged := log.damaged():
        be = "is" if damaged == 1 else "are"
        output.say(f"{damaged} of the lines of {log.path} cannot be read and {be} left out")


def _asked(run: Run) -> list[tuple[str, str | None]]:
    """What a run was asked to do, by its kind."""
    if run.kind is RunKind.EXPORT:
        config = ExportConfig(**run.config)
        return [("exports", config.adapter), ("to", config.to), ("out", config.out), ("base", config.base or "its own")]
    return [
        ("profile", run.profile),
        ("base", run.config["model"]["base"]),
        ("data", run.config["data"]["dataset"]),
    ]


def _energy(run: Run) -> list[tuple[str, str]]:
    """What a run used and what that came to; in words where nothing was measured."""
    folder = home().run(run.id)
    consumed = usage.read(folder)
    if consumed is None:
        lost = f"not known: {folder / usage.FILE} cannot be read"
        return [("energy", lost)] if usage.is_damaged(folder) else []
    bill, remarks = _bill(consumed), "; ".join(consumed.remarks())
    if bill.joules is None:
        return [("energy", remarks or str(bill))]
    words = [("energy", f"{bill} ({remarks})" if remarks else str(bill))]
    if bill.joules_per_1000_tokens is None:
        return words
    trained = f"{consumed.tokens:,} tokens trained"
    if consumed.measured_tokens < consumed.tokens:
        trained += f", {consumed.measured_tokens:,} of them measured"
    return [*words, ("per 1,000 tokens", f"{bill.joules_per_1000_tokens:,.1f} J; {trained}")]


def _bill(consumed: usage.EnergyUse) -> cost.EnergyCost:
    return cost.bill(consumed.joules, consumed.measured_tokens, prices.current(home()))


def _energy_json(consumed: usage.EnergyUse) -> dict[str, Any]:
    """The bill, what it is not, and the account by attempt and day."""
    totals = {"tokens": consumed.tokens, "measured_tokens": consumed.measured_tokens}
    totals |= {"shared": consumed.shared, "remarks": consumed.remarks()}
    return asdict(_bill(consumed)) | totals | asdict(consumed)


def _follow_log(log: Path, has_ended: Callable[[], bool], poll_s: float = 0.3) -> None:
    """Print a growing file until `has_ended` and everything was read; one that is not there yet is waited for."""
    file = GrowingFile(log)
    while True:
        last = has_ended()
        for line in file.new_lines():
            click.echo(line.decode(errors="replace"))
        if last:
            click.echo(file.rest.decode(errors="replace"), nl=False)
            return
        time.sleep(poll_s)


def _short(text: str, width: int = 60) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"
