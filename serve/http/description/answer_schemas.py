"""What routes answer, as JSON Schemas for the API's description: whole answers, and server-sent events one by one.

The schema of a stream describes one event, as its fields: `data` is text that holds JSON, described by `contentSchema`
(OpenAPI 3.2 and FastAPI describe events in this way). Called by `reference`.
"""

from typing import Any, get_args

from openai.types import responses as openai
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import TypeAdapter

from serve.openai.completions.types import Text, TextChunk

COMPONENT = "#/components/schemas/{model}"

RESPONSE_EVENTS = (
    openai.ResponseCreatedEvent,
    openai.ResponseQueuedEvent,
    openai.ResponseInProgressEvent,
    openai.ResponseOutputItemAddedEvent,
    openai.ResponseOutputItemDoneEvent,
    openai.ResponseContentPartAddedEvent,
    openai.ResponseContentPartDoneEvent,
    openai.ResponseReasoningTextDeltaEvent,
    openai.ResponseReasoningTextDoneEvent,
    openai.ResponseReasoningSummaryPartAddedEvent,
    openai.ResponseReasoningSummaryPartDoneEvent,
    openai.ResponseReasoningSummaryTextDeltaEvent,
    openai.ResponseReasoningSummaryTextDoneEvent,
    openai.ResponseTextDeltaEvent,
    openai.ResponseTextDoneEvent,
    openai.ResponseFunctionCallArgumentsDeltaEvent,
    openai.ResponseFunctionCallArgumentsDoneEvent,
    openai.ResponseCompletedEvent,
    openai.ResponseIncompleteEvent,
    openai.ResponseFailedEvent,
)

APART = {
    ChatCompletion: "Chat.",
    ChatCompletionChunk: "ChatChunk.",
    Text: "Text.",
    TextChunk: "TextChunk.",
}
"""Before the names of OpenAI's types in the description's components: several have the same."""

DONE = "[DONE]"
NAMELESS = (ChatCompletionChunk, TextChunk)
"""What is sent in events without a name, after whose last one comes `[DONE]`."""


def sent(kind: Any) -> dict[str, Any]:
    """The schema of a type, or of a union of types, as it is sent; the parts that it refers to are in `$defs`."""
    apart = APART.get(kind, "")
    reference = COMPONENT.format(model=f"{apart}{{model}}")
    schema = TypeAdapter(kind).json_schema(ref_template=reference, mode="serialization")
    schema["$defs"] = {f"{apart}{name}": part for name, part in schema.pop("$defs", {}).items()}
    return schema


def response_event() -> dict[str, Any]:
    """What an event of OpenAI's Responses holds, by its `type`; its types whole would be 600 components."""
    names = [name for kind in RESPONSE_EVENTS for name in get_args(kind.model_fields["type"].annotation)]
    fields = {"type": {"enum": names}, "sequence_number": {"type": "integer"}}
    return {"type": "object", "required": [*fields], "properties": fields, "additionalProperties": True}


def event(kind: Any) -> dict[str, Any]:
    """The schema of one server-sent event that holds a `kind`, which may be a schema itself."""
    schema = dict(kind) if isinstance(kind, dict) else sent(kind)
    parts = schema.pop("$defs", {})
    data: dict[str, Any] = {"type": "string", "contentMediaType": "application/json", "contentSchema": schema}
    name, about = {"event": {"type": "string", "description": "The `type` of its data."}}, "named events"
    if any(kind is each for each in NAMELESS):
        error = {"$ref": COMPONENT.format(model="Error")}
        data = {"anyOf": [{"const": DONE}, data | {"contentSchema": {"anyOf": [schema, error]}}]}
        name, about = {}, f"events of {schema['title']}, then `[DONE]`"
    return {
        "type": "object",
        "description": f"With stream: {about}.",
        "required": ["data", *name],
        "properties": {"data": data, **name},
        "$defs": parts,
    }
