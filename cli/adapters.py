"""`tandem adapters` and `tandem swap`."""

import time
from dataclasses import asdict

import click

from actors.ledger import Ledger
from cli import output
from configs.errors import ConfigError
from configs.paths import home
from models import adapter
from models.registry import Registry


@click.group()
def adapters() -> None:
    """List and show published adapters."""


@adapters.command("list")
@output.json_option
def list_adapters(as_json: bool) -> None:
    """List published adapters, newest first, with the aliases that point to them."""
    place = home()
    aliases, states = _ledger_words()
    rows = []
    for manifest in Registry(place.models).list():
        state, _ = states.get(manifest.version, ("PUBLISHED", ""))
        pointing = [alias for alias, version in aliases.items() if version == manifest.version]
        rows.append((manifest, str(state), pointing))
    if as_json:
        output.print_json([{**asdict(m), "state": state, "aliases": pointing} for m, state, pointing in rows])
        return
    output.print_table(
        ("ADAPTER", "STATE", "ALIAS", "BASE", "RANK", "STEPS", "LOSS", "SIZE", "AGE"),
        [
            (m.version, output.state(state), ",".join(pointing) or None, m.base, m.rank, m.metrics.get("steps"))
            + (m.metrics.get("loss"), output.size(m.bytes), output.age(m.created_at))
            for m, state, pointing in rows
        ],
        empty="no adapters yet -> tandem train",
    )


@adapters.command()
@click.argument("version", metavar="ADAPTER")
@output.json_option
def show(version: str, as_json: bool) -> None:
    """Show one adapter and check every file against its manifest.

    \b
    Example:
      tandem adapters show latest
    """
    from jobs import evaluation_report  # reads data sets: pyarrow

    registry = Registry(home().models)
    manifest = adapter.validate(registry.path(registry.resolve(version)))
    state, reason = _ledger_words()[1].get(manifest.version, ("PUBLISHED", ""))
    if as_json:
        output.print_json({**asdict(manifest), "state": str(state), "reason": reason})
        return
    evaluated = evaluation_report.newest(home(), manifest.version)
    facts = [
        ("state", output.state(str(state), reason)),
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


@click.command()
@click.argument("version", metavar="[ADAPTER]", required=False)
@click.option("--back", is_flag=True, help="Return to what was served before the last swap.")
@output.json_option
def swap(version: str | None, back: bool, as_json: bool) -> None:
    """Change what `prod` answers with, without dropping a request: load beside, verify, flip, retire.

    ADAPTER is a version from `tandem adapters list`, `latest`, or `base` for none.

    \b
    Examples:
      tandem swap latest
      tandem swap base
      tandem swap --back
    """
    if back == (version is not None):
        raise ConfigError("name an adapter or --back, one of the two", hint="tandem swap latest, or tandem swap --back")
    from cli.api import Api

    result = Api().post("/api/aliases/prod", {"back": True} if back else {"adapter": version})
    if as_json:
        output.print_json(result)
    else:
        click.echo(f"{result['alias']}: {result['old']} -> {result['new']} in {result['seconds']:.2f} s")


def _ledger_words() -> tuple[dict, dict]:
    """Aliases and adapter states; both empty before the first `tandem up`."""
    place = home()
    if not place.ledger.exists():
        return {}, {}
    ledger = Ledger(place.ledger, read_only=True)
    return ledger.aliases(), ledger.adapter_states()
