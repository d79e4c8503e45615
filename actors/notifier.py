"""From the ledger's events to people, beside the control actor: a bounded queue and one thread that sends.

The control actor calls `offer` at every tick; it never waits for a service and never hears of a failure, which is an
event of kind `notify`. A notice is sent once, or after a crash not at all: what the thread was given counts as told.
"""

import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Sequence

from actors import delivery, notices
from actors.delivery import Target
from actors.ledger import Ledger
from actors.notices import Notice
from configs.errors import DeliveryError, TandemError
from configs.schema import NotifyConfig

MARK = "notify"
WAITING = 100
"""Notices that may wait for the thread; more are dropped, and an event says so."""
PAUSES_S = (2, 10, 60)
"""Before the second, third and fourth try to reach a target."""

log = logging.getLogger(__name__)


class Notifier:
    """Told nothing but to `offer`; off, it forgets where it was, so that it never tells of the time it was off."""

    def __init__(self, config: NotifyConfig, ledger: Ledger, *, pauses_s: Sequence[float] = PAUSES_S) -> None:
        self._ledger, self._pauses_s = ledger, pauses_s
        self._kinds = frozenset(config.events) if config.is_on else frozenset()
        self._targets = delivery.targets(config)
        self._waiting: queue.Queue[Notice] = queue.Queue(WAITING)
        self._thread: threading.Thread | None = None
        self._seen = ledger.mark(MARK)
        if not self._kinds and self._seen is not None:
            ledger.set_mark(MARK, None)

    def offer(self) -> None:
        """Hand what has happened since the last time to the thread."""
        if not self._kinds:
            return
        if self._seen is None:
            self._remember(self._ledger.last_event())
        dropped = 0
        events = self._ledger.events(after=self._seen)
        for event in events:
            notice = notices.of(event) if event.kind in self._kinds else None
            if notice is not None:
                dropped += not self._put(notice)
        if events:
            self._remember(events[-1].seq)
        if dropped:
            self._ledger.note(MARK, f"{dropped} notices were dropped: {WAITING} are waiting already")

    def idle(self) -> bool:
        """Whether everything that was offered has been sent or given up."""
        return self._waiting.unfinished_tasks == 0

    def _remember(self, seq: int) -> None:
        self._seen = seq
        self._ledger.set_mark(MARK, seq)

    def _put(self, notice: Notice) -> bool:
        if self._thread is None:
            self._thread = threading.Thread(target=self._send_forever, name="notifier", daemon=True)
            self._thread.start()
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(notice)
            return True
        return False

    def _send_forever(self) -> None:
        while True:
            notice = self._waiting.get()
            for target in self._targets:
                try:
                    self._send(target, notice)
                    log.info("%s was told '%s'", target.name, notice.title, extra={"run": notice.run})
                except Exception as error:  # nothing may end the thread; only our own errors are free of secrets
                    why = error.message if isinstance(error, DeliveryError) else type(error).__name__
                    log.warning("%s was not told '%s': %s", target.name, notice.title, why, extra={"run": notice.run})
                    self._note(f"{target.name} was not told '{notice.title}': {why}", notice.run)
            self._waiting.task_done()

    def _send(self, target: Target, notice: Notice) -> None:
        """Raises the last try's DeliveryError."""
        for pause in self._pauses_s:
            try:
                return target.send(notice)
            except DeliveryError:
                time.sleep(pause)
        return target.send(notice)

    def _note(self, text: str, run_id: str | None) -> None:
        """Nothing is lost with it: a ledger that cannot be written shows in every tick of the control actor."""
        with contextlib.suppress(TandemError, sqlite3.Error):
            self._ledger.note(MARK, text, run_id)
