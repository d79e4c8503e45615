"""vLLM's `/tokenize`, `/detokenize` and `/tokenizer_info` over HTTP."""

import pytest

from models import harmony
from tests.gateway_server import ASK, MAX_CONTEXT, TOKENIZER, tokens

TOOL = {"type": "function", "function": {"name": "rate", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture
def post(refusing):
    def ask(path: str, status: int = 200, **body) -> dict:
        response = refusing.post(path, body)
        assert response.status_code == status, response.text
        return response.json()

    return ask


def test_a_text_is_tokenized_and_comes_back(post):
    text = "The capital of Italy 🙂 <|end|>"
    told = post("/tokenize", model="prod", prompt=text, return_token_strs=True)
    ids = TOKENIZER.encode(text)
    assert told == {
        "count": len(ids),
        "max_model_len": MAX_CONTEXT,
        "tokens": ids,
        "token_strs": TOKENIZER.convert_ids_to_tokens(ids),
    }
    assert post("/detokenize", tokens=ids) == {"prompt": text}
    assert "token_strs" not in post("/tokenize", prompt="a")
    assert post("/tokenize", prompt="") == {"count": 0, "max_model_len": MAX_CONTEXT, "tokens": []}
    assert post("/detokenize", tokens=[]) == {"prompt": ""}


@pytest.mark.parametrize(
    ("asked", "rendered"),
    [
        ({}, {}),
        ({"tools": [TOOL]}, {"tools": [TOOL]}),
        ({"add_generation_prompt": False}, {"add_generation_prompt": False}),
        ({"chat_template_kwargs": {"reasoning_effort": "high"}}, {"reasoning_effort": "high"}),
    ],
)
def test_a_conversation_is_tokenized_as_a_chat_renders_it(asked, rendered, post):
    assert post("/tokenize", messages=ASK, **asked)["tokens"] == harmony.render(TOKENIZER, ASK, **rendered)


def test_an_open_message_is_tokenized_without_its_end(post):
    begun = [*ASK, {"role": "assistant", "content": "Hello"}]
    ids = post("/tokenize", messages=begun, continue_final_message=True)["tokens"]
    assert ids[-len(tokens("<|message|>Hello")) :] == tokens("<|message|>Hello")


def test_what_is_longer_than_the_context_is_counted(post):
    told = post("/tokenize", prompt="word " * (MAX_CONTEXT + 1))
    assert told["count"] == len(told["tokens"]) > told["max_model_len"]


@pytest.mark.parametrize(
    ("path", "body", "status", "param", "message"),
    [
        ("/tokenize", {}, 400, None, "send prompt or messages"),
        ("/tokenize", {"prompt": "a", "messages": ASK}, 400, None, "send prompt or messages"),
        ("/tokenize", {"prompt": "a", "model": "nope"}, 404, "model", "does not exist"),
        ("/tokenize", {"messages": [{"role": "user"}]}, 400, "messages", "messages[0].content is missing"),
        ("/tokenize", {"prompt": "a", "return_token_str": True}, 400, "return_token_str", "did you mean"),
        ("/tokenize", {"prompt": "a", "chat_template": "{{ a }}"}, 400, "chat_template", "is not supported"),
        ("/detokenize", {"tokens": "a"}, 400, "tokens", "should be a list"),
        ("/detokenize", {"tokens": [-1]}, 400, "tokens", "greater than or equal to 0"),
        ("/detokenize", {"tokens": [10**9]}, 400, "tokens", "tokens has ids outside 0 to"),
    ],
)
def test_what_cannot_be_tokenized_is_refused_by_name(path, body, status, param, message, post):
    error = post(path, status, **body)["error"]
    assert error["param"] == param and message in error["message"]


def test_the_tokenizer_is_described(refusing):
    told = refusing.get("/tokenizer_info").json()
    assert told["tokenizer_class"] == type(TOKENIZER).__name__
    assert told["chat_template"] == TOKENIZER.chat_template
    assert told["eos_token"] == TOKENIZER.eos_token
    assert [name for name in told if name.endswith("_file")] == []
