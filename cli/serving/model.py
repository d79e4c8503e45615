"""`tandem model`: check a base model's files, and fetch what is missing or damaged."""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.text import Text

from actors.hardware.placement import default_base
from cli import output
from configs import units

if TYPE_CHECKING:
    from models.base.hub import Hashes
    from models.base.integrity import Report

COLOURS = {"WHOLE": "green", "SIZED": "cyan"}


@click.group()
def model() -> None:
    """Check a base model's files, and fetch what is missing or damaged."""


@model.command()
@click.argument("name", metavar="[NAME|FOLDER]", required=False)
@click.option("--quick", is_flag=True, help="Lengths and headers only, no hashes.")
@click.option("--like", metavar="NAME", help="The hub model that FOLDER should equal.")
@output.json_option
def check(name: str | None, quick: bool, like: str | None, as_json: bool) -> None:
    """Look for a base model and prove that its files are whole. Changes nothing and downloads nothing.

    Without a name: the model that `tandem up` serves on this machine. Exit code 1 if anything is wrong.

    \b
    Examples:
      tandem model check
      tandem model check unsloth/gpt-oss-20b-unsloth-bnb-4bit --quick
      tandem model check ~/gpt-oss-20b --like openai/gpt-oss-20b
    """
    from models.base import integrity

    with _hashes() as hashes:
        report = integrity.check(name or default_base(), quick=quick, like=like, hashes=hashes)
    _show(report, as_json)


@model.command()
@click.argument("name", required=False)
@output.json_option
def fetch(name: str | None, as_json: bool) -> None:
    """Download what is missing or damaged of a hub model, and check it after.

    Asks the hub only if something is wrong. What is whole is kept; what is damaged is removed, and named, so that it
    comes again. Exit code 1 if the model is not whole after.

    \b
    Examples:
      tandem model fetch
      tandem model fetch unsloth/gpt-oss-20b-unsloth-bnb-4bit
    """
    from models.base import integrity

    with _hashes() as hashes:
        report = integrity.fetch(name or default_base(), say=output.say, hashes=hashes)
    _show(report, as_json)


@contextlib.contextmanager
def _hashes() -> Iterator["Hashes"]:
    """Hashes of files with a line on stderr that says how fast they are read; it goes when all are."""
    from models.base.hub import Hashes

    columns = (TextColumn("hashing"), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    task = bar.add_task("", total=None)

    def begin(size: int) -> None:
        bar.start()
        bar.update(task, total=(bar.tasks[task].total or 0) + size)

    try:
        yield Hashes(begin, lambda count: bar.advance(task, count))
    finally:
        bar.stop()


def _show(report: "Report", as_json: bool) -> None:
    """Print the report and exit 1 if the model is not whole."""
    if as_json:
        output.print_json({**asdict(report), "whole": report.is_whole})
    else:
        _print(report)
    sys.exit(0 if report.is_whole else 1)


def _print(report: "Report") -> None:
    if report.files:
        hashes = f"from {report.compared_with}" if report.compared_with else "none compared; lengths and headers only"
        facts = [
            ("folder", report.folder),
            ("revision", report.revision or None),
            ("layout", f"{report.layout} ({report.architecture})" if report.layout else None),
            ("hashes", hashes),
            ("disk", f"{units.size(report.free_bytes)} free"),
        ]
        output.print_table(("", report.name), facts, empty="")
        rows = [
            (file.name, units.size(file.bytes), Text(file.state, COLOURS.get(file.state, "bold red")), file.detail)
            for file in report.files
        ]
        click.echo("")
        output.print_table(("FILE", "SIZE", "STATE", ""), rows, empty="")
        click.echo("")
    for note in report.notes:
        click.echo(f"note: {note}")
    for problem in report.problems:
        click.echo(f"wrong: {problem}")
    click.echo(_verdict(report))


def _verdict(report: "Report") -> str:
    if report.is_whole:
        proven = all(file.state == "WHOLE" for file in report.files)
        how = "every content has its hash" if proven else "as far as was read"
        return f"whole: {len(report.files)} files, {units.size(report.good_bytes)}, {how}"
    if report.kind != "hub":
        return "not whole -> copy or download the files named above again"
    brings = "what only the hub can say" if report.download_bytes is None else units.size(report.download_bytes)
    kept = units.size(report.good_bytes)
    return f"not whole -> `tandem model fetch {report.name}` keeps {kept} and downloads {brings}"
