"""The process that holds a slot: whether it is this cluster's, and its end. Knows nothing of runs; both calls block."""

import contextlib
import os
import signal

import psutil

from actors.cluster import MARKER
from configs.paths import Home


def is_ours(pid: int | None, home: Home) -> bool:
    """Whether the process lives and belongs to this cluster; after a restart of the machine its number may not."""
    try:
        return pid is not None and psutil.Process(pid).environ().get(MARKER) == str(home.root)
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return False


def end(pid: int, home: Home, grace_s: float) -> None:
    """Give a process of this cluster `grace_s` seconds to exit by itself, then kill it and wait until it is gone.

    One that is not this cluster's is left alone, and so is the caller's own.
    """
    if pid == os.getpid() or not is_ours(pid, home):
        return
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        process = psutil.Process(pid)
        with contextlib.suppress(psutil.TimeoutExpired):
            process.wait(timeout=grace_s)
            return
        process.send_signal(signal.SIGKILL)
        with contextlib.suppress(psutil.TimeoutExpired):
            process.wait(timeout=5)
