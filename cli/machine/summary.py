"""`tandem summary`: what happened in a day, or in each of several. Works while the cluster is down."""

from dataclasses import asdict
from datetime import date, datetime, timedelta

import click

from actors.energy import cost, prices
from actors.runs.ledger import Ledger
from actors.status import daily
from actors.status.daily import Summary
from cli import output
from cli.training.runs import ledger
from configs.errors import ConfigError
from configs.paths import home


@click.command()
@click.option("--date", "moment", type=click.DateTime(["%Y-%m-%d"]), metavar="YYYY-MM-DD", help="[default: today]")
@click.option("--days", "count", type=click.IntRange(1, 366), default=1, help="So many days, the last of them --date.")
@output.json_option
def summary(moment: datetime | None, count: int, as_json: bool) -> None:
    """Summarise a day: runs, steps, tokens, slot hours, energy, adapters, swaps, quarantines, trouble.

    A day is one of this machine's local time. Requests are in no day: the gateway counts from its own start, and
    Prometheus keeps what it counted.

    \b
    Examples:
      tandem summary
      tandem summary --date 2026-01-31
      tandem summary --days 7 --json
    """
    last = moment.date() if moment else date.today()
    if not daily.FIRST_DAY + timedelta(days=count) <= last <= daily.LAST_DAY:
        raise ConfigError(f"--date {last} is not a day that can be summarised", hint="from 1972 to 9000")
    book, priced = ledger(), prices.current(home())
    wanted = [last - timedelta(days=back) for back in reversed(range(count))]
    found = [daily.read(home(), book, day, priced) for day in wanted]
    if as_json:
        output.print_json({"days": [asdict(each) for each in found]})
        return
    columns, rows = _told([_row(each) for each in found])
    if count == 1:
        output.print_table(("", found[0].day), list(zip(columns[1:], rows[0][1:], strict=True)), empty="")
    else:
        output.print_table(columns, rows, empty="")
    if outside := _outside(book, last):
        output.say(outside)
    for each in found:
        for remark in each.remarks:
            output.say(remark if count == 1 else f"{each.day}: {remark}")


def _outside(book: Ledger, last: date) -> str | None:
    """Why nothing can have happened up to `last`, or on it."""
    if last > date.today():
        return f"{last} is in the future"
    if not book.runs_between(0, daily.midnight(last + timedelta(days=1))):
        return f"{last} is before the first run" if book.runs(limit=1) else "there is no run yet -> tandem train"
    return None


def _energy(found: Summary) -> str:
    if found.energy.joules is not None:
        return cost.watt_hours(found.energy.joules)
    return "not measured" if found.steps else "none"


_COLUMNS = ("day", "runs ended", "steps", "tokens", "slot hours", "energy", "per 1,000 tokens", "cost", "CO2")
_COLUMNS += ("adapters", "swaps", "refused", "quarantines")


def _told(rows: list[tuple]) -> tuple[list[str], list[list]]:
    """Columns and rows without what no day knows, such as a cost without a price."""
    kept = [index for index in range(len(_COLUMNS)) if any(row[index] is not None for row in rows)]
    return [_COLUMNS[index] for index in kept], [[row[index] for index in kept] for row in rows]


def _row(found: Summary) -> tuple:
    bill, runs = found.energy, [f"{number} {state.lower()}" for state, number in found.runs.items() if number]
    rate = bill.joules_per_1000_tokens
    hours = ", ".join(f"slot {slot}: {spent:.2f} h" for slot, spent in found.slot_hours.items())
    return (
        found.day,
        ", ".join(runs) or "none",
        f"{found.steps:,}",
        f"{found.tokens:,}",
        hours or "none",
        _energy(found),
        None if rate is None else f"{rate:,.1f} J",
        None if bill.cost is None else cost.money(bill.cost, bill.currency),
        None if bill.co2_g is None else cost.mass(bill.co2_g),
        found.adapters,
        found.swaps,
        found.refused,
        found.quarantines,
    )
