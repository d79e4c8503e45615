"""The processes of a cluster, each with its state, pid, restarts and age: what Ray and Serve say over HTTP, and psutil.

Imports no ray, so that it costs a command nothing. Fetches nothing itself: `actors.status.overview` hands it the
answers.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import psutil

from actors.cluster import Cluster
from actors.ray_edge import names

UP = ("ALIVE", "RUNNING")
COMING = ("PENDING_CREATION", "DEPENDENCIES_UNREADY")
"""Ray's words for an actor whose process has not begun."""
_KINDS = {"Control": "control", "Trainer": "trainer"} | names.CLASSES
_ORDER = ("head", "control", "gateway", "engine", "trainer", "driver", "front", "controller")


@dataclass(frozen=True)
class ProcessReading:
    """One process, or the place of one that is missing."""

    name: str
    """`control`, `gateway`, `engine_1`, or with its run: `trainer_RUN`, `driver_RUN`."""
    kind: str
    """head, control, gateway, engine, trainer, driver, front (HAProxy's keeper) or controller (Serve's)."""
    state: str
    """Ray's or Serve's word; GONE for a pid that does not exist, MISSING where there should be a process."""
    pid: int | None
    restarts: int
    """Since `tandem up`, or of an engine or gateway as many as Serve remembers."""
    started: float | None
    """Unix seconds."""
    memory_bytes: int | None
    """Resident."""
    cpu_seconds: float | None
    """Used since it started."""
    message: str = ""
    """What Serve says of one that is not well."""
    run: str | None = None
    """Of a trainer or driver, the run it belongs to."""
    actor: str | None = None
    """Ray's id of it, under which Ray's dashboard has a page."""
    on_its_way: bool = False
    """Not up, and nothing wrong: what it belongs to, the cluster or its run, is starting."""

    @property
    def word(self) -> str:
        """Its state as people read it."""
        return "STARTING" if self.on_its_way else self.state

    @property
    def is_up(self) -> bool:
        return self.state in UP

    @property
    def has_died(self) -> bool:
        """Now or before, or failed to start, as far as Ray and Serve remember."""
        return (
            self.restarts > 0
            or self.state in ("GONE", "DEAD", "RESTARTING")
            or any(word in self.message for word in ("fail", "died"))
        )


def read(found: Cluster, actors: Any, applications: Any) -> list[ProcessReading]:
    """Every process that Tandem needs or has started, the important ones first.

    `actors` and `applications` are the answers of `names.ACTORS` and `names.SERVE`; None for one that is not known.
    Raises KeyError, TypeError or ValueError if one has another shape.
    """
    readings = [_measured("head", "head", "ALIVE", found.head.pid)]
    if actors is not None:
        readings += _actors(actors["data"]["result"]["result"])
        if not any(reading.kind == "control" for reading in readings):
            readings.append(_measured("control", "control", "MISSING", None))
    if applications is not None:
        readings += _replicas(applications["applications"])
    return sorted(readings, key=lambda reading: (_ORDER.index(reading.kind), reading.name))


def _actors(table: list[dict]) -> Iterator[ProcessReading]:
    for row in table:
        kind = _KINDS.get(row["class_name"])
        if kind is None:
            continue
        run = _run(kind, row["name"])
        how = {"restarts": int(row["num_restarts"] or 0), "run": run, "actor": row.get("actor_id")}
        yield _measured(f"{kind}_{run}" if run else kind, kind, row["state"], row["pid"] or None, **how)


def _run(kind: str, name: str) -> str | None:
    if kind == "trainer":
        return name.removeprefix("trainer_")
    if kind == "driver":
        job = name.removeprefix(names.JOB_ACTOR)  # RUN-ATTEMPT
        return job.rpartition("-")[0] or job
    return None


def _replicas(applications: dict[str, dict]) -> Iterator[ProcessReading]:
    """A reading per replica of every deployment, and one for a deployment that should have some and has none."""
    for application in applications.values():
        for name, deployment in application["deployments"].items():
            kind = "gateway" if name == "gateway" else "engine"
            how = {"restarts": len(deployment["recent_dead_replicas"])}
            if deployment["status"] != "HEALTHY":
                how["message"] = _words(deployment["message"])
            replicas = deployment["replicas"]
            for replica in replicas:
                how |= {"started": replica.get("start_time_s"), "actor": replica.get("actor_id")}
                yield _measured(name, kind, replica["state"], replica.get("pid"), **how)
            if not replicas and deployment.get("target_num_replicas", 1):
                yield _measured(name, kind, "MISSING", None, **how)


def _words(message: str) -> str:
    if message.startswith(names.HEALTH_CHECK):
        return "its process died or hung; it is being started again"
    return message


def _measured(name: str, kind: str, state: str, pid: int | None, **how: Any) -> ProcessReading:
    """A reading with what psutil knows of its process. Ray and Serve notice a death some seconds late."""
    how = {"restarts": 0, "started": None, "memory_bytes": None, "cpu_seconds": None} | how
    reading = ProcessReading(name, kind, state, pid, **how)
    if pid is None:
        return reading
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            if process.status() == psutil.STATUS_ZOMBIE:
                return replace(reading, state="GONE")
            times = process.cpu_times()
            return replace(
                reading,
                started=process.create_time(),
                memory_bytes=process.memory_info().rss,
                cpu_seconds=times.user + times.system,
            )
    except psutil.NoSuchProcess:
        return replace(reading, state="GONE")
    except psutil.AccessDenied:
        return reading
