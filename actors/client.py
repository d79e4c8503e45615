"""The control actor, asked from another process: by code that blocks (`ask`) and by code in an event loop (`Client`).

Every process of a cluster that wants something of the ledger comes through here. Imports ray only when called.
"""

import time
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Any

from configs.errors import ClusterError, NotFoundError, TandemError

NAME = "tandem_control"
NAMESPACE = "tandem"


class Directive(StrEnum):
    """What a trainer is told when it reports."""

    CONTINUE = "CONTINUE"
    STOP = "STOP"  # write a checkpoint and end


def find():
    """The control actor's handle. Raises NotFoundError if the connected cluster has none."""
    import ray

    try:
        return ray.get_actor(NAME, namespace=NAMESPACE)
    except ValueError:
        raise NotFoundError("this Ray cluster has no control actor", hint="start it with `tandem up`") from None


def ask(method, *args: Any, timeout: float = 60, **kwargs: Any) -> Any:
    """Call a method of the control actor and wait, through its restarts, for at most `timeout` seconds.

    Raises the TandemError that the method raised, or ClusterError if no answer came.
    """
    import ray

    deadline = time.monotonic() + timeout
    while True:
        try:
            return ray.get(method.remote(*args, **kwargs), timeout=max(1.0, deadline - time.monotonic()))
        except ray.exceptions.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, TandemError) else error) from None
        except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError) as error:
            if time.monotonic() > deadline:
                raise ClusterError(f"the control actor does not answer: {error}", hint="`tandem status`") from None
            time.sleep(0.5)


class Client:
    """The control actor's methods as coroutines, for code that runs in an event loop.

    Raises the TandemError that a method raised, or ClusterError while the actor is being restarted.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self._handle, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            import ray

            try:
                return await method.remote(*args, **kwargs)
            except ray.exceptions.RayTaskError as error:
                raise (error.cause if isinstance(error.cause, TandemError) else error) from None
            except ray.exceptions.RayActorError:
                raise ClusterError("the control actor is being restarted", hint="try again in a moment") from None

        return call
