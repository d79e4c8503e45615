"""Errors over HTTP: what our gateway writes comes back as what it was; shapes of other servers are understood."""

import json

import pytest

from configs import http_errors
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
    TrainingError,
)
from serve.openai.errors import error_body


@pytest.mark.parametrize(
    "kind",
    [
        PromptTooLongError, PreviousResponseError, RequestError, NotFoundError, AdapterError, StateError, OverloadError,
        ClusterError, TandemError,
    ],
)  # fmt: skip
@pytest.mark.parametrize("hint", ["", "look at `tandem status`"])
@pytest.mark.parametrize("param", [None, "adapter"])
def test_an_error_comes_back_as_it_was(kind, hint, param):
    raised = kind("prod: a -> b was refused" if hint else "it was refused", hint=hint, param=param)
    status, body = error_body(raised)
    for said in (body, json.dumps(body), body["error"]):
        back = http_errors.error_of(status, said, who="the gateway")
        assert type(back) is kind
        assert (back.message, back.hint, back.param) == (raised.message, raised.hint, raised.param)


@pytest.mark.parametrize(("kind", "nearest"), [(ConfigError, RequestError), (TrainingError, TandemError)])
def test_a_class_without_a_status_or_code_of_its_own_comes_back_as_the_nearest(kind, nearest):
    status, body = error_body(kind("no", hint="why"))
    assert type(http_errors.error_of(status, body, who="the gateway")) is nearest


def test_every_class_of_the_table_is_found_again_by_its_code():
    for kind, (status, _, code) in http_errors.STATUS.items():
        assert code is None or http_errors.kind_of(status, code) is kind


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (404, '{"object": "error", "message": "no such model", "code": 404}', NotFoundError, "no such model"),
        (422, '{"detail": [{"loc": ["n"]}]}', RequestError, "[{'loc': ['n']}]"),
        (400, '{"error": "no"}', RequestError, "no"),
        (429, '{"error": {"message": "later", "code": "rate_limit_exceeded"}}', OverloadError, "later"),
        (None, '{"error": {"message": "lost", "code": "unavailable"}}', ClusterError, "lost"),
        (502, "<html>bad gateway</html>", ClusterError, "it answered 502: <html>bad gateway</html>"),
        (500, "[1]", TandemError, "it answered 500: [1]"),
        (500, '{"error": null}', TandemError, 'it answered 500: {"error": null}'),
        (400, '{"error": {"message": {"a": 1}, "code": ["x"], "param": 3}}', RequestError, "{'a': 1}"),
        (500, "[" * 100_000, TandemError, f"it answered 500: {'[' * http_errors.SHOWN_TEXT}"),
    ],
)
def test_other_servers_shapes_are_understood(status, body, kind, words):
    error = http_errors.error_of(status, body, who="it")
    assert (type(error), error.sentence, error.param) == (kind, words, None)


def test_what_nothing_tells_the_class_of_is_what_the_caller_says():
    assert type(http_errors.error_of(401, "{}", who="it", otherwise=ClusterError)) is ClusterError
    assert type(http_errors.error_of(404, "{}", who="it", otherwise=ClusterError)) is NotFoundError
