"""Which events people are told of, and in which words. Pure data; `actors.notify.queue` sends it.

`docs/notifications.md` shows the same table, and a test compares the two.
"""

import socket
import time
from dataclasses import asdict, dataclass
from typing import Literal

from actors.runs.ledger import Event
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

_LEVELS: dict[str, str] = dict.fromkeys(("failed", "quarantine", "engine_down"), "failure")
_LEVELS |= dict.fromkeys(("interrupted", "watchdog", "suspect", "refused"), "warning") | {"succeeded": "success"}


@dataclass(frozen=True)
class Notice:
    """One message to people."""

    kind: str
    level: Literal["info", "success", "warning", "failure"]
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
    return _notice(event.kind, TITLES[event.kind].format(run=event.run_id), event.text, event.run_id, event.at)


def test() -> Notice:
    """What `tandem notify test` sends."""
    return _notice("test", "this is a test", "Notifications reach you.", None, time.time())


def _notice(kind: str, title: str, text: str, run: str | None, at: float) -> Notice:
    host = socket.gethostname()
    level = "info" if kind == "watchdog" and text.startswith("good") else _LEVELS.get(kind, "info")
    return Notice(kind, level, f"Tandem on {host}: {title}", text[:LONGEST_TEXT], run, at, host)
