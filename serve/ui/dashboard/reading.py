"""One look at the machine for everybody who looks: at most one reading at a time, kept for a moment, none unasked.

`SharedReading.now` is what the page asks at every beat. Figures that need an earlier look, rates and the GPUs' last
minutes, are kept here, for as long as somebody looks.
"""

import asyncio
import json
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from actors.energy import cost, prices, usage
from actors.energy.cost import EnergyCost
from actors.status import overview
from actors.status.overview import Overview
from actors.status.rates import Rate, Rates
from configs.errors import TandemError
from configs.paths import Home
from configs.schema import EnergyConfig
from serve.ui.dashboard.curves import Curves

FRESH_S = 1.5
"""A look younger than this is given again."""
ROWS = 50
"""Ended runs, adapters and swaps of a first page."""
FORGET_S = 30
"""After so long without a viewer, histories begin anew, and longer pages are not read any more."""
HISTORY = 60
"""Readings in a sparkline: two minutes."""
PRICE_S = 30
"""A price is asked for again after so long: it is a file to be validated, and seldom changes."""

History = deque[float | None]


@dataclass(frozen=True)
class PageData:
    """What a page is drawn from."""

    overview: Overview
    rate: Rate | None
    busy: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
    """By the GPU's UUID, and `host`: utilisation, 0 to 1, of the last readings, the newest last."""
    evaluations: Mapping[str, dict[str, float]] = field(default_factory=dict)
    """By adapter version, what its newest evaluation found: `adapter`, `base` (losses on learned tokens), `rows`."""


class SharedReading:
    """The shared reading of one home."""

    def __init__(self, home: Home) -> None:
        self.home, self.curves = home, Curves(home)
        self._one_at_a_time: asyncio.Lock | None = None
        self._look: PageData | None = None
        self._read_at = -FORGET_S
        self._rows, self._rows_at = ROWS, -FORGET_S
        self._rates = Rates()
        self._busy: dict[str, History] = {}
        self._evaluations: dict[str, tuple[str, dict[str, float]]] = {}
        self._price, self._priced_at = EnergyConfig(), -PRICE_S

    async def now(self, rows: int = ROWS, *, anew: bool = False) -> PageData:
        """The newest look, with at least `rows` ended runs where there are so many; `anew` after something changed."""
        self._one_at_a_time = self._one_at_a_time or asyncio.Lock()
        async with self._one_at_a_time:
            self._want(rows)
            stale = anew or time.monotonic() - self._read_at > FRESH_S or rows > self._rows
            if self._look is None or stale:
                self._rows = max(rows, self._rows)
                self._look = await asyncio.to_thread(self._take)
                self._read_at = time.monotonic()
            return self._look

    def _want(self, rows: int) -> None:
        """Long pages are read for as long as somebody has one open."""
        now = time.monotonic()
        if rows > ROWS:
            self._rows_at = now
        elif now - self._rows_at > FORGET_S:
            self._rows = ROWS

    def _take(self) -> PageData:
        seen = overview.read(self.home, limit=self._rows)
        if time.monotonic() - self._read_at > FORGET_S:
            self._rates, self._busy = Rates(), {}
        readings = {gpu.uuid: gpu.utilization for gpu in seen.gpus} | {"host": seen.host.cpu_utilization}
        for name in {*readings, *self._busy}:
            self._busy.setdefault(name, deque(maxlen=HISTORY)).append(readings.get(name))
        evaluations = {each.manifest.version: self._evaluation(each.manifest.version) for each in seen.adapters}
        return PageData(
            overview=seen,
            rate=self._rates.see(seen),
            busy={name: tuple(values) for name, values in self._busy.items()},
            evaluations={version: found for version, found in evaluations.items() if found},
        )

    def _evaluation(self, version: str) -> dict[str, float]:
        """The newest report of `tandem evaluate` about this version, read once; empty without a readable one."""
        files = sorted((self.home.evaluations / version).glob("*/report.json"))
        if not files:
            return {}
        if self._evaluations.get(version, ("",))[0] != str(files[-1]):
            self._evaluations[version] = (str(files[-1]), _losses(files[-1]))
        return self._evaluations[version][1]

    def energy(self, run_id: str) -> EnergyCost | None:
        """What a run has taken of its GPU so far, at today's prices if they can be read; None without an account."""
        consumed = usage.read(self.home.run(run_id))
        return consumed and cost.bill(consumed.joules, consumed.measured_tokens, self._prices())

    def _prices(self) -> EnergyConfig:
        if time.monotonic() - self._priced_at > PRICE_S:
            try:
                self._price = prices.current(self.home)
            except TandemError:
                self._price = EnergyConfig()
            self._priced_at = time.monotonic()
        return self._price


def _losses(file: Path) -> dict[str, float]:
    try:
        report = json.loads(file.read_text())
        losses = {name: float(found["learned"]["loss"]) for name, found in report["losses"].items()}
        return losses | {"rows": int(report["rows"])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
