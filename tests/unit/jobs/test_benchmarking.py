"""Formulas against values worked out by hand, load against counts, and the wire against servers that misbehave."""

import asyncio
import json
import random
import re
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest

from configs.errors import ClusterError, ConfigError, NotFoundError, RequestError
from jobs.benchmarking import figures, load, prompts, report
from jobs.benchmarking.benchmark import Benchmark, Settings, measure
from jobs.benchmarking.endpoint import Endpoint, base_url
from jobs.benchmarking.figures import spread
from jobs.benchmarking.load import Amount, Level, Run
from jobs.benchmarking.timing import Failure, Timing

HI = [{"role": "user", "content": "Hi"}]


def done(started: float, *arrivals: float, tokens: int | None = None, prompt: int | None = 10, **more) -> Timing:
    return Timing(started, list(arrivals), arrivals[-1], prompt_tokens=prompt, completion_tokens=tokens, **more)


def run_of(*timings: Timing) -> Run:
    run = Run(None, Amount(requests=len(timings)))
    run.timings, run.sent = list(timings), len(timings)
    return run


# Formulas


def test_one_request_is_timed_from_its_start_to_its_last_text():
    timing = done(10.0, 10.5, 10.6, 11.0, tokens=6)
    assert timing.ttft == pytest.approx(0.5)
    assert timing.e2e == pytest.approx(1.0)
    assert timing.gaps == pytest.approx([0.1, 0.4])
    assert timing.itl == pytest.approx(0.25)
    assert timing.tpot == pytest.approx(0.5 / 5)


def test_what_a_request_does_not_have_is_none():
    one = done(1.0, 2.0, tokens=1)
    assert (one.ttft, one.e2e, one.gaps, one.itl, one.tpot) == (1.0, 1.0, [], None, None)
    whole = done(1.0, 2.0, tokens=50, streamed=False)
    assert (whole.ttft, whole.e2e, whole.tpot, whole.tokens) == (None, 1.0, None, 50)
    uncounted = done(1.0, 2.0, 3.0, 4.0)
    assert uncounted.tokens == 3


def test_percentiles_are_interpolated_between_the_two_nearest_values():
    found = spread([40.0, 10.0, 20.0, 30.0])
    assert (found.mean, found.p50, found.min, found.max, found.count) == (25.0, 25.0, 10.0, 40.0, 4)
    assert (found.p90, found.p95, found.p99) == pytest.approx((37.0, 38.5, 39.7))
    assert spread([7.0]).p99 == 7.0
    assert spread([]) is None


def test_figures_of_a_load_are_what_a_pencil_gives():
    run = run_of(
        done(0.0, 1.0, 2.0, 3.0, tokens=3, finish_reason="stop", fingerprint="v1"),
        done(0.0, 0.5, 4.0, tokens=8, finish_reason="length", fingerprint="v2"),
        Timing(1.0, [1.5], 5.0, failure=Failure("broken_off", "gone")),
        Timing(1.0, [], 2.0, failure=Failure("http_429", "full")),
        Timing(2.0, [], 3.0, failure=Failure("http_429", "still full")),
    )
    run.sent += 1
    cell = figures.figures(run, Level(concurrency=2), 10, {"ttft": 800, "tpot": 1000})
    assert (cell.sent, cell.completed, cell.failed, cell.cut) == (6, 2, 3, 1)
    assert [(each.kind, each.count, each.message) for each in cell.errors] == [
        ("http_429", 2, "full"),
        ("broken_off", 1, "gone"),
    ]
    assert cell.duration_s == 5.0
    assert cell.request_throughput == pytest.approx(2 / 5)
    assert cell.output_throughput == pytest.approx(11 / 5)
    assert cell.total_throughput == pytest.approx(31 / 5)
    assert cell.output_throughput_per_user == pytest.approx((1 / 1.0 + 7 / 3.5) / 2)
    assert cell.goodput == pytest.approx(1 / 5)
    assert cell.ttft_ms.mean == pytest.approx(750)
    assert (cell.itl_ms.count, cell.itl_ms.max) == (3, pytest.approx(3500))
    assert cell.tpot_ms.mean == pytest.approx((1000 + 500) / 2)
    assert cell.e2e_ms.p50 == pytest.approx(3500)
    assert cell.tokens_per_chunk == pytest.approx(11 / 5)
    assert cell.finish_reasons == {"stop": 1, "length": 1}
    assert cell.fingerprints == ("v1", "v2")
    assert (cell.tokens_counted_by, cell.streamed) == ("server", True)
    json.dumps(cell.to_json())


def test_without_usage_chunks_are_counted_and_a_load_of_failures_has_no_figures():
    cell = figures.figures(run_of(done(0.0, 1.0, 2.0, prompt=None)), Level(concurrency=1), None, {})
    assert (cell.tokens_counted_by, cell.output_throughput, cell.total_throughput) == ("chunks", 1.0, None)
    assert cell.goodput is None
    failed = figures.figures(run_of(Timing(0.0, failure=Failure("empty", "x"))), Level(concurrency=1), 10, {})
    assert (failed.completed, failed.failed, failed.ttft_ms, failed.output_throughput) == (0, 1, None, 0.0)


@pytest.mark.parametrize(
    ("limits", "met"),
    [({"ttft": 500}, True), ({"ttft": 499}, False), ({"itl": 250}, True), ({"itl": 249}, False), ({"e2e": 999}, False)]
    + [({"tpot": 100, "e2e": 1000}, True), ({"ttft": 600, "tpot": 99}, False)],
)
def test_goodput_counts_what_is_within_all_limits(limits, met):
    assert figures.meets(done(10.0, 10.5, 10.625, 11.0, tokens=6), limits) is met


def test_limits_are_read_as_milliseconds_by_name():
    assert figures.parse_limits(["ttft:500", "itl:12.5", "e2e:1e4"]) == {"ttft": 500, "itl": 12.5, "e2e": 10000}


@pytest.mark.parametrize("text", ["ttft", "ttft:", "ttft:fast", "latency:5", "ttft:0", "ttft:-1", "ttft:nan", ":5"])
def test_a_limit_that_is_none_is_refused_by_name(text):
    with pytest.raises(ConfigError, match=f"--goodput {text}: not a limit") as raised:
        figures.parse_limits([text])
    assert "ttft, itl, tpot, e2e" in raised.value.hint
    with pytest.raises(ConfigError, match="second"):
        figures.parse_limits(["ttft:5", "ttft:6"])


# Load


def test_a_closed_loop_has_as_many_requests_under_way_as_users_and_no_more():
    under_way = most = 0

    async def send() -> Timing:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.002)
        under_way -= 1
        return done(0.0, 1.0)

    told = []
    run = Run(send, Amount(requests=20), lambda run: told.append(len(run.timings)))
    asyncio.run(run.go(Level(concurrency=4), random.Random(0)))
    assert (run.sent, len(run.timings), most, run.cut) == (20, 20, 4, 0)
    assert told == list(range(1, 21))
    assert run.lags and run.cpu_share > 0


def test_an_open_loop_sends_without_waiting_for_answers():
    answered = asyncio.Event()

    async def send() -> Timing:
        if run.sent == 30:
            answered.set()
        await answered.wait()
        return done(0.0, 1.0)

    run = Run(send, Amount(requests=30))
    asyncio.run(asyncio.wait_for(run.go(Level(request_rate=5000), random.Random(0)), 10))
    assert (run.sent, len(run.timings)) == (30, 30)


def test_a_load_for_some_time_sends_nothing_after_it_and_waits_for_the_rest():
    async def send() -> Timing:
        await asyncio.sleep(0.4)
        return done(0.0, 1.0)

    run = Run(send, Amount(duration_s=0.3))
    asyncio.run(run.go(Level(concurrency=3), random.Random(0)))
    assert (run.sent, len(run.timings)) == (3, 3)


def test_an_interrupted_load_keeps_what_it_has_and_ends_what_is_under_way():
    ended = []

    async def send() -> Timing:
        if run.sent <= 2:
            return done(0.0, 1.0)
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    async def main() -> None:
        going = asyncio.create_task(run.go(Level(concurrency=4), random.Random(0)))
        while run.sent < 6:
            await asyncio.sleep(0)
        going.cancel()
        with pytest.raises(asyncio.CancelledError):
            await going

    run = Run(send, Amount(requests=100))
    asyncio.run(main())
    assert (run.sent, len(run.timings), run.cut, len(ended)) == (6, 2, 4, 4)


def test_a_load_gives_up_when_nobody_listens_any_more(monkeypatch):
    monkeypatch.setattr(load, "AFTER_FAILURE_S", 0)

    async def send() -> Timing:
        return done(0.0, 1.0) if run.sent <= 3 else Timing(0.0, failure=Failure("connection", "refused"))

    run = Run(send, Amount(requests=100))
    asyncio.run(run.go(Level(concurrency=1), random.Random(0)))
    assert run.lost and run.sent == 3 + load.GIVE_UP_AFTER


# Prompts


def test_prompts_differ_from_each_other_and_are_the_same_for_the_same_seed():
    vocabulary = prompts.Vocabulary(("the", "of", "and", "to"), base=10)
    first = vocabulary.prompts(40, seed=1)
    texts = [message[0]["content"] for message, _ in zip(first.prompts("measured"), range(50), strict=False)]
    assert len(set(texts)) == 50
    assert {len(text.split()) for text in texts} == {30 + len(prompts.OPENING.split())}
    again = [message[0]["content"] for message, _ in zip(first.prompts("measured"), range(50), strict=False)]
    assert again == texts
    for other in (first.prompts("warm-up"), vocabulary.prompts(40, seed=2).prompts("measured")):
        assert next(other)[0]["content"] not in texts


def test_a_prompt_shorter_than_the_template_is_refused_with_both_numbers():
    with pytest.raises(RequestError, match=r"a prompt of 68 tokens is not possible.* takes 68") as raised:
        prompts.Vocabulary(("the",), base=68).prompts(68, seed=1)
    assert raised.value.hint == "--prompt-tokens 69 or more"


def test_a_data_sets_questions_are_what_stands_before_the_last_answer(tmp_path):
    rows = [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {
            "messages": [
                {"role": "user", "content": "c"},
                {"role": "assistant", "content": "d", "thinking": "x"},
                {"role": "user", "content": "e"},
                {"role": "assistant", "content": "f"},
            ]
        },
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    found = prompts.of_dataset(str(file), "train", seed=3)
    assert [[each["content"] for each in question] for question in found.messages] == [["a"], ["c", "d", "e"]]
    assert found.messages[1][1] == {"role": "assistant", "content": "d"}
    drawn = [question for question, _ in zip(found.prompts("measured"), range(4), strict=False)]
    assert len({id(question) for question in drawn[:2]}) == len({id(question) for question in drawn[2:]}) == 2


# The wire


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
        (stream(chunk("a"), "data: nonsense\n\n"), "not_a_completion", "the stream has an event that is no chunk"),
        (stream(chunk("a"), "data: [1]\n\n"), "not_a_completion", "the stream has an event that is no chunk"),
        (stream(f"data: {json.dumps(REFUSAL)}\n\n"), "error_event", "no"),
        (stream(END, USAGE, DONE), "empty", r"no text in the answer \(3 tokens\)"),
        (lambda body: (429, "application/json", [json.dumps(REFUSAL)]), "http_429", "no"),
        (lambda body: (500, "text/html", ["<h1>oh  no</h1>"]), "http_500", "<h1>oh no</h1>"),
        (lambda body: (502, "text/html", []), "http_502", "no reason given"),
        (lambda body: (200, "application/json", ['{"answer": 4}']), "not_a_completion", "the answer is no completion"),
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


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("http://h:1", "http://h:1/v1"),
        ("http://h:1/v1/", "http://h:1/v1"),
        ("h:1", "http://h:1/v1"),
        ("https://h/v1beta/openai", "https://h/v1beta/openai"),
    ],
)
def test_an_address_without_a_path_means_v1(url, meant):
    assert base_url(url) == meant


@pytest.mark.parametrize("url", ["ftp://h", "http://", "http://h:99999", "http://h:x"])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(ConfigError, match="is no address"):
        base_url(url)


def test_an_endpoint_that_neither_streams_nor_counts_is_measured_and_said_to_be():
    whole = json.dumps({"choices": WHOLE["choices"]})
    answer = refuses("stream_options", refuses("stream", lambda body: (200, "application/json", [whole])))
    found = Benchmark({})
    settings = Settings((Level(concurrency=2),), (20,), 8, Amount(requests=3), seed=1, warmup=1)
    with serving(answer) as url:
        with_endpoint(url, lambda endpoint: measure(endpoint, settings, found, tell=lambda text, share: None))
    (cell,) = found.cells
    assert (cell.completed, cell.ttft_ms, cell.itl_ms, cell.tokens_counted_by) == (3, None, None, "chunks")
    assert cell.e2e_ms.count == 3
    notes = " ".join(found.notes)
    assert "does not stream" in notes and "sends no usage" in notes and "prompt lengths are words" in notes


# The report


def test_changes_are_told_for_loads_that_both_have():
    def measured(*cells: tuple[int, float]) -> dict:
        found = Benchmark({})
        for level, seconds in cells:
            run = run_of(done(0.0, seconds / 2, seconds, tokens=10))
            found.cells.append(figures.figures(run, Level(concurrency=level), 128, {}))
        return json.loads(json.dumps(found.to_json()))

    found = report.changes(measured((1, 2.0), (4, 1.0)), measured((1, 1.0), (16, 1.0)))
    assert {each["load"] for each in found} == {"1 at once"}
    change = {each["figure"]: each["change"] for each in found}
    assert change["output_throughput"] == pytest.approx(1.0)
    assert change["ttft_ms p50"] == change["e2e_ms p50"] == pytest.approx(-0.5)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1, "cells": [{}]}', '{"format": 99, "cells": []}'])
def test_a_file_that_is_no_benchmark_is_refused(tmp_path, text):
    file = tmp_path / "old.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"old\.json"):
        report.load(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        report.load(tmp_path / "missing.json")
