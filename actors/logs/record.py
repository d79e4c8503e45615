"""One log record as one line of JSON. Knows no file; `actors.logs.handler` calls it.

Standard library rather than structlog: what Ray, uvicorn and Transformers log comes by the same way, and there is
nothing to install.
"""

import json
import logging
import math
import re
import traceback
from contextvars import ContextVar
from datetime import datetime
from typing import Any

REQUEST: ContextVar[str | None] = ContextVar("tandem_request", default=None)
"""The id of the request that this task answers; it goes into every line."""

LONGEST_TEXT = 8_000
LONGEST_TRACEBACK = 32_000
"""Characters. The end is kept of a traceback, because the cause is there."""
MOST_ITEMS = 50

# Ray adds `_ray_timestamp_ns` to every record of a process that has imported it.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
_SECRETS = re.compile(r"(?i)(\bbearer\s+|\bauthorization\W{1,4}(?:(?:basic|bearer)\s+)?)[\w.~+/=-]{6,}|(://)[^\s/@]+@")


def encode(record: logging.LogRecord, actor: str, run: str | None = None) -> bytes:
    """The line, with its newline: `at` (ISO 8601 with offset), `level`, `actor`, `pid`, `logger`, `run`, `request`,
    `message`, then the fields of `extra` and `error` for an exception. What has no value is left out.

    An `at` in `extra` (Unix seconds) says when it happened. Tokens behind `Bearer` and passwords in URLs are masked.
    """
    extra = {key: value for key, value in vars(record).items() if key not in _STANDARD and key[0] != "_"}
    at = extra.pop("at", record.created)
    fields = {
        "at": datetime.fromtimestamp(at).astimezone().isoformat(timespec="milliseconds"),
        "level": record.levelname.lower(),
        "actor": actor,
        "pid": record.process,
        "logger": record.name,
        "run": run,
        "request": REQUEST.get(),
        "message": record.getMessage(),
        **extra,
        "error": _error(record.exc_info),
    }
    kept = {key: _plain(value) for key, value in fields.items() if value is not None}
    return json.dumps(kept).encode() + b"\n"


def _error(exc_info: Any) -> dict[str, str] | None:
    if not exc_info or exc_info[1] is None:
        return None
    text = "".join(traceback.format_exception(*exc_info))
    return {"type": type(exc_info[1]).__name__, "traceback": _masked(text)[-LONGEST_TRACEBACK:]}


def _plain(value: Any) -> Any:
    """`value` as JSON takes it, bounded."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value[:MOST_ITEMS]]
    if isinstance(value, dict):
        return value if "traceback" in value else _plain(str(value))
    return _masked(str(value)[:LONGEST_TEXT])


def _masked(text: str) -> str:
    return _SECRETS.sub(lambda found: f"{found[1]}..." if found[1] else f"{found[2]}...@", text)
