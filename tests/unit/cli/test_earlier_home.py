"""A home that an earlier version wrote goes on: its runs, curves, adapters, aliases and conversations are as they were.

`data/earlier_home.tar.xz` is TANDEM_HOME after `tandem up`, `tandem train --profile tiny`, `tandem swap latest`, a
saved conversation and `tandem down`; the embedded model that it was trained on is the one of this checkout.
"""

import asyncio
import json
import tarfile
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from actors.runs.ledger import Ledger
from actors.runs.run import RunState
from configs.paths import TINY_MODEL, Home
from jobs import request
from jobs.request import TrainFlags
from jobs.training import checkpoints
from models.base import checkpoint, loading
from models.lora.adapter import validate
from models.lora.registry import Registry
from serve.client.conversation import Conversations
from serve.engine.transformers.engine import TransformersEngine
from tests import training

ARCHIVE = Path(__file__).parent / "data" / "earlier_home.tar.xz"


@pytest.fixture
def earlier(home: Home) -> Home:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(home.root, filter="data")
    return home


def test_its_run_adapter_and_alias_are_as_they_were(earlier, invoke):
    (run,) = json.loads(invoke("runs", "list", "--json").out)
    assert (run["state"], run["step"]) == (RunState.SUCCEEDED, 60)
    (adapter,) = json.loads(invoke("adapters", "list", "--json").out)
    assert (adapter["version"], adapter["aliases"]) == (run["adapter"], ["prod"])
    assert invoke("runs", "show", run["id"]).code == 0
    ledger = Ledger(earlier.ledger)
    assert ledger.aliases()["prod"] == run["adapter"]
    assert [swap.outcome for swap in ledger.swaps()] == ["done"]
    ledger.close()
    assert [step for step, _ in training.curve(earlier, run["id"])] == list(range(1, 61))


def test_its_adapter_is_whole_and_is_served(earlier):
    registry = Registry(earlier.models)
    version = registry.resolve("latest")
    folder = registry.path(version)
    validate(folder, checkpoint.inspect(TINY_MODEL).fingerprint)

    async def load() -> float:
        tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL)
        engine = TransformersEngine(loading.load_for_inference(TINY_MODEL, "cpu"), tokenizer)
        try:
            await engine.add_adapter(version, folder)
            return (await engine.verify_adapter(version)).max_difference
        finally:
            engine.close()

    assert asyncio.run(load()) > 1


def test_its_run_can_be_trained_on(earlier):
    (run,) = Ledger(earlier.ledger, read_only=True).runs()
    assert checkpoints.newest(earlier.run(run.id) / "checkpoints").step == 60
    wanted = request.resolve(earlier, TrainFlags(resume=run.id, max_steps=70))
    assert wanted.config.training.max_steps == 70


def test_its_conversation_is_read(earlier):
    (conversation,) = Conversations(earlier.conversations).saved()
    assert [turn.role for turn in conversation.turns] == ["user", "assistant"]
