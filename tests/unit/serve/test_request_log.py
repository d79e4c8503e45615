"""Request ids and the line of the log for every request, over HTTP."""

import json
import logging
import time

import pytest

from tests.gateway_server import ASK, BASIC
from tests.loopback import http

STREAM = BASIC | {"stream": True}


@pytest.fixture
def lines(caplog):
    """The request lines so far, once there are `count` of them."""
    caplog.set_level(logging.DEBUG, "serve.request_log")

    def wait(count: int = 1) -> list[logging.LogRecord]:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            found = [record for record in caplog.records if record.name == "serve.request_log"]
            if len(found) >= count:
                return found
            time.sleep(0.01)
        raise AssertionError(f"{len(caplog.records)} lines")

    return wait


def ask(server, request_id: str | bytes | None = "abc-1", body: dict = BASIC, path: str = "/v1/chat/completions"):
    headers = {} if request_id is None else {"x-request-id": request_id}
    return http.post(server.url + path, json=body, headers=headers, timeout=10)


@pytest.mark.parametrize(
    ("path", "body", "prefix"),
    [
        ("/v1/chat/completions", BASIC, "chatcmpl-"),
        ("/v1/responses", {"model": "prod", "input": "Hi"}, "resp_"),
        ("/v1/completions", {"model": "prod", "prompt": "Hi"}, "cmpl-"),
    ],
)
def test_a_clients_id_goes_to_the_engine_and_comes_back(path, body, prefix, server, lines):
    response = ask(server, "abc-1", body, path)
    assert response.headers.get_list("x-request-id") == ["abc-1"]
    assert response.json()["id"] == f"{prefix}abc-1"
    (request,) = server.engine.requests
    assert request.request_id.rpartition("/")[0] == "abc-1"
    (line,) = lines()
    assert (line.event, line.method, line.route, line.status, line.ended) == ("request", "POST", path, 200, None)
    assert (line.model, line.version) == ("prod", "base")
    assert line.prompt_tokens == len(request.prompt_ids) and line.output_tokens > 0
    assert 0 <= line.first_token_s <= line.seconds


@pytest.mark.parametrize("sent", [None, "", "x" * 129, "two words", "caf\xe9".encode("latin-1")])
def test_an_id_is_made_where_the_client_sends_none_that_is_sane(sent, server):
    first, second = (ask(server, sent).headers["x-request-id"] for _ in range(2))
    assert len(first) == 32 and first != second


def test_one_id_used_twice_at_once_is_two_generations(server):
    body = BASIC | {"n": 2}
    assert len(ask(server, "same", body).json()["choices"]) == 2
    ids = [request.request_id for request in server.engine.requests]
    assert len(set(ids)) == 2 and {each.rpartition("/")[0] for each in ids} == {"same"}


def test_a_prompt_is_counted_once_however_many_answers_it_gets(server, lines):
    usage = ask(server, "many", BASIC | {"n": 3}).json()["usage"]
    (line,) = lines()
    assert (line.prompt_tokens, line.output_tokens) == (usage["prompt_tokens"], usage["completion_tokens"])
    metrics = http.get(f"{server.url}/metrics").text.splitlines()
    assert f'tandem_prompt_tokens_total{{target="prod"}} {float(usage["prompt_tokens"])}' in metrics


def test_a_prompt_that_is_only_scored_has_no_first_token(server, lines):
    ask(server, "scored", {"model": "prod", "prompt": "Hi", "max_tokens": 0, "prompt_logprobs": 0}, "/v1/completions")
    (line,) = lines()
    assert (line.status, line.output_tokens, line.first_token_s) == (200, 0, None)


def test_waiting_for_an_engine_is_nothing_to_warn_of(server, lines):
    server.remote.dead = True
    assert http.get(f"{server.url}/readyz").status_code == 503
    (line,) = lines()
    assert line.levelname == "DEBUG"


def test_errors_name_their_request_whole_and_streamed(server, lines):
    assert ask(server, "bad-1", BASIC | {"model": "nope"}).json()["error"]["request_id"] == "bad-1"
    server.remote.dies_after = 3
    last = ask(server, "bad-2", STREAM).text.strip().rpartition("data: ")[2]
    assert json.loads(last)["error"]["request_id"] == "bad-2"
    refused, broken = lines(2)
    assert (refused.status, refused.levelname, hasattr(refused, "model")) == (404, "INFO", False)
    assert (broken.status, broken.ended, broken.levelname) == (200, "broken", "WARNING")
    assert broken.output_tokens == 3


def test_an_unexpected_error_is_a_500_with_its_id_and_its_traceback_is_in_the_log(server, lines, monkeypatch):
    def fail(*args: object, **how: object) -> None:
        raise RuntimeError("/srv/secret")

    monkeypatch.setattr("serve.openai.chat.service.harmony.render", fail)
    response = ask(server, "boom")
    assert response.status_code == 500
    assert response.headers.get_list("x-request-id") == ["boom"]
    assert response.json()["error"]["request_id"] == "boom" and "secret" not in response.text
    (line,) = lines()
    assert (line.status, line.levelname, str(line.exc_info[1])) == (500, "ERROR", "/srv/secret")


def test_a_client_that_leaves_is_a_line_too(server, lines):
    server.engine.delay = 0.05
    with http.stream("POST", f"{server.url}/v1/chat/completions", json=STREAM, timeout=10) as response:
        next(response.iter_lines())
    (line,) = lines()
    assert (line.status, line.ended) == (200, "abandoned")


def test_neither_text_nor_secrets_nor_query_strings_are_logged(server, lines, caplog):
    secret = {"authorization": "Bearer sk-12345678", "x-request-id": "abc"}
    body = BASIC | {"messages": [{"role": "user", "content": "my diary"}]}
    http.post(f"{server.url}/v1/chat/completions?key=sk-12345678", json=body, headers=secret, timeout=10)
    (line,) = lines()
    told = json.dumps(vars(line), default=str)
    assert not any(word in told for word in ("diary", "sk-1234", "Hello", "bearer", "Bearer", "key="))
    assert ASK[0]["content"] not in line.getMessage()


def test_what_only_reads_is_logged_for_debugging(server, lines):
    server.get("/healthz")
    server.get("/nope")
    health, unknown = lines(2)
    assert (health.levelname, health.getMessage()) == ("DEBUG", "GET /healthz 200")
    assert (unknown.levelname, unknown.getMessage()) == ("INFO", "GET /nope 404")
