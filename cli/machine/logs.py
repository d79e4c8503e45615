"""`tandem logs`: the log files of all actors as one, by time. Reads files only, so it works while Tandem is down."""

import contextlib
import json
import re
import time
from collections.abc import Iterable

import click

from actors.logs import reading
from actors.logs.reading import LEVELS, Line, LineFilter, Source
from actors.runs.ledger import Ledger
from cli.printable import printable
from configs import paths
from configs.errors import ConfigError, NotFoundError
from configs.paths import Home

POLL_S = 0.3
SHOWN_NAMES = 5
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
COLOURS = {"debug": "bright_black", "info": "green", "warning": "yellow", "error": "red", "critical": "red"}
HEAD = ("at", "level", "actor", "pid", "logger", "run", "request", "message", "error")
"""Fields that have a place of their own in a line for people."""


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written, until Ctrl-C.")
@click.option(
    "--run", metavar="RUN", help="Only what concerns this run, its own output included; `latest` is the newest."
)
@click.option("--actor", metavar="NAME", help="Only this one: control, gateway, engine_1, trainer, driver, notifier.")
@click.option("--request", metavar="ID", help="Only this request: its X-Request-Id, or the id of its answer.")
@click.option("--level", type=click.Choice(LEVELS, case_sensitive=False), help="Only lines of this level or above it.")
@click.option("--since", metavar="AGE", help="Only what is younger than 90s, 10m, 2h or 1d.")
@click.option(
    "-n", "count", type=click.IntRange(min=0), default=200, show_default=True, help="Newest lines to begin with."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, as in the files.")
def logs(
    follow: bool,
    run: str | None,
    actor: str | None,
    request: str | None,
    level: str | None,
    since: str | None,
    count: int,
    as_json: bool,
) -> None:
    """Show the logs of the control actor, gateway, engines, trainers and drivers, merged by time.

    \b
    Examples:
      tandem logs -f
      tandem logs --run latest
      tandem logs --level warning --since 1h
      tandem logs --request 0b7c2f5e-6a5d-4a55-8ce6-0f1c2a5f7f10 --json
    """
    home = paths.home()
    if request == "":
        raise ConfigError("--request names no request", hint="is the variable that should hold its id empty?")
    run_id = _run(home, run) if run else None
    began = time.time() - _seconds(since) if since else None
    wanted = LineFilter(run_id, request, level and level.lower(), began)
    sources = _sources(home, actor, run_id)
    lines = reading.merged([source.newest(count, wanted) for source in sources.values()])
    if request and not lines and not follow:
        raise _no_such_request(home, request)
    show(lines[-count:] if count else [], as_json)
    with contextlib.suppress(KeyboardInterrupt):
        while follow:
            time.sleep(POLL_S)
            sources = _sources(home, actor, run_id) | sources
            show(reading.merged([source.coming(wanted) for source in sources.values()]), as_json)


def show(lines: Iterable[Line], as_json: bool) -> None:
    for line in lines:
        click.echo(_json(line) if as_json else _readable(line))


def _sources(home: Home, actor: str | None, run_id: str | None) -> dict[str, Source]:
    """The logs to read, by name. Raises NotFoundError for an actor that never logged, or if nobody did."""
    names = reading.actors(home)
    if not names and run_id is None:
        raise NotFoundError(f"nothing has been logged in {home.logs}", hint="`tandem up` begins")
    if actor is not None and actor not in names and not (actor == "trainer" and run_id):
        raise NotFoundError(f"no actor {actor!r} has logged", hint=f"actors: {', '.join(names)}")
    chosen = {name: reading.of_actor(home, name) for name in names if actor in (None, name)}
    if run_id is not None and actor in (None, "trainer"):
        chosen["its own output"] = reading.of_run(home, run_id)
    return chosen


def _run(home: Home, wanted: str) -> str:
    """A run's id. Raises NotFoundError with the newest ones for a run that there is not."""
    ledger = Ledger(home.ledger, read_only=True) if home.ledger.exists() else None
    try:
        newest = [run.id for run in ledger.runs(limit=SHOWN_NAMES)] if ledger else []
        if wanted == "latest" and newest:
            return newest[0]
        if ledger:
            with contextlib.suppress(NotFoundError):
                return ledger.run(wanted).id
    finally:
        if ledger:
            ledger.close()
    hint = f"newest runs: {', '.join(newest)}" if newest else "nothing was trained yet: `tandem train`"
    raise NotFoundError(f"no run {wanted!r}", hint=hint)


def _no_such_request(home: Home, wanted: str) -> NotFoundError:
    found = reading.of_actor(home, "gateway").newest(100, LineFilter())
    known = dict.fromkeys(
        line.values["request"] for line in reversed(found) if line.values and "request" in line.values
    )
    hint = f"newest requests: {', '.join(list(known)[:SHOWN_NAMES])}" if known else "no request has been logged"
    return NotFoundError(f"no line of request {wanted!r}; old ones are deleted", hint=printable(hint))


def _seconds(age: str) -> float:
    """Raises ConfigError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])", age.strip())
    if not found:
        raise ConfigError(f"--since {age} is not an age", hint="for example 90s, 10m, 2h or 1d")
    return float(found[1]) * UNITS[found[2]]


def _json(line: Line) -> str:
    if line.values is not None:
        return json.dumps(line.values)
    return json.dumps({"actor": line.actor, "message": line.text} | ({"run": line.run} if line.run else {}))


def _readable(line: Line) -> str:
    """Time, level, actor, message, fields, and an exception's traceback below; other text as it is."""
    values = line.values
    if values is None:
        return f"{'':23} {'':7} {_actor(line.actor)} {printable(line.text)}"
    level = str(values.get("level", ""))
    seconds, thousandths = divmod(round(line.at * 1000), 1000)
    when = time.strftime("%F %T", time.localtime(seconds)) + f".{thousandths:03}"
    said, *more = str(values.get("message", "")).splitlines() or [""]
    head = [click.style(when, dim=True), click.style(f"{printable(level):7.7}", fg=COLOURS.get(level))]
    head += [_actor(line.actor), printable(said)]
    fields = {key: values[key] for key in ("run", "request") if key in values}
    fields |= {key: value for key, value in values.items() if key not in HEAD}
    if fields:
        head.append(
            click.style(" ".join(f"{printable(key)}={_shown(value)}" for key, value in fields.items()), dim=True)
        )
    error = values.get("error")
    trace = error.get("traceback") if isinstance(error, dict) else error
    below = [f"    {printable(text)}" for text in [*more, *(str(trace).rstrip().splitlines() if trace else ())]]
    return "\n".join([" ".join(head), *below])


def _actor(name: str) -> str:
    return click.style(f"{printable(name):9}", fg="cyan")


def _shown(value: object) -> str:
    return printable(value if isinstance(value, str) and re.fullmatch(r"\S+", value) else json.dumps(value))
