"""`tandem train`: check, queue, follow."""

import sys
from typing import Any

import click

from actors.run import new_run_id
from cli import output
from configs.paths import Home, home
from jobs import dataset, request
from jobs.request import TrainRequest


@click.command()
@request.options
@click.option("--validate", is_flag=True, help="Check base and every row of the data with the tokenizer first.")
@click.option("--dry-run", is_flag=True, help="Check everything, queue nothing.")
@click.option("-f", "--follow", is_flag=True, help="Show progress until the run ends; exit with its result.")
@output.json_option
def train(validate: bool, dry_run: bool, follow: bool, as_json: bool, **flags: Any) -> None:
    """Queue a fine-tuning run; it starts when a training slot is free.

    \b
    Examples:
      tandem train --profile quick_test -f
      tandem train --profile standard --gpu 0 --dataset my_chats.jsonl --max-steps 200
      tandem train --profile tiny --set training.learning_rate=1e-3 --priority 5
      tandem train --resume tiny-20260101-120000-ab12

    With -f the exit code is the run's own: 0 succeeded, 1 failed, 3 stopped. Ctrl-C stops following, not the run.
    """
    place = home()
    wanted = request.resolve(place, **flags)
    if dataset.locate(wanted.config.data.dataset) is not None:
        rows = dataset.read(wanted.config.data)
        output.say(f"data: {len(rows.dialogues)} dialogues in {wanted.config.data.dataset}")
        for reason in rows.bad:
            output.say(f"left out: {reason}")
    if validate or dry_run:
        output.say(f"base: {_validated(wanted)}")
    if dry_run:
        output.print_json(wanted.config.model_dump(mode="json")) if as_json else click.echo(
            "nothing queued (--dry-run)"
        )
        return
    run_id = _submit(wanted)
    if as_json:
        output.print_json({"run": run_id})
    else:
        click.echo(run_id)
    if follow:
        from cli.follow import follow as follow_run

        sys.exit(follow_run(place, run_id))
    output.say(f"queued; follow it with: tandem runs logs -f {run_id}")


def _submit(wanted: TrainRequest) -> str:
    from cli.api import Api

    run_id = new_run_id(wanted.config.profile)
    return Api().post("/api/runs", {"run_id": run_id, **wanted.submission()})["id"]


def _validated(wanted: TrainRequest) -> str:
    """Resolve the base, render and mask every row; says what would be learned. Raises what a run would fail with."""
    from models import checkpoint  # imports torch

    path = checkpoint.resolve(wanted.config.model.base)
    base = checkpoint.inspect(path)
    rows = dataset.read(wanted.config.data)
    tokenizer = checkpoint.load_tokenizer(path)
    prepared = dataset.prepare(rows, tokenizer, wanted.config.data, wanted.config.model.max_seq_length)
    output.say(f"rendered: {prepared.report}")
    return f"{base.name} ({base.layout}) in {path}"


def resume(place: Home, run_id: str, follow: bool) -> None:
    """Queue a run that continues `run_id` with its own configuration."""
    flags = {"profile": None, "slot": None, "dataset": None, "max_steps": None, "priority": 0, "sets": ()}
    new = _submit(request.resolve(place, resume=run_id, **flags))
    click.echo(new)
    if follow:
        from cli.follow import follow as follow_run

        sys.exit(follow_run(place, new))
