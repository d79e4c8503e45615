"""The API described for machines (`/openapi.json`) and for people (`/docs`): a page of plain HTML that loads nothing.

FastAPI's own page takes its script from a public server and stays blank without internet. Called by the gateway; routes
that parse their bodies themselves describe them by `documented`.
"""

import copy
import json
import re
from html import escape
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel

from serve.anthropic.message import ErrorEvent
from serve.http.description import answer_schemas, body_schemas
from serve.http.description.answer_schemas import COMPONENT
from serve.http.description.examples import ADMIN_EXAMPLES, EXAMPLES, IN_PATHS

ABOUT = (
    "`model` is `prod`, `base`, the base's name or a loaded adapter version. No API key is needed. Parameters that are "
    "not listed are refused by name."
)
TEXT, LINK = {"schema": {"type": "string"}}, {"$ref": COMPONENT.format(model="Error")}
ANTHROPICS = {"$ref": COMPONENT.format(model="ErrorEvent")}
ERROR = {
    "type": "object",
    "description": "OpenAI's error shape.",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code", "request_id"],
            "properties": {
                "message": {"type": "string", "description": "What happened and what to do."},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"], "description": "The field at fault."},
                "code": {"type": ["string", "null"]},
                "request_id": {"type": "string", "description": "The request's id, as in the header X-Request-Id."},
            },
        }
    },
}
READINESS: dict[int | str, dict[str, Any]] = {
    status: {
        "description": said,
        "content": {"application/json": {"schema": {"type": "object", "properties": {"ready": {"const": ready}}}}},
    }
    for status, ready, said in ((200, True, "An engine answers."), (503, False, "None does."))
}
"""What /readyz answers; either body names each engine's state."""

ANSWERS = {
    "/v1/responses": "response",
    "/v1/models": "list",
    "/v1/models/{name}": "model",
    "/v1/responses/{response_id}": "response",
}
"""The `object` that a route answers with."""


def documented(
    path: str,
    body: type[BaseModel] | None = None,
    *,
    kind: str | None = None,
    text: bool = False,
    answer: Any = None,
    event: Any = None,
) -> dict[str, Any]:
    """A route's arguments that describe it: the body that it parses itself, with examples, and what it answers.

    `answer` and `event` are the types of a whole answer and of what each event of a stream holds. Without `answer`,
    `kind` is its `object` where ANSWERS does not say it, empty for one without.
    """
    kind = ANSWERS.get(path, "") if kind is None else kind
    whole = {"type": "object", "properties": {"object": {"const": kind}} if kind else {}, "additionalProperties": True}
    whole = whole if answer is None else answer_schemas.sent(answer)
    content: dict[str, Any] = {"text/plain": TEXT} if text else {"application/json": {"schema": whole}}
    if event is not None:
        content["text/event-stream"] = {"schema": answer_schemas.event(event)}
    extra: dict[str, Any] = {"responses": {"200": {"description": "The answer.", "content": content}}}
    if body is not None:
        shown = {title: {"value": value} for title, value in EXAMPLES[path].items()}
        schema = body_schemas.taken(body)
        extra["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema, "examples": shown}},
        }
    tag = "adapters" if text else "anthropic" if path.startswith("/v1/messages") else "openai"
    described: dict[str, Any] = {"tags": [tag], "openapi_extra": extra}
    return described | ({"response_class": PlainTextResponse} if text else {})


def openapi(app: FastAPI) -> dict[str, Any]:
    """The description of all routes, OpenAPI 3.1."""
    about = {"title": app.title, "version": app.version, "summary": app.summary, "description": app.description}
    told = copy.deepcopy(get_openapi(**about, routes=app.routes))  # what routes say of themselves stays as it is
    schemas = told.setdefault("components", {}).setdefault("schemas", {})
    for path, operation in ((path, each) for path, methods in told["paths"].items() for each in methods.values()):
        for answered in operation["responses"].values():
            for media in answered.get("content", {}).values():
                schemas |= media["schema"].pop("$defs", {})
        for media in operation.get("requestBody", {}).get("content", {}).values():
            schemas |= media["schema"].pop("$defs", {})
            shown = ADMIN_EXAMPLES.get(path, {})
            media.setdefault("examples", {title: {"value": value} for title, value in shown.items()})
        operation["responses"].pop("422", None)  # FastAPI's own validation error is answered as a 400 here
        error = ANTHROPICS if "anthropic" in operation.get("tags", ()) else LINK
        refused = {"description": "Refused.", "content": {"application/json": {"schema": error}}}
        operation["responses"] |= {"4XX": refused, "5XX": refused | {"description": "Failed; some may be asked again."}}
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    told_error = answer_schemas.sent(ErrorEvent)
    schemas |= told_error.pop("$defs") | {"Error": ERROR, "ErrorEvent": told_error}
    return told


def page(told: dict[str, Any], url: str) -> str:
    """What `openapi` gives, as HTML; its examples ask the gateway at `url`."""
    by_tag: dict[str, list[str]] = {}
    for path, methods in told["paths"].items():
        for method, operation in methods.items():
            block = _operation(method.upper(), path, operation, url.rstrip("/"))
            by_tag.setdefault(operation.get("tags", ["other"])[0], []).append(block)
    routes = "".join(f"<h2>{escape(tag)}</h2>{''.join(blocks)}" for tag, blocks in by_tag.items())
    schemas = "".join(
        f"<details><summary><code>{escape(name)}</code></summary>"
        f'<div id="{escape(name)}">{_properties(schema)}</div></details>'
        for name, schema in told["components"]["schemas"].items()
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(told["info"]["title"])} API</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style>'
        f"<h1>{escape(told['info']['title'])}</h1><p>{escape(told['info']['summary'])}. "
        f'{_prose(told["info"]["description"])} <a href="/openapi.json">openapi.json</a></p>'
        f"{routes}<h2>objects</h2>{schemas}</html>"
    )


def _operation(method: str, path: str, operation: dict[str, Any], url: str) -> str:
    said = f"<p>{_prose(operation.get('description', ''))}</p>"
    media = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if media:
        said += _properties(media["schema"]) if "properties" in media["schema"] else f"<p>{_kind(media['schema'])}</p>"
        asked = url + path.format(**IN_PATHS)
        said += "".join(_example(asked, title, shown["value"]) for title, shown in media.get("examples", {}).items())
    said += _responses(operation["responses"])
    return (
        f'<details><summary><b class="{method.lower()}">{method}</b> <code>{escape(path)}</code> '
        f"{escape(operation.get('summary', ''))}</summary>{said}</details>"
    )


def _responses(responses: dict[str, Any]) -> str:
    """What comes back by status: its media types, and the events of a stream."""
    rows = "".join(
        f"<tr><td><code>{escape(status)}</code><td>{escape(kind)}<td>{_kind(media.get('schema', {}))}"
        f"<td>{_prose(media.get('schema', {}).get('description') or response['description'])}"
        for status, response in responses.items()
        for kind, media in response.get("content", {}).items()
    )
    return f"<h4>Answers</h4><table><tr><th>status<th>format<th>type<th>{rows}</table>"


def _example(url: str, title: str, body: dict[str, Any]) -> str:
    written = json.dumps(body, indent=2).replace("'", "'\\''")
    flag = " -N" if body.get("stream") else ""
    command = f"curl{flag} {url} -H 'Content-Type: application/json' -d '{written}'"
    return f"<h4>{escape(title)}</h4><pre>{escape(command)}</pre>"


def _properties(schema: dict[str, Any]) -> str:
    required = schema.get("required", [])
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code><td>{_kind(about)}<td>{_default(name, about, required)}"
        f"<td>{_prose(about.get('description', ''))}"
        for name, about in sorted(schema.get("properties", {}).items(), key=lambda item: item[0] not in required)
    )
    said = f"<p>{_prose(schema['description'])}</p>" if "description" in schema else ""
    return f"{said}<table><tr><th>field<th>type<th>default<th>{rows}</table>"


def _prose(text: str) -> str:
    """Text in which code stands between backticks."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _default(name: str, about: dict[str, Any], required: list[str]) -> str:
    if name in required:
        return "required"
    plain = isinstance(about.get("default"), str | int | float)
    return f"<code>{escape(json.dumps(about['default']))}</code>" if plain else ""


def _kind(about: dict[str, Any]) -> str:
    if "$ref" in about:
        name = escape(about["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if choices := about.get("anyOf") or about.get("oneOf"):
        return " or ".join(_kind(each) for each in choices)
    if values := about.get("enum") or ([about["const"]] if "const" in about else []):
        return " or ".join(f"<code>{escape(json.dumps(value))}</code>" for value in values)
    if about.get("type") == "array":
        return f"list of {_kind(about.get('items', {}))}"
    kind = about.get("type", "anything")
    bounds = [f"{word} {about[key]:g}" for key, word in BOUNDS.items() if key in about]
    return escape(" ".join([kind if isinstance(kind, str) else " or ".join(kind), *bounds]))


BOUNDS = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to"}

STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
details { border: 1px solid #8886; border-radius: 6px; margin: .4rem 0; padding: .4rem .8rem; overflow-x: auto; }
summary { cursor: pointer; }
pre { background: #8882; padding: .6rem; border-radius: 6px; overflow-x: auto; }
table { border-collapse: collapse; }
td, th { text-align: left; vertical-align: top; padding: .15rem .8rem .15rem 0; border-bottom: 1px solid #8884; }
@media (max-width: 600px) { th { display: none; } tr, td { display: block; } td { border: 0; overflow-wrap: anywhere; }
  tr { border-bottom: 1px solid #8884; padding: .3rem 0; } td:empty { display: none; } }
b.get { color: #2a7; } b.post { color: #37c; }
"""
