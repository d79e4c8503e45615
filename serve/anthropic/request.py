"""The body of Anthropic's `POST /v1/messages`, as the chat request that it stands for. Knows formats only.

`parse_request` checks a body; `MessagesRequest.chat` turns it into a ChatRequest, so that all routes have one way to
the model. What comes out is written by `anthropic_answer`. The format: https://platform.claude.com/docs/en/api/messages
"""

import contextlib
import re
from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, Any, ClassVar

from pydantic import Field

from configs.errors import RequestError
from serve.anthropic.blocks import TextBlock
from serve.anthropic.input import Conversation, InputMessage
from serve.anthropic.options import JsonFormat, OutputConfig, ThinkingConfig, Tool, ToolChoice
from serve.openai.body import SampledRequest, checked
from serve.openai.chat import request as chat
from serve.openai.chat.request import ChatRequest
from serve.openai.fields.answer_format import ANY_OBJECT
from serve.openai.fields.streamed import STOPS, StopText
from serve.openai.no_effect import Ignored

NEUTRAL = {"container": (), "mcp_servers": ([],), "compaction": (), "thread": ()}
"""Parameters that are not supported, with the values that ask for nothing."""

INSTEAD = {
    "container": "run the code in a tool of your own",
    "mcp_servers": "call the server from your program and offer its tools in `tools`",
    "compaction": "ask for a summary in words, and begin a conversation with it",
    "thread": "send the whole conversation",
}
"""What to do about a parameter that is refused."""

CHAT_NAMES = {
    "response_format": "output_config.format",
    "max_completion_tokens": "max_tokens",
    "stop": "stop_sequences",
}
"""Chat parameters that errors may name, and what they are called here."""


class ObjectCalls(ChatRequest):
    """A chat request whose calls always have an object as arguments: Anthropic's clients can read nothing else."""

    free_arguments: ClassVar[dict[str, Any] | None] = ANY_OBJECT


class CountRequest(SampledRequest):
    """The body of POST /v1/messages/count_tokens: what a message's prompt is made of."""

    model: str = Field(min_length=1)
    """`prod`, `base`, the base's name or a loaded adapter version."""
    messages: list[InputMessage] = Field(min_length=1)
    """Roles `user`, `assistant`, `system`; `content` is text or a list of blocks."""
    system: str | list[TextBlock] = ""
    """Instructions that go before the messages."""
    tools: list[Tool] = []
    """Functions that the model may call."""
    tool_choice: ToolChoice = ToolChoice(type="auto")
    """Whether it calls one of them, and which."""
    thinking: ThinkingConfig | None = None
    """Whether reasoning is shown; without it the model reasons too, and does not tell."""
    output_config: OutputConfig = OutputConfig()
    """Effort, and the schema of the answer."""
    output_format: JsonFormat | None = None
    """The older name of `output_config.format`."""
    max_tokens: int | None = Field(default=None, ge=1)
    """No effect on a count."""
    stop_sequences: Annotated[list[StopText], STOPS] = []
    """Up to 16 texts; they end the answer and are not part of it."""
    stream: bool = False
    """True: server-sent events, each with its name."""
    cache_control: Ignored = None
    """No effect."""
    context_management: Ignored = None
    """No effect: nothing is taken out of the messages."""
    metadata: Ignored = None
    """No effect."""
    service_tier: Ignored = None
    """No effect."""
    speed: Ignored = None
    """No effect."""
    inference_geo: Ignored = None
    """No effect."""
    diagnostics: Ignored = None
    """No effect."""
    user_profile_id: Ignored = None
    """No effect."""
    billing_policy: Ignored = None
    """No effect."""
    fallbacks: Ignored = None
    """No effect."""
    fallback_credit_token: Ignored = None
    """No effect."""
    anthropic_version: Ignored = None
    """No effect."""
    anthropic_beta: Ignored = None
    """No effect."""

    def chat(self) -> ChatRequest:
        """The same as a chat request. Raises RequestError in this route's words."""
        with self.in_own_words():
            return chat.parse_request(self._chat_body(), ObjectCalls)

    @contextlib.contextmanager
    def in_own_words(self) -> Iterator[None]:
        """A RequestError that names chat's parameters names this route's instead."""
        try:
            yield
        except RequestError as error:
            name = (error.param or "").split(".")[0]
            message = re.sub(r"messages\[(\d+)\]", lambda at: f"messages[{self._origin(int(at[1]))}]", error.message)
            message = message.replace(".function.parameters", ".input_schema").replace(".function.name", ".name")
            if name in CHAT_NAMES and message.startswith(name):
                message = message.replace(name, CHAT_NAMES[name], 1)
            raise type(error)(message, hint=error.hint, param=CHAT_NAMES.get(name, error.param)) from error

    def _chat_body(self) -> dict[str, Any]:
        format, said = self.output_config.format or self.output_format, self._conversation.messages
        schema = format and {"type": "json_schema", "json_schema": {"name": "answer", "schema": format.definition}}
        return {
            "model": self.model,
            "messages": said,
            "tools": [tool.chat() for tool in self.tools],
            "tool_choice": self.tool_choice.chat(),
            "reasoning_effort": self._effort(),
            "response_format": schema,
            "continue_final_message": bool(said) and said[-1]["role"] == "assistant",
        }

    def _effort(self) -> str:
        thinking = self.thinking
        if thinking and thinking.type == "disabled":
            return thinking.effort()
        return self.output_config.taken_effort() or (thinking and thinking.effort()) or "medium"

    @cached_property
    def _conversation(self) -> Conversation:
        return Conversation(self.system, self.messages)

    def _origin(self, index: int) -> int:
        origins = self._conversation.origins
        return origins[index] if index < len(origins) else index


class MessagesRequest(CountRequest):
    """The body of POST /v1/messages. Make it with `parse_request`, which refuses what is not listed here."""

    max_tokens: int = Field(ge=1)
    """How long the answer may be, reasoning included; it ends where the context does."""

    @property
    def shows_thinking(self) -> bool:
        return self.thinking is not None and self.thinking.type != "disabled"

    def _chat_body(self) -> dict[str, Any]:
        return super()._chat_body() | {
            **self.model_dump(include=set(SampledRequest.model_fields)),
            "max_completion_tokens": self.max_tokens,
            "stop": self.stop_sequences,
            "stream": True,
            "stream_options": {"continuous_usage_stats": True},
        }


def parse_request(body: bytes | str | dict[str, Any]) -> MessagesRequest:
    """A checked request; see `body.checked`. Refusals say what to do instead."""
    return _checked(body, MessagesRequest)


def parse_count(body: bytes | str | dict[str, Any]) -> CountRequest:
    """The same for what is only counted; what a message may have besides is taken too."""
    request = _checked(body, CountRequest)
    with request.in_own_words():
        request.sampled_times(1, max_tokens=None, stop=tuple(request.stop_sequences), eos=())
    return request


def _checked(body: Any, kind: type) -> Any:
    try:
        return checked(body, kind, NEUTRAL)
    except RequestError as error:
        hint = error.hint or INSTEAD.get(error.param or "", "")
        raise type(error)(error.message, hint=hint, param=error.param) from error
