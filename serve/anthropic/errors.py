"""Errors in Anthropic's shape: a status and a body. Clients act on the type, Claude Code also on words of the message.

Called by `error_answer`, and for an error event inside a stream.
"""

import re
from typing import Any

from configs.errors import BodyTooLargeError, NotFoundError, OverloadError, PromptTooLongError
from serve.anthropic.message import ErrorDetail, ErrorEvent
from serve.openai import errors

STATUS = {BodyTooLargeError: 413, OverloadError: 529}
"""Where Anthropic's differs from OpenAI's."""

TYPES = {
    400: "invalid_request_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    409: "conflict_error",
    413: "request_too_large",
    529: "overloaded_error",
}
"""By status; every other one is `api_error`."""

CODES = {"thread": "thread_unsupported_request"}
"""By parameter: at this one Anthropic's tool runner sends the whole conversation instead."""


def error_body(error: Exception, status: int | None = None) -> tuple[int, dict[str, Any]]:
    """HTTP status and JSON body; `status` is for what no error class has one of."""
    usual, openai = errors.error_body(error)
    status = status or STATUS.get(type(error), usual)
    message = openai["error"]["message"]
    if isinstance(error, PromptTooLongError):
        message = _too_long(message)
    if isinstance(error, NotFoundError) and error.param == "model":
        message = f"model: {message}"
    code = CODES.get(openai["error"]["param"] or "")
    details = {"error_code": code} if code else None
    detail = ErrorDetail(type=TYPES.get(status, "api_error"), message=message, details=details)
    return status, ErrorEvent(error=detail, request_id=openai["error"].get("request_id")).model_dump()


def _too_long(message: str) -> str:
    """In the words by which Claude Code (2.1) knows that it has to shorten the conversation, and by how much."""
    numbers = re.search(r"maximum context length is (\d+) tokens\..* requested (?:at least )?(\d+)", message)
    return f"prompt is too long: {numbers[2]} tokens > {numbers[1]} maximum" if numbers else message
