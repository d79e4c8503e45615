"""`GET /v1/models` in Anthropic's shape, for its clients. Knows formats only; `models` says what there is to list."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from configs.errors import NotFoundError
from serve.anthropic.message import WireModel
from serve.openai.body import request_error


class ModelInfo(WireModel):
    type: Literal["model"] = "model"
    id: str
    display_name: str
    """What answers, if the name is an alias."""
    created_at: str
    lifecycle: Literal["active"] = "active"
    max_input_tokens: int
    max_tokens: int


class ModelPage(WireModel):
    data: list[ModelInfo]
    has_more: bool
    first_id: str | None
    last_id: str | None


class Page(BaseModel):
    """Which part of the list is wanted."""

    limit: int = Field(default=1000, ge=1, le=1000)
    after_id: str | None = None
    before_id: str | None = None


def page(models: Sequence[Mapping[str, Any]], query: Mapping[str, str]) -> ModelPage:
    """The part of the `models` that a `query` asks for. Raises RequestError or NotFoundError."""
    try:
        asked = Page.model_validate(dict(query))
    except ValidationError as error:
        raise request_error(error, dict(query)) from error
    ids = [model["id"] for model in models]
    start = _at(asked.after_id, ids) + 1 if asked.after_id else 0
    end = _at(asked.before_id, ids) if asked.before_id else len(ids)
    wanted = models[start:end]
    shown = wanted[-asked.limit :] if asked.before_id else wanted[: asked.limit]
    return ModelPage(
        data=[model_info(model) for model in shown],
        has_more=len(shown) < len(wanted),
        first_id=shown[0]["id"] if shown else None,
        last_id=shown[-1]["id"] if shown else None,
    )


def model_info(model: Mapping[str, Any]) -> ModelInfo:
    name, answers = model["id"], model["root"]
    return ModelInfo(
        id=name,
        display_name=name if name == answers else f"{name} ({answers})",
        created_at=datetime.fromtimestamp(model["created"], UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        max_input_tokens=model["max_model_len"],
        max_tokens=model["max_model_len"],
    )


def _at(name: str, ids: Sequence[str]) -> int:
    if name not in ids:
        raise NotFoundError(f"the model '{name[:100]}' does not exist", hint=f"models: {', '.join(ids)}", param="model")
    return ids.index(name)
