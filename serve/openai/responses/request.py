"""The body of OpenAI's `POST /v1/responses`, checked. Knows formats only.

`response_turn` makes a chat request of it and of what came before it, so that both routes have one way to the model;
what comes out is written by `response_events`. What OpenAI's own models do and this one does not is mapped to the
nearest or taken without effect, and the answer's headers say so.
The format: https://developers.openai.com/api/docs/api-reference/responses
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator
from pydantic_core import to_json

from configs.errors import RequestError
from serve.generation.catalog import PROD
from serve.openai.body import Part, SampledRequest, checked
from serve.openai.chat import request as chat
from serve.openai.chat.tools import Name
from serve.openai.fields.dialects import EFFORTS
from serve.openai.no_effect import ignore, nearest

NEUTRAL: dict[str, tuple] = {"prompt": (), "documents": ([],)}
"""Parameters that are not supported, with the values that ask for nothing."""

INSTEAD = {
    "prompt": "no prompt is kept: send its text as instructions or input",
    "tools": "functions only: {'type': 'function', 'name': ..., 'parameters': ...}",
}
"""What to do about a parameter that is refused."""

LOGPROBS, ENCRYPTED = "message.output_text.logprobs", "reasoning.encrypted_content"

Include = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
]
"""All but the first two add to items that are never made here."""

EITHER = "Mutually exclusive parameters: ensure you are only providing one of 'previous_response_id' or 'conversation'"
ONE_OF = "one of input, previous_response_id or conversation must be provided"


class ReasoningOptions(Part):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    """`none` and `minimal` are `low` here, `xhigh` and `max` are `high`."""
    summary: Literal["auto", "concise", "detailed"] | None = None
    """Any of them gives the reasoning itself a second time, as the summary."""
    generate_summary: Literal["auto", "concise", "detailed"] | None = None
    """The older name of `summary`, which wins."""
    context: Literal["auto", "current_turn", "all_turns"] | None = None
    """The model sees the reasoning of the current turn: that since the user last spoke."""
    mode: str | None = None
    """No effect."""


class TextOptions(Part):
    format: dict[str, Any] | None = None
    """`{"type": "text"}`, `{"type": "json_object"}` or `{"type": "json_schema", "name": ..., "schema": ...}`."""
    verbosity: Literal["low", "medium", "high"] | None = None
    """The model knows no other than `medium`."""


class FunctionTool(Part):
    type: Literal["function"]
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionChoice(Part):
    type: Literal["function"]
    name: str


class AllowedTools(Part):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[FunctionChoice] = Field(min_length=1)


class EventOptions(Part):
    include_obfuscation: bool | None = None
    """No effect: nothing is added to hide how long an event is."""


class ConversationId(Part):
    id: str


def _text_or_items(value: object) -> object:
    if not isinstance(value, str) and not (isinstance(value, list) and all(isinstance(each, dict) for each in value)):
        raise ValueError("is neither a text nor a list of items")
    return value


class ResponsesRequest(SampledRequest):
    """The body of POST /v1/responses. Make it with `parse_request`, which refuses what is not listed here."""

    model: str = Field(default=PROD, min_length=1)
    """`prod`, `base`, the base's name or a loaded adapter version."""
    input: Annotated[str | list[dict[str, Any]], BeforeValidator(_text_or_items)] = []
    """A text, or a list of items: messages, `reasoning`, `function_call`, `function_call_output`, `item_reference`."""
    previous_response_id: str | None = None
    """A stored response to go on from: its input and output come before `input`, its instructions do not."""
    conversation: str | ConversationId | None = None
    """A conversation to go on with: its items come before `input`; `input` and the answer are added to it."""
    store: bool = True
    """Keep the response, so that it can be read and gone on from."""
    background: bool = False
    """Answer at once, generate without a connection; ask for the response to see how far it is."""
    instructions: str | None = None
    """A text that goes before all items."""
    stream: bool = False
    """True: server-sent events, each with its name."""
    stream_options: EventOptions = EventOptions()
    """How they are framed."""
    max_output_tokens: int | None = Field(default=None, ge=1)
    """How long the answer may be, reasoning included; what the context has left by default."""
    truncation: Literal["auto", "disabled"] = "disabled"
    """`auto`: the oldest turns are left out where the items do not fit into the context."""
    reasoning: ReasoningOptions = ReasoningOptions()
    """How much the model thinks before it answers."""
    text: TextOptions = TextOptions()
    """Text, any JSON object, or JSON of a schema, which the answer always follows."""
    tools: list[FunctionTool] = []
    """Functions that the model may call."""
    tool_choice: Literal["auto", "none", "required"] | FunctionChoice | AllowedTools = "auto"
    """Whether it calls one of them, and which."""
    max_tool_calls: int | None = Field(default=None, ge=1)
    """Of OpenAI's built-in tools, which do not exist here: no effect."""
    include: list[Include] = []
    """`message.output_text.logprobs`, and `reasoning.encrypted_content`: the reasoning once more as one opaque text,
    for clients that send nothing else of it back."""
    top_logprobs: int = Field(default=0, ge=0, le=chat.MOST_TOP_LOGPROBS)
    """Beside `include` of the logprobs."""
    metadata: dict[str, str] = {}
    """Told back in the answer."""
    user: str | None = None
    """Told back in the answer."""
    safety_identifier: str | None = None
    """Told back in the answer."""
    prompt_cache_key: str | None = None
    """Told back in the answer."""
    context_management: list[dict[str, Any]] = []
    """No effect: nothing is compacted."""

    @field_validator("text", "tools")
    @classmethod
    def _can_be_told_back(cls, value: object) -> object:
        try:
            to_json(value)
        except ValueError as error:  # pydantic writes about 250 levels
            raise ValueError("is nested too deep") from error
        return value

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.previous_response_id and self.conversation:
            raise RequestError(EITHER, param="previous_response_id")
        if not (self.input or self.previous_response_id or self.conversation):
            raise RequestError(f"input is empty: {ONE_OF}", param="input")
        return self

    @property
    def items(self) -> list[dict[str, Any]]:
        if isinstance(self.input, str):
            return [{"role": "user", "content": self.input}] if self.input else []
        return self.input

    @property
    def conversation_id(self) -> str | None:
        return self.conversation.id if isinstance(self.conversation, ConversationId) else self.conversation

    @property
    def effort(self) -> str | None:
        """One that the model knows."""
        return EFFORTS.get(self.reasoning.effort or "", self.reasoning.effort)

    @property
    def summary(self) -> str | None:
        return self.reasoning.summary or self.reasoning.generate_summary


def parse_request(body: bytes | str | dict[str, Any]) -> ResponsesRequest:
    """A checked request; see `body.checked`. Refusals say what to do instead."""
    try:
        request = checked(body, ResponsesRequest, NEUTRAL)
    except RequestError as error:
        hint = error.hint or INSTEAD.get(error.param or "", "")
        raise RequestError(error.message, hint=hint, param=error.param) from error
    _say_what_is_not_done(request)
    return request


def _say_what_is_not_done(request: ResponsesRequest) -> None:
    """Name in the answer's headers what is mapped to the nearest, or has no effect."""
    asked, text = request.reasoning, request.text
    if asked.effort in EFFORTS:
        nearest("reasoning.effort", asked.effort, request.effort)
    if request.summary:
        nearest("reasoning.summary", request.summary, "full")
    if asked.context == "all_turns":
        nearest("reasoning.context", asked.context, "current_turn")
    if text.verbosity not in (None, "medium"):
        nearest("text.verbosity", text.verbosity, "medium")
    if asked.mode not in (None, "standard"):
        ignore("reasoning.mode")
    if request.stream_options.include_obfuscation:
        ignore("stream_options.include_obfuscation")
    for name in ("max_tool_calls", "context_management", "prompt_cache_key"):
        if getattr(request, name):
            ignore(name)
