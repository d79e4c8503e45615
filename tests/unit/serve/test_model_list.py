"""The list of models as OpenAI writes it."""

from serve.wire.models import model_list


def test_models_are_listed_as_openai_lists_them():
    assert model_list({"prod": 5}, root="tiny")["data"] == [
        {"id": "prod", "created": 5, "object": "model", "owned_by": "tandem", "root": "tiny"}
    ]
