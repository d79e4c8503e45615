"""`tandem notify test`: one message to everybody who is to be told, and what came of it."""

from pathlib import Path

import click

from actors import cluster
from actors.notify import messages, targets
from actors.notify.targets import Target
from cli import output
from configs import load, paths
from configs.errors import ConfigError, DeliveryError
from configs.schema import NotifyConfig


@click.group()
def notify() -> None:
    """Try out who is told when something happens."""


@notify.command()
@click.option("--config", type=click.Path(dir_okay=False), help="A cluster.yaml. [default: the running Tandem's]")
@output.json_option
def test(config: str | None, as_json: bool) -> None:
    """Send a test message to every target, once. Exit code 1 if one of them did not get it.

    \b
    Examples:
      tandem notify test
      tandem notify test --config my_cluster.yaml
    """
    settings = _settings(config)
    if not settings.is_on:
        raise ConfigError(
            "no notification target is set: notify.urls and notify.command are empty", hint="docs/notifications.md"
        )
    results = [(target.name, _try(target)) for target in targets.targets(settings)]
    if as_json:
        output.print_json([{"target": name, "sent": error is None, "error": error} for name, error in results])
    else:
        output.print_table(("TARGET", "RESULT"), [(name, error or "sent") for name, error in results], empty="")
    if any(error for _, error in results):
        raise SystemExit(1)


def _settings(config: str | None) -> NotifyConfig:
    """Those of the running Tandem, or of a file."""
    running = cluster.find(paths.home()) if config is None else None
    if running is not None and running.is_alive:
        return running.config.notify
    return load.load_cluster(Path(config) if config else paths.CLUSTER_CONFIG).notify


def _try(target: Target) -> str | None:
    """Why the message did not arrive; None if it did."""
    try:
        target.send(messages.test())
    except DeliveryError as error:
        return error.sentence
    return None
