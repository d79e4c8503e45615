"""Errors over HTTP, both ways: the status and the code that an error class has, and the class that an answer had.

`serve.openai.errors` writes bodies by STATUS; clients of the gateway and of other OpenAI-compatible servers read them
with `error_of`. Knows no HTTP library.
"""

import json
from typing import Any

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
MODEL_NOT_FOUND = "model_not_found"
"""OpenAI's code of a NotFoundError about a model."""
RESTARTING = (502, 503, 504)
"""Statuses of an endpoint that is being restarted."""
SHOWN_TEXT = 200

_BY_CODE = {code: kind for kind, (_, _, code) in STATUS.items() if code} | {MODEL_NOT_FOUND: NotFoundError}
_BY_STATUS = {400: RequestError, 404: NotFoundError, 409: StateError, 413: RequestError, 422: RequestError}
_BY_STATUS |= {429: OverloadError} | dict.fromkeys(RESTARTING, ClusterError)


def kind_of(status: int | None, code: Any = None) -> type[TandemError]:
    """The class that an error had, by its code if that is ours, or else by its status; TandemError for all others."""
    known = _BY_CODE.get(code) if isinstance(code, str) else None
    return known or _BY_STATUS.get(status or 0, TandemError)


def error_of(status: int | None, body: Any, *, who: str, otherwise: type[TandemError] = TandemError) -> TandemError:
    """The error that an answer says, with its hint; `otherwise` is its class where neither code nor status says one.

    `body` is the answer's text or what was parsed of it; `status` is None for an error event inside a stream.
    """
    said = fields(body)
    kind = kind_of(status, said.get("code"))
    words = said.get("message") or f"{who} answered {status}: {str(body)[:SHOWN_TEXT]}"
    message, arrow, hint = words.rpartition(" -> ")  # as TandemError.sentence joins them
    param = said.get("param")
    return (otherwise if kind is TandemError else kind)(
        message if arrow else words, hint=hint if arrow else "", param=param if isinstance(param, str) else None
    )


def fields(body: Any) -> dict[str, Any]:
    """`message`, and what else there is, of an error body in any of the shapes that servers give it; empty for none."""
    if isinstance(body, str):
        try:
            body = json.loads(body)
        except (ValueError, RecursionError):
            return {}
    error = body.get("error", body) if isinstance(body, dict) else {}
    error = error if isinstance(error, dict) else {"message": error}
    message = error.get("message") or error.get("detail")
    return error | {"message": str(message)} if message else {}
