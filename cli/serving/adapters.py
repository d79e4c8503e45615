"""`tandem adapters` and `tandem swap`."""

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import get_args

import click

from actors.runs.adapter_state import AdapterState
from actors.runs.ledger import Ledger
from actors.runs.run import new_run_id
from cli import output
from configs import load, paths, units
from configs.errors import ConfigError
from configs.schema import ExportConfig, ExportFormat
from jobs.exporting import exporter
from models.lora import adapter
from models.lora.registry import LATEST, Registry


@click.group()
def adapters() -> None:
    """List, show and export published adapters."""


@adapters.command("list")
@output.json_option
def list_adapters(as_json: bool) -> None:
    """List published adapters, newest first, with the aliases that point to them."""
    home = paths.home()
    aliases, states = _ledger_words()
    rows = []
    for manifest in Registry(home.models).list():
        state, _ = states.get(manifest.version, (AdapterState.PUBLISHED, ""))
        pointing = [alias for alias, version in aliases.items() if version == manifest.version]
        rows.append((manifest, str(state), pointing))
    if as_json:
        output.print_json([{**asdict(m), "state": state, "aliases": pointing} for m, state, pointing in rows])
        return
    output.print_table(
        ("ADAPTER", "STATE", "ALIAS", "BASE", "RANK", "STEPS", "LOSS", "SIZE", "AGE"),
        [
            (m.version, output.adapter_state(state, m.suspect), ",".join(pointing) or None, m.base, m.rank)
            + (m.metrics.get("steps"), m.metrics.get("loss"), units.size(m.bytes), output.age(m.created_at))
            for m, state, pointing in rows
        ],
        empty="no adapters yet -> tandem train",
    )
    for manifest in (m for m, _, _ in rows if m.suspect):
        output.say(manifest.doubts)


@adapters.command()
@click.argument("version", metavar="ADAPTER")
@output.json_option
def show(version: str, as_json: bool) -> None:
    """Show one adapter and check every file against its manifest.

    \b
    Example:
      tandem adapters show latest
    """
    from jobs.evaluation import report as evaluation_report  # reads data sets: pyarrow

    registry = Registry(paths.home().models)
    manifest = adapter.validate(registry.path(registry.resolve(version)))
    state, reason = _ledger_words()[1].get(manifest.version, (AdapterState.PUBLISHED, ""))
    if as_json:
        output.print_json({**asdict(manifest), "state": str(state), "reason": reason})
        return
    evaluated = evaluation_report.newest(paths.home(), manifest.version)
    facts = [
        ("state", output.state(str(state), reason)),
        ("suspect", "; ".join(manifest.suspect) or None),
        ("base", manifest.base),
        ("run", manifest.run_id),
        ("rank, alpha", f"{manifest.rank}, {manifest.alpha}"),
        ("targets", ", ".join(manifest.target_modules)),
        ("experts", "trained" if manifest.train_experts else "not trained"),
        ("trainable", ", ".join(f"{group} {count:,}" for group, count in manifest.trainable.items() if count)),
        ("metrics", ", ".join(f"{key} {value:g}" for key, value in manifest.metrics.items())),
        ("evaluation", evaluation_report.headline(evaluated) if evaluated else None),
        ("published", time.strftime("%F %T", time.localtime(manifest.created_at))),
        ("files", "all match the manifest"),
        ("folder", registry.path(manifest.version)),
    ]
    output.print_table(("", manifest.version), facts, empty="")


@adapters.command()
@click.argument("version", metavar="ADAPTER")
@click.option("--to", type=click.Choice(get_args(ExportFormat)), required=True, help="What to make of it.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", required=True, help="A folder to make.")
@click.option("--base", metavar="B", help="Merge into this base, for example its 16-bit form. Default: its own.")
@click.option("--dtype", type=click.Choice(["auto", "bfloat16", "float32"]), default="auto", show_default=True)
@click.option("--priority", type=int, default=0, show_default=True, help="Higher is granted a slot earlier.")
@click.option("-f", "--follow", is_flag=True, help="Show progress until the run ends; exit with its result.")
@output.json_option
def export(
    version: str, to: str, out: Path, base: str | None, dtype: str, priority: int, follow: bool, as_json: bool
) -> None:
    """Queue a run that writes ADAPTER for other programs.

    \b
    merged     a whole model, base and adapter added up, in safetensors
    gguf       the same in one file for llama.cpp
    gguf-lora  the adapter alone for llama.cpp; attention only
    peft       the adapter's own files

    \b
    Examples:
      tandem adapters export latest --to merged --out ~/my-model -f
      tandem adapters export latest --to gguf --out ~/my-gguf --base openai/gpt-oss-20b

    gguf and gguf-lora need llama.cpp's converters: TANDEM_LLAMA_CPP names its folder.
    """
    home = paths.home()
    wanted = {
        "adapter": Registry(home.models).resolve(version),
        "to": to,
        "out": str(out.expanduser().absolute()),
        "base": base,
        "dtype": dtype,
    }
    config = load.validate(ExportConfig, wanted, source="the command line")
    if doubts := Registry(home.models).doubts(config.adapter):
        output.say(f"note: {doubts}")
    for note in exporter.check(config, home).notes:
        output.say(f"note: {note}")
    from cli.api import Api

    body = {"run_id": new_run_id(f"export-{to}"), "config": config.model_dump(mode="json"), "priority": priority}
    run_id = Api().post("/api/exports", body)["id"]
    output.print_json({"run": run_id}) if as_json else click.echo(run_id)
    if follow:
        from cli.training.follow import follow as follow_run

        sys.exit(follow_run(home, run_id))
    output.say(f"queued; follow it with: tandem runs logs -f {run_id}")


@click.command()
@click.argument("version", metavar="[ADAPTER]", required=False)
@click.option("--back", is_flag=True, help="Return to what was served before the last swap.")
@click.option("--force", is_flag=True, help="Swap in an adapter that is suspect, too.")
@output.json_option
def swap(version: str | None, back: bool, force: bool, as_json: bool) -> None:
    """Change what `prod` answers with, without dropping a request: load beside, verify, flip, retire.

    ADAPTER is a version from `tandem adapters list`, `latest` (the newest that is not suspect), or `base` for none.

    \b
    Examples:
      tandem swap latest
      tandem swap base
      tandem swap --back
      tandem swap tiny_tiny_20260101-120000 --force
    """
    if back == (version is not None):
        raise ConfigError("name an adapter or --back, one of the two", hint="tandem swap latest, or tandem swap --back")
    from cli.api import Api

    if version == LATEST and (doubts := Registry(paths.home().models).passed_over()):
        output.say(f"note: {doubts}; {LATEST} is the newest that is not")
    wanted = {"back": True} if back else {"adapter": version}
    result = Api().post("/api/aliases/prod", wanted | {"force": force})
    if as_json:
        output.print_json(result)
    else:
        click.echo(f"{result['alias']}: {result['old']} -> {result['new']} in {result['seconds']:.2f} s")


def _ledger_words() -> tuple[dict[str, str | None], dict[str, tuple[AdapterState, str]]]:
    """Aliases and adapter states; both empty before the first `tandem up`."""
    home = paths.home()
    if not home.ledger.exists():
        return {}, {}
    ledger = Ledger(home.ledger, read_only=True)
    return ledger.aliases(), ledger.adapter_states()
