"""Raw completions end where the model itself says that its generations end, and not only where chat's do."""

import asyncio
import json

import pytest
from prometheus_client import CollectorRegistry

from actors.metrics import RequestMetrics
from models import harmony
from models.base.checkpoint import end_token_ids
from serve.generation.catalog import Catalog
from serve.generation.engines import Engines
from serve.openai.completions.request import parse_request
from serve.openai.completions.service import Completions
from tests.fakes import FakeEngine, FakeRemote
from tests.gateway_server import TOKENIZER, tokens

END_OF_TEXT = TOKENIZER.convert_tokens_to_ids("<|endoftext|>")


@pytest.mark.parametrize(
    ("config", "ids"),
    [({"eos_token_id": [200002, 199999, 200012]}, (200002, 199999, 200012)), ({"eos_token_id": 2}, (2,)), ({}, ()),
     (None, ())],
)  # fmt: skip
def test_the_models_own_ends_are_read_from_its_generation_config(tmp_path, config, ids):
    if config is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(config))
    assert end_token_ids(tmp_path) == ids


def test_a_completion_stops_at_an_end_that_chat_has_not():
    engine = FakeEngine([*tokens("one"), END_OF_TEXT, *tokens("two")])
    engines = Engines([FakeRemote("engine_1", engine)])
    catalog, metrics = Catalog("tiny", None), RequestMetrics(CollectorRegistry())
    request = parse_request({"model": "tiny", "prompt": "Hi", "max_tokens": 9})

    def text(**how) -> tuple[str, str]:
        done = asyncio.run(Completions(TOKENIZER, catalog, engines, metrics, **how).complete(request))
        return done.choices[0].text, done.choices[0].finish_reason

    assert text() == ("onetwo", "length")
    assert text(end_ids=(END_OF_TEXT,)) == ("one", "stop")
    assert engine.requests[-1].sampling.stop_token_ids == (*harmony.stop_token_ids(TOKENIZER), END_OF_TEXT)
