"""The body of `POST /v1/chat/completions`: what is asked for, checked. What changes the answer is honoured or refused
by name, never ignored. Knows the format, neither HTTP nor engines' insides; `chat_answer` writes what comes out."""

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from configs.errors import PromptTooLongError, RequestError
from serve.engine.grammar import Constraint
from serve.engine.sampling import SamplingParams
from serve.openai.body import Encode, checked
from serve.openai.chat import messages as chat_messages
from serve.openai.chat.tools import AllowedToolChoice, Function, NamedTool, Tool
from serve.openai.fields import dialects
from serve.openai.fields.harmony_grammar import harmony_grammar, text_grammar
from serve.openai.fields.streamed import StreamedRequest

NEUTRAL = {
    "modalities": (["text"],),
    "documents": ([],),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "use_beam_search": (False,),
    "thinking_token_budget": (),
    "logprob_token_ids": (),
    "chat_template": (),
}
"""Parameters that are not supported, with the values that ask for nothing."""

MOST_CHOICES = 8
MOST_TOP_LOGPROBS = 20


class ChatRequest(StreamedRequest):
    """The body of POST /v1/chat/completions. Make it with `parse_request`, which refuses what is not listed here."""

    free_arguments: ClassVar[dict[str, Any] | None] = None
    """What a call's arguments are that no schema holds; None leaves them to the model."""

    model: str = Field(min_length=1)
    """`prod`, `base`, the base's name or a loaded adapter version."""
    messages: list[dict[str, Any]] = Field(min_length=1)
    """Roles `system`, `developer`, `user`, `assistant`, `tool`; `content` is text or a list of text parts."""
    n: int = Field(default=1, ge=1, le=MOST_CHOICES)
    """Answers to one prompt, generated side by side."""
    max_tokens: int | None = Field(default=None, ge=1)
    """The older name of `max_completion_tokens`, which wins."""
    max_completion_tokens: int | None = Field(default=None, ge=1)
    """How long the answer may be, reasoning included; what the context has left by default."""
    reasoning_effort: Literal["low", "medium", "high"] = "medium"
    """How much the model thinks before it answers."""
    tools: list[Tool] = []
    """Functions that the model may call."""
    tool_choice: Literal["auto", "none", "required"] | NamedTool | AllowedToolChoice = "auto"
    """Whether it calls one of them, and which."""
    logprobs: bool = False
    """True: log-probabilities of the answer's tokens."""
    top_logprobs: int = Field(default=0, ge=0, le=MOST_TOP_LOGPROBS)
    """So many of the likeliest tokens beside each; with `logprobs`."""
    include_reasoning: bool = True
    """False: the answer comes without its reasoning."""
    echo: bool = False
    """True: `content` begins with that of the conversation's last message, if it is the assistant's."""
    add_generation_prompt: bool = True
    """False: the prompt ends with the last message, and the model says itself whose turn comes."""
    continue_final_message: bool = False
    """True: the last message, an assistant's, is open, and the answer goes on with its text."""

    @model_validator(mode="after")
    def _has_one_beginning(self) -> Self:
        if not self.continue_final_message:
            return self
        if self.add_generation_prompt and "add_generation_prompt" in self.model_fields_set:
            raise ValueError("continue_final_message does not go with add_generation_prompt: leave one of the two out")
        if self.messages[-1].get("role") != "assistant" or self.messages[-1].get("tool_calls"):
            raise ValueError("continue_final_message needs a last message of the assistant's, without calls")
        return self

    @field_validator("tools")
    @classmethod
    def _have_names_of_their_own(cls, value: list[Tool]) -> list[Tool]:
        (name, times), *_ = [*Counter(tool.function.name for tool in value).most_common(1), ("", 0)]
        if times > 1:
            raise ValueError(f"{name!r} is declared {times} times")
        return value

    @property
    def offered_tools(self) -> list[dict[str, Any]]:
        """The tools that the model is told about. Raises RequestError for an allowed one that is not among `tools`."""
        if self.tool_choice == "none":
            return []
        narrowed = isinstance(self.tool_choice, AllowedToolChoice)
        told = self._callable()[0] if narrowed else {tool.function.name for tool in self.tools}
        return [tool.as_dict() for tool in self.tools if tool.function.name in told]

    @property
    def format_description(self) -> str | None:
        """What the model is told of what its answer has to be."""
        return self.response_format.description or self.structured_outputs.description

    @property
    def echoed(self) -> str:
        """What the answer's content begins with."""
        last = self.messages[-1]
        if not self.echo or last.get("role") != "assistant":
            return ""
        content = last.get("content") or ""
        return content if isinstance(content, str) else "".join(part["text"] for part in content)

    @property
    def scored(self) -> int | None:
        """How many of the likeliest tokens to score beside each generated one; None scores none."""
        return self.top_logprobs if self.logprobs else None

    @property
    def most_tokens(self) -> int | None:
        """How long the answer may be; None is what the context has left."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    def samplings(self, eos: Iterable[int], encode: Encode | None = None) -> list[SamplingParams]:
        """One per choice, see `sampled_times`."""
        return self.sampled_times(self.n, max_tokens=self.most_tokens, stop=self.stops, eos=tuple(eos), encode=encode)

    def constraint(self) -> Constraint | None:
        """What the generation is held to; None leaves the model free. Where tools are declared, a call is one of those
        that may be called, with `free_arguments`; what contradicts a constraint leaves it free if that would be all. A
        message that is continued calls nothing.

        Raises RequestError for a schema that is not JSON, for a tool_choice that names no tool or has none, and for
        what contradicts another constraint.
        """
        (answer, asker), (functions, must_call) = self.held, self._callable()
        if self.continue_final_message:
            return None if answer is None else self.constraint_of(text_grammar(answer, asker), asker)
        strict = {name for name, function in functions.items() if function.strict}
        names_alone = answer is None and not strict and self.tool_choice in ("auto", "none")
        if names_alone and (self.contradiction or not self.tools):
            return None
        held = set(functions) if must_call or isinstance(self.tool_choice, AllowedToolChoice) else strict
        calls = {
            name: function.arguments if name in held else self.free_arguments for name, function in functions.items()
        }
        begun = self.add_generation_prompt
        grammar = harmony_grammar(answer=answer, calls=calls, must_call=must_call, param=asker, begun=begun)
        return self.constraint_of(grammar, "tools" if answer is None or must_call else asker)

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


def parse_request(body: bytes | str | dict[str, Any], kind: type[ChatRequest] = ChatRequest) -> ChatRequest:
    """A checked chat request, of a `kind` that another route makes of its own; see `body.checked`."""
    request = checked(body, kind, NEUTRAL, translate=dialects.chat, translated=dialects.CHAT)
    if request.top_logprobs and not request.logprobs:
        raise RequestError("top_logprobs needs logprobs to be true", param="top_logprobs")
    chat_messages.check(request.messages)
    return request
