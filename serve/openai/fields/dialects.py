"""Other servers' ways to say what the routes know, said in the routes' own words: vLLM's older and template parameters,
Ollama's, Open WebUI's, OpenRouter's, llama.cpp's. Knows formats only.

Called on a body before it is checked. A way whose own parameter is given too has no effect; nothing misspelled passes.
"""

import json
from collections.abc import Mapping
from typing import Any

from configs.errors import RequestError
from serve.openai.body import whole
from serve.openai.no_effect import ignore, nearest

GUIDED = {f"guided_{kind}": kind for kind in ("json", "json_object", "regex", "choice", "grammar")}
"""vLLM's names before 0.12, and what they are called in `structured_outputs`."""

RENAMED = {"repeat_penalty": "repetition_penalty", "num_predict": "max_tokens"}
"""Ollama's names for what other servers have too."""

COMMON = {
    **{name: f"vLLM's older way to say `structured_outputs.{kind}`." for name, kind in GUIDED.items()},
    **{name: f"Ollama's name of `{ours}`." for name, ours in RENAMED.items()},
    "format": "Ollama's `response_format`: `json`, or a schema.",
}
CHAT = COMMON | {
    "think": "Ollama's `reasoning_effort`, or whether to think, which the model always does.",
    "reasoning": "OpenRouter's: `effort` is `reasoning_effort`, `exclude` is `include_reasoning`.",
    "chat_template_kwargs": "vLLM's: `reasoning_effort`, `add_generation_prompt`, `continue_final_message`.",
    "verbosity": "The model knows no other than `medium`.",
}
"""Parameters that are read here and nowhere else, with what they stand for; those of chat and those that both have."""

EFFORTS = {"none": "low", "minimal": "low", "xhigh": "high", "max": "high"}
"""Efforts that the model does not know, and the nearest that it knows."""

EFFORT = {"enum": ["low", "medium", "high", *EFFORTS, None]}
KWARGS = {
    "type": ["object", "null"],
    "properties": {
        "reasoning_effort": EFFORT,
        "add_generation_prompt": {"type": ["boolean", "null"]},
        "continue_final_message": {"type": ["boolean", "null"]},
        "documents": {"type": ["array", "null"], "maxItems": 0},
    },
}
DESCRIBED = {
    "guided_json": {"anyOf": [{"type": ["object", "string", "null"]}, {"const": False}]},
    "guided_json_object": {"type": ["boolean", "null"]},
    "guided_regex": {"anyOf": [{"type": ["string", "null"]}, {"const": False}]},
    "guided_choice": {
        "anyOf": [{"type": ["array", "null"], "items": {"type": "string"}, "minItems": 1}, {"const": False}]
    },
    "guided_grammar": {"anyOf": [{"type": ["string", "null"], "minLength": 1}, {"const": False}]},
    "repeat_penalty": {"type": ["number", "null"], "minimum": 0.01, "maximum": 100},
    "num_predict": {
        "anyOf": [{"type": ["integer", "null"], "minimum": 1}, {"type": "integer", "maximum": -1}],
    },
    "format": {"anyOf": [{"enum": ["json", "", None]}, {"type": "object"}]},
    "think": {"enum": [*EFFORT["enum"], True, False]},
    "reasoning": {
        "type": ["object", "null"],
        "properties": {
            "effort": EFFORT,
            "exclude": {"type": ["boolean", "null"]},
            "enabled": {"type": ["boolean", "null"]},
            "max_tokens": {},
            "summary": {},
        },
        "additionalProperties": {"type": "null"},
    },
    "chat_template_kwargs": KWARGS,
    "verbosity": {"enum": ["low", "medium", "high", None]},
}
"""Their values, as JSON Schemas."""

ON_TEMPLATE = ("add_generation_prompt", "continue_final_message", "reasoning_effort")
THINKS = ("enable_thinking", "thinking")
"""What templates of other models call it; this one always thinks."""


def common(body: Mapping[str, Any]) -> dict[str, Any]:
    """A body of chat or completions in our words. Raises RequestError for a value that means nothing."""
    said = {name: value for name, value in body.items() if value is not None and name not in COMMON}
    for name, value in body.items():
        if name in RENAMED and not (name == "num_predict" and isinstance(value := whole(value), int) and value < 0):
            _say(said, RENAMED[name], value, name)
        elif name == "format":
            _say(said, "response_format", _response_format(value), name)
    older = {GUIDED[name]: body[name] for name in GUIDED if body.get(name) is not None and body[name] is not False}
    if older:
        _say(said, "structured_outputs", older, next(name for name in GUIDED if name in body))
    if isinstance(said.get("response_format"), Mapping):
        said["response_format"] = _variant(said["response_format"])
    return said


def chat(body: Mapping[str, Any]) -> dict[str, Any]:
    """A chat body in our words. Raises RequestError for a value that means nothing."""
    said = {name: value for name, value in common(body).items() if name not in CHAT}
    if body.get("verbosity") in ("low", "high"):
        nearest("verbosity", body["verbosity"], "medium")
    elif body.get("verbosity") not in (None, "medium"):
        raise RequestError(f"verbosity={json.dumps(body['verbosity'])} is not supported", param="verbosity")
    for read in (_template, _think, _openrouter):
        read(body, said)
    effort = said.get("reasoning_effort")
    if isinstance(effort, str) and effort in EFFORTS:
        said["reasoning_effort"] = nearest("reasoning_effort", effort, EFFORTS[effort])
    if isinstance(said.get("messages"), list):
        said["messages"] = [_message(index, each) for index, each in enumerate(said["messages"])]
    return said


def _say(said: dict[str, Any], name: str, value: object, way: str) -> None:
    """`value` is what the parameter `name` says, unless it says something itself; `way` is how it was said."""
    if value is None:
        return
    if name in said:
        ignore(way)
    else:
        said[name] = value


def _response_format(value: object) -> dict[str, Any] | None:
    """Ollama's `format`: "json", or a schema."""
    if value in (None, ""):
        return None
    if value == "json":
        return {"type": "json_object"}
    if not isinstance(value, dict):
        raise RequestError('format is neither "json" nor a JSON Schema', param="format")
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": value}}


def _variant(asked: Mapping[str, Any]) -> dict[str, Any]:
    """A `response_format` of llama.cpp, Together or Fireworks, whose schema lies beside its type, as OpenAI's."""
    schema = asked.get("schema")
    if asked.get("type") not in ("json_object", "json_schema") or schema is None or asked.get("json_schema"):
        return dict(asked)
    others = {name: value for name, value in asked.items() if name in ("name", "description", "strict")}
    left = {name: value for name, value in asked.items() if name not in ("type", "schema", "json_schema", *others)}
    return {"type": "json_schema", "json_schema": {"name": "answer", **others, "schema": schema}, **left}


def _template(body: Mapping[str, Any], said: dict[str, Any]) -> None:
    """Variables of a chat template: those that this model's prompt has, under their own names."""
    variables = _object(body, "chat_template_kwargs")
    for name, value in variables.items():
        if name in ON_TEMPLATE:
            _say(said, name, value, f"chat_template_kwargs.{name}")
        elif name == "documents" and value not in (None, []):
            raise RequestError("chat_template_kwargs.documents is not supported", param="chat_template_kwargs")
        elif name in THINKS and value is False:
            _think_little(said, f"chat_template_kwargs.{name}")
        elif not (name in THINKS and value is True):
            ignore(f"chat_template_kwargs.{name}")


def _think(body: Mapping[str, Any], said: dict[str, Any]) -> None:
    """Ollama's `think`: an effort, or whether to think at all."""
    match body.get("think"):
        case None | True:
            pass
        case False:
            _think_little(said, "think")
        case effort:
            _say(said, "reasoning_effort", effort, "think")


def _openrouter(body: Mapping[str, Any], said: dict[str, Any]) -> None:
    """OpenRouter's `reasoning`: an effort, and whether the reasoning is sent."""
    for name, value in _object(body, "reasoning").items():
        match name, value:
            case _, None:
                pass
            case "effort", effort:
                _say(said, "reasoning_effort", effort, "reasoning.effort")
            case "exclude", bool():
                _say(said, "include_reasoning", not value, "reasoning.exclude")
            case "enabled", False:
                _think_little(said, "reasoning.enabled")
            case "enabled", True:
                pass
            case "max_tokens" | "summary", _:
                ignore(f"reasoning.{name}")
            case _:
                raise RequestError(f"reasoning.{name} is not supported", param="reasoning")


def _think_little(said: dict[str, Any], way: str) -> None:
    if "reasoning_effort" in said:
        ignore(way)
    else:
        said["reasoning_effort"] = nearest(way, "false", "low")


def _object(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = body.get(name)
    if not isinstance(found, Mapping | None):
        raise RequestError(f"{name}: Input should be an object", param=name)
    return found or {}


def _message(index: int, message: object) -> object:
    """With the reasoning that OpenRouter's `reasoning_details` give again in parts, if it stands nowhere else."""
    if not isinstance(message, Mapping):
        return message
    details = message.get("reasoning_details")
    if not isinstance(details, list) or message.get("role") != "assistant":
        return message
    rest = {name: value for name, value in message.items() if name != "reasoning_details"}
    parts = [each for each in details if isinstance(each, Mapping)]
    text = "".join(part for each in parts if isinstance(part := each.get("text") or each.get("summary"), str))
    if any(rest.get(name) for name in ("reasoning", "reasoning_content", "thinking")):
        return rest
    if not text:
        ignore(f"messages[{index}].reasoning_details")
    return {**rest, "reasoning": text} if text else rest
