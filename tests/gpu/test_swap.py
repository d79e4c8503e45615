"""Adapters that come and go on a real GPU; made with random matrices, so no training is waited for."""

from pathlib import Path

import httpx
import pytest

from models.base import checkpoint
from models.lora.registry import Registry
from tests.gpu.conftest import SKIPPED
from tests.samples import about, train_lora

pytestmark = SKIPPED

ASK = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def versions(tandem, base) -> list[str]:
    """Two published adapters of the base."""
    known = {"base": base, "base_fingerprint": checkpoint.inspect(Path(base)).fingerprint, "rank": 8, "alpha": 16}

    def save(folder: Path) -> None:
        train_lora(Path(base), folder, experts=False)

    registry = Registry(tandem.home.models)
    return [registry.publish(save, **about(run_id=f"made-{n}", **known)).version for n in range(2)]


def answered_by(tandem, model: str) -> str:
    answer = tandem.client().chat.completions.create(model=model, messages=ASK, max_completion_tokens=4)
    assert answer.usage.completion_tokens == 4
    return answer.system_fingerprint


def test_the_last_adapter_may_leave_and_come_back(tandem, versions):
    for version in (versions[0], versions[0], versions[1]):
        loaded = tandem.post("/v1/load_lora_adapter", {"lora_name": version})
        assert loaded.status_code == 200, loaded.text
        assert answered_by(tandem, version) == version
        assert answered_by(tandem, "prod") == "base"
        assert tandem.post("/v1/unload_lora_adapter", {"lora_name": version}).status_code == 200
        assert answered_by(tandem, "base") == "base"


def test_swapping_to_and_fro(tandem, versions):
    for version in (*versions, versions[0]):
        swapped = tandem.json("swap", version)
        assert swapped["max_difference"] > 0
        assert answered_by(tandem, "prod") == version
    tandem.run("swap", "--back")
    assert answered_by(tandem, "prod") == versions[1]
    tandem.run("swap", "base")
    assert answered_by(tandem, "prod") == "base"
    assert httpx.get(f"{tandem.http}/readyz", timeout=10).status_code == 200
