"""The main job on a real GPU: both roles on one card, Unsloth training while the endpoint answers.

Needs a gpt-oss checkpoint in the split NF4 layout; TANDEM_GPU_BASE names its folder.
"""

import argparse
import os
import tempfile
from pathlib import Path

from actors import cluster
from configs.paths import Home
from tests.bench.main_job import measure
from tests.gpu.conftest import SKIPPED

pytestmark = SKIPPED


def test_train_serve_and_swap_on_one_gpu(monkeypatch):
    home = Home(Path(tempfile.mkdtemp(prefix="td", dir="/tmp")))
    monkeypatch.setenv("TANDEM_HOME", str(home.root))
    options = argparse.Namespace(
        base=os.environ["TANDEM_GPU_BASE"], profile="quick_test", max_steps=3, max_tokens=32, sets=["lora.r=8"]
    )
    try:
        result = measure(home, options)
    finally:
        cluster.end_processes(home)
    assert result["requests"]["lost"] == 0 and result["requests"]["during_swaps"] > 0
    assert result["training"]["trainable"] == {"attention": 3_981_312, "experts": 0, "other": 0}
    assert result["swap_max_logit_difference"] > 0
