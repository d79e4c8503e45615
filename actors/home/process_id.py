"""Which process, for good: a number that still means the same one after a restart of cluster, container or machine.

The kernel gives process numbers again, in a new container soon the very same ones. A number with its start time, the
machine's boot and the pid namespace is given once. Knows neither Ray nor the ledger, which keeps these values.
"""

import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class ProcessId:
    """One process of this machine, now or then."""

    pid: int
    started: int
    """Clock ticks from the machine's boot to the process's start, as in /proc/<pid>/stat: no clock that is set moves
    it."""
    boot: str
    """The kernel's random id of this boot."""
    namespace: int
    """Inode of the pid namespace in which the process has this number."""

    @classmethod
    def of(cls, pid: int) -> "ProcessId":
        """The process that has this number now. Raises psutil.NoSuchProcess."""
        return cls(pid, _started(pid), _boot(), own_namespace())

    @classmethod
    def own(cls) -> "ProcessId":
        return cls.of(os.getpid())

    @property
    def lives(self) -> bool:
        """Whether this very process runs. One of another container or an earlier boot does not, nor does a zombie."""
        if (self.boot, self.namespace) != (_boot(), own_namespace()):
            return False
        try:
            alive = psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE
            return alive and _started(self.pid) == self.started
        except psutil.NoSuchProcess:
            return False

    @property
    def has_ended(self) -> bool:
        """Whether it is known that it does not run any more: of another machine's processes nobody here knows."""
        return (self.boot, self.namespace) == (_boot(), own_namespace()) and not self.lives

    def end(self, grace_s: float) -> None:
        """Give the process `grace_s` seconds to exit by itself, then kill it and wait until it is gone. Blocks.

        One that has only its number is left alone, and so is the caller's own.
        """
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            process = psutil.Process(self.pid)  # from here on psutil notices if the number is given again
            if self.pid == os.getpid() or not self.lives:
                return
            with contextlib.suppress(psutil.TimeoutExpired):
                process.wait(timeout=grace_s)
                return
            process.send_signal(signal.SIGKILL)
            with contextlib.suppress(psutil.TimeoutExpired):
                process.wait(timeout=5)


def own_namespace() -> int:
    """Inode of this process's pid namespace."""
    return namespace_of("self")


def namespace_of(pid: int | str) -> int:
    """Inode of a process's pid namespace. Raises OSError if it is gone or of another user."""
    return Path(f"/proc/{pid}/ns/pid").stat().st_ino


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _started(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])  # field 22, proc_pid_stat(5)
    except (FileNotFoundError, ProcessLookupError):
        raise psutil.NoSuchProcess(pid) from None
