"""An error as an HTTP answer, in the shape of the API that the request speaks: OpenAI's, or Anthropic's on its routes.

The one place where errors become HTTP. Called by the gateway and its middleware.
"""

from collections.abc import Mapping
from typing import Any

from fastapi.responses import JSONResponse

from configs.errors import ClusterError, OverloadError
from serve.anthropic import errors as anthropic_errors
from serve.openai import errors
from serve.request_log import current_id

RETRY_AFTER_S = 2


def respond(error: Exception, scope: Mapping[str, Any], *, status: int | None = None) -> JSONResponse:
    """The answer to a request of ASGI `scope`; `status` is for what no error class has one of."""
    found, said = body(error, scope, status)
    headers = request_id(scope)
    if isinstance(error, OverloadError | ClusterError):
        headers["retry-after"] = str(RETRY_AFTER_S)
    return JSONResponse(said, status_code=found, headers=headers)


def body(error: Exception, scope: Mapping[str, Any], status: int | None = None) -> tuple[int, dict[str, Any]]:
    """The status and what the answer says."""
    if speaks_anthropic(scope):
        return anthropic_errors.error_body(error, status)
    found, said = errors.error_body(error)
    return status or found, said


def request_id(scope: Mapping[str, Any]) -> dict[str, str]:
    """The header in which Anthropic's clients look for the request's id; OpenAI's is `serve.request_log`'s."""
    return {"request-id": current_id() or ""} if speaks_anthropic(scope) else {}


def speaks_anthropic(scope: Mapping[str, Any]) -> bool:
    """Whether a request is for Anthropic's API: by its route, or by the header that all its clients send."""
    path = scope.get("path", "")
    return path.startswith("/v1/messages") or any(name == b"anthropic-version" for name, _ in scope.get("headers", ()))
