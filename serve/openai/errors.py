"""Errors in OpenAI's shape: a status and a body. Called by `error_answer`, and for an error event inside a stream."""

from typing import Any

from openai.types.shared import ErrorObject
from pydantic import ValidationError

from configs.errors import (
    AdapterError,
    ClusterError,
    ConfigError,
    NotFoundError,
    OverloadError,
    PreviousResponseError,
    PromptTooLongError,
    RequestError,
    StateError,
    TandemError,
)
from serve.openai.body import request_error
from serve.request_log import current_id

STATUS = {
    PromptTooLongError: (400, "invalid_request_error", "context_length_exceeded"),
    PreviousResponseError: (400, "invalid_request_error", "previous_response_not_found"),
    RequestError: (400, "invalid_request_error", None),
    ConfigError: (400, "invalid_request_error", None),
    NotFoundError: (404, "invalid_request_error", "not_found"),
    AdapterError: (409, "conflict_error", "adapter_refused"),
    StateError: (409, "conflict_error", "wrong_state"),
    OverloadError: (429, "rate_limit_error", "overloaded"),
    ClusterError: (503, "server_error", "unavailable"),
    TandemError: (500, "server_error", None),
}
"""HTTP status, OpenAI error type and code by error class; the nearest base class counts."""


def error_body(error: Exception) -> tuple[int, dict[str, Any]]:
    """HTTP status and JSON body in OpenAI's error shape; also the payload of an error event inside a stream.

    An error that is not ours says no more than that, because its text may hold paths or secrets. Within a request the
    error has its id, as `request_id`.
    """
    if isinstance(error, ValidationError):
        error = request_error(error)
    if not isinstance(error, TandemError):
        error = TandemError("internal error", hint="see the server's log: `tandem logs --request ID`")
    status, kind, code = next(STATUS[base] for base in type(error).__mro__ if base in STATUS)
    if isinstance(error, NotFoundError) and error.param in ("model", "adapter"):
        code = "model_not_found"
    param = error.param and _writable(error.param)
    fields = ErrorObject(message=_writable(error.sentence), type=kind, param=param, code=code)
    body = fields.model_dump(include={"message", "type", "param", "code"})
    return status, {"error": body | ({"request_id": request} if (request := current_id()) else {})}


def _writable(text: str) -> str:
    """Half a surrogate pair, which a client may have sent and no answer can hold, becomes a question mark."""
    return text.encode("utf-8", "replace").decode()
