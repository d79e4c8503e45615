"""A pasted book: what surely does not fit is refused before it is encoded, what may fit holds nobody up."""

import json
import threading

import httpx
import pytest
from tokenizers import Tokenizer, normalizers, pre_tokenizers

from configs.errors import RequestError
from models import harmony
from models.harmony import encoding
from models.harmony.encoding import LONG, Encoder, PromptTooLongError, characters
from tests.gateway_server import MAX_CONTEXT, TOKENIZER, Server

HOPELESS = "word and more " * 200_000
"""2.8 MB: with tokens of at most 19 bytes more than 100,000 of them."""
TEXTS = ("Hi", "word and more " * 500, "日本語のテキスト🙂 " * 300, "\n\n\t  a1b22c333" * 200, "<|start|>x<|end|>" * 40)


def plain() -> Tokenizer:
    return Tokenizer.from_str(TOKENIZER.backend_tokenizer.to_str())


def fewest(encoder: Encoder, text: str) -> int:
    """The least number of tokens that `text` is not refused for."""
    low, high = 0, len(text.encode())
    while low < high:
        middle = (low + high) // 2
        try:
            encoder.refuse_hopeless([text], middle, "prompt")
            high = middle
        except RequestError:
            low = middle + 1
    return low


def chat(text: str) -> dict:
    return {"model": "prod", "messages": [{"role": "user", "content": text}]}


@pytest.mark.parametrize("text", TEXTS)
def test_text_is_refused_only_where_its_tokens_are_surely_too_many(text):
    encoder = Encoder(plain())
    assert 0 < fewest(encoder, text) <= len(TOKENIZER.encode(text))


@pytest.mark.parametrize("text", TEXTS)
def test_long_text_gives_the_same_ids_as_short_text(text, monkeypatch):
    short = Encoder(plain()).ids(text)
    monkeypatch.setattr(encoding, "LONG", 1)
    assert Encoder(plain()).ids(text) == short == TOKENIZER.encode(text)


@pytest.mark.parametrize(
    "change",
    [
        lambda tokenizer: setattr(tokenizer, "normalizer", normalizers.NFKC()),
        lambda tokenizer: setattr(tokenizer, "pre_tokenizer", pre_tokenizers.CharDelimiterSplit("x")),
        lambda tokenizer: setattr(tokenizer, "pre_tokenizer", pre_tokenizers.Split(" ", "removed")),
    ],
)
def test_a_tokenizer_that_may_leave_text_out_refuses_none(change):
    tokenizer = plain()
    change(tokenizer)
    Encoder(tokenizer).refuse_hopeless([HOPELESS], 1, "prompt")


def test_a_rendered_conversation_is_refused_with_both_numbers():
    with pytest.raises(RequestError, match=r"length is 1000 tokens\. However, you requested at least \d+") as caught:
        harmony.render(TOKENIZER, chat(HOPELESS)["messages"], most_tokens=1000)
    assert caught.value.param == "messages"
    ids = harmony.render(TOKENIZER, chat("Hi <|start|>")["messages"], most_tokens=1000)
    assert ids == harmony.render(TOKENIZER, chat("Hi <|start|>")["messages"])


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/chat/completions", chat(HOPELESS), "messages"),
        ("/v1/responses", {"model": "prod", "input": HOPELESS}, "input"),
        ("/v1/completions", {"model": "prod", "prompt": HOPELESS}, "prompt"),
        ("/v1/completions", {"model": "prod", "prompt": ["Hi", HOPELESS], "stream": True}, "prompt"),
    ],
)
def test_every_route_refuses_what_surely_does_not_fit(refusing: Server, path, body, param, monkeypatch):
    monkeypatch.setattr(Encoder, "ids", None)  # not even begun
    error = refusing.post(path, body)
    assert error.status_code == 400, error.text
    assert (error.json()["error"]["param"], error.json()["error"]["code"]) == (param, "context_length_exceeded")
    assert f"This model's maximum context length is {MAX_CONTEXT} tokens." in error.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/chat/completions", chat("Hi"), "messages"),
        ("/v1/responses", {"model": "prod", "input": "Hi"}, "input"),
        ("/v1/completions", {"model": "prod", "prompt": "Hi"}, "prompt"),
    ],
)
def test_every_route_names_its_own_field_when_an_engine_finds_the_prompt_too_long(server, path, body, param, stream):
    async def full(request):
        raise PromptTooLongError.of(9, 8)
        yield

    server.engine.generate = full
    refused = server.post(path, body | {"stream": stream})
    error = refused.json()["error"]
    assert (refused.status_code, error["param"], error["code"]) == (400, param, "context_length_exceeded")
    where = "prompt" if param == "prompt" else "messages"
    assert error["message"] == (
        "This model's maximum context length is 8 tokens. However, you requested 10 tokens "
        f"(9 in the {where}, 1 in the completion) -> shorten the {where}, "
        "or serve with more: `tandem up --max-context N`"
    )


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", chat("word " * LONG)),
        ("/v1/responses", {"model": "prod", "input": "word " * LONG}),
        ("/v1/completions", {"model": "prod", "prompt": "word " * LONG}),
    ],
)
def test_while_a_long_text_is_encoded_the_gateway_answers(server: Server, path, body, monkeypatch):
    ids, begun, go_on = Encoder.ids, threading.Event(), threading.Event()

    def slow(self, text, **how):
        if len(text) >= LONG:
            begun.set()
            assert go_on.wait(10)
        return ids(self, text, **how)

    monkeypatch.setattr(Encoder, "ids", slow)
    answers: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: answers.append(server.post(path, body)))
    asking.start()
    try:
        assert begun.wait(10)
        assert server.get("/healthz").status_code == 200
        assert answers == []
    finally:
        go_on.set()
        asking.join(20)
    assert answers[0].status_code == 200


def test_characters_are_counted_wherever_they_are():
    value = [{"content": [{"text": "abc"}], "n": 5}, {"calls": ({"arguments": "de"},)}, None]
    assert characters(value) == 5
    assert characters(json.loads("[" * 900 + '"x"' + "]" * 900)) == 1
