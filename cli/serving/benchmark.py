"""`tandem benchmark`: how fast an OpenAI-compatible endpoint answers, under which load."""

import asyncio
import contextlib
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from cli import output
from configs.errors import ConfigError
from configs.paths import home

if TYPE_CHECKING:
    from jobs.benchmark.benchmark import Benchmark, Settings
    from jobs.benchmark.figures import Distribution, Figures

DEFAULT_CONCURRENCY = (1, 4)
DEFAULT_PROMPT = (128,)
ECHO_WIDTH = len("^C^C")
"""Columns behind the progress line for what a terminal echoes: a line that it wraps could not be erased whole."""
COMPARED = {
    "output_throughput": ("tok/s", 1), "request_throughput": ("req/s", 1), "goodput": ("GOODPUT", 1),
    "ttft_ms p50": ("TTFT ms", 1), "ttft_ms p99": ("TTFT ms, p99", 1), "tpot_ms p50": ("TPOT ms", 1),
    "e2e_ms p50": ("E2E s", 1000),
}  # fmt: skip
"""What the table calls a figure of report.changes, and its unit there."""


class NumberList(click.ParamType):
    """Different numbers above 0 with commas between them."""

    def __init__(self, kind: type[int] | type[float]) -> None:
        self.kind = kind
        self.name = "N,N,..."

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> tuple:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(self.kind(part) for part in value.split(","))
        except ValueError:
            numbers = ()
        if not numbers or not all(0 < number < 1e9 for number in numbers) or len(set(numbers)) < len(numbers):
            self.fail(f"'{value}' is not a list of different numbers above 0, such as 1,4,16", param, context)
        return numbers


@click.command()
@click.option(
    "--url", help="An OpenAI-compatible endpoint, such as http://host:8000/v1. [default: the running cluster]"
)
@click.option("--api-key-env", metavar="NAME", help="Environment variable that holds the endpoint's API key.")
@click.option("--model", default="prod", show_default=True, help="A name that the endpoint lists.")
@click.option(
    "--concurrency", type=NumberList(int), help="Requests in flight, one load after the other. [default: 1,4]"
)
@click.option("--request-rate", type=NumberList(float), help="Instead: requests per second, at random times (Poisson).")
@click.option("--prompt-tokens", type=NumberList(int), help="Lengths of synthetic prompts. [default: 128]")
@click.option("--dataset", metavar="D", help="Instead: the questions of a data set, a file or a hub name.")
@click.option("--split", default="train", show_default=True, help="Split of a hub data set or of a folder.")
@click.option("--output-tokens", type=click.IntRange(min=1), default=128, show_default=True, help="Longest answer.")
@click.option("--ignore-eos", is_flag=True, help="Ask for answers of exactly that length, in vLLM's words.")
@click.option("--requests", type=click.IntRange(min=1), help="Per load. [default: two per user, at least 4]")
@click.option("--duration", type=click.FloatRange(min=0, min_open=True), metavar="S", help="Instead: seconds per load.")
@click.option(
    "--warmup", type=click.IntRange(min=0), help="Requests before each load, not counted. [default: 1 a user]"
)
@click.option("--goodput", "limits", multiple=True, metavar="NAME:MS", help="Limit on ttft, itl, tpot or e2e; repeat.")
@click.option("--temperature", type=click.FloatRange(0, 2), help="[default: the server's own]")
@click.option("--extra-body", metavar="JSON", help="An object that goes into every request's body.")
@click.option("--seed", type=int, help="Draws prompts and arrivals. [default: a new one, so that no cache knows them]")
@click.option("--wait", type=click.FloatRange(min=0), default=0, metavar="S", help="Wait for somebody to listen.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="PATH", help="A .json file, or a folder: JSON and plot."
)
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.png", help="Draw the figures.")
@click.option(
    "--compare", type=click.Path(dir_okay=False, path_type=Path), metavar="OLD.json", help="Show what changed since."
)
@output.json_option
def benchmark(as_json: bool, out: Path | None, plot: Path | None, compare: Path | None, **asked: Any) -> None:
    """Measure first-token and inter-token latency, throughput and goodput of an OpenAI-compatible endpoint.

    Loading is waited for and not measured, each load is warmed up, and the server counts the tokens. Ctrl-C stops the
    load and shows what was measured. docs/benchmark.md has the formulas.

    \b
    The table, a line per load; latencies are median / 99th percentile:
      OK        whole answers / requests counted
      OUT       tokens of an answer, on average
      TTFT      time to the first token
      ITL       time between tokens as they arrive; 0 where several come at once
      E2E       time to the answer's end
      tok/s     of all users together
      PER USER  tokens/s of one answer after its first token, what one user sees
      GOODPUT   answers per second within every --goodput limit

    \b
    Examples:
      tandem benchmark
      tandem benchmark --concurrency 1,4,16 --prompt-tokens 128,1024 --requests 64 --out report
      tandem benchmark --request-rate 2,4 --duration 60 --goodput ttft:500 --goodput itl:50
      tandem benchmark --url http://127.0.0.1:8080/v1 --model llama --compare report/benchmark.json
    """
    from jobs.benchmark import report
    from jobs.benchmark.benchmark import Benchmark
    from jobs.benchmark.figures import parse_limits

    asked["goodput"] = parse_limits(asked.pop("limits"))
    settings, key, extra = _settings(asked), _api_key(asked["api_key_env"]), _extra_body(asked)
    old = report.load(compare) if compare else None
    places = report.places(out, plot)
    url = asked["url"] or _running()
    found = Benchmark(asked | {"url": url, "seed": settings.seed})
    _measure(url, key, extra, settings, found)
    _show(found, old, as_json)
    for saved in report.save(found, places):
        output.say(f"wrote {saved}")
    if found.stopped == "interrupted":
        raise click.Abort
    raise SystemExit(1 if found.failed else 0)


def _measure(url: str, key: str | None, extra: dict[str, Any], settings: "Settings", found: "Benchmark") -> None:
    from jobs.benchmark import benchmark as job
    from jobs.benchmark import prompts
    from jobs.benchmark.endpoint import Endpoint

    asked = found.settings
    questions = prompts.of_dataset(asked["dataset"], asked["split"], settings.seed) if asked["dataset"] else None

    async def work() -> None:
        with _bar() as tell:
            async with Endpoint(
                url, asked["model"], api_key=key, ignore_eos=asked["ignore_eos"], extra=extra
            ) as endpoint:
                await job.measure(endpoint, settings, found, questions, tell)

    asyncio.run(work())


# What is asked


def _settings(asked: dict[str, Any]) -> "Settings":
    """Raises ConfigError for options that exclude each other."""
    from jobs.benchmark.benchmark import Settings
    from jobs.benchmark.load import CellLimit, Level

    for one, other in (("concurrency", "request_rate"), ("requests", "duration"), ("dataset", "prompt_tokens")):
        if asked[one] and asked[other]:
            names = f"--{one} and --{other}".replace("_", "-")
            raise ConfigError(f"{names} exclude each other", hint="give one of them")
    if asked["request_rate"]:
        levels = tuple(Level(request_rate=rate) for rate in asked["request_rate"])
    else:
        levels = tuple(Level(concurrency=number) for number in asked["concurrency"] or DEFAULT_CONCURRENCY)
    return Settings(
        levels=levels,
        prompt_tokens=() if asked["dataset"] else asked["prompt_tokens"] or DEFAULT_PROMPT,
        output_tokens=asked["output_tokens"],
        amount=CellLimit(asked["requests"], asked["duration"]) if asked["requests"] or asked["duration"] else None,
        seed=random.randrange(2**31) if asked["seed"] is None else asked["seed"],
        warmup=asked["warmup"],
        goodput=asked["goodput"],
        wait_s=asked["wait"],
    )


def _api_key(name: str | None) -> str | None:
    if name is None:
        return None
    key = os.environ.get(name)
    if not key:
        raise ConfigError(f"the environment variable {name} holds no API key", hint=f"export {name}=...")
    return key


def _extra_body(asked: dict[str, Any]) -> dict[str, Any]:
    extra = {} if asked["temperature"] is None else {"temperature": asked["temperature"]}
    if asked["extra_body"] is None:
        return extra
    try:
        given = json.loads(asked["extra_body"])
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise ConfigError(f"--extra-body {asked['extra_body']}: not a JSON object", hint="""such as '{"top_p": 0.9}'""")
    return extra | given


def _running() -> str:
    from actors import cluster  # imports psutil

    return f"{cluster.require(home()).http}/v1"


# What is shown


@contextlib.contextmanager
def _bar() -> Iterator[Any]:
    """A function that shows what is going on and which share of it is done."""
    console = Console(stderr=True)
    console.width -= ECHO_WIDTH
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    elapsed = (TextColumn("elapsed"), TimeElapsedColumn())
    with Progress(*columns, *elapsed, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda text, share: bar.update(task, description=text, completed=share)


def _show(found: "Benchmark", old: dict[str, Any] | None, as_json: bool) -> None:
    from jobs.benchmark import report

    changes = report.changes(old, found.to_json()) if old is not None else []
    if as_json:
        output.print_json(found.to_json() | ({"changes": changes} if old is not None else {}))
    else:
        limited = bool(found.settings["goodput"])
        columns = ("LOAD", "PROMPT", "OK", "OUT", "TTFT ms", "ITL ms", "E2E s", "tok/s", "PER USER", "req/s")
        rows = [_row(cell, limited) for cell in found.cells]
        columns += ("GOODPUT",) if limited else ()
        output.print_table(columns, rows, empty="nothing was measured", title=_title(found))
        if old is not None:
            _show_changes(changes)
        output.say("OK: whole answers of those asked. OUT: tokens in one. PER USER: tokens/s of one, once it has begun")
    for cell in found.cells:
        for each in cell.errors:
            output.say(f"{cell.level.name}: {each.count} failed, {each.kind}: {each.message}")
    for note in found.notes:
        output.say(f"note: {note}")
    if found.stopped:
        output.say(f"partial: {found.stopped}")


def _title(found: "Benchmark") -> str:
    versions = ", ".join(dict.fromkeys(name for cell in found.cells for name in cell.fingerprints))
    model, url = found.settings["model"], found.settings["url"]
    return f"{model}{versions and f' ({versions})'} at {url}; latencies are median / p99"


def _row(cell: "Figures", limited: bool) -> tuple:
    prompt = cell.input_tokens.mean if cell.input_tokens else cell.prompt_tokens
    row = (
        cell.level.name,
        f"{prompt:.0f}" if prompt else None,
        f"{cell.completed}/{cell.sent}",
        f"{cell.output_tokens.mean:.0f}" if cell.output_tokens else None,
        _middle_and_tail(cell.ttft_ms),
        _middle_and_tail(cell.itl_ms),
        _middle_and_tail(cell.e2e_ms, digits=2, unit=1000),
        f"{cell.output_throughput:.1f}",
        f"{cell.output_throughput_per_user:.1f}" if cell.output_throughput_per_user else None,
        f"{cell.request_throughput:.2f}",
    )
    return (*row, f"{cell.goodput:.2f}") if limited and cell.goodput is not None else row


def _middle_and_tail(found: "Distribution | None", digits: int = 1, unit: float = 1.0) -> str | None:
    return f"{found.p50 / unit:.{digits}f} / {found.p99 / unit:.{digits}f}" if found else None


def _show_changes(changes: list[dict[str, Any]]) -> None:
    click.echo("")
    rows = [_change_row(each) for each in changes]
    output.print_table(("LOAD", "PROMPT", "FIGURE", "OLD", "NEW", "CHANGE"), rows, empty="no load is in both")


def _change_row(each: dict[str, Any]) -> tuple:
    name, unit = COMPARED[each["figure"]]
    values = f"{each['old'] / unit:.2f}", f"{each['new'] / unit:.2f}", f"{100 * each['change']:+.1f} %"
    return each["load"], each["prompt_tokens"], name, *values
