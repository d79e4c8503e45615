"""What routes take, as JSON Schemas for the API's description: as much of what a body has to be as a schema can say.

The fields come from the bodies' own models. Added is what those leave to code: null stands for a default, fields that
go together or exclude each other, messages and items, and other servers' parameters. What no schema can say stays a
refusal by name: a call's result comes after the call, a named tool is one of `tools`. Called by `reference`; the test
of this file holds the bodies and their schemas to each other.
"""

import copy
from collections.abc import Iterable
from typing import Any, get_args

from pydantic import BaseModel

from serve.anthropic import request as anthropic
from serve.anthropic.input import ELSEWHERE
from serve.http.description.answer_schemas import COMPONENT
from serve.openai.body import SampledRequest
from serve.openai.chat import messages
from serve.openai.chat import request as chat
from serve.openai.completions import request as completions
from serve.openai.fields import dialects
from serve.openai.fields.answer_format import KINDS
from serve.openai.fields.streamed import StreamedRequest
from serve.openai.no_effect import IGNORED
from serve.openai.responses import request as responses
from serve.openai.responses.stored import conversation_bodies
from serve.openai.tokens import request as tokens

Schema = dict[str, Any]

NO_EFFECT = {"description": "No effect."}
ONLY_NEUTRAL = "Not supported: only what asks for nothing."

NEUTRAL = {
    chat.ChatRequest: chat.NEUTRAL,
    completions.CompletionRequest: completions.NEUTRAL,
    responses.ResponsesRequest: responses.NEUTRAL,
    anthropic.MessagesRequest: anthropic.NEUTRAL,
    anthropic.CountRequest: anthropic.NEUTRAL,
}

APART = {anthropic.CountRequest: "MessagesRequest."}
"""Before the names of a body's parts in the description's components, where that is not the body's own name."""

# Parts


def _object(required: Iterable[str] = (), /, **properties: Any) -> Schema:
    """An object whose other keys may only be null."""
    return {"type": "object", "required": [*required], "properties": properties, "additionalProperties": NULL}


def _given(**properties: Any) -> Schema:
    """A condition: these properties are there, and are so."""
    return {"required": [*properties], "properties": properties}


NULL: Schema = {"type": "null"}
TEXT: Schema = {"type": "string"}
SOME_TEXT = TEXT | {"minLength": 1}
CALLED = TEXT | {"pattern": r"^[\w.\-]+$"}
"""The name of a function that was called, perhaps one that there is not."""
OR_NULL: Schema = {"type": ["string", "null"]}
TRUE: Schema = {"const": True}


def _chat_messages() -> Schema:
    """The messages of a chat: what `chat_messages` and `models.harmony` take, each by itself."""
    anything = dict.fromkeys(sorted(messages.CACHED), NO_EFFECT)
    part = _object(("type", "text"), type={"const": "text"}, text=TEXT, **anything)
    said = {"anyOf": [TEXT, {"type": "array", "minItems": 1, "items": part}]}
    others = {"name": NO_EFFECT, **anything}
    plain = _object(("role", "content"), role={"enum": ["system", "developer", "user"]}, content=said, **others)
    result = _object(("role", "content"), role={"const": "tool"}, content=said, tool_call_id={}, **others)
    function = _object(("name",), name=CALLED, arguments={}, parsed_arguments=NO_EFFECT)
    call = _object(("function",), type={"const": "function"}, function=function, id={}, index={})
    calls = {"type": ["array", "null"], "items": call}
    content = {"anyOf": [TEXT, {"type": "array", "items": part}, NULL]}
    answer = _object(
        ("role",), role={"const": "assistant"}, content=content, tool_calls=calls,
        annotations={"type": ["array", "null"], "maxItems": 0}, reasoning_details={"type": ["array", "null"]},
        **dict.fromkeys(messages.ECHOED, NO_EFFECT), **dict.fromkeys(messages.REASONING, OR_NULL), **others,
    )  # fmt: skip
    something = [_given(content=said), _given(tool_calls={"type": "array", "minItems": 1})]
    something += [_given(**{key: SOME_TEXT}) for key in messages.REASONING]
    return {"type": "array", "minItems": 1, "items": {"anyOf": [plain, answer | {"anyOf": something}, result]}}


def _items(*, references: bool) -> Schema:
    """The items of a Responses body: what `response_input` takes, each by itself. Other keys are not read."""

    def item(kind: str, required: Iterable[str], **properties: Any) -> Schema:
        about = {"type": {"const": kind}, "id": OR_NULL, **properties}
        return {"type": "object", "required": ["type", *required], "properties": about}

    part = {"type": "object", **_given(type={"enum": ["input_text", "output_text", "text"]}, text=TEXT)}
    said = {"anyOf": [TEXT, {"type": "array", "items": part}]}
    thought = {"type": ["array", "null"], "items": {"type": "object", **_given(text=TEXT)}}
    role = {"enum": ["user", "assistant", "system", "developer"]}
    message = item("message", ("role", "content"), role=role, content=said)
    message |= {"required": ["role", "content"]}
    message["properties"]["type"] = {"enum": ["message", None]}
    kinds = [
        message,
        item("reasoning", (), content=thought, summary=thought, encrypted_content=OR_NULL),
        item("function_call", ("call_id", "name", "arguments"), call_id=TEXT, name=CALLED, arguments=TEXT),
        item("function_call_output", ("call_id", "output"), call_id=TEXT, output=said),
    ]
    if references:
        bare = {"type": "object", **_given(id=TEXT), "additionalProperties": False}
        bare["properties"] |= {"type": NULL}
        kinds += [item("item_reference", ("id",), id=TEXT), bare]
    return {"type": "array", "items": {"anyOf": kinds}}


FORMAT_NAME = {"type": "string", "pattern": r"^[\w\-]{1,64}$"}
A_SCHEMA = {
    "name": FORMAT_NAME, "schema": {"type": "object"}, "description": OR_NULL, "strict": {"type": ["boolean", "null"]},
}  # fmt: skip
TEXT_FORMAT: Schema = {
    "anyOf": [
        _object((), type={"enum": ["text", "json_object", None]}),
        _object(("type", "name", "schema"), type={"const": "json_schema"}, **A_SCHEMA),
        NULL,
    ]
}
"""`text.format` of a Responses body."""

BESIDE_ITS_TYPE = _object(("type", "schema"), type={"enum": ["json_object", "json_schema"]}, json_schema=NULL,
                          **A_SCHEMA)  # fmt: skip
"""A `response_format` of llama.cpp, Together or Fireworks."""

PARTS: dict[str, Schema] = {
    "ResponseFormat": {
        "if": _given(type={"const": "json_schema"}),
        "then": _given(json_schema={"type": "object"}),
        "else": {"properties": {"json_schema": NULL}},
    },
    "StructuredOutputs": {
        "anyOf": [
            {"properties": {name: {"enum": [None, False]} for name in names if name != one}}
            for names in [["json" if kind == "definition" else kind for kind in KINDS]]
            for one in names
        ]
    },
    "ToolChoice": {"if": _given(type={"const": "tool"}), "then": {"required": ["name"], "properties": {"name": TEXT}}},
}
"""What parts of bodies have to be besides, by name."""


def _block_kinds(role: str) -> list[str]:
    """The kinds of blocks that messages of a role may not have."""
    return [get_args(block.model_fields["type"].annotation)[0] for block in ELSEWHERE[role]]


PARTS["InputMessage"] = {
    "allOf": [
        {
            "if": _given(role={"const": role}),
            "then": {
                "properties": {"content": {"items": {"properties": {"type": {"not": {"enum": _block_kinds(role)}}}}}}
            },
        }
        for role in ELSEWHERE
    ]
}

# Bodies

STREAMED = {
    "if": _given(
        stream_options={
            "type": "object",
            "anyOf": [
                _given(**{name: TRUE}) for name in ("include_usage", "continuous_usage_stats", "include_obfuscation")
            ],
        }
    ),
    "then": _given(stream=TRUE),
}
MUST_CALL = {
    "if": _given(tool_choice={"anyOf": [{"const": "required"}, {"type": "object"}]}),
    "then": _given(tools={"minItems": 1}),
}
CALLS_SOMETHING = {
    "if": _given(tool_choice={"type": "object", **_given(type={"enum": ["any", "tool"]})}),
    "then": _given(tools={"minItems": 1}),
}
CONTINUED = {
    "if": _given(continue_final_message=TRUE),
    "then": {"properties": {"add_generation_prompt": {"enum": [False, None]}}},
}
SOMETHING = {"anyOf": [SOME_TEXT, {"type": "array", "minItems": 1}]}

CONDITIONS: dict[type[BaseModel], list[Schema]] = {
    chat.ChatRequest: [
        STREAMED, MUST_CALL, CONTINUED,
        {"if": _given(top_logprobs={"type": "integer", "minimum": 1}), "then": _given(logprobs=TRUE)},
    ],
    completions.CompletionRequest: [
        STREAMED,
        {
            "if": _given(max_tokens={"const": 0}),
            "then": {"anyOf": [_given(echo=TRUE), _given(prompt_logprobs={"type": "integer"})]},
        },
    ],
    responses.ResponsesRequest: [
        MUST_CALL,
        {
            "anyOf": [
                _given(input=SOMETHING),
                _given(previous_response_id=SOME_TEXT),
                _given(conversation={"anyOf": [SOME_TEXT, {"type": "object"}]}),
            ]
        },
        {"not": _given(previous_response_id=SOME_TEXT, conversation={"anyOf": [SOME_TEXT, {"type": "object"}]})},
    ],
    anthropic.MessagesRequest: [CALLS_SOMETHING],
    tokens.TokenizeRequest: [
        CONTINUED,
        {
            "oneOf": [
                {"required": ["prompt"], "properties": {"prompt": TEXT, "messages": NULL}},
                {"required": ["messages"], "properties": {"messages": {"type": "array"}, "prompt": NULL}},
            ]
        },
    ],
}  # fmt: skip
"""What fields have to be together."""


def _fields(kind: type[BaseModel]) -> dict[str, Schema]:
    """Fields that are described otherwise than their types say."""
    if kind is chat.ChatRequest:
        return {
            "messages": _chat_messages(),
            "reasoning_effort": dialects.EFFORT,
            "response_format": _answer_format(kind),
        }
    if kind is completions.CompletionRequest:
        return {"response_format": _answer_format(kind)}
    if kind is tokens.TokenizeRequest:
        return {"messages": {"anyOf": [_chat_messages(), NULL]}, "chat_template_kwargs": dialects.KWARGS}
    if kind is responses.ResponsesRequest:
        return {"input": {"anyOf": [TEXT, _items(references=True)]}}
    if issubclass(kind, conversation_bodies.WithItems):
        least = {"minItems": 1} if kind is conversation_bodies.ItemsCreation else {}
        return {"items": _items(references=False) | {"maxItems": conversation_bodies.MOST_ITEMS} | least}
    return {}


def _answer_format(kind: type[BaseModel]) -> Schema:
    return {"anyOf": [{"$ref": COMPONENT.format(model=f"{kind.__name__}.ResponseFormat")}, BESIDE_ITS_TYPE]}


def taken(kind: type[BaseModel]) -> Schema:
    """The schema of a body; the parts that it refers to are in `$defs`, under names of their own."""
    apart = APART.get(kind, f"{kind.__name__}.")
    schema = kind.model_json_schema(ref_template=COMPONENT.format(model=f"{apart}{{model}}"))
    schema.pop("description")  # for who reads the source
    parts = schema.pop("$defs", {})
    refused = {name for name, part in parts.items() if part.get("description", "").startswith("Refused:")}
    schema = _without(refused, schema)
    parts = {name: _without(refused, part) for name, part in parts.items() if name not in refused}
    own = schema["properties"]
    for name, about in _fields(kind).items():
        said = {key: own[name][key] for key in ("title", "description", "default") if key in own.get(name, {})}
        own[name] = {**copy.deepcopy(about), **said}
    for name, more in PARTS.items():
        if name in parts:
            parts[name] |= copy.deepcopy(more)
    if "TextOptions" in parts:
        parts["TextOptions"]["properties"]["format"] |= copy.deepcopy(TEXT_FORMAT)
    for each in (schema, *parts.values()):
        _take_nulls(each)
    schema["properties"] = _of_others(kind) | own
    if conditions := CONDITIONS.get(kind):
        schema["allOf"] = copy.deepcopy(conditions)
    schema["$defs"] = {f"{apart}{name}": part for name, part in parts.items()}
    return schema


def _of_others(kind: type[BaseModel]) -> dict[str, Schema]:
    """Parameters that a body may have besides its own: without effect, in other servers' words, or saying nothing."""
    if not issubclass(kind, SampledRequest):
        return {}
    about: dict[str, Schema] = dict.fromkeys(sorted(IGNORED), NO_EFFECT)
    for name, values in NEUTRAL[kind].items():
        if values:
            about[name] = {"description": ONLY_NEUTRAL, "enum": [*values, None]}
    if issubclass(kind, StreamedRequest):
        ways = dialects.CHAT if kind is chat.ChatRequest else dialects.COMMON
        about |= {name: {"description": said, **dialects.DESCRIBED.get(name, {})} for name, said in ways.items()}
    return about


def _without(refused: set[str], value: Any) -> Any:
    """A schema less the members of unions that are known only to be refused, such as images."""
    if isinstance(value, list):
        return [_without(refused, each) for each in value]
    if not isinstance(value, dict):
        return value
    left = {key: _without(refused, each) for key, each in value.items() if key != "discriminator"}
    if "oneOf" in left:
        left["oneOf"] = [one for one in left["oneOf"] if one.get("$ref", "").rpartition(".")[2] not in refused]
    return left


def _take_nulls(schema: Schema) -> None:
    """Null stands for a field's default, and so for a field that there is not; see `body.checked` and `body.Part`."""
    for name, about in schema.get("properties", {}).items():
        if name not in schema.get("required", ()):
            schema["properties"][name] = _or_null(about)
    if schema.get("additionalProperties") is False:
        schema["additionalProperties"] = NULL


def _or_null(about: Schema) -> Schema:
    kinds = {"type", "anyOf", "oneOf", "$ref", "const", "enum"} & about.keys()
    if not kinds or NULL in about.get("anyOf", ()) or "null" in about.get("type", ()):
        return about
    if kinds == {"type"}:
        return about | {"type": [about["type"], "null"]}
    if "anyOf" in kinds:
        return about | {"anyOf": [*about["anyOf"], NULL]}
    said = {key: about[key] for key in ("title", "description", "default") if key in about}
    return {"anyOf": [{key: value for key, value in about.items() if key not in said}, NULL], **said}
