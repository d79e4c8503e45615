"""The API's description in OpenAPI 3.1 (`/openapi.json`), which the page at `/docs` shows.

Called by the gateway; routes that parse their bodies themselves describe them by `documented`.
"""

import copy
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
        for parameter in operation.get("parameters", ()):
            if parameter["in"] == "path":
                parameter["example"] = IN_PATHS[parameter["name"]]
        operation["responses"].pop("422", None)  # FastAPI's own validation error is answered as a 400 here
        error = ANTHROPICS if "anthropic" in operation.get("tags", ()) else LINK
        refused = {"description": "Refused.", "content": {"application/json": {"schema": error}}}
        operation["responses"] |= {"4XX": refused, "5XX": refused | {"description": "Failed; some may be asked again."}}
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    told_error = answer_schemas.sent(ErrorEvent)
    schemas |= told_error.pop("$defs") | {"Error": ERROR, "ErrorEvent": told_error}
    return told
