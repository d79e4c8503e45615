"""The wire against servers that misbehave."""

import asyncio
import json
import re
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest

from configs.errors import ClusterError, NotFoundError, RequestError
from jobs.benchmark.benchmark import Benchmark, Settings, measure
from jobs.benchmark.endpoint import Endpoint
from jobs.benchmark.load import CellLimit, Level
from jobs.benchmark.timing import Timing

HI = [{"role": "user", "content": "Hi"}]


def chunk(text: str | None = None, **more) -> str:
    choices = [] if text is None else [{"index": 0, "delta": {"content": text}, "finish_reason": None}]
    return f"data: {json.dumps({'choices': choices} | more)}\n\n"


END = 'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\n'
USAGE = chunk(usage={"prompt_tokens": 12, "completion_tokens": 3})
DONE = "data: [DONE]\n\n"
REFUSAL = {"error": {"message": "no", "type": "invalid_request_error"}}


Answer = Callable[[dict], tuple[int, str, list[str]]]


"""From a request's body to status, content type and the pieces of the answer."""


@contextmanager
def serving(answer: Answer) -> Iterator[str]:
    """A server that says what `answer` gives, piece by piece, and then closes the connection."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as reader:
                head = b"".join(iter(reader.readline, b"\r\n")).decode().lower()
                length = int(head.partition("content-length: ")[2].split("\r\n")[0] or 0)
                body = reader.read(length)
                if head.startswith("get "):
                    connection.sendall(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                    continue
                status, kind, pieces = answer(json.loads(body))
                connection.sendall(f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\nconnection: close\r\n\r\n".encode())
                for piece in pieces:
                    connection.sendall(piece.encode())

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(5)


def stream(*pieces: str) -> Answer:
    return lambda body: (200, "text/event-stream", list(pieces))


def with_endpoint(url: str, work: Callable[[Endpoint], Awaitable], **how):
    async def main():
        async with Endpoint(url, "m", **how) as endpoint:
            return await work(endpoint)

    return asyncio.run(main())


def ask(answer: Answer) -> Timing:
    with serving(answer) as url:
        return with_endpoint(url, lambda endpoint: endpoint.ask(HI, 9))


def test_a_stream_is_read_chunk_by_chunk_however_its_bytes_are_cut():
    role = 'data: {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}\r\n\r\n'
    thinking = 'data: {"system_fingerprint": "v7", "choices": [{"index": 0, "delta": {"reasoning_content": "t"}}]}\n\n'
    whole = ": comment\n\n" + role + thinking + chunk("é") + END + USAGE + DONE
    for pieces in ([whole], [whole[: len(whole) // 2], whole[len(whole) // 2 :]], [*whole]):
        timing = ask(stream(*pieces))
        assert timing.failure is None
        assert len(timing.arrivals) == 2
        assert (timing.prompt_tokens, timing.completion_tokens, timing.fingerprint) == (12, 3, "v7")
        assert timing.finish_reason == "stop"
        assert timing.started < timing.arrivals[0] <= timing.arrivals[1] <= timing.ended


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (stream(chunk("a")), "broken_off", "the stream ended in the middle of an answer"),
        (stream(chunk("a"), "data: {"), "broken_off", "the stream ended in the middle of an answer"),
        (stream(chunk("a"), "data: nonsense\n\n"), "not_a_completion", "the stream has an event that is not a chunk"),
        (stream(chunk("a"), "data: [1]\n\n"), "not_a_completion", "the stream has an event that is not a chunk"),
        (stream(f"data: {json.dumps(REFUSAL)}\n\n"), "error_event", "no"),
        (stream(END, USAGE, DONE), "empty", r"no text in the answer \(3 tokens\)"),
        (lambda body: (429, "application/json", [json.dumps(REFUSAL)]), "http_429", "no"),
        (lambda body: (500, "text/html", ["<h1>oh  no</h1>"]), "http_500", "<h1>oh no</h1>"),
        (lambda body: (502, "text/html", []), "http_502", "no reason given"),
        (
            lambda body: (200, "application/json", ['{"answer": 4}']),
            "not_a_completion",
            "the answer is not a completion",
        ),
    ],
)
def test_a_request_that_fails_says_how(answer, kind, message):
    with serving(answer) as url:
        timing = with_endpoint(url, lambda endpoint: endpoint.ask(HI, 9))
    assert timing.failure.kind == kind
    assert re.match(message, timing.failure.message)


def test_nobody_listening_is_a_failed_request_and_a_refused_benchmark():
    with serving(stream()) as url:
        pass
    assert with_endpoint(url, lambda endpoint: endpoint.ask(HI, 9)).failure.kind == "connection"
    with pytest.raises(ClusterError, match=f"{url}/v1 does not answer"):
        with_endpoint(url, lambda endpoint: endpoint.wait_ready())


def test_the_body_is_what_was_asked_for_and_the_key_stays_out_of_it():
    bodies = []

    def answer(body: dict):
        bodies.append(body)
        return stream(chunk("a"), END, USAGE, DONE)(body)

    extra = {"temperature": 0.5}
    with serving(answer) as url:
        with_endpoint(url, lambda endpoint: endpoint.ask(HI, 9), api_key="secret", ignore_eos=True, extra=extra)
    asked = {"model": "m", "messages": HI, "stream": True, "stream_options": {"include_usage": True}}
    assert bodies == [asked | {"max_completion_tokens": 9, "ignore_eos": True, "min_tokens": 9, "temperature": 0.5}]


def refuses(name: str, then: Answer) -> Answer:
    refusal = json.dumps({"error": {"message": f"unknown field {name}"}})
    return lambda body: (400, "application/json", [refusal]) if name in body else then(body)


WHOLE = {
    "choices": [{"message": {"content": "abc"}, "finish_reason": "length"}],
    "usage": {"prompt_tokens": 12, "completion_tokens": 1},
}


@pytest.mark.parametrize(
    ("answer", "dialect"),
    [
        (stream(chunk("a"), END, DONE), ("max_completion_tokens", True, True)),
        (refuses("stream_options", stream(chunk("a"), END, DONE)), ("max_completion_tokens", True, False)),
        (refuses("max_completion_tokens", stream(chunk("a"), END, DONE)), ("max_tokens", True, True)),
        (lambda body: stream(chunk("a"), END, USAGE, DONE)(body), ("max_tokens", True, True)),
        (
            refuses("stream_options", refuses("stream", lambda body: (200, "application/json", [json.dumps(WHOLE)]))),
            ("max_completion_tokens", False, False),
        ),
    ],
    ids=["all", "no usage", "max_tokens", "limit ignored", "no stream"],
)
def test_the_probe_finds_out_what_the_endpoint_takes(answer, dialect):
    async def probe(endpoint: Endpoint):
        await endpoint.probe(HI, 1)
        return endpoint.dialect

    with serving(answer) as url:
        found = with_endpoint(url, probe)
    assert (found.limit, found.stream, found.usage) == dialect


@pytest.mark.parametrize(
    ("status", "message", "error", "hint"),
    [
        (404, "no model m", NotFoundError, "--model NAME"),
        (400, "the prompt has 3000 tokens, 2048 fit", RequestError, ""),
        (400, "ignore_eos is not supported", RequestError, "leave ignore_eos out"),
        (500, "oops", ClusterError, ""),
    ],
)
def test_what_the_server_refuses_is_raised_in_its_own_words(status, message, error, hint):
    refusal = json.dumps({"error": {"message": message}})
    with (
        serving(lambda body: (status, "application/json", [refusal])) as url,
        pytest.raises(error, match=message) as raised,
    ):
        with_endpoint(url, lambda endpoint: endpoint.probe(HI, 1))
    assert hint in raised.value.hint


def test_an_endpoint_that_neither_streams_nor_counts_is_measured_and_said_to_be():
    whole = json.dumps({"choices": WHOLE["choices"]})
    answer = refuses("stream_options", refuses("stream", lambda body: (200, "application/json", [whole])))
    found = Benchmark({})
    settings = Settings((Level(concurrency=2),), (20,), 8, CellLimit(requests=3), seed=1, warmup=1)
    with serving(answer) as url:
        with_endpoint(url, lambda endpoint: measure(endpoint, settings, found, tell=lambda text, share: None))
    (cell,) = found.cells
    assert (cell.completed, cell.ttft_ms, cell.itl_ms, cell.tokens_counted_by) == (3, None, None, "chunks")
    assert cell.e2e_ms.count == 3
    notes = " ".join(found.notes)
    assert "does not stream" in notes and "sends no usage" in notes and "prompt lengths are words" in notes
