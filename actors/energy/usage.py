"""What a run took of its GPU over all its attempts: joules, tokens and steps by local day, in `consumption.json`.

The trainer's process keeps it with a `Recorder`; curves, comparisons and the daily summary read it. Knows no training.
"""

import contextlib
import json
import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, FiniteFloat, TypeAdapter

from actors.energy.meter import EnergyMeter, Source
from configs import durable

log = logging.getLogger(__name__)

FILE = "consumption.json"
_WHY = {"cpu": "a CPU has no reading", "cuda": "its GPU gave no reading"}
KEEP_S = 10.0
"""Between two writings; a kill loses at most so much."""

Count = Annotated[int, Field(ge=0, lt=2**63)]
IsoDate = Annotated[str, AfterValidator(lambda text: date.fromisoformat(text).isoformat())]


@dataclass
class Day:
    """What was done in one local day."""

    joules: FiniteFloat | None = None
    seconds: FiniteFloat = 0.0
    """That the process lived and held its slot."""
    tokens: Count = 0
    """That went through the model to be learned from, padding included."""
    steps: Count = 0
    """Also those that were computed again, after a kill or a rollback."""

    def add(self, *, joules: float | None, seconds: float, tokens: int, steps: int) -> None:
        if joules is not None:
            self.joules = (self.joules or 0.0) + joules
        self.seconds += seconds
        self.tokens += tokens
        self.steps += steps


@dataclass
class Attempt:
    """One process's work on a run."""

    attempt: int
    slot: str | None
    device: Literal["cuda", "cpu"]
    shared: bool
    """The slot has two roles: the joules are the whole card's, with what the other one used."""
    source: Source | None = None
    """None: nothing was measured, as on a CPU."""
    unmeasured_seconds: FiniteFloat = 0.0
    days: dict[IsoDate, Day] = field(default_factory=dict)


@dataclass(frozen=True)
class InheritedEnergy:
    """What the run that this one continues had come to when it began."""

    run: str
    joules: FiniteFloat | None
    tokens: Count
    measured_tokens: Count | None = None
    """Those for which `joules` were used; None in older accounts, which do not tell them apart."""


@dataclass
class EnergyUse:
    """Of one run. Totals include what it inherited, as its curve does; `days` are its own."""

    attempts: list[Attempt] = field(default_factory=list)
    inherited: InheritedEnergy | None = None
    damaged: str | None = None
    """The file that the account of earlier attempts was moved to, because it could not be read."""

    @property
    def joules(self) -> float | None:
        """None if nothing was measured; never 0 for that."""
        own = [day.joules for attempt in self.attempts for day in attempt.days.values()]
        known = [joules for joules in (*own, self.inherited and self.inherited.joules) if joules is not None]
        return sum(known) if known else None

    @property
    def tokens(self) -> int:
        own = sum(day.tokens for attempt in self.attempts for day in attempt.days.values())
        return own + (self.inherited.tokens if self.inherited else 0)

    @property
    def measured_tokens(self) -> int:
        """Those for which `joules` were used: of days and attempts that were measured."""
        own = measured_tokens(day for attempt in self.attempts for day in attempt.days.values())
        before = self.inherited
        if before is None or before.joules is None:
            return own
        return own + (before.tokens if before.measured_tokens is None else before.measured_tokens)

    @property
    def shared(self) -> bool:
        return any(attempt.shared and attempt.source for attempt in self.attempts)

    def day(self, iso_date: str) -> Day:
        """What its own attempts did in one local day."""
        return total(self.parts(iso_date))

    def parts(self, iso_date: str) -> list[Day]:
        """The same by attempt."""
        return [attempt.days[iso_date] for attempt in self.attempts if iso_date in attempt.days]

    def remarks(self) -> list[str]:
        """In words, what its joules are not."""
        said = []
        if self.attempts and all(attempt.device == "cpu" for attempt in self.attempts):
            return [f"not measured: {_WHY['cpu']}"]
        for attempt in self.attempts:
            if attempt.source is None:
                said.append(f"attempt {attempt.attempt} was not measured: {_WHY[attempt.device]}")
            elif attempt.unmeasured_seconds >= 1:
                said.append(f"{attempt.unmeasured_seconds:,.0f} s of attempt {attempt.attempt} were not measured")
        if any(attempt.source == "power" for attempt in self.attempts):
            said.append("added up from power readings: the card does not count")
        if self.shared:
            said.append("the whole card's: it is shared with serving")
        if self.inherited:
            said.append(f"with that of {self.inherited.run}, which it continues")
        if self.damaged:
            said.append(f"without earlier attempts: their account, {self.damaged}, cannot be read")
        return said


def total(days: Iterable[Day]) -> Day:
    """The sum; its joules are those of the days that know theirs."""
    found = Day()
    for day in days:
        found.add(joules=day.joules, seconds=day.seconds, tokens=day.tokens, steps=day.steps)
    return found


def measured_tokens(days: Iterable[Day]) -> int:
    """Tokens of the days that know their joules: what energy per token is a ratio to."""
    return sum(day.tokens for day in days if day.joules is not None)


def is_damaged(folder: Path) -> bool:
    """Whether the run in `folder` has an account that cannot be read."""
    return (folder / FILE).exists() and read(folder) is None


def read(folder: Path) -> EnergyUse | None:
    """That of the run in `folder`; None if it kept none, or none that can be read."""
    with contextlib.suppress(OSError, ValueError):
        return _ACCOUNT.validate_json((folder / FILE).read_bytes(), strict=True)
    return None


_ACCOUNT = TypeAdapter(EnergyUse)


class Recorder:
    """Keeps the account of one attempt, beside those of the earlier ones. `close` it."""

    def __init__(
        self,
        folder: Path,
        meter: EnergyMeter,
        *,
        attempt: int,
        slot: str | None,
        device: str,
        shared: bool,
        parent: Path | None = None,
    ) -> None:
        """`parent` is the folder of the run that this one continues, `device` is `cuda` or `cpu`."""
        self._file, self._meter = folder / FILE, meter
        self._all = read(folder) or EnergyUse(inherited=_inherited(parent), damaged=_set_aside(folder))
        self._mine = Attempt(attempt, slot, device, shared)
        self._all.attempts.append(self._mine)
        self._metered, self._at = 0.0, time.monotonic()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self.keep()
        threading.Thread(target=self._keep_forever, name="consumption", daemon=True).start()

    @property
    def joules(self) -> float | None:
        """Of all attempts up to the last step, and of the run that this one continues."""
        with self._lock:
            return self._all.joules

    @property
    def tokens(self) -> int:
        """The same in tokens."""
        with self._lock:
            return self._all.tokens

    def step(self, tokens: int) -> None:
        """One more optimiser step, over so many tokens."""
        self._take(tokens, 1)

    def keep(self) -> None:
        """Write it, aside and renamed. A disk that is full is the trainer's to report."""
        self._take()
        with contextlib.suppress(OSError), self._lock:
            aside = self._file.with_name(f".{FILE}.part")
            with open(aside, "w", opener=durable.private) as file:
                file.write(json.dumps(asdict(self._all), indent=1))
            aside.replace(self._file)

    def close(self) -> None:
        self._ended.set()
        self._meter.close()
        self.keep()

    def _keep_forever(self) -> None:
        while not self._ended.wait(KEEP_S):
            self.keep()

    def _take(self, tokens: int = 0, steps: int = 0) -> None:
        """Write what came since the last time to today's account."""
        with self._lock:
            metered, now = self._meter.joules(), time.monotonic()
            used = None if metered is None else metered - self._metered
            took, self._metered, self._at = now - self._at, metered or 0.0, now
            self._mine.source = self._meter.source
            self._mine.unmeasured_seconds = round(self._meter.unmeasured_s, 1)
            today = self._mine.days.setdefault(date.today().isoformat(), Day())
            today.add(joules=used, seconds=took, tokens=tokens, steps=steps)


def _set_aside(folder: Path) -> str | None:
    """Move an account that cannot be read out of the way; its new name, None if there was none."""
    aside = folder / f"{FILE}.damaged"
    try:
        (folder / FILE).replace(aside)
    except OSError:
        return None
    log.warning("%s cannot be read and is begun anew; the old one is now %s", folder / FILE, aside.name)
    return aside.name


def _inherited(parent: Path | None) -> InheritedEnergy | None:
    if parent is None:
        return None
    found = read(parent)
    if found is None:
        return InheritedEnergy(parent.name, None, 0, 0)
    return InheritedEnergy(parent.name, found.joules, found.tokens, found.measured_tokens)
