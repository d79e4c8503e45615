"""What the GPU tests share: a real Tandem on one card that holds both roles, serving the checkpoint TANDEM_GPU_BASE.

Random weights in gpt-oss's split NF4 layout will do: what is tested holds whatever a model wants to say.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors import cluster
from actors.hardware import gpus
from configs.paths import Home
from tests.ray.conftest import Tandem

WITHOUT_GPU = [pytest.mark.gpu, pytest.mark.skipif(not gpus.readings(), reason="no GPU")]
SKIPPED = [
    *WITHOUT_GPU,
    pytest.mark.skipif(not os.environ.get("TANDEM_GPU_BASE"), reason="TANDEM_GPU_BASE names no checkpoint"),
]


@pytest.fixture(scope="session")
def base() -> str:
    return os.environ["TANDEM_GPU_BASE"]


@pytest.fixture(scope="session")
def tandem(base: str) -> Iterator[Tandem]:
    """The session's cluster, up and ready."""
    made = Tandem(Home(Path(tempfile.mkdtemp(prefix="td", dir="/tmp"))), *cluster.free_ports(2))
    made.run("up", "--base", base, "--port", str(made.http_port), "--set", f"dashboard_port={made.dashboard_port}")
    made.wait_ready(300)
    yield made
    cluster.end_processes(made.home)
    shutil.rmtree(made.home.root, ignore_errors=True)
