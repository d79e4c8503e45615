"""What happened in one local day: runs, work, energy, adapters, swaps, quarantines, trouble. Reads ledger and runs.

Called by `tandem summary` and, for the daily notice, by the control actor. Works while the cluster is down. What the
gateway counts begins anew with each of its processes and is therefore in no day.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from actors.energy import cost, usage
from actors.energy.cost import EnergyCost
from actors.energy.usage import EnergyUse
from actors.runs.event import Event, EventKind
from actors.runs.ledger import Ledger
from actors.runs.run import Run, RunKind, RunState
from configs.paths import Home
from configs.schema import EnergyConfig

TROUBLE = (EventKind.DEVICE_ERROR, EventKind.ENGINE_DOWN, EventKind.ERROR)
"""Kinds of events that a summary quotes, in this order."""
CLOCK_S = 1.0
"""By which the clock may go back without a word."""


@dataclass(frozen=True)
class Summary:
    """One day, or what there was of it so far."""

    day: str
    """ISO date, local."""
    runs: dict[str, int]
    """Runs that ended, by state; every terminal state is named."""
    steps: int
    tokens: int
    """Trained, padding included."""
    slot_hours: dict[str, float]
    """By slot, hours that processes trained there, loading and evaluating included."""
    energy: EnergyCost
    """Of training."""
    adapters: int
    """Published."""
    swaps: int
    refused: int
    """Swaps that were not let in."""
    quarantines: int
    """Slots that were put there."""
    remarks: tuple[str, ...]
    """Sentences: trouble, and what these figures leave out."""

    def __str__(self) -> str:
        """For people, in a few lines."""
        ended = ", ".join(f"{number} {state.lower()}" for state, number in self.runs.items() if number) or "none"
        hours = ", ".join(f"slot {slot} {spent:.1f} h" for slot, spent in self.slot_hours.items()) or "idle"
        lines = [
            f"{self.day}: runs ended: {ended}; {self.steps:,} steps, {self.tokens:,} tokens trained",
            f"training slots: {hours}; energy: {self.energy if self.steps else 'none'}",
            f"adapters published: {self.adapters}; swaps: {self.swaps}, refused: {self.refused}; "
            f"quarantines: {self.quarantines}",
        ]
        return "\n".join([*lines, *self.remarks])


def read(home: Home, ledger: Ledger, day: date, prices: EnergyConfig) -> Summary:
    """The day from midnight to midnight of this machine's local time, 23 or 25 hours where clocks are changed."""
    begin, end = midnight(day), midnight(day + timedelta(days=1))
    runs, events = ledger.runs_between(begin, end), ledger.events_between(begin, end)
    ended = [run for run in runs if run.ended_at is not None and begin <= run.ended_at < end]
    remarks: list[str] = []
    accounts = _accounts(home, runs, remarks)
    did = [account.day(day.isoformat()) for account in accounts]
    worked = usage.total(did)
    measured = usage.measured_tokens(part for account in accounts for part in account.parts(day.isoformat()))
    if unmeasured := sum(each.steps > 0 and each.joules is None for each in did):
        remarks.append(f"energy of {_runs(unmeasured)} was not measured: a CPU, or a GPU without a reading")
    remarks += _set_clocks(runs)
    kinds = [event.kind for event in events]
    return Summary(
        day=day.isoformat(),
        runs={str(state): sum(run.state is state for run in ended) for state in RunState if state.is_terminal},
        steps=worked.steps,
        tokens=worked.tokens,
        slot_hours=_slot_hours(accounts, day.isoformat()),
        energy=cost.bill(worked.joules, measured, prices),
        adapters=kinds.count("published"),
        swaps=kinds.count("swap"),
        refused=kinds.count("refused"),
        quarantines=kinds.count("quarantine"),
        remarks=(*remarks, *_trouble(events)),
    )


FIRST_DAY, LAST_DAY = date(1970, 1, 2), date(9000, 1, 1)
"""Days whose midnights every machine can tell, whatever its time zone."""


def midnight(day: date) -> float:
    """Unix seconds at which a local day between FIRST_DAY and LAST_DAY begins."""
    return datetime(day.year, day.month, day.day).timestamp()


def _accounts(home: Home, runs: list[Run], remarks: list[str]) -> list[EnergyUse]:
    """Of the training runs that got a slot."""
    began = [run for run in runs if run.kind is RunKind.TRAIN and run.started_at is not None]
    found = [usage.read(home.run(run.id)) for run in began]
    if without := sum(account is None and run.state.is_terminal for run, account in zip(began, found, strict=True)):
        remarks.append(f"{_runs(without)} left no account of steps, tokens, hours and energy")
    return [account for account in found if account is not None]


def _slot_hours(accounts: list[EnergyUse], day: str) -> dict[str, float]:
    hours: dict[str, float] = {}
    for attempt in (attempt for account in accounts for attempt in account.attempts if day in attempt.days):
        name = attempt.slot or "?"
        hours[name] = hours.get(name, 0.0) + attempt.days[day].seconds / 3600
    return dict(sorted(hours.items()))


def _set_clocks(runs: list[Run]) -> Iterator[str]:
    for run in runs:
        if run.ended_at is not None and run.ended_at < (run.started_at or run.created_at) - CLOCK_S:
            yield f"{run.id} ended before it began: the clock was set back meanwhile"


def _trouble(events: list[Event]) -> Iterator[str]:
    """The last words of each kind, and how many there were."""
    for kind in TROUBLE:
        said = [event.text for event in events if event.kind == kind]
        if said:
            last = next(iter(said[-1].splitlines()), "")[:200]
            yield f"{kind.replace('_', ' ')}, {len(said)} times, last: {last}" if len(said) > 1 else last


def _runs(number: int) -> str:
    return "1 run" if number == 1 else f"{number} runs"
