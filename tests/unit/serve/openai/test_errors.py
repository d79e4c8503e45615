"""Errors as OpenAI writes them."""

import pytest

from configs.errors import (
    AdapterError,
    ConfigError,
    NotFoundError,
    OverloadError,
    PromptTooLongError,
    RequestError,
    StateError,
    TrainingError,
)
from serve.openai.chat.request import ChatRequest
from serve.openai.errors import error_body

BASIC = {"model": "prod", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (RequestError("no", param="n"), 400, None),
        (ConfigError("no"), 400, None),
        (NotFoundError("no", param="model"), 404, "model_not_found"),
        (NotFoundError("no", param="adapter"), 404, "model_not_found"),
        (NotFoundError("no"), 404, "not_found"),
        (PromptTooLongError("no", hint="shorten it", param="prompt"), 400, "context_length_exceeded"),
        (AdapterError("no"), 409, "adapter_refused"),
        (StateError("no"), 409, "wrong_state"),
        (OverloadError("no", hint="later"), 429, "overloaded"),
        (TrainingError("no"), 500, None),
    ],
)
def test_errors_have_openais_shape(error, status, code):
    assert error_body(error)[0] == status
    body = error_body(error)[1]["error"]
    assert set(body) == {"message", "type", "param", "code"}
    assert body["message"].startswith("no")
    assert body["message"] == (f"no -> {error.hint}" if error.hint else "no")
    assert (body["param"], body["code"]) == (error.param, code)


def test_a_foreign_error_gives_nothing_away():
    status, body = error_body(ValueError("/srv/secret"))
    assert status == 500
    assert "secret" not in body["error"]["message"]


def test_a_validation_error_names_the_field():
    with pytest.raises(ValueError) as caught:
        ChatRequest(**BASIC, top_k=1.5)
    status, body = error_body(caught.value)
    assert (status, body["error"]["param"]) == (400, "top_k")
