"""The locks of a TANDEM_HOME, good across users, containers and pid namespaces: the kernel drops them with their
holder, however it ends. Called by `actors.cluster`.
"""

import contextlib
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path

from configs import durable
from configs.errors import ClusterError
from configs.paths import Home

PATIENCE_S = 2


@contextlib.contextmanager
def at_work(home: Home) -> Iterator[None]:
    """Only one `up` or `down` at a time. Raises ClusterError while another is at work."""
    durable.private_folder(home.root)
    with open(home.root / "cluster.lock", "w", opener=durable.private) as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ClusterError("another `tandem up` or `tandem down` is running", hint="wait for it to end") from None
        yield


@contextlib.contextmanager
def claim(home: Home) -> Iterator[int]:
    """Only one cluster at a time. The lock stays for as long as somebody has the descriptor: the head inherits it.

    Raises ClusterError while a cluster holds it that `end_processes` could not see.
    """
    with open(_claim_file(home), "a", opener=durable.private) as handle:
        _take(handle.fileno(), fcntl.LOCK_EX, home)
        yield handle.fileno()


@contextlib.contextmanager
def ending(home: Home) -> Iterator[None]:
    """The processes of the cluster are being ended on purpose."""
    durable.private_folder(home.root)
    with open(_ending_file(home), "a", opener=durable.private) as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)  # waits for a look of `is_ending` at most
        yield


def is_ending(home: Home) -> bool:
    """Whether somebody is `ending` the cluster, so that a process of it that is gone is not a fault of anybody's."""
    with contextlib.suppress(FileNotFoundError), _ending_file(home).open() as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def require_unclaimed(home: Home) -> None:
    """Raises ClusterError while a cluster is alive that this process cannot see."""
    with contextlib.suppress(FileNotFoundError), _claim_file(home).open() as handle:
        _take(handle.fileno(), fcntl.LOCK_SH, home)


def _ending_file(home: Home) -> Path:
    return home.root / "ending.lock"


def _claim_file(home: Home) -> Path:
    return home.root / "head.lock"


def _take(descriptor: int, kind: int, home: Home) -> None:
    """For a moment a head that was just killed, or somebody else's look, may still be in the way."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"a cluster of another container, pid namespace or user is running in {home.root}",
                    hint="`tandem down` there ends it; or point TANDEM_HOME at another folder",
                ) from None
        time.sleep(0.05)
