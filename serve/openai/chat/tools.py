"""The tools of a chat body and the choice among them. Knows formats only; called by `chat`."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator
from pydantic_core import to_json

from serve.openai.body import Part
from serve.openai.fields.harmony_grammar import NO_ARGUMENTS

Name = Annotated[str, Field(json_schema_extra={"pattern": r"^[a-zA-Z0-9_.\-]{1,128}$"})]
"""A function's, as `models.harmony` takes it."""


class Function(Part):
    """A function that the model may call."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """The JSON Schema of its arguments; without one it takes none."""
    strict: bool | None = None
    """True: its arguments always follow the schema."""

    @field_validator("parameters")
    @classmethod
    def _can_be_written(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        try:
            to_json(value)
        except ValueError as error:  # pydantic writes about 250 levels
            raise ValueError("is nested too deep") from error
        return value

    @property
    def arguments(self) -> dict[str, Any]:
        """The JSON Schema of its arguments."""
        return NO_ARGUMENTS if self.parameters is None else self.parameters


class Tool(Part):
    type: Literal["function"]
    function: Function
    cache_control: Any = None
    """No effect."""

    def as_dict(self) -> dict[str, Any]:
        """As it came, less what has no effect."""
        return self.model_dump(exclude_unset=True, exclude={"cache_control"})


class FunctionName(Part):
    name: str


class NamedTool(Part):
    type: Literal["function"]
    function: FunctionName


class AllowedTools(Part):
    mode: Literal["auto", "required"]
    tools: list[NamedTool] = Field(min_length=1)


class AllowedToolChoice(Part):
    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools
