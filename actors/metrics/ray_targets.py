"""Where Ray exposes its own metrics, as Prometheus's HTTP service discovery wants it."""

import json

from actors import cluster
from actors.ray_edge.names import DISCOVERY
from configs.errors import TandemError
from configs.paths import Home


def ray_targets(home: Home) -> list[dict]:
    """`[{"targets": ["127.0.0.1:1234", ...], "labels": {...}}]`; empty while the cluster is down or starting.

    Prometheus asks for it over HTTP because TANDEM_HOME is its owner's alone, and a Prometheus from a package runs as
    somebody else.
    """
    try:
        cluster.require(home)
        found = json.loads((home.ray / DISCOVERY).read_text())
    except (TandemError, OSError, ValueError):
        return []
    return found if isinstance(found, list) else []
