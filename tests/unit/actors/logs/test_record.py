"""A record as one line of JSON."""

import json
import logging
import re
import sys
from datetime import datetime

import pytest

from actors.logs import REQUEST
from actors.logs.record import LONGEST_TEXT, LONGEST_TRACEBACK, encode


def line(message: str = "hello", *args: object, level: int = logging.INFO, exc_info=None, **extra: object) -> dict:
    record = logging.getLogger("serve.test").makeRecord(
        "serve.test", level, __file__, 1, message, args, exc_info, extra=extra
    )
    raw = encode(record, "gateway", "tiny-1")
    assert raw.endswith(b"\n") and raw.count(b"\n") == 1
    return json.loads(raw)


def test_a_line_has_time_with_offset_level_actor_process_run_and_message():
    found = line("%d tokens", 7, status=200, _of_a_library=1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d", found.pop("at"))
    assert found.pop("pid") > 0
    assert found == {
        "level": "info", "actor": "gateway", "logger": "serve.test", "run": "tiny-1", "message": "7 tokens",
        "status": 200,
    }  # fmt: skip


def test_an_event_keeps_the_time_at_which_it_happened():
    assert datetime.fromisoformat(line(at=1_700_000_000.5)["at"]).timestamp() == 1_700_000_000.5


def test_the_request_of_the_task_is_in_its_lines_unless_the_line_names_its_own():
    token = REQUEST.set("abc")
    try:
        assert line()["request"] == "abc"
        assert line(request="abc/1")["request"] == "abc/1"
    finally:
        REQUEST.reset(token)
    assert "request" not in line()


def test_an_exception_is_a_field_with_its_traceback_which_keeps_its_end():
    try:
        raise ValueError("x" * 2 * LONGEST_TRACEBACK + " the cause")
    except ValueError:
        error = line(exc_info=sys.exc_info())["error"]
    assert error["type"] == "ValueError"
    assert len(error["traceback"]) == LONGEST_TRACEBACK
    assert error["traceback"].endswith(" the cause\n")


def test_whatever_is_logged_is_one_bounded_line_of_json():
    found = line(
        "two\nlines \ud800 \x1b[2J" + "x" * 2 * LONGEST_TEXT, number=float("nan"), path=b"\xff", many=list(range(1000))
    )
    assert found["message"].startswith("two\nlines \ud800 \x1b[2J") and len(found["message"]) == LONGEST_TEXT
    assert (found["number"], found["path"], found["many"]) == ("nan", "b'\\xff'", list(range(50)))


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Authorization: Bearer sk-12345678", "Authorization: Bearer ..."),
        ("{'Authorization': 'Basic dXNlcjpwYXNz'}", "{'Authorization': 'Basic ...'}"),
        ("POST json://user:secret@host/x", "POST json://...@host/x"),
        ("basic training at http://127.0.0.1:8000/v1", "basic training at http://127.0.0.1:8000/v1"),
    ],
)
def test_secrets_are_masked_and_nothing_else(text, kept):
    assert line(text)["message"] == kept
    assert line(where=text)["where"] == kept
    try:
        raise ValueError(text)
    except ValueError:
        assert line(exc_info=sys.exc_info())["error"]["traceback"].endswith(f"ValueError: {kept}\n")
