"""The entrypoint of a training run: `python -m jobs.train`, started by Ray.

With `--run-id` the run is in the ledger already; without, it registers itself first and waits for its lease like
everyone else.
"""

import click

from actors import client
from actors.runs.run import RunKind, new_run_id
from configs.errors import ConfigError
from configs.paths import home
from jobs import driver, request
from jobs.prediction import data_size, estimate
from jobs.request import TrainFlags
from jobs.training import sft

TRAIN = driver.Job(RunKind.TRAIN, sft.execute, instead="`tandem train`, or `ray job submit -- python -m jobs.train`")


@click.command()
@click.option("--run-id", metavar="ID", help="A queued run; without it the other options describe a new one.")
@request.options
def main(run_id: str | None, flags: TrainFlags) -> None:
    """Run one training job inside a Ray cluster that `tandem up` started."""
    driver.enter(TRAIN, lambda job_id: _new_run(job_id, flags) if run_id is None else _queued_run(run_id, flags))


def _new_run(job_id: str, flags: TrainFlags) -> str:
    wanted = request.resolve(home(), flags)
    predicted = estimate.predict(home(), wanted, data_size.of_data(wanted.config))
    predicted.check()
    run_id = new_run_id(wanted.config.profile)
    client.BlockingClient().submit(wanted.submission(run_id, job_id=job_id))
    predicted.save(home().run(run_id))
    return run_id


def _queued_run(run_id: str, flags: TrainFlags) -> str:
    if any(vars(flags).values()):
        raise ConfigError("--run-id takes no other option", hint="the run's configuration is in the ledger")
    return run_id


if __name__ == "__main__":
    main()
