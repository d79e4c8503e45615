"""What an answer has to be: OpenAI's `response_format` and vLLM's `structured_outputs`. Knows formats only.

`chat` and `completions` ask for it, `harmony_grammar` puts it into a grammar, an engine compiles that.
"""

import json
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from configs.errors import RequestError
from models import harmony
from serve.openai.body import Part
from serve.openai.no_effect import ignore

Held = Mapping[str, Any] | str | None
"""What a text is held to: a JSON Schema, the body of a Lark rule, or nothing."""

ANY_OBJECT: dict[str, Any] = {"type": "object"}
PARAM = "structured_outputs"
KINDS = ("definition", "json_object", "regex", "choice", "grammar")
NO_EFFECT = ("disable_any_whitespace", "disable_additional_properties", "whitespace_pattern")


class JsonSchema(Part):
    """A named JSON Schema. `strict` or not, the answer follows it."""

    name: str = Field(pattern=r"^[\w\-]{1,64}$")
    description: str | None = None
    definition: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None

    @field_validator("definition")
    @classmethod
    def _can_be_written(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(value, allow_nan=False)
        except RecursionError as error:
            raise ValueError("is nested too deep") from error
        return value


class ResponseFormat(Part):
    """What the final message has to be."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema goes with the type json_schema, and only with it")
        return self

    @property
    def definition(self) -> dict[str, Any] | None:
        """The JSON Schema of the final message; None is free text."""
        if self.json_schema:
            return self.json_schema.definition
        return ANY_OBJECT if self.type == "json_object" else None

    @property
    def description(self) -> str | None:
        """What the model is told about it."""
        if self.definition is None:
            return None
        if self.json_schema:
            return harmony.describe_format(self.json_schema.name, self.json_schema.description or "", self.definition)
        return harmony.describe_format(self.type, "", self.definition)


class StructuredOutputs(Part):
    """vLLM's way: one of the fields says what the answer is held to. The model is told of a schema only."""

    definition: dict[str, Any] | str | None = Field(default=None, alias="json")
    """A JSON Schema, which may be written as text."""
    json_object: bool = False
    """True: any JSON object."""
    regex: str | None = None
    """What the whole answer matches, in the syntax of https://docs.rs/regex, without look-around."""
    choice: list[str] | None = Field(default=None, min_length=1)
    """The answer is one of these texts."""
    grammar: str | None = Field(default=None, min_length=1)
    """A grammar in Lark's syntax or in GBNF, llama.cpp's, as llguidance reads them."""
    disable_any_whitespace: Any = None
    """No effect."""
    disable_additional_properties: Any = None
    """No effect."""
    whitespace_pattern: Any = None
    """No effect."""

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        asked = [kind for kind in KINDS if getattr(self, kind) not in (None, False)]
        if len(asked) > 1:
            raise ValueError(f"{' and '.join(asked)} are both given; leave one".replace("definition", "json"))
        for name in NO_EFFECT:
            if getattr(self, name):
                ignore(f"{PARAM}.{name}")
        return self

    @property
    def held(self) -> Held:
        """Raises RequestError for a schema or a grammar that cannot be read."""
        if (schema := self._schema_of_json()) is not None:
            return schema
        if self.regex is not None:
            return "/" + _whole(self.regex).replace("/", r"\/").replace("\n", r"\n") + "/"
        if self.choice is not None:
            return " | ".join(json.dumps(each) for each in self.choice)
        return None if self.grammar is None else "%lark {\n" + _lark(self.grammar) + "\n}"

    @property
    def description(self) -> str | None:
        """What the model is told about it."""
        schema = self._schema_of_json()
        return None if schema is None else harmony.describe_format("answer", "", schema)

    def _schema_of_json(self) -> dict[str, Any] | None:
        """None where the answer is held to something else."""
        if self.json_object:
            return ANY_OBJECT
        return None if self.definition is None else _schema(self.definition)


def _schema(definition: dict[str, Any] | str) -> dict[str, Any]:
    try:
        found = json.loads(definition) if isinstance(definition, str) else definition
        json.dumps(found, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{PARAM}.json is not JSON: {error}", param=PARAM) from error
    if not isinstance(found, dict):
        raise RequestError(f"{PARAM}.json is not a JSON Schema", hint="send an object", param=PARAM)
    return found


def _whole(regex: str) -> str:
    """Without the anchors, which say again that the whole answer matches."""
    body = regex.removeprefix("^").removesuffix("$")
    escaped = (len(body) - len(body.rstrip("\\"))) % 2 == 1
    return body + "$" if regex.endswith("$") and escaped else body


def _lark(grammar: str) -> str:
    from llguidance.gbnf_to_lark import any_to_lark  # only for who asks for a grammar

    try:
        return any_to_lark(grammar)
    except Exception as error:  # llguidance 1.9 raises bare ones, for a rule that is missing too
        raise RequestError(f"{PARAM}.grammar: {error}", param=PARAM) from error
