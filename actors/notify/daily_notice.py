"""The event `summary` about the day before, once a day: `actors.notify.queue` tells people of it as of every event.

Called by the control actor at its ticks, if somebody wants to be told.
"""

import contextlib
from datetime import datetime, timedelta

from actors.runs.event import EventKind
from actors.runs.ledger import Ledger
from actors.status import daily
from configs.paths import Home
from configs.schema import EnergyConfig

MARK = "summary"


class DailyNotice:
    """Written once a day at `at` local time, whatever is restarted: the ledger remembers the last day that was told.

    Of days that passed while nobody was there only the newest is told.
    """

    def __init__(self, home: Home, ledger: Ledger, at: str, prices: EnergyConfig) -> None:
        """`at` is `HH:MM`."""
        self._home, self._ledger, self._prices = home, ledger, prices
        self._at = datetime.strptime(at, "%H:%M").time()

    def offer(self, now: datetime | None = None) -> None:
        """Call it at every tick; `now` is naive local time."""
        now = now or datetime.now()
        yesterday = now.date() - timedelta(days=1)
        due = yesterday if now.time() >= self._at else yesterday - timedelta(days=1)
        told = self._ledger.mark(MARK)
        if told is None or told > due.toordinal() + 1:  # new here; or the clock was ahead and is right again
            self._ledger.set_mark(MARK, due.toordinal())
        elif due.toordinal() > told:
            self._ledger.set_mark(MARK, due.toordinal())
            with contextlib.closing(Ledger(self._ledger.path, read_only=True)) as ledger:
                self._ledger.note(EventKind.SUMMARY, str(daily.read(self._home, ledger, due, self._prices)))
