"""What happens, as the ledger keeps it: every kind of event with its severity. Pure data; screens choose the colours.

Called by everybody who writes events or shows them.
"""

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    INFO = "info"
    SUCCESS = "success"
    WARNING = "warning"  # somebody may want to look
    FAILURE = "failure"  # somebody has to


class EventKind(StrEnum):
    """The values stand in the ledger and in `--json`. A kind that is not here was written by another version."""

    # A run's states
    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    INTERRUPTED = "interrupted"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"
    # What a run says of itself
    FIT = "fit"  # the micro-batch that it uses
    MEMORY = "memory"  # it gave something up for memory
    EVALUATION = "evaluation"  # it goes on without evaluations
    WATCHDOG = "watchdog"
    ROLLBACK = "rollback"
    EARLY = "early"  # it stops early
    BEST = "best"  # which step it publishes
    PUBLISHED = "published"
    SUSPECT = "suspect"  # it published an adapter that nothing should serve unseen
    ADOPTED = "adopted"  # its driver went away with the cluster
    LOG = "log"  # the end of its log
    DEVICE_ERROR = "device_error"
    # Slots and serving
    LEASE = "lease"
    QUARANTINE = "quarantine"
    RELEASE = "release"
    SWAP = "swap"
    REFUSED = "refused"
    ADAPTER = "adapter"  # an adapter changes its state
    ENGINE = "engine"  # an engine answers again
    ENGINE_DOWN = "engine_down"
    # The control actor
    ERROR = "error"
    NOTIFY = "notify"  # who was not told of an event
    SUMMARY = "summary"  # of the day before


_SEVERITIES: dict[str, Severity] = {
    **dict.fromkeys((EventKind.SUCCEEDED, EventKind.PUBLISHED), Severity.SUCCESS),
    **dict.fromkeys(
        (
            EventKind.INTERRUPTED, EventKind.WATCHDOG, EventKind.ROLLBACK, EventKind.MEMORY, EventKind.SUSPECT,
            EventKind.REFUSED,
        ),
        Severity.WARNING,
    ),
    **dict.fromkeys(
        (
            EventKind.FAILED, EventKind.ERROR, EventKind.QUARANTINE, EventKind.DEVICE_ERROR, EventKind.ENGINE_DOWN,
        ),
        Severity.FAILURE,
    ),
}  # fmt: skip
GOOD_NEWS = "good: "
"""How the watchdog begins when it says that a run reached its aim."""


@dataclass(frozen=True)
class Event:
    """One line of the log that people read."""

    seq: int
    at: float
    """Unix seconds."""
    run_id: str | None
    kind: EventKind | str
    """Text for a kind that another version wrote."""
    text: str

    @property
    def severity(self) -> Severity:
        if self.kind == EventKind.WATCHDOG and self.text.startswith(GOOD_NEWS):
            return Severity.SUCCESS
        return _SEVERITIES.get(self.kind, Severity.INFO)
