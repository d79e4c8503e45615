"""What `POST /v1/messages` answers with: Anthropic's message, its blocks and its stream's events. Formats only.

`anthropic_answer` makes them; `serve.http.description.openapi` describes them. The format:
https://platform.claude.com/docs/en/build-with-claude/streaming
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"]


class WireModel(BaseModel):
    """What is sent, is sent with all its fields."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    def model_post_init(self, context: Any) -> None:
        self.__pydantic_fields_set__ = set(type(self).model_fields)


class ThinkingTokens(WireModel):
    thinking_tokens: int


class MessageUsage(WireModel):
    """Tokens so far; those of the prompt are `input_tokens` and `cache_read_input_tokens` together."""

    input_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    output_tokens: int
    output_tokens_details: ThinkingTokens


class AnswerThinking(WireModel):
    type: Literal["thinking"] = "thinking"
    thinking: str
    signature: str


class AnswerText(WireModel):
    type: Literal["text"] = "text"
    text: str
    citations: None = None


class AnswerToolUse(WireModel):
    type: Literal["tool_use"] = "tool_use"
    id: str
    name: str
    input: dict[str, Any]


Block = AnswerThinking | AnswerText | AnswerToolUse


class Message(WireModel):
    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[Block]
    stop_reason: StopReason | None
    """Null where a stream begins."""
    stop_sequence: str | None
    """The one of `stop_sequences` that ended it."""
    usage: MessageUsage


class MessageStart(WireModel):
    type: Literal["message_start"] = "message_start"
    message: Message


class ContentBlockStart(WireModel):
    type: Literal["content_block_start"] = "content_block_start"
    index: int
    content_block: Block


class TextDelta(WireModel):
    type: Literal["text_delta"] = "text_delta"
    text: str


class ThinkingDelta(WireModel):
    type: Literal["thinking_delta"] = "thinking_delta"
    thinking: str


class SignatureDelta(WireModel):
    type: Literal["signature_delta"] = "signature_delta"
    signature: str


class InputJsonDelta(WireModel):
    type: Literal["input_json_delta"] = "input_json_delta"
    partial_json: str


class ContentBlockDelta(WireModel):
    type: Literal["content_block_delta"] = "content_block_delta"
    index: int
    delta: TextDelta | ThinkingDelta | SignatureDelta | InputJsonDelta


class ContentBlockStop(WireModel):
    type: Literal["content_block_stop"] = "content_block_stop"
    index: int


class Stopped(WireModel):
    stop_reason: StopReason
    stop_sequence: str | None


class MessageDelta(WireModel):
    type: Literal["message_delta"] = "message_delta"
    delta: Stopped
    usage: MessageUsage


class MessageStop(WireModel):
    type: Literal["message_stop"] = "message_stop"


class Ping(WireModel):
    """The connection lives, and nothing is to be said."""

    type: Literal["ping"] = "ping"


class ErrorDetail(WireModel):
    type: str
    message: str
    details: dict[str, str] | None
    """Its `error_code`, where clients go on by one."""


class ErrorEvent(WireModel):
    """The answer breaks off; also the body of every refusal."""

    type: Literal["error"] = "error"
    error: ErrorDetail
    request_id: str | None = None


Event = (
    MessageStart
    | ContentBlockStart
    | ContentBlockDelta
    | ContentBlockStop
    | MessageDelta
    | MessageStop
    | Ping
    | ErrorEvent
)


class TokenCount(WireModel):
    input_tokens: int
