"""`tandem status`: slots, queue, adapters and engines on one screen; also while the cluster is down."""

import contextlib
from dataclasses import asdict

import click
from rich.text import Text

from actors import cluster, health, monitor
from actors.ledger import Ledger
from cli import output
from configs.errors import TandemError
from configs.paths import home


@click.command()
@output.json_option
def status(as_json: bool) -> None:
    """Show slots, runs, adapters and engines. Exit code 1 if Tandem is not running.

    \b
    Example:
      tandem status --json
    """
    place = home()
    found = cluster.find(place)
    up = found is not None and found.is_alive
    ledger = Ledger(place.ledger, read_only=True) if place.ledger.exists() else None
    report = {
        "up": up,
        "home": str(place.root),
        "http": found.http if up else None,
        "dashboard": found.dashboard if up else None,
        "slots": _slots(found, ledger) if up else [],
        "active_runs": _runs(found, ledger) if ledger else [],
        "aliases": {"prod": None} | ledger.aliases() if ledger else {},
        "gpus": [asdict(gpu) for gpu in monitor.gpus()],
        "engines": {},
        "holds": [],
    }
    if up:
        with contextlib.suppress(TandemError):  # the rest of the page is worth having without the gateway
            from cli.api import Api

            answer = Api().get("/api/status")
            report |= {"engines": answer["engines"], "holds": answer["holds"]}
    output.print_json(report) if as_json else _print(report)
    if not up:
        raise SystemExit(1)


def _slots(found: cluster.Cluster, ledger: Ledger | None) -> list[dict]:
    held = {(lease.slot, lease.role): lease for lease in ledger.leases()} if ledger else {}
    quarantines = ledger.quarantines() if ledger else {}
    rows = []
    for slot in found.slots:
        for role in slot.roles:
            lease = held.get((slot.name, role))
            rows.append({**slot.model_dump(), "role": role, "holder": lease.holder if lease else None})
            rows[-1]["quarantine"] = asdict(quarantines[slot.name]) if slot.name in quarantines else None
            rows[-1] |= {"pid": lease.pid if lease else None, "since": lease.granted_at if lease else None}
    return rows


def _runs(found: cluster.Cluster | None, ledger: Ledger) -> list[dict]:
    quarantines, slots = ledger.quarantines(), found.slots if found else ()
    queued = {run.id: health.why_waiting(run, slots, quarantines) for run in ledger.queue()}
    return [asdict(run) | {"waits_for": queued.get(run.id)} for run in ledger.runs(active=True)]


def _print(report: dict) -> None:
    if not report["up"]:
        click.echo(f"Tandem is not running (home: {report['home']})")
        output.say("start it with `tandem up`")
    else:
        click.echo(f"Tandem at {report['http']}  (Ray's dashboard {report['dashboard']}, home {report['home']})\n")
        gpus = {gpu["uuid"]: gpu for gpu in report["gpus"]}
        output.print_table(
            ("SLOT", "ROLE", "DEVICE", "HOLDER", "FOR", "PROCESS"),
            [_slot(row, gpus) for row in report["slots"]],
            empty="no slots",
        )
        click.echo("")
        output.print_table(
            ("ENGINE", "RUNNING", "WAITING", "KV CACHE", "TOKENS", "ADAPTERS", "MEMORY"),
            [_engine(name, stats) for name, stats in report["engines"].items()],
            empty="no engine answers yet",
        )
    for alias, version in report["aliases"].items():
        click.echo(f"{'' if alias != 'prod' else chr(10)}{alias} -> {version or 'base'}")
    if report["active_runs"]:
        click.echo("")
    rows = [
        (run["id"], output.state(run["state"]), f"{run['step']}/{run['max_steps'] or '?'}", run["loss"])
        + (run["tokens_per_s"] and round(run["tokens_per_s"]), output.age(run["created_at"]))
        for run in report["active_runs"]
    ]
    output.print_table(("RUN", "STATE", "STEP", "LOSS", "TOK/S", "AGE"), rows, empty="no active runs")
    for run in report["active_runs"]:
        if run["waits_for"]:
            click.echo(f"{run['id']} waits: {run['waits_for']}")


def _slot(row: dict, gpus: dict) -> tuple:
    holder = row["holder"] or Text("free", "dim")
    if row["quarantine"]:
        bad = (f"in quarantine: {row['quarantine']['reason']}", "bold red")
        holder = Text.assemble(f"{row['holder']}, ", bad) if row["holder"] else Text.assemble(bad)
    return (row["name"], row["role"], _device(row, gpus), holder, output.age(row["since"]), row["pid"])


def _device(row: dict, gpus: dict) -> str | Text:
    gpu = gpus.get(row["uuid"])
    if gpu is None:
        return "CPU" if row["gpu"] is None else Text.assemble(f"GPU {row['gpu']} ", ("gone", "bold red"))
    return f"GPU {gpu['index']} {gpu['name']}  {output.size(gpu['memory_used'])} of {output.size(gpu['memory_total'])}"


def _engine(name: str, stats: dict) -> tuple:
    if "error" in stats:
        return (name, stats["error"], None, None, None, None, None)
    kv = f"{stats['kv_tokens']} of {stats['kv_capacity']}"
    loaded = ", ".join(stats["adapters"]) or "none"
    memory = f"{output.size(stats['memory_bytes'])} {stats['device']}"
    return (name, stats["running"], stats["waiting"], kv, stats["generated_tokens"], loaded, memory)
