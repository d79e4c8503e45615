"""The control actor, asked from another process: `BlockingClient` waits for answers, `Client` is for an event loop.

Every process of a cluster that wants something of the ledger comes through here; what a method does is said at
`actors.control.Control`, whose name it has. Imports ray only when called.
"""

import time
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from actors.home.process_id import ProcessId
from actors.runs.adapter_state import AdapterState
from actors.runs.event import EventKind
from actors.runs.ledger import Quarantine, SlotStatus
from actors.runs.run import Grant, Outcome, Run, Submission
from configs.errors import ClusterError, NotFoundError, TandemError
from configs.schema import Slot

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle

NAME = "tandem_control"
NAMESPACE = "tandem"


class Directive(StrEnum):
    """What a trainer is told when it reports."""

    CONTINUE = "CONTINUE"
    STOP = "STOP"  # write a checkpoint and end


def find() -> "ActorHandle":
    """The control actor's handle. Raises NotFoundError if the connected cluster has none."""
    import ray

    try:
        return ray.get_actor(NAME, namespace=NAMESPACE)
    except ValueError:
        raise NotFoundError("this Ray cluster has no control actor", hint="start it with `tandem up`") from None


class BlockingClient:
    """For drivers, trainers and engines: every call waits, through the control actor's restarts, at most `timeout_s`.

    Raises the TandemError that the method raised, or ClusterError if no answer came.
    """

    def __init__(self, timeout_s: float = 60, *, handle: "ActorHandle | None" = None) -> None:
        """Raises NotFoundError if the connected cluster has no control actor."""
        self._handle, self._timeout_s = handle or find(), timeout_s

    def within(self, timeout_s: float) -> "BlockingClient":
        """The same actor, asked with another patience."""
        return BlockingClient(timeout_s, handle=self._handle)

    def submit(self, wanted: Submission) -> Run:
        return self._ask(lambda control: control.submit.remote(wanted))

    def run(self, run_id: str) -> Run:
        return self._ask(lambda control: control.run.remote(run_id))

    def wait_for_slot(self, run_id: str, wait_s: float) -> Grant | None:
        return self._ask(lambda control: control.wait_for_slot.remote(run_id, wait_s))

    def stop(self, run_id: str, reason: str) -> Run:
        return self._ask(lambda control: control.stop.remote(run_id, reason))

    def starting(self, run_id: str, attempt: int, process: ProcessId) -> Directive:
        return self._ask(lambda control: control.starting.remote(run_id, attempt, process))

    def stage(self, run_id: str, attempt: int, stage: str) -> Directive:
        return self._ask(lambda control: control.stage.remote(run_id, attempt, stage))

    def training(self, run_id: str, attempt: int) -> Directive:
        return self._ask(lambda control: control.training.remote(run_id, attempt))

    def report(
        self, run_id: str, attempt: int, *, step: int, max_steps: int, loss: float | None, tokens_per_s: float | None
    ) -> Directive:
        return self._ask(
            lambda control: control.report.remote(
                run_id, attempt, step=step, max_steps=max_steps, loss=loss, tokens_per_s=tokens_per_s
            )
        )

    def finish(self, run_id: str, attempt: int, outcome: Outcome) -> Run:
        return self._ask(
            lambda control: control.finish.remote(run_id, attempt, outcome.state, outcome.reason, outcome.adapter)
        )

    def slots(self) -> list[Slot]:
        return self._ask(lambda control: control.slots.remote())

    def take_serve_slot(self, slot: str, holder: str, process: ProcessId) -> None:
        self._ask(lambda control: control.take_serve_slot.remote(slot, holder, process))

    def engine_is_up(self, slot: str, process: ProcessId) -> None:
        self._ask(lambda control: control.engine_is_up.remote(slot, process))

    def aliases(self) -> dict[str, str | None]:
        return self._ask(lambda control: control.aliases.remote())

    def note(self, kind: EventKind, text: str, run_id: str | None = None) -> None:
        self._ask(lambda control: control.note.remote(kind, text, run_id))

    def _ask(self, call: "Callable[[ActorHandle], ObjectRef]") -> Any:  # Ray's handles do not know what they return
        import ray

        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                return ray.get(call(self._handle), timeout=max(1.0, deadline - time.monotonic()))
            except ray.exceptions.RayTaskError as error:
                raise (error.cause if isinstance(error.cause, TandemError) else error) from None
            except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError) as error:
                if time.monotonic() > deadline:
                    raise ClusterError(f"the control actor does not answer: {error}", hint="`tandem status`") from None
                time.sleep(0.5)


class Client:
    """For the gateway: coroutines that do not wait for a control actor which is being restarted.

    Raises the TandemError that the method raised, or ClusterError while the actor is being restarted.
    """

    def __init__(self, handle: "ActorHandle") -> None:
        self._handle = handle

    async def submit(self, wanted: Submission) -> Run:
        return await self._ask(lambda control: control.submit.remote(wanted))

    async def stop(self, run_id: str) -> Run:
        return await self._ask(lambda control: control.stop.remote(run_id))

    async def describe_slots(self) -> list[SlotStatus]:
        return await self._ask(lambda control: control.describe_slots.remote())

    async def quarantine(self, slot: str, reason: str) -> Quarantine:
        return await self._ask(lambda control: control.quarantine.remote(slot, reason))

    async def release_quarantine(self, slot: str) -> str | None:
        return await self._ask(lambda control: control.release_quarantine.remote(slot))

    async def aliases(self, known: dict[str, str | None] | None = None) -> dict[str, str | None]:
        return await self._ask(lambda control: control.aliases.remote(known))

    async def gateway_starts(self) -> None:
        await self._ask(lambda control: control.gateway_starts.remote())

    async def set_adapter_state(
        self, version: str, state: AdapterState, reason: str, process: ProcessId | None = None
    ) -> None:
        await self._ask(lambda control: control.set_adapter_state.remote(version, state, reason, process))

    async def end_attempt(self, version: str, reason: str, process: ProcessId) -> None:
        await self._ask(lambda control: control.end_attempt.remote(version, reason, process))

    async def flip(self, alias: str, version: str | None, *, expected: str | None, reason: str, seconds: float) -> None:
        await self._ask(
            lambda control: control.flip.remote(alias, version, expected=expected, reason=reason, seconds=seconds)
        )

    async def refuse_swap(self, alias: str, version: str, *, reason: str, seconds: float) -> None:
        await self._ask(lambda control: control.refuse_swap.remote(alias, version, reason=reason, seconds=seconds))

    async def _ask(self, call: "Callable[[ActorHandle], ObjectRef]") -> Any:  # as above
        import ray

        try:
            return await call(self._handle)
        except ray.exceptions.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, TandemError) else error) from None
        except ray.exceptions.RayActorError:
            raise ClusterError("the control actor is being restarted", hint="try again in a moment") from None
