"""The Ray cluster of one TANDEM_HOME: start it closed, find it again, end every process of it.

Every process below carries TANDEM_CLUSTER=<home> in its environment, which is how `stop` finds even what a kill -9 of
Ray left behind, and touches nothing else on the machine. Called by `tandem up` and `tandem down`.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from actors import http_clients
from actors.hardware import placement
from actors.home import folder, locks
from actors.home.process_id import ProcessId, namespace_of, own_namespace
from actors.ray_edge import names, proxy, variables
from configs import durable, environment
from configs.errors import ClusterError
from configs.paths import Home
from configs.schema import REVEAL, ClusterConfig, Slot

LOOPBACK = "127.0.0.1"
MARKER = "TANDEM_CLUSTER"
START_TIMEOUT_S = 90
OBJECT_STORE_BYTES = 256 * 2**20  # tokens and metrics are all that travels; weights are read from disk


@dataclass(frozen=True)
class Cluster:
    """What `tandem up` started, as kept in cluster.json."""

    head: ProcessId
    started_at: float
    """Unix seconds."""
    gcs_address: str
    http_port: int
    dashboard_port: int
    slots: tuple[Slot, ...]
    config: ClusterConfig

    @property
    def http(self) -> str:
        return f"http://{LOOPBACK}:{self.http_port}"

    @property
    def dashboard(self) -> str:
        return f"http://{LOOPBACK}:{self.dashboard_port}"

    @property
    def is_alive(self) -> bool:
        return self.head.lives

    def slot(self, name: str) -> Slot:
        return next(slot for slot in self.slots if slot.name == name)


def find(home: Home) -> Cluster | None:
    """The cluster that was started for this home, alive or not; None if there should be none."""
    try:
        values = json.loads(home.cluster.read_text())
        values["head"] = ProcessId(**values["head"]) if "head" in values else _old_head(values)
        values["slots"] = tuple(Slot(**slot) for slot in values["slots"])
        values["config"] = ClusterConfig(**values["config"])
        return Cluster(**values)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ClusterError(f"{home.cluster} is damaged: {error}", hint="`tandem down` cleans up") from error


def _old_head(values: dict[str, Any]) -> ProcessId:
    """The head in a cluster.json that has its number and the wall-clock time of its start, as older versions wrote."""
    pid, values["started_at"] = values.pop("head_pid"), values.pop("head_started")
    with contextlib.suppress(psutil.NoSuchProcess):
        if abs(psutil.Process(pid).create_time() - values["started_at"]) < 1:
            return ProcessId.of(pid)
    return ProcessId(pid, started=0, boot="", namespace=0)  # lives nowhere


def require(home: Home) -> Cluster:
    """The running cluster. Raises ClusterError if there is none that this process can reach."""
    cluster = find(home)
    if cluster is None:
        raise ClusterError(f"Tandem is not running (home: {home.root})", hint="start it with `tandem up`")
    if not cluster.is_alive:
        locks.require_unclaimed(home)
        raise ClusterError(
            f"Tandem's cluster died (head process {cluster.head.pid} is gone)",
            hint="`tandem up` starts it again; queued runs are kept",
        )
    return cluster


def require_alive(cluster: Cluster, doing: str) -> None:
    """Raises ClusterError, saying what was going on, if a process is gone without which there is no cluster."""
    if gone := _missing(cluster):
        raise ClusterError(
            f"Ray ended while {doing}: {gone} is gone",
            hint="`tandem up` again; TANDEM_HOME/logs/ray.log and TANDEM_HOME/ray/session_latest/logs say more",
        )


def start(home: Home, config: ClusterConfig, say: Callable[[str], None] = lambda text: None) -> Cluster:
    """Start Ray on loopback with token authentication and one custom resource per slot.

    Leftovers of a cluster that died are ended first. On any failure nothing stays behind.
    Raises ClusterError if it runs already, here or in another container, a port is taken or Ray does not come up.
    """
    with locks.at_work(home):
        if (old := _find_damaged(home)) is not None and old.is_alive:
            raise ClusterError(
                f"Tandem is running already at {old.http}", hint="`tandem status` shows it, `tandem down` ends it"
            )
        if end_processes(home):
            say("ended what was left of a cluster that died")
        with locks.claim(home) as claim:
            for name, port in (("http_port", config.http_port), ("dashboard_port", config.dashboard_port)):
                _require_free(name, port)
            slots = placement.resolve_slots(config)
            folder.prepare(home)
            say(f"starting Ray with {len(slots)} slot{'s' if len(slots) > 1 else ''}")
            try:
                return _start_head(home, config, slots, claim)
            except BaseException:
                end_processes(home)
                home.cluster.unlink(missing_ok=True)
                raise


def stop(home: Home) -> int:
    """End every process of this home's cluster; returns how many there were.

    Raises ClusterError if there is none, or one of another container.
    """
    with locks.at_work(home):
        known = home.cluster.exists()
        ended = end_processes(home)
        locks.require_unclaimed(home)
        home.cluster.unlink(missing_ok=True)
    if not known and not ended:
        raise ClusterError(f"Tandem is not running (home: {home.root})", hint="start it with `tandem up`")
    return ended


def client_environment(home: Home, cluster: Cluster) -> dict[str, str]:
    """What Ray's own commands and drivers need to reach this cluster: addresses and the token's file."""
    return {
        **variables.for_clients(home.token, cluster.dashboard),
        "TANDEM_HOME": str(home.root),
        **environment.past_proxies(os.environ),
    }


def connect(home: Home, cluster: Cluster) -> None:
    """Make this process a Ray driver of the cluster."""
    os.environ.update(client_environment(home, cluster))
    import ray  # takes a second, so only drivers pay for it

    quiet = {"log_to_driver": False, "logging_level": "error", "configure_logging": False}
    ray.init(address=cluster.gcs_address, namespace="tandem", **quiet)


def processes(home: Home) -> list[psutil.Process]:
    """Every process of this home's cluster that is alive now, whoever started it, but none of another container."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess, OSError):
            ours = process.environ().get(MARKER) == str(home.root) and process.pid != os.getpid()
            if ours and _is_here(process, home):
                found.append(process)
    return found


def _is_here(process: psutil.Process, home: Home) -> bool:
    """Whether the process counts as we do, and means our folder by its name. Raises OSError if it is gone."""
    same_folder = Path(f"/proc/{process.pid}/root{home.root}").samefile(home.root)
    return same_folder and namespace_of(process.pid) == own_namespace()


def end_processes(home: Home, grace_s: float = 3) -> int:
    """SIGTERM, then SIGKILL after `grace_s` seconds; again until none is left. Returns how many were ended.

    Before the SIGKILL all are stopped, so that the control actor sees no trainer die and grants its slot anew.
    """
    ended: set[int] = set()
    deadline = time.monotonic() + grace_s
    with locks.ending(home):
        while alive := processes(home):
            number = signal.SIGKILL if time.monotonic() > deadline else signal.SIGTERM
            for one in (signal.SIGSTOP, number) if number == signal.SIGKILL else (number,):
                for process in alive:
                    if process.pid not in ended or number == signal.SIGKILL:
                        with contextlib.suppress(psutil.NoSuchProcess):
                            process.send_signal(one)
            ended |= {process.pid for process in alive}
            psutil.wait_procs(alive, timeout=0.5)
    return len(ended)


def _missing(cluster: Cluster) -> str:
    """Which process of Ray's own is not there; empty if all are.

    The head itself goes on when its raylet ends by itself, as that does if Ray's agent is not up within 15 s.
    """
    if not cluster.is_alive:
        return "the head process"
    alive = set()
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(cluster.head.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                alive |= {child.name()} if child.status() != psutil.STATUS_ZOMBIE else set()
    return next((name for name in names.CHILDREN if name not in alive), "")


def _find_damaged(home: Home) -> Cluster | None:
    try:
        return find(home)
    except ClusterError:
        return None


def _require_free(name: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            raise ClusterError(
                f"{name} {port} is in use{_user_of(port)}",
                hint=f"free it, or `tandem up {'--port ' if name == 'http_port' else f'--set {name}='}<another>`",
            ) from None


def _user_of(port: int) -> str:
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN:
                return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})" if connection.pid else ""
    return ""


def free_ports(count: int) -> list[int]:
    """Ports on loopback that nobody listens on at this moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in sockets:
            probe.bind((LOOPBACK, 0))
        return [probe.getsockname()[1] for probe in sockets]


def _start_head(home: Home, config: ClusterConfig, slots: tuple[Slot, ...], claim: int) -> Cluster:
    gcs, client, agent, metrics, *unused = free_ports(9)
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    command += [f"--node-ip-address={LOOPBACK}", f"--port={gcs}", f"--ray-client-server-port={client}"]
    command += [f"--dashboard-host={LOOPBACK}", f"--dashboard-port={config.dashboard_port}"]
    command += [f"--dashboard-agent-listen-port={agent}", f"--metrics-export-port={metrics}"]
    command += [
        "--min-worker-port=0",
        "--max-worker-port=0",
    ]  # any; Ray's range 10002-19999 forbids ports people choose
    command += [f"--temp-dir={home.ray}", f"--object-store-memory={OBJECT_STORE_BYTES}", "--include-log-monitor=false"]
    command += [f"--num-gpus={sum(slot.gpu is not None for slot in slots)}"]
    command += [f"--resources={json.dumps(placement.cluster_resources(slots))}"]
    surroundings = _head_environment(home, config, unused)
    log = home.logs / "ray.log"
    with open(log, "w", opener=durable.private) as out:
        streams = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": out}
        streams |= {"pass_fds": (claim,), "start_new_session": True}
        head = subprocess.Popen(command, env=surroundings, cwd=home.root, **streams)
    cluster = Cluster(
        head=ProcessId.of(head.pid),
        started_at=time.time(),
        gcs_address=f"{LOOPBACK}:{gcs}",
        http_port=config.http_port,
        dashboard_port=config.dashboard_port,
        slots=slots,
        config=config,
    )
    _write(home.cluster, cluster)
    _await_head(head, cluster, home, log)
    return cluster


def _head_environment(home: Home, config: ClusterConfig, ports: list[int]) -> dict[str, str]:
    """The environment that every process of the cluster inherits."""
    inherited = environment.for_children(os.environ, config.environment) | proxy.prepare(home, ports[2:])
    binaries = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return inherited | {
        MARKER: str(home.root),
        "TANDEM_HOME": str(home.root),
        "PATH": binaries,
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": str(home.root / "tmp"),
        "TRITON_CACHE_DIR": str(home.cache / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(home.cache / "inductor"),
        **variables.for_head(home.token, ports[:2], config.stop_grace_s),
    }


def _await_head(head: subprocess.Popen, cluster: Cluster, home: Home, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    with http_clients.ray_client(cluster.dashboard, home.token, timeout=2) as ray:
        while time.monotonic() < deadline:
            if head.poll() is not None:
                raise ClusterError(f"Ray did not start: {_last_line(log)}", hint=f"see {log}")
            with contextlib.suppress(httpx.HTTPError):
                if ray.get("/api/jobs/").status_code == 200 and not _missing(cluster):
                    return
            time.sleep(0.2)
    raise ClusterError(f"Ray was not ready after {START_TIMEOUT_S} s", hint=f"see {log}")


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "no output"


def _write(path: Path, cluster: Cluster) -> None:
    values = asdict(cluster)
    values["slots"] = [slot.model_dump() for slot in cluster.slots]
    values["config"] = cluster.config.model_dump(mode="json", context=REVEAL)  # in a home of mode 0700
    durable.write_text(path, json.dumps(values, indent=1))
