"""`tandem up`, `down` and `env`: the life of the cluster."""

import shlex
import time
from pathlib import Path

import click

from actors import cluster
from cli import output
from cli.machine.bring_up import bring_up
from configs import load, paths


@click.command()
@click.option("--base", help="Base model to serve. [default: gpt-oss-20b in 4 bit; tiny without a GPU]")
@click.option("--port", type=click.IntRange(1, 65535), help="HTTP port of the chat endpoint. [default: 8000]")
@click.option(
    "--max-context",
    type=click.IntRange(min=64),
    help="Tokens that prompt and answer together may have. [default: 2048, as configs/serve.yaml says]",
)
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Override cluster.yaml; repeatable.")
@click.option("--config", type=click.Path(dir_okay=False), help="Another cluster.yaml.")
@output.json_option
def up(
    base: str | None,
    port: int | None,
    max_context: int | None,
    sets: tuple[str, ...],
    config: str | None,
    as_json: bool,
) -> None:
    """Start Ray, the control actor and the chat endpoint on this machine, on loopback only.

    \b
    Examples:
      tandem up
      tandem up --port 9000
      tandem up --max-context 8192
      tandem up --base tiny --set dashboard_port=8266
    """
    home = paths.home()
    sets = sets if port is None else (*sets, f"http_port={port}")
    settings = load.load_cluster(Path(config) if config else paths.CLUSTER_CONFIG, sets)
    changed = {"base": base, "max_context": max_context}
    serving = load.load_serve({key: value for key, value in changed.items() if value is not None})
    started = time.monotonic()
    try:
        running = bring_up(home, settings, serving, output.say)
    except KeyboardInterrupt:
        raise click.exceptions.Abort("ended what was started") from None
    if as_json:
        output.print_json({"http": running.http, "dashboard": running.dashboard, "home": str(home.root)})
        return
    output.say(f"up after {time.monotonic() - started:.0f} s")
    click.echo(f"chat       {running.http}/v1  (model: prod)")
    click.echo(f"Ray        {running.dashboard}  (its own dashboard; the token is in {home.token})")
    click.echo("next       tandem ask 'Who are you?'    tandem train -f    tandem status")


@click.command()
@output.json_option
def down(as_json: bool) -> None:
    """End every process that `tandem up` started. Runs that were training go on from their newest checkpoint at the
    next `up`; queued ones stay queued.
    """
    ended = cluster.stop(paths.home())
    if as_json:
        output.print_json({"ended": ended})
    else:
        click.echo(f"down ({ended} processes ended)" if ended else "nothing is running")


@click.command()
def env() -> None:
    """Print the environment that Ray's own commands need, for `eval`.

    \b
    Example:
      eval "$(tandem env)"
      ray job submit --working-dir . -- python -m jobs.train --profile tiny
    """
    home = paths.home()
    for key, value in cluster.client_environment(home, cluster.require(home)).items():
        click.echo(f"export {key}={shlex.quote(value)}")
