"""An endpoint is asked as vLLM is, patiently while it is away, and its refusals come back as ours."""

import asyncio
import json
from collections.abc import Callable

import httpx
import pytest

from configs.errors import ClusterError, NotFoundError, RequestError
from jobs.evaluation import endpoint as endpoint_module
from jobs.evaluation.endpoint import Continuation, Endpoint, Score

URL = "http://somewhere/v1"
SCORED = {"prompt_logprobs": [None, {"8": {"logprob": -0.5, "rank": 2}}, {"9": {"logprob": -0.1, "rank": 1}}]}
NOW = {"retry-after": "0"}


def choice(**fields) -> httpx.Response:
    return httpx.Response(200, json={"choices": [fields]})


def ask(answer: Callable[[httpx.Request], httpx.Response], call: Callable[[Endpoint], object], **how):
    async def main():
        async with Endpoint(URL, transport=httpx.MockTransport(answer), **how) as endpoint:
            return await call(endpoint)

    return asyncio.run(main())


def score(endpoint: Endpoint):
    return endpoint.score("v1", [7, 8, 9])


def test_it_is_asked_for_scores_and_for_tokens_in_vllms_words():
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append((str(request.url), json.loads(request.content)))
        return choice(token_ids=[4, 5], finish_reason="stop", **SCORED)

    assert ask(answer, score) == [None, Score(-0.5, 2), Score(-0.1, 1)]
    found = ask(answer, lambda endpoint: endpoint.generate("v1", [7], max_tokens=9, stop=(5, 6)))
    assert found == Continuation([4, 5], "stop")
    scoring = {"model": "v1", "prompt": [7, 8, 9], "max_tokens": 0, "echo": True, "prompt_logprobs": 0}
    continuing = {"model": "v1", "prompt": [7], "max_tokens": 9, "temperature": 0, "stop_token_ids": [5, 6]}
    assert asked == [(f"{URL}/completions", scoring), (f"{URL}/completions", continuing | {"return_token_ids": True})]


def test_overload_and_a_restart_are_waited_for(monkeypatch):
    monkeypatch.setattr(endpoint_module, "WAIT_S", 0)
    answers = iter(
        [httpx.Response(429, headers=NOW), httpx.Response(503), httpx.ConnectError("away"), choice(**SCORED)]
    )

    def answer(request: httpx.Request) -> httpx.Response:
        given = next(answers)
        if isinstance(given, Exception):
            raise given
        return given

    assert ask(answer, score)[1] == Score(-0.5, 2)
    assert list(answers) == []


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        (httpx.Response(404, json={"error": {"message": "the model 'v1' does not exist"}}), NotFoundError, "does not"),
        (httpx.Response(400, json={"error": {"message": "too long"}}), RequestError, "too long"),
        (httpx.Response(500, text="oops"), ClusterError, "answered 500: oops"),
        (httpx.Response(503, headers=NOW, json={"error": {"message": "being restarted"}}), ClusterError, "restarted"),
        (httpx.ConnectError("nobody"), ClusterError, r"no answer from http://somewhere/v1 \(ConnectError\)"),
        (choice(text=""), ClusterError, "gave no prompt_logprobs"),
        (choice(prompt_logprobs=[None]), ClusterError, "gave no prompt_logprobs"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_does_not_pass_is_an_error_of_ours(given, kind, words, monkeypatch):
    monkeypatch.setattr(endpoint_module, "WAIT_S", 0)
    monkeypatch.setattr(endpoint_module, "TRIES", 3)

    def answer(request: httpx.Request) -> httpx.Response:
        if isinstance(given, Exception):
            raise given
        return given

    with pytest.raises(kind, match=words):
        ask(answer, score)


def test_a_server_that_gives_no_token_ids_is_told_what_it_lacks():
    with pytest.raises(ClusterError, match="gave no token_ids"):
        ask(lambda _: choice(text="Hi"), lambda endpoint: endpoint.generate("v1", [7], max_tokens=1, stop=()))


def test_no_more_requests_than_allowed_are_on_their_way():
    running, most = 0, 0

    async def answer(request: httpx.Request) -> httpx.Response:
        nonlocal running, most
        running, most = running + 1, max(most, running + 1)
        await asyncio.sleep(0)
        running -= 1
        return choice(**SCORED)

    async def several(endpoint: Endpoint):
        return await asyncio.gather(*(score(endpoint) for _ in range(9)))

    assert len(ask(answer, several, concurrency=3)) == 9
    assert most == 3
