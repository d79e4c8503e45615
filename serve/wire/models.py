"""The body of `GET /v1/models`."""

from typing import Any

from openai.types import Model


def model_list(created_by_name: dict[str, int], *, root: str) -> dict[str, Any]:
    """The body of GET /v1/models for names and their creation times in Unix seconds; `root` is the base's own name, as
    in vLLM."""
    models = [
        Model(id=name, created=created, object="model", owned_by="tandem", root=root)
        for name, created in created_by_name.items()
    ]
    return {"object": "list", "data": [model.model_dump(exclude_unset=True) for model in models]}
