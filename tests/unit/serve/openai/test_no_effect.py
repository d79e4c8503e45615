"""Parameters that are accepted without effect: answered, and named in a header; misspelled ones are refused."""

import pytest

from serve.openai.no_effect import IGNORED, ignore, nearest
from serve.request_log import current
from tests.gateway_server import BASIC

BODIES = {
    "/v1/chat/completions": BASIC,
    "/v1/completions": {"model": "prod", "prompt": "Hi"},
    "/v1/responses": {"model": "prod", "input": "Hi"},
}


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("stream", [False, True])
def test_what_other_servers_know_is_accepted_and_named(path, stream, server):
    extras = {"num_ctx": 8192, "keep_alive": "5m", "cache_salt": "pepper"}
    response = server.post(path, BODIES[path] | extras | {"stream": stream, "mirostat": 2, "num_gpu": None})
    assert response.status_code == 200, response.text
    assert response.headers["x-tandem-ignored"] == "num_ctx, keep_alive, cache_salt, mirostat"
    assert "x-tandem-mapped" not in response.headers


@pytest.mark.parametrize("path", BODIES)
def test_an_answer_that_is_as_it_was_asked_for_names_nothing(path, server):
    headers = server.post(path, BODIES[path]).headers
    assert [name for name in headers if name.startswith("x-tandem")] == []


def test_each_of_them_asks_the_engine_for_the_same(server):
    for extras in ({}, *({name: "anything"} for name in sorted(IGNORED))):
        assert server.post(body=BASIC | {"seed": 1} | extras).status_code == 200, extras
    first, *others = server.engine.requests
    assert len(others) == len(IGNORED)
    for other in others:
        assert (other.prompt_ids, other.sampling, other.constraint) == (first.prompt_ids, first.sampling, None)


@pytest.mark.parametrize(
    ("misspelled", "meant"),
    [
        ("temprature", "temperature"),
        ("max_token", "max_tokens"),
        ("num_ctxx", "num_ctx"),
        ("keepalive", "keep_alive"),
        ("resonse_format", "response_format"),
    ],
)
def test_a_misspelled_name_is_refused_with_the_nearest(misspelled, meant, server):
    error = server.refusal(400, BASIC | {misspelled: 1})
    assert error["message"] == f"{misspelled} is not supported -> did you mean '{meant}'?"
    assert error["param"] == misspelled


def test_a_misspelled_required_name_is_what_is_complained_of(server):
    error = server.refusal(400, {"model": "prod", "mesages": BASIC["messages"]})
    assert error["message"] == "mesages is not supported -> did you mean 'messages'?"


def test_a_name_that_is_near_none_has_no_guess(server):
    assert server.refusal(400, BASIC | {"qqqq": 1})["message"] == "qqqq is not supported"


def test_names_that_clients_choose_cannot_break_a_header():
    from serve import request_log

    exchange = request_log.Exchange("x")
    token = request_log._EXCHANGE.set(exchange)
    try:
        assert current() is exchange
        ignore("kwargs.a\r\nset-cookie: b, \N{SNOWMAN}")
        ignore("num_ctx")
        ignore("num_ctx")
        assert nearest("effort", "minimal", "low") == "low"
        assert exchange.concessions == [
            (b"x-tandem-ignored", b"kwargs.a??set-cookie:?b???, num_ctx"),
            (b"x-tandem-mapped", b"effort=minimal->low"),
        ]
    finally:
        request_log._EXCHANGE.reset(token)


@pytest.mark.parametrize("path", BODIES)
def test_documents_for_a_template_are_refused_by_name(path, server):
    refused = server.post(path, BODIES[path] | {"documents": [{"title": "Rome", "text": "A city."}]})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "documents")
    taken = server.post(path, BODIES[path] | {"documents": []})
    assert (taken.status_code, "x-tandem-ignored" in taken.headers) == (200, False)


def test_documents_among_a_templates_variables_are_refused_too(server):
    error = server.refusal(400, BASIC | {"chat_template_kwargs": {"documents": [{"text": "A city."}]}})
    assert error["param"] == "chat_template_kwargs" and "chat_template_kwargs.documents" in error["message"]


def test_an_integer_may_be_written_with_a_fraction_of_zero_and_a_boolean_is_none(server):
    taken = server.post(body=BASIC | {"max_tokens": 2.0, "top_k": 5.0, "stop_token_ids": [5.0]})
    assert (taken.status_code, taken.json()["usage"]["completion_tokens"]) == (200, 2), taken.text
    for value in (2.5, True, "2"):
        assert server.refusal(400, BASIC | {"max_tokens": value})["param"] == "max_tokens"
    error = server.refusal(400, BASIC | {"stop_token_ids": [5.0, True]})
    assert "stop_token_ids[1]" in error["message"]
