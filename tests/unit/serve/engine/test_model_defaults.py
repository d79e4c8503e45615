"""A model's own sampling values, from its generation_config.json."""

import json

import pytest

from configs.errors import CheckpointError
from serve.openai.body import model_defaults


def written(folder, **values):
    (folder / "generation_config.json").write_text(json.dumps(values))
    return folder


def test_vllms_fields_are_taken_and_the_others_left(tmp_path):
    own = {"temperature": 0.6, "top_p": 0.9, "top_k": 20, "min_p": 0.1, "repetition_penalty": 1.1}
    assert model_defaults(written(tmp_path, **own, do_sample=True, eos_token_id=[1, 2], max_length=20)) == own


def test_a_model_that_says_nothing_has_none(tmp_path):
    assert model_defaults(tmp_path) == {}
    assert model_defaults(written(tmp_path, eos_token_id=1, top_p=None)) == {}


@pytest.mark.parametrize(
    ("values", "named"),
    [({"temperature": 3}, "temperature is 3"), ({"top_k": "many"}, "top_k"), ({"top_p": 0}, "top_p")],
)
def test_values_that_no_request_might_have_name_the_file(tmp_path, values, named):
    with pytest.raises(CheckpointError, match=rf"generation_config\.json cannot be used: {named}"):
        model_defaults(written(tmp_path, **values))


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_file_that_is_no_object_is_named(tmp_path, text):
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(CheckpointError, match="cannot be used"):
        model_defaults(tmp_path)
