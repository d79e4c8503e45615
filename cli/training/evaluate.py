"""`tandem evaluate`: judge an adapter on the endpoint that will answer with it."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cli import output
from cli.api import Api
from configs import paths
from configs.errors import TandemError
from configs.paths import Home
from models.base import checkpoint
from models.lora import adapter
from models.lora.registry import Registry

if TYPE_CHECKING:
    from jobs.evaluation.judge import Evaluation

HOLD_S = 60.0
"""If this process is killed, the adapter is dropped after so long."""


@click.command()
@click.argument("version", metavar="ADAPTER")
@click.option("--dataset", metavar="D", help="Data to judge on. [default: the rows that its own run held out]")
@click.option("--split", metavar="S", help="Split of a hub data set or of a folder. [default: the run's own; train]")
@click.option("--compare-base", is_flag=True, help="Judge the base too, side by side.")
@click.option("--rows", type=click.IntRange(min=1), help="At most this many rows, a fixed sample. [default: all]")
@click.option("--prompts", type=click.Path(dir_okay=False), help="A .jsonl of questions, instead of the built-in ones.")
@click.option("--max-tokens", type=click.IntRange(min=1), default=256, show_default=True, help="Longest answer.")
@click.option("--concurrency", type=click.IntRange(min=1), default=8, show_default=True, help="Requests at a time.")
@click.option("--out", type=click.Path(file_okay=False), help="Folder of the report. [default: below TANDEM_HOME]")
@output.json_option
def evaluate(
    version: str,
    dataset: str | None,
    split: str | None,
    compare_base: bool,
    rows: int | None,
    prompts: str | None,
    max_tokens: int,
    concurrency: int,
    out: str | None,
    as_json: bool,
) -> None:
    """Judge an adapter on rows that it was not trained on: losses by channel, and answers to fixed questions.

    ADAPTER is a version from `tandem adapters list`, or `latest`. It is judged on the running endpoint, kept loaded for
    so long beside what is served; `prod` is not touched. Writes report.json and report.html.

    \b
    Examples:
      tandem evaluate latest --compare-base
      tandem evaluate latest --dataset other.jsonl --rows 100 --prompts questions.jsonl
      tandem evaluate latest --compare-base --json --out report
    """
    home = paths.home()
    api = Api()
    registry = Registry(home.models)
    manifest = adapter.read_manifest(registry.path(registry.resolve(version)))
    from jobs.evaluation import answers, judged  # read data: pyarrow

    chosen = judged.choose(home, manifest, dataset, split, rows)
    questions = [*(answers.read(Path(prompts)) if prompts else answers.BUILT_IN), *map(answers.of_row, chosen.rows)]
    with held(api, manifest.version) as name, _bar() as bar:
        from jobs.evaluation.endpoint import Endpoint
        from jobs.evaluation.judge import ADAPTER, BASE, judge

        output.say(f"{len(chosen.rows)} rows of {chosen.data.dataset}; {chosen.trained} others were trained")
        for note in chosen.notes:
            output.say(note)
        task = bar.add_task("judging", total=None)
        tokenizer = checkpoint.load_tokenizer(checkpoint.resolve(manifest.base))

        async def work() -> "Evaluation":
            async with Endpoint(f"{api.cluster.http}/v1", concurrency=concurrency) as endpoint:
                return await judge(
                    chosen,
                    [question for question in questions if question],
                    tokenizer,
                    {ADAPTER: name} | ({BASE: "base"} if compare_base else {}),
                    endpoint,
                    max_tokens=max_tokens,
                    progress=lambda done, total: bar.update(task, completed=done, total=total),
                    adapter=manifest.version,
                    base=manifest.base,
                    run=manifest.run_id,
                )

        found = asyncio.run(work())
    _show(found, home, Path(out) if out else None, as_json)


@contextlib.contextmanager
def held(api: Api, version: str) -> Iterator[str]:
    """Keep `version` loaded, whatever is served; gives the name that it answers under.

    The hold is renewed in the background and released at the end, also by Ctrl-C. Raises TandemError if the adapter is
    refused.
    """
    path = f"/api/adapters/{version}"
    hold = api.post(f"{path}/load", {"seconds": HOLD_S})["hold"]
    over = threading.Event()

    def renew() -> None:
        while not over.wait(HOLD_S / 3):
            with contextlib.suppress(TandemError):  # the endpoint is being restarted: the next one brings it back
                api.post(f"{path}/load", {"seconds": HOLD_S, "hold": hold})

    renewing = threading.Thread(target=renew, daemon=True)
    renewing.start()
    try:
        yield version
    finally:
        over.set()
        renewing.join()
        with contextlib.suppress(TandemError):  # it ends by itself
            api.post(f"{path}/unload", {"hold": hold})


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    left = (TextColumn("left"), TimeRemainingColumn())
    console = Console(stderr=True)
    return Progress(*columns, *left, console=console, transient=True, disable=not console.is_terminal)


def _show(found: "Evaluation", home: Home, out: Path | None, as_json: bool) -> None:
    from jobs.evaluation import report as evaluation_report

    saved = evaluation_report.save(found, out or evaluation_report.folder_of(home, found), shared=bool(out))
    if as_json:
        output.print_json(found.to_json() | {"report": {"json": str(saved.json), "html": str(saved.html)}})
        return
    models = list(found.losses)
    output.print_table(
        (
            "TOKENS OF",
            "TOKENS",
            *(word for name in models for word in (f"{name.upper()}: LOSS", "PERPLEXITY", "TOP-1")),
        ),
        [
            (part, found.losses[models[0]][part].tokens)
            + tuple(cell for name in models for cell in _loss_cells(found.losses[name][part]))
            for part in found.losses[models[0]]
        ],
        empty="",
    )
    click.echo("")
    columns = [word for name in models for word in (f"{name.upper()}: WELL-FORMED", "AS EXPECTED")]
    output.print_table(
        ("QUESTIONS", "ASKED", *columns),
        [
            (source, by_model[models[0]].asked)
            + tuple(cell for name in models for cell in _tally_cells(by_model[name]))
            for source, by_model in found.tallies.items()
        ],
        empty="",
    )
    click.echo(f"\nreport  {saved.html}")


def _loss_cells(loss) -> tuple[str, str, str]:
    return f"{loss.loss:.4f}", f"{loss.perplexity:#.4g}", f"{100 * loss.top1:.1f} %"


def _tally_cells(tally) -> tuple[int, str | None]:
    return tally.valid, f"{tally.matched} of {tally.expected}" if tally.expected else None
