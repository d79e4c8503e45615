"""Errors in OpenAI's shape: a status and a body. Called by `error_answer`, and for an error event inside a stream."""

from typing import Any

from openai.types.shared import ErrorObject
from pydantic import ValidationError

from configs.errors import NotFoundError, TandemError
from configs.http_errors import MODEL_NOT_FOUND, STATUS
from serve.openai.body import request_error
from serve.request_log import current_id


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
        code = MODEL_NOT_FOUND
    param = error.param and _writable(error.param)
    fields = ErrorObject(message=_writable(error.sentence), type=kind, param=param, code=code)
    body = fields.model_dump(include={"message", "type", "param", "code"})
    return status, {"error": body | ({"request_id": request} if (request := current_id()) else {})}


def _writable(text: str) -> str:
    """Half a surrogate pair, which a client may have sent and no answer can hold, becomes a question mark."""
    return text.encode("utf-8", "replace").decode()
