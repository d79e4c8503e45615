"""The entrypoint of an export: `python -m jobs.export --run-id ID`, started by Ray for a queued run."""

import click

from actors.runs.run import RunKind
from jobs import driver
from jobs.exporting import exporter

EXPORT = driver.Job(RunKind.EXPORT, exporter.execute, instead="`tandem adapters export`", clean=exporter.clean)


@click.command()
@click.option("--run-id", metavar="ID", required=True, help="A queued export.")
def main(run_id: str) -> None:
    """Run one export inside a Ray cluster that `tandem up` started."""
    driver.enter(EXPORT, lambda job_id: run_id)


if __name__ == "__main__":
    main()
