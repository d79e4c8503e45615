"""A run: its kind, its identity, its states and which may follow which. Pure data; the ledger stores it."""

import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from configs.errors import NotFoundError
from configs.schema import Slot

_RUN_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,79}")


class RunKind(StrEnum):
    """What a run does; each has its entrypoint `jobs.<kind>` and its own type of configuration."""

    TRAIN = "train"  # RunConfig; publishes an adapter
    EXPORT = "export"  # ExportConfig; writes a published adapter for others


class RunState(StrEnum):
    QUEUED = "QUEUED"  # a row, nothing else
    STARTING = "STARTING"  # holds a slot; its processes are coming up
    RUNNING = "RUNNING"  # reports steps
    STOPPING = "STOPPING"  # was asked to stop; writes a checkpoint
    INTERRUPTED = "INTERRUPTED"  # lost its processes; goes back to the queue or fails
    SUCCEEDED = "SUCCEEDED"  # did what it was to do
    FAILED = "FAILED"  # ended by an error; the reason is in the row
    STOPPED = "STOPPED"  # ended because somebody asked

    @property
    def is_terminal(self) -> bool:
        return self in (RunState.SUCCEEDED, RunState.FAILED, RunState.STOPPED)

    @property
    def holds_slot(self) -> bool:
        return self in (RunState.STARTING, RunState.RUNNING, RunState.STOPPING)


_S = RunState
FOLLOWING: dict[RunState, frozenset[RunState]] = {
    _S.QUEUED: frozenset({_S.STARTING, _S.STOPPED, _S.FAILED}),
    _S.STARTING: frozenset({_S.RUNNING, _S.STOPPING, _S.FAILED, _S.INTERRUPTED}),
    _S.RUNNING: frozenset({_S.STOPPING, _S.SUCCEEDED, _S.FAILED, _S.INTERRUPTED}),
    _S.STOPPING: frozenset({_S.STOPPED, _S.SUCCEEDED, _S.FAILED}),
    _S.INTERRUPTED: frozenset({_S.QUEUED, _S.FAILED, _S.STOPPED}),
    _S.SUCCEEDED: frozenset(),
    _S.FAILED: frozenset(),
    _S.STOPPED: frozenset(),
}
"""Which state may follow which; the ledger refuses every other change."""


@dataclass(frozen=True)
class Run:
    """One row of the ledger's `runs` table. Times are Unix seconds."""

    id: str
    kind: RunKind
    state: RunState
    reason: str
    """Why it is in this state, in words."""
    profile: str
    config: dict
    """The resolved configuration of its kind, as `model_dump(mode="json")` gives it."""
    priority: int
    slot_wanted: str | None
    """Only this slot will do; None is any slot with the role."""
    slot: str | None
    """The slot it holds or last held."""
    parent: str | None
    """The run whose checkpoint it continues."""
    job_id: str | None
    """Ray's submission id of the newest attempt."""
    attached: bool
    """Its driver was started by somebody else (`ray job submit`) and waits for the slot itself."""
    attempt: int
    step: int
    max_steps: int | None
    loss: float | None
    tokens_per_s: float | None
    adapter: str | None
    """The version that it published."""
    created_at: float
    started_at: float | None
    ended_at: float | None
    heartbeat_at: float | None
    stage: str = ""
    """What it is doing before its first step, such as `loading the model`; empty from then on."""
    lost: int = 0
    """Attempts in a row that it lost by itself without getting beyond `furthest`."""
    furthest: int = 0
    """The last step that an attempt which was lost had reached."""


@dataclass(frozen=True)
class Submission:
    """What a person asks for: a run that is not in the ledger yet. The fields are those of `Run`.

    The id is the caller's, so that a submission whose answer was lost can be sent again.
    """

    run_id: str
    kind: RunKind
    profile: str
    config: dict
    max_steps: int | None = None
    """None if only the work will tell."""
    priority: int = 0
    slot_wanted: str | None = None
    parent: str | None = None
    attached: bool = False
    job_id: str | None = None


@dataclass(frozen=True)
class Grant:
    """A run's slot, and which attempt of the run it is for."""

    slot: Slot
    attempt: int


@dataclass(frozen=True)
class Outcome:
    """How a run's task ended: SUCCEEDED (with the version, if it published an adapter), or STOPPED."""

    state: RunState
    reason: str
    adapter: str | None = None


def new_run_id(profile: str) -> str:
    """A fresh run id: profile, UTC time, four random hex digits. Safe as a folder name and as Ray's submission id."""
    stem = re.sub(r"[^a-z0-9]+", "-", profile.lower()).strip("-")[:40] or "run"
    return f"{stem}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def check_run_id(text: str) -> str:
    """`text` itself if it can be a run id. Raises NotFoundError otherwise, so that no path or shell ever sees it."""
    if not _RUN_ID.fullmatch(text):
        raise NotFoundError(f"'{text[:80]}' is not a run id", hint="see `tandem runs list`")
    return text
