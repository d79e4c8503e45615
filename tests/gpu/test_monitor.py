"""What people look at, from a real driver: readings, health, metrics, the screen and the page. No cluster runs."""

import asyncio
import json
import os
import subprocess
import sys

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from actors.hardware import gpus
from actors.metrics import ClusterCollector
from actors.runs import quarantine
from actors.status import overview
from configs import paths
from configs.schema import Slot
from serve.ui.dashboard import slots
from serve.ui.dashboard.reading import SharedReading
from tests.gpu.conftest import WITHOUT_GPU

pytestmark = WITHOUT_GPU


def test_readings_are_in_base_units():
    for gpu in gpus.readings():
        assert 2**30 < gpu.memory_total < 2**40 and 0 <= gpu.memory_used <= gpu.memory_total
        assert 0 <= gpu.utilization <= 1 and 10 < gpu.temperature < 110
        assert 1 < gpu.power < gpu.power_limit * 1.2 and 50 < gpu.power_limit < 2000
        assert 1e8 <= gpu.clock <= gpu.clock_max < 1e10
        assert gpu.energy is None or gpu.energy > 0
        assert gpu.fan is None or 0 <= gpu.fan <= 1


def test_a_card_that_works_is_healthy_and_one_that_is_not_there_is_not():
    known = gpus.health()
    for gpu in gpus.readings():
        assert quarantine.judge(Slot(name="0", gpu=gpu.index, uuid=gpu.uuid, roles=("train",)), known) is None
    assert quarantine.judge(Slot(name="1", gpu=0, uuid="GPU-gone", roles=("train",)), known) is not None


def test_every_reading_is_a_metric(home):
    registry = CollectorRegistry()
    registry.register(ClusterCollector(home))
    families = {family.name: family for family in text_string_to_metric_families(generate_latest(registry).decode())}
    first = gpus.readings()[0]
    names = ["memory_used_bytes", "memory_bytes", "utilization_ratio", "temperature_celsius", "power_watts"]
    for name in [*names, "power_limit_watts", "clock_hertz"]:
        samples = families[f"tandem_gpu_{name}"].samples
        assert samples[0].labels["uuid"] == first.uuid, name


def test_screen_and_page_show_the_card(home):
    first = gpus.readings()[0]
    seen = overview.read(home)
    assert [gpu.uuid for gpu in seen.gpus] == [gpu.uuid for gpu in gpus.readings()]
    command = [sys.executable, "-c", "from cli.main import main; main()", "status"]
    environment = os.environ | {"TANDEM_HOME": str(home.root), "COLUMNS": "120"}
    done = subprocess.run(command, env=environment, cwd=paths.SOURCE, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and first.name.removeprefix("NVIDIA ") in done.stdout, done.stdout + done.stderr
    print(done.stdout)
    as_json = subprocess.run([*command, "--json"], env=environment, cwd=paths.SOURCE, capture_output=True, text=True)
    assert json.loads(as_json.stdout)["gpus"][0]["uuid"] == first.uuid
    assert first.name in slots.html(asyncio.run(SharedReading(home).now()))
