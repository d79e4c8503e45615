"""From the ledger's events to people, beside the control actor: a bounded queue and a thread for each target.

The control actor calls `offer` at every tick; it never waits for a service and never hears of a failure, which is an
event of kind `notify`: the first of a row of them, and what came of the row. A notice is sent once, or after a crash
not at all: what a thread was given counts as told.
"""

import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Sequence

from actors.notify import messages, targets
from actors.notify.messages import Notice
from actors.notify.targets import FinalDeliveryError, Target
from actors.runs.event import EventKind
from actors.runs.ledger import Ledger
from configs.errors import DeliveryError, TandemError
from configs.schema import NotifyConfig

MARK = EventKind.NOTIFY
WAITING = 100
"""Notices that may wait for one target; more are dropped, and an event says so."""
PAUSES_S = (2, 10, 60)
"""Before the second, third and fourth try to reach a target."""

log = logging.getLogger(__name__)


class Notifier:
    """Told nothing but to `offer`; off, it forgets where it was, so that it never tells of the time it was off."""

    def __init__(self, config: NotifyConfig, ledger: Ledger, *, pauses_s: Sequence[float] = PAUSES_S) -> None:
        self._ledger = ledger
        self._kinds = frozenset(config.events) if config.is_on else frozenset()
        self._outboxes = [_Outbox(target, ledger, pauses_s) for target in targets.targets(config)]
        self._seen = ledger.mark(MARK)
        if not self._kinds and self._seen is not None:
            ledger.set_mark(MARK, None)

    def offer(self) -> None:
        """Hand what has happened since the last time to the threads."""
        if not self._kinds:
            return
        if self._seen is None:
            self._remember(self._ledger.last_event())
        events = self._ledger.events(after=self._seen)
        found = [notice for event in events if event.kind in self._kinds and (notice := messages.of(event))]
        dropped = {outbox: sum(not outbox.put(notice) for notice in found) for outbox in self._outboxes}
        if events:
            self._remember(events[-1].seq)
        for outbox, count in dropped.items():
            if count:
                name = outbox.target.name
                self._ledger.note(MARK, f"{count} notices to {name} were dropped: {WAITING} are waiting already")

    def idle(self) -> bool:
        """Whether everything that was offered has been sent or given up."""
        return all(outbox.waiting.unfinished_tasks == 0 for outbox in self._outboxes)

    def _remember(self, seq: int) -> None:
        self._seen = seq
        self._ledger.set_mark(MARK, seq)


class _Outbox:
    """The way to one target, which waits for no other: a bounded queue, and a thread that the first notice begins."""

    def __init__(self, target: Target, ledger: Ledger, pauses_s: Sequence[float]) -> None:
        self.target, self.waiting = target, queue.Queue[Notice](WAITING)
        self._ledger, self._pauses_s = ledger, pauses_s
        self.thread: threading.Thread | None = None
        self._lost = 0
        """Notices in a row that this target was not told."""

    def put(self, notice: Notice) -> bool:
        """Whether there was room for it."""
        if self.thread is None:
            self.thread = threading.Thread(target=self._send_forever, name="notifier", daemon=True)
            self.thread.start()
        with contextlib.suppress(queue.Full):
            self.waiting.put_nowait(notice)
            return True
        return False

    def _send_forever(self) -> None:
        while True:
            notice = self.waiting.get()
            name, about = self.target.name, {"run": notice.run}
            try:
                self._send(notice)
            except Exception as error:  # nothing may end the thread; only our own errors are free of secrets
                why = error.message if isinstance(error, DeliveryError) else type(error).__name__
                log.warning("%s was not told '%s': %s", name, notice.title, why, extra=about)
                if not self._lost:
                    self._note(f"{name} was not told '{notice.title}': {why}")
                self._lost += 1
            else:
                log.info("%s was told '%s'", name, notice.title, extra=about)
                if self._lost:
                    self._note(f"{name} is reached again; it was not told {self._lost} of the notices before")
                self._lost = 0
            self.waiting.task_done()

    def _send(self, notice: Notice) -> None:
        """Raises the last try's DeliveryError."""
        for pause in self._pauses_s:
            try:
                return self.target.send(notice)
            except FinalDeliveryError:
                raise
            except DeliveryError:
                time.sleep(pause)
        return self.target.send(notice)

    def _note(self, text: str) -> None:
        """Nothing is lost with it: a ledger that cannot be written shows in every tick of the control actor."""
        with contextlib.suppress(TandemError, sqlite3.Error):
            self._ledger.note(MARK, text)
