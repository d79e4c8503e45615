"""Which events people are told of, and in which words. Pure data; `actors.notify.queue` sends it.

`docs/notifications.md` shows the same table, and a test compares the two.
"""

import socket
import time
from dataclasses import asdict, dataclass

from actors.runs.event import Event, Severity
from configs.schema import NoticeKind

LONGEST_TEXT = 1500
"""Characters; some services refuse more than 2,000."""

TITLES: dict[NoticeKind, str] = {
    "succeeded": "run {run} succeeded",
    "failed": "run {run} failed",
    "interrupted": "run {run} was interrupted",
    "stopped": "run {run} was stopped",
    "watchdog": "the watchdog about run {run}",
    "suspect": "the adapter of run {run} is suspect",
    "quarantine": "a slot is in quarantine",
    "release": "a slot is out of quarantine",
    "refused": "a swap was refused",
    "engine_down": "no engine answers",
    "engine": "the engine is back",
    "summary": "the day before",
}
"""By the event's kind; the text is the event's own. In front of each goes `Tandem on HOST: `."""


@dataclass(frozen=True)
class Notice:
    """One message to people."""

    kind: str
    level: Severity
    title: str
    text: str
    run: str | None
    at: float
    """Unix seconds of the event."""
    host: str

    def as_json(self) -> dict:
        return asdict(self)


def of(event: Event) -> Notice | None:
    """The event as a message; None for a kind of which nobody is told."""
    if event.kind not in TITLES:
        return None
    title = TITLES[event.kind].format(run=event.run_id)
    return _notice(event.kind, event.severity, title, event.text, event.run_id, event.at)


def test() -> Notice:
    """What `tandem notify test` sends."""
    return _notice("test", Severity.INFO, "this is a test", "Notifications reach you.", None, time.time())


def _notice(kind: str, level: Severity, title: str, text: str, run: str | None, at: float) -> Notice:
    host = socket.gethostname()
    return Notice(kind, level, f"Tandem on {host}: {title}", text[:LONGEST_TEXT], run, at, host)
