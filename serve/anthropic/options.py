"""The options of Anthropic's body: thinking, effort, the answer's schema, tools. Knows formats only.

Called by `anthropic`.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from serve.anthropic.blocks import Cacheable
from serve.openai.body import Part
from serve.openai.chat.tools import Name
from serve.openai.no_effect import Ignored, nearest

NEAREST_EFFORT = {"xhigh": "high", "max": "high"}
"""Efforts that gpt-oss does not have, and its nearest."""

MEDIUM_FROM, HIGH_FROM = 4096, 16_384
"""Tokens of a thinking budget from which the model is told to think that much; it has no budget of its own."""


class ThinkingConfig(Part):
    """Whether reasoning is shown, and how much there is."""

    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: int | None = Field(default=None, ge=1)
    """Below 4,096 the model thinks little, from 16,384 much; it is not held to a number."""
    display: Literal["summarized", "omitted", "updates"] | None = None
    """`omitted`: blocks without their text, which comes back to the model in their signature."""
    block_binding: Ignored = None
    """No effect."""

    def effort(self) -> str | None:
        """How much the model thinks, if this says so."""
        if self.type == "disabled":
            return nearest("thinking.type", "disabled", "low")
        if self.budget_tokens is None:
            return None
        low, medium = self.budget_tokens < MEDIUM_FROM, self.budget_tokens < HIGH_FROM
        return nearest("thinking.budget_tokens", self.budget_tokens, "low" if low else "medium" if medium else "high")


class JsonFormat(Part):
    type: Literal["json_schema"]
    definition: dict[str, Any] = Field(alias="schema")


class OutputConfig(Part):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    """How much the model thinks; `xhigh` and `max` are `high`."""
    format: JsonFormat | None = None
    """The JSON Schema that the answer follows."""
    task_budget: Ignored = None
    """No effect."""

    def taken_effort(self) -> str | None:
        """Chat's effort, if this says so."""
        if self.effort not in NEAREST_EFFORT:
            return self.effort
        return nearest("output_config.effort", self.effort, NEAREST_EFFORT[self.effort])


class CustomTool(Cacheable):
    """A function that the model may call."""

    type: Literal["custom"] = "custom"
    name: Name
    description: str | None = None
    input_schema: dict[str, Any]
    """The JSON Schema of its input."""
    strict: bool = False
    """True: its input always follows the schema."""
    input_examples: Ignored = None
    """No effect."""
    defer_loading: Ignored = None
    """No effect: every tool is offered from the start."""
    allowed_callers: Ignored = None
    """No effect."""
    eager_input_streaming: Ignored = None
    """No effect: input is streamed as it is written."""

    def chat(self) -> dict[str, Any]:
        """As a function of a chat body."""
        function = {"name": self.name, "description": self.description, "parameters": self.input_schema}
        return {"type": "function", "function": function | ({"strict": True} if self.strict else {})}


class ToolChoice(Part):
    type: Literal["auto", "any", "none", "tool"]
    name: str | None = None
    """With the type `tool`: which."""
    disable_parallel_tool_use: Ignored = None
    """No effect: the model makes one call per answer."""

    @model_validator(mode="after")
    def _names_its_tool(self) -> Self:
        if self.type == "tool" and self.name is None:
            raise ValueError("a tool_choice of the type tool needs its name")
        return self

    def chat(self) -> str | dict[str, Any]:
        """As a chat body's."""
        match self.type:
            case "tool":
                return {"type": "function", "function": {"name": self.name}}
            case "any":
                return "required"
            case kind:
                return kind


def _of_its_own(value: Any) -> Any:
    kind = value.get("type") if isinstance(value, dict) else None
    if isinstance(kind, str) and kind != "custom":
        raise ValueError(
            f"{kind} is a tool of Anthropic's service -> declare a tool of your own: name, description, input_schema"
        )
    return value


Tool = Annotated[CustomTool, BeforeValidator(_of_its_own)]
