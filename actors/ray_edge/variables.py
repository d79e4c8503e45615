"""The environment variables by which Ray 2.60 does as Tandem needs; those of its front are in `actors.ray_edge.proxy`.

`tests/unit/actors/ray_edge/test_workarounds.py` knows where Ray reads each. Called by `actors.cluster`.
"""

from pathlib import Path


def for_clients(token: Path, dashboard: str) -> dict[str, str]:
    """What Ray's own commands and drivers need to reach a cluster: addresses and the file of its secret."""
    return _for_all(token) | {
        "RAY_API_SERVER_ADDRESS": dashboard,  # ray job
        "RAY_DASHBOARD_ADDRESS": dashboard,  # serve
        "PYTHONOPTIMIZE": "",  # Ray's commands fail with 2
        "PYTHONWARNINGS": "",  # and with error
    }


def for_head(token: Path, ports: list[int], stop_grace_s: float) -> dict[str, str]:
    """What every process of a cluster inherits; `ports` are two free ones."""
    autoscaler, dashboard = map(str, ports)
    return _for_all(token) | {
        "AUTOSCALER_METRIC_PORT": autoscaler,  # fixed ports otherwise, so two clusters on one machine would collide
        "DASHBOARD_METRIC_PORT": dashboard,
        "SPT_NOENV": "1",  # setproctitle in workers would overwrite the environment that `cluster.processes` reads
        "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1",  # `actors.hardware.placement` sets it, to a UUID
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # and Ray does not empty it for actors that ask for no GPU
        "RAY_JOB_STOP_WAIT_TIME_S": str(int(stop_grace_s)),
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # 5 s, three times, are too short for a busy machine
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",  # a killed proxy is back after 5 s instead of 24
        "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "2",
    }


def _for_all(token: Path) -> dict[str, str]:
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # keeps 127.0.0.1 as node address; Ray replaces it otherwise
    }
