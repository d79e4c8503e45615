"""The body of `POST /v1/chat/completions`: what is asked for, checked. What changes the answer is honoured or refused
by name, never ignored. Knows the format, neither HTTP nor engines' insides; `chat_answer` writes what comes out."""

import contextlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from configs.errors import PromptTooLongError, RequestError
from models import harmony
from serve.engine.protocol import Constraint
from serve.engine.sampling import SamplingParams
from serve.wire import chat_messages
from serve.wire.body import Part, StreamedRequest, checked
from serve.wire.chat_tools import AllowedToolChoice, Function, NamedTool, Tool
from serve.wire.harmony_grammar import ANY_OBJECT, harmony_grammar

NEUTRAL = {
    "modalities": (["text"],),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "verbosity": ("medium",),
}
"""Parameters that are not supported, with the values that ask for nothing."""

MOST_CHOICES = 8
MOST_TOP_LOGPROBS = 20


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
        name, about = self.type, ""
        if self.json_schema:
            name, about = self.json_schema.name, self.json_schema.description or ""
        return harmony.describe_format(name, about, self.definition)


class ChatRequest(StreamedRequest):
    """The body of POST /v1/chat/completions. Make it with `parse_request`, which refuses what is not listed here."""

    model: str = Field(min_length=1)
    """`prod`, `base`, the base's name or a loaded adapter version."""
    messages: list[dict[str, Any]] = Field(min_length=1)
    """Roles `system`, `developer`, `user`, `assistant`, `tool`; `content` is text or a list of text parts."""
    n: int = Field(default=1, ge=1, le=MOST_CHOICES)
    """Answers to one prompt, generated side by side."""
    stop: str | list[str] = []
    """A text or up to 16 of them; they end the final answer and are not part of it."""
    max_tokens: int | None = Field(default=None, ge=1)
    """The older name of `max_completion_tokens`, which wins."""
    max_completion_tokens: int | None = Field(default=None, ge=1)
    """How long the answer may be, reasoning included; what the context has left by default."""
    reasoning_effort: Literal["low", "medium", "high"] = "medium"
    """How much the model thinks before it answers."""
    response_format: ResponseFormat = ResponseFormat()
    """Text, any JSON object, or JSON of a schema, which the answer always follows."""
    tools: list[Tool] = []
    """Functions that the model may call."""
    tool_choice: Literal["auto", "none", "required"] | NamedTool | AllowedToolChoice = "auto"
    """Whether it calls one of them, and which."""
    logprobs: bool = False
    """True: log-probabilities of the answer's tokens."""
    top_logprobs: int = Field(default=0, ge=0, le=MOST_TOP_LOGPROBS)
    """So many of the likeliest tokens beside each; with `logprobs`."""
    return_token_ids: bool = False
    """True: `prompt_token_ids`, and `token_ids` in every choice, as in vLLM."""

    @field_validator("tools")
    @classmethod
    def _have_names_of_their_own(cls, value: list[Tool]) -> list[Tool]:
        (name, times), *_ = [*Counter(tool.function.name for tool in value).most_common(1), ("", 0)]
        if times > 1:
            raise ValueError(f"{name!r} is declared {times} times")
        return value

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def offered_tools(self) -> list[dict[str, Any]]:
        """The tools that the model is told about. Raises RequestError for an allowed one that is not among `tools`."""
        if self.tool_choice == "none":
            return []
        narrowed = isinstance(self.tool_choice, AllowedToolChoice)
        told = self._callable()[0] if narrowed else {tool.function.name for tool in self.tools}
        return [tool.as_dict() for tool in self.tools if tool.function.name in told]

    @property
    def scored(self) -> int | None:
        """How many of the likeliest tokens to score beside each generated one; None scores none."""
        return self.top_logprobs if self.logprobs else None

    def samplings(self, eos: Iterable[int]) -> list[SamplingParams]:
        """One per choice; `eos` are the model's own stop tokens. Raises what `sampled_times` raises."""
        most = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        return self.sampled_times(self.n, max_tokens=most, stop=self.stops, eos=tuple(eos))

    def constraint(self) -> Constraint | None:
        """What the generation is held to; None leaves the model free. Where tools are declared, a call is one of those
        that may be called, whatever its arguments; `min_tokens` and `ignore_eos` leave it free if that would be all.

        Raises RequestError for a schema that is no JSON, for a tool_choice that names no tool or has none, and for
        `min_tokens` or `ignore_eos` beside another constraint, which says itself where the answer ends.
        """
        answer, (functions, must_call) = self.response_format.definition, self._callable()
        strict = {name for name, function in functions.items() if function.strict}
        names_alone = answer is None and not strict and self.tool_choice in ("auto", "none")
        longer = "min_tokens" if self.min_tokens else "ignore_eos" if self.ignore_eos else None
        if names_alone and (longer or not self.tools):
            return None
        held = set(functions) if must_call or isinstance(self.tool_choice, AllowedToolChoice) else strict
        calls = {name: function.arguments if name in held else None for name, function in functions.items()}
        param = "tools" if answer is None or must_call else "response_format"
        if longer:
            raise RequestError(
                f"{longer} does not go with {param}: the answer ends where its schema says",
                hint="leave one of the two out",
                param=longer,
            )
        grammar = harmony_grammar(answer=answer, calls=calls, must_call=must_call)
        return Constraint(grammar, param)

    def _callable(self) -> tuple[dict[str, Function], bool]:
        """The functions that may be called, by name, and whether one has to be."""
        known = {tool.function.name: tool.function for tool in self.tools}
        match self.tool_choice:
            case "none":
                return {}, False
            case "auto":
                return known, False
            case "required":
                names, must_call = list(known), True
            case NamedTool(function=function):
                names, must_call = [function.name], True
            case AllowedToolChoice(allowed_tools=allowed):
                names, must_call = [tool.function.name for tool in allowed.tools], allowed.mode == "required"
        if not names:
            raise RequestError("tool_choice requires a call, and tools is empty", param="tool_choice")
        if unknown := [name for name in names if name not in known]:
            raise RequestError(f"tool_choice names '{unknown[0]}', which is not one of the tools", param="tool_choice")
        return {name: known[name] for name in names}, must_call


@contextlib.contextmanager
def in_own_words() -> Iterator[None]:
    """A RequestError that names an engine's `prompt` names `messages` instead."""
    try:
        yield
    except RequestError as error:
        if error.param == "prompt":
            error.param = "messages"
        if isinstance(error, PromptTooLongError):
            error.message, error.hint = (each.replace("prompt", "messages") for each in (error.message, error.hint))
        raise


def parse_request(body: bytes | str | dict[str, Any]) -> ChatRequest:
    """A checked chat request; see `body.checked`."""
    request = checked(body, ChatRequest, NEUTRAL)
    if request.top_logprobs and not request.logprobs:
        raise RequestError("top_logprobs needs logprobs to be true", param="top_logprobs")
    chat_messages.check(request.messages)
    return request
