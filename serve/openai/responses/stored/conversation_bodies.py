"""The bodies of OpenAI's conversation routes, checked. Knows formats only."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from configs.errors import RequestError
from serve.openai.responses.input import Conversation
from serve.openai.responses.items import Item, resource

MOST_ITEMS = 20


class Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", use_attribute_docstrings=True)


class WithItems(Body):
    items: list[dict[str, Any]] = Field(default=[], max_length=MOST_ITEMS)
    """Items as in `input` of a response."""

    @model_validator(mode="after")
    def _can_be_answered(self) -> Self:
        try:
            Conversation(None, (), self.items)
        except RequestError as error:
            raise RequestError(error.message.replace("input", "items", 1), hint=error.hint, param="items") from error
        return self

    def resources(self) -> list[Item]:
        """The items as they are kept."""
        return [resource(item) for item in self.items]


class ConversationCreation(WithItems):
    """The body of POST /v1/conversations."""

    metadata: dict[str, str] | None = None
    """Told back."""


class ItemsCreation(WithItems):
    """The body of POST /v1/conversations/{conversation_id}/items."""

    items: list[dict[str, Any]] = Field(min_length=1, max_length=MOST_ITEMS)
    """Items as in `input` of a response."""


class MetadataUpdate(Body):
    """The body of POST /v1/conversations/{conversation_id}."""

    metadata: dict[str, str]
    """In place of what there was."""
