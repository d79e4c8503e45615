"""Responses in the background over real HTTP: polled, followed, cancelled, and what a restart leaves of them."""

import openai
import pytest

from configs.errors import OverloadError
from configs.schema import ResponsesConfig
from tests.gateway_server import HELLO, Server, tokens
from tests.loopback import http
from tests.unit.serve.http.test_gateway import until
from tests.unit.serve.openai.responses.test_http import ASK

ENDLESS = "<|channel|>final<|message|>" + "on and on " * 300


def start(server, **body):
    return server.client().responses.create(**ASK | {"background": True} | body)


def slow(server) -> None:
    """Answers go on until they are ended."""
    server.engine.script, server.engine.delay = tokens(ENDLESS), 0.02


def test_a_response_in_the_background_is_queued_and_then_polled(server):
    server.engine.delay = 0.02
    client = server.client()
    begun = start(server)
    assert (begun.status, begun.background, begun.output, begun.store) == ("queued", True, [], True)
    assert until(lambda: client.responses.retrieve(begun.id).status == "in_progress")
    assert until(lambda: client.responses.retrieve(begun.id).status == "completed")
    done = client.responses.retrieve(begun.id)
    assert (done.output_text, done.system_fingerprint, done.background) == ("Hello there.", "base", True)
    assert done.usage.output_tokens == len(tokens(HELLO)) and done.completed_at >= done.created_at
    client.responses.create(**ASK, previous_response_id=done.id)


def test_a_streamed_one_is_followed_from_any_event_while_it_runs_and_after(server):
    server.engine.delay = 0.005
    client = server.client()
    first = start(server, stream=True)
    seen = [next(first) for _ in range(4)]
    assert [event.type for event in seen[:3]] == ["response.created", "response.queued", "response.in_progress"]
    assert [event.response.status for event in seen[:3]] == ["queued", "queued", "in_progress"]
    first.close()
    rest = list(client.responses.retrieve(seen[0].response.id, stream=True, starting_after=3))
    assert [event.sequence_number for event in rest] == list(range(4, 4 + len(rest)))
    assert (rest[-1].type, rest[-1].response.output_text) == ("response.completed", "Hello there.")
    again = list(client.responses.retrieve(seen[0].response.id, stream=True))
    assert again == [*seen, *rest], "a response that is over has the same events"
    tail = list(client.responses.retrieve(seen[0].response.id, stream=True, starting_after=rest[-2].sequence_number))
    assert tail == rest[-1:]
    assert client.responses.retrieve(seen[0].response.id) == rest[-1].response


def test_a_client_that_leaves_ends_nothing_and_cancelling_ends_it_in_the_engine(server):
    slow(server)
    client = server.client()
    stream = start(server, stream=True)
    response_id = next(stream).response.id
    for _ in range(6):
        next(stream)
    stream.close()
    follower = client.responses.retrieve(response_id, stream=True)
    next(follower)
    assert server.engine.stats().running == 1
    cancelled = client.responses.cancel(response_id)
    assert (cancelled.status, cancelled.output) == ("cancelled", [])
    assert until(lambda: server.engine.stats().running == 0)
    last = list(follower)[-1]
    assert (last.type, last.response.status) == ("response.failed", "cancelled")
    assert client.responses.cancel(response_id) == client.responses.retrieve(response_id) == cancelled


def test_only_a_response_in_the_background_can_be_cancelled_or_followed(server):
    client = server.client()
    done = client.responses.create(**ASK)
    with pytest.raises(openai.BadRequestError, match="Cannot cancel a synchronous response"):
        client.responses.cancel(done.id)
    with pytest.raises(openai.BadRequestError, match="it was not created with background=true"):
        client.responses.retrieve(done.id, stream=True)
    begun = start(server)
    with pytest.raises(openai.BadRequestError, match="it was not created with stream=true"):
        client.responses.retrieve(begun.id, stream=True)
    assert until(lambda: client.responses.retrieve(begun.id).status == "completed")
    assert client.responses.cancel(begun.id).status == "completed", "what is over is told as it is"


def test_what_can_be_refused_at_once_is_and_an_engines_refusal_is_a_failed_response(server, monkeypatch):
    with pytest.raises(openai.NotFoundError):
        start(server, model="gpt-4")
    with pytest.raises(openai.BadRequestError):
        start(server, input=[{"type": "function_call_output", "call_id": "a", "output": "x"}])

    async def full(request):
        raise OverloadError("64 requests wait", hint="ask again")
        yield

    monkeypatch.setattr(server.remote, "generate", full)
    client = server.client()
    begun = start(server)
    assert until(lambda: client.responses.retrieve(begun.id).status == "failed")
    failed = client.responses.retrieve(begun.id)
    assert (failed.error.code, failed.error.message) == ("rate_limit_exceeded", "64 requests wait -> ask again")
    assert [event.type for event in start(server, stream=True)][-1] == "response.failed"


def test_an_engine_that_dies_is_made_up_for_where_nobody_has_seen_anything(server):
    server.remote.dies_after = 12
    client = server.client()
    begun = start(server)
    assert until(lambda: client.responses.retrieve(begun.id).status == "completed")
    assert client.responses.retrieve(begun.id).output_text == "Hello there."
    server.remote.dies_after = 18
    assert list(start(server, stream=True))[-1].type == "response.failed"


def test_a_running_response_cannot_be_gone_on_from_and_deleting_it_ends_it(server):
    slow(server)
    begun = start(server)
    assert until(lambda: server.engine.stats().running == 1)
    with pytest.raises(openai.BadRequestError, match=f"the previous response '{begun.id}' is"):
        server.client().responses.create(**ASK, previous_response_id=begun.id)
    assert server.delete(f"/v1/responses/{begun.id}").status_code == 200
    assert until(lambda: server.engine.stats().running == 0)
    assert server.get(f"/v1/responses/{begun.id}").status_code == 404


def test_a_restart_ends_what_was_in_the_background_as_failed_if_it_is_on_disk(home):
    keeping = ResponsesConfig(keep="disk")
    with Server(home, keeping=keeping) as server:
        slow(server)
        begun = start(server)
        assert until(lambda: server.engine.stats().running == 1)
    with Server(home, keeping=keeping) as server:
        failed = server.client().responses.retrieve(begun.id)
        assert (failed.status, failed.error.code) == ("failed", "server_error")
        assert "the gateway was restarted" in failed.error.message


def test_the_background_needs_a_request_id_only_once(server):
    headers = {"X-Request-Id": "same"}
    ids = {http.post(f"{server.url}/v1/responses", json=ASK | {"background": True}, headers=headers).json()["id"]
           for _ in range(3)}  # fmt: skip
    assert len(ids) == 3 and "resp_same" in ids
