"""`tandem train`: check, queue, follow."""

import sys
from contextlib import closing

import click

from actors import cluster
from actors.runs import quarantine
from actors.runs.ledger import Ledger
from actors.runs.run import new_run_id
from cli import output
from cli.training import prediction
from configs import paths
from configs.paths import Home
from jobs import request
from jobs.data import dataset
from jobs.data.dataset import Rows
from jobs.prediction import data_size, estimate
from jobs.prediction.data_size import DataSize
from jobs.prediction.estimate import Prediction
from jobs.request import TrainFlags, TrainRequest
from models.base import checkpoint, model_shape


@click.command()
@request.options
@click.option("--validate", is_flag=True, help="Check the base's files too before queuing, and fetch them if needed.")
@click.option("--dry-run", is_flag=True, help="Check everything, predict memory, disk and time, queue nothing.")
@click.option("-f", "--follow", is_flag=True, help="Show progress until the run ends; exit with its result.")
@output.json_option
def train(validate: bool, dry_run: bool, follow: bool, as_json: bool, flags: TrainFlags) -> None:
    """Queue a fine-tuning run; it starts when a training slot is free.

    \b
    Examples:
      tandem train --profile quick_test -f
      tandem train --profile standard --gpu 0 --dataset my_chats.jsonl --max-steps 200
      tandem train --profile tiny --set training.learning_rate=1e-3 --priority 5
      tandem train --resume tiny-20260101-120000-ab12

    With -f the exit code is the run's own: 0 succeeded, 1 failed, 3 stopped. Ctrl-C stops following, not the run.
    """
    home = paths.home()
    wanted = request.resolve(home, flags)
    if not dry_run:
        cluster.require(home)  # before data is read and anything is predicted
    predicted = _predicted(home, wanted, validate or dry_run)
    prediction.tell(predicted)
    if dry_run:
        _report(wanted, predicted, as_json)
        return
    run_id = _submit(home, wanted, predicted)
    if as_json:
        output.print_json({"run": run_id})
    else:
        click.echo(run_id)
    _say_if_it_waits(home, run_id)
    if follow:
        from cli.training.follow import follow as follow_run

        sys.exit(follow_run(home, run_id))
    output.say(f"queued; follow it with: tandem runs logs -f {run_id}")


def _submit(home: Home, wanted: TrainRequest, predicted: Prediction) -> str:
    """Queue the run and keep its prediction. Raises TrainingError for one that cannot fit."""
    from cli.api import Api

    predicted.check()
    run_id = new_run_id(wanted.config.profile)
    queued = Api().post("/api/runs", wanted.body(run_id))["id"]
    predicted.save(home.run(queued))
    return queued


def _say_if_it_waits(home: Home, run_id: str) -> None:
    """A run whose slots are all in quarantine would wait in silence."""
    found = cluster.find(home)
    with closing(Ledger(home.ledger, read_only=True)) as ledger:
        why = quarantine.why_waiting(ledger.run(run_id), found.slots if found else (), ledger.quarantines())
    if why:
        output.say(f"not started: {why}")


def _report(wanted: TrainRequest, predicted: Prediction, as_json: bool) -> None:
    if as_json:
        output.print_json(wanted.config.model_dump(mode="json") | {"prediction": prediction.as_json(predicted)})
    else:
        prediction.table(predicted)
        click.echo("nothing queued (--dry-run)")
    predicted.check()


def _predicted(home: Home, wanted: TrainRequest, validate: bool = False) -> Prediction:
    """From the data as the tokenizer has it: a row that its template refuses is named before anything is queued.

    The hub is not asked for the sake of a run that cannot fit. Raises what the run would fail with.
    """
    rows = _rows(wanted) if dataset.locate(wanted.config.data.dataset) is not None else None
    predicted = estimate.predict(home, wanted, _size(wanted, rows))
    if predicted.refusal and not (validate and model_shape.is_here(wanted.config.model.base)):
        return predicted
    return estimate.predict(home, wanted, _rendered(wanted, rows, validate))


def _size(wanted: TrainRequest, rows: Rows | None) -> DataSize:
    """Of data on this machine, which is read and checked; of a hub's data set what is known without asking."""
    return data_size.of_dialogues(rows.dialogues, wanted.config) if rows else data_size.unknown(wanted.config)


def _rows(wanted: TrainRequest) -> Rows:
    rows = dataset.read(wanted.config.data)
    output.say(f"data: {len(rows.dialogues)} dialogues in {wanted.config.data.dataset}")
    for reason in rows.bad:
        output.say(f"left out: {reason}")
    return rows


def _rendered(wanted: TrainRequest, rows: Rows | None, validate: bool) -> DataSize:
    """Render and mask every row, with `validate` by a base whose files are looked at; says what would be learned."""
    name = wanted.config.model.base
    if validate:
        path = checkpoint.resolve(name)
        base = checkpoint.inspect(path)
    rows = rows or _rows(wanted)  # before the tokenizer, whose import takes seconds: the hub may be out of reach
    tokenizer = checkpoint.load_tokenizer(path) if validate else checkpoint.tokenizer_of(name)
    report = dataset.prepare(rows, tokenizer, wanted.config.data, wanted.config.model.max_seq_length).report
    output.say(f"rendered: {report}")
    if validate:
        output.say(f"base: {base.name} ({base.layout}) in {path}")
    return data_size.tokenised(report, wanted.config)


def resume(home: Home, run_id: str, follow: bool) -> None:
    """Queue a run that continues `run_id` with its own configuration."""
    wanted = request.resolve(home, TrainFlags(resume=run_id))
    cluster.require(home)
    predicted = _predicted(home, wanted)
    prediction.tell(predicted)
    new = _submit(home, wanted, predicted)
    click.echo(new)
    _say_if_it_waits(home, new)
    if follow:
        from cli.training.follow import follow as follow_run

        sys.exit(follow_run(home, new))
