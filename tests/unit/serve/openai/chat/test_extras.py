"""What vLLM adds to OpenAI's parameters, proven by its effect on the embedded model, over HTTP."""

import json
import re

import pytest

from tests.gateway_server import TOKENIZER, tokens

ITALY = {"role": "user", "content": "What is the capital of Italy?"}
GBNF = 'root ::= "Rome" | "Pa" rest\nrest ::= "ris" | "lermo"'
LARK = 'start: CITY "!"\nCITY: "Rome" | "Paris"'
SCHEMA = {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"]}


@pytest.fixture
def ask(speaking):
    def post(path: str = "/v1/chat/completions", **fields) -> dict:
        body = {"model": "prod", "temperature": 0} | fields
        body |= {} if "prompt" in body or "messages" in body else {"messages": [ITALY]}
        response = speaking.post(path, body)
        assert response.status_code == 200, response.text
        return response.json()

    return post


def content(done: dict) -> str:
    return done["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    ("asked", "pattern"),
    [
        ({"structured_outputs": {"choice": ["Oslo", 'Par"is']}}, 'Oslo|Par"is'),
        ({"guided_choice": ["Oslo"]}, "Oslo"),
        ({"structured_outputs": {"regex": r"^[0-9]{2}/[a-c]+\.$"}}, r"[0-9]{2}/[a-c]+\."),
        ({"guided_regex": "yes|no\\$"}, r"yes|no\$"),
        ({"structured_outputs": {"grammar": LARK}}, "(Rome|Paris)!"),
        ({"guided_grammar": GBNF}, "Rome|Paris|Palermo"),
        ({"structured_outputs": {"json": SCHEMA}}, r'\{\s*"city"\s*:\s*"(Rome|Oslo)"\s*\}'),
    ],
)
def test_an_answer_is_what_structured_outputs_say_in_chat_and_as_a_completion(asked, pattern, ask):
    for seed in range(3):
        how = {"temperature": 1, "seed": seed, "max_tokens": 200}
        assert re.fullmatch(pattern, content(ask(**asked, **how)))
        done = ask("/v1/completions", prompt="The capital", **asked, **how)
        assert re.fullmatch(pattern, done["choices"][0]["text"]) and done["choices"][0]["finish_reason"] == "stop"


def test_a_completion_takes_a_response_format(ask):
    schema = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA}}
    done = ask("/v1/completions", prompt="Say JSON: ", response_format=schema, max_tokens=100)
    assert json.loads(done["choices"][0]["text"])["city"] in ("Rome", "Oslo")


@pytest.mark.parametrize(
    ("asked", "why"),
    [({"regex": "a(?=b)"}, "look-around"), ({"grammar": "start: ("}, ""), ({"json": {"type": "objekt"}}, "objekt")],
)
def test_what_cannot_be_compiled_is_a_400_with_the_reason(asked, why, speaking):
    for path, body in (("/v1/chat/completions", {"messages": [ITALY]}), ("/v1/completions", {"prompt": "a"})):
        refused = speaking.post(path, {"model": "prod", "structured_outputs": asked} | body)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "structured_outputs")
        assert why in refused.json()["error"]["message"]


def test_reasoning_can_be_left_out(ask):
    whole, bare = ask(), ask(include_reasoning=False)
    assert "reasoning" in whole["choices"][0]["message"]
    message = bare["choices"][0]["message"]
    assert not {"reasoning", "reasoning_content"} & message.keys() and message["content"] == content(whole)
    assert bare["usage"] == whole["usage"]


def test_a_final_message_is_gone_on_with(ask):
    begun = {"role": "assistant", "content": "The capital of Italy"}
    done = ask(messages=[ITALY, begun], continue_final_message=True, add_generation_prompt=False, return_token_ids=True)
    assert (content(done), done["choices"][0]["finish_reason"]) == (" is Rome.", "stop")
    assert TOKENIZER.decode(done["prompt_token_ids"]).endswith("<|channel|>final<|message|>The capital of Italy")
    assert TOKENIZER.decode(done["choices"][0]["token_ids"]) == " is Rome.<|return|>"
    assert done["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0
    echoed = ask(messages=[ITALY, begun], continue_final_message=True, echo=True)
    assert content(echoed) == "The capital of Italy is Rome."


def test_reasoning_is_gone_on_with_and_the_answer_follows(ask):
    begun = {"role": "assistant", "content": "", "reasoning": "The user asks"}
    done = ask(messages=[ITALY, begun], continue_final_message=True)
    message = done["choices"][0]["message"]
    assert (message["reasoning"], message["content"]) == (
        " for the capital of Italy.",
        "The capital of Italy is Rome.",
    )
    assert done["usage"]["completion_tokens_details"]["reasoning_tokens"] == len(tokens(message["reasoning"]))


def test_a_message_that_is_gone_on_with_can_be_held_to_a_choice(ask):
    begun = {"role": "assistant", "content": "It is"}
    done = ask(
        messages=[ITALY, begun], continue_final_message=True, structured_outputs={"choice": [" Oslo.", " Bern."]}
    )
    assert content(done) in (" Oslo.", " Bern.")


def test_without_a_generation_prompt_the_model_says_whose_turn_it_is(ask):
    done = ask(add_generation_prompt=False, return_token_ids=True)
    assert TOKENIZER.decode(done["prompt_token_ids"]).endswith("Italy?<|end|>")
    assert TOKENIZER.decode(done["choices"][0]["token_ids"]).startswith("<|start|>assistant")
    assert content(done) == "The capital of Italy is Rome."


def test_a_chats_prompt_is_scored_as_a_completions(ask, speaking):
    done = ask(prompt_logprobs=1, return_token_ids=True)
    scores, prompt = done["prompt_logprobs"], done["prompt_token_ids"]
    assert (len(scores), scores[0]) == (len(prompt), None)
    assert [int(next(iter(at))) for at in scores[1:]] == prompt[1:]
    again = ask("/v1/completions", prompt=prompt, max_tokens=0, prompt_logprobs=1)["choices"][0]["prompt_logprobs"]
    for mine, other in zip(scores[1:], again[1:], strict=True):
        assert mine.keys() == other.keys()
        assert all(mine[token]["logprob"] == pytest.approx(other[token]["logprob"], abs=1e-3) for token in mine)
    events = speaking.post(
        body={"model": "prod", "messages": [ITALY], "prompt_logprobs": 1, "stream": True, "n": 2}
    ).text
    assert events.count('"prompt_logprobs"') == 1 and '"prompt_logprobs"' in events.partition("\n")[0]


def test_stop_tokens_end_an_answer_and_are_named(ask):
    (rome,) = {token for token in tokens("It is Rome.") if TOKENIZER.decode([token]) in (" R", " Rome")}
    choice = ask(stop_token_ids=[rome])["choices"][0]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", rome)
    assert choice["message"]["content"].startswith("The capital of Italy is R")
    cut = ask("/v1/completions", prompt="The", stop_token_ids=[rome], max_tokens=1)
    assert (cut["choices"][0]["finish_reason"], cut["choices"][0]["stop_reason"]) == ("length", None)
    assert "stop_reason" not in ask()["choices"][0]


def test_only_allowed_tokens_are_generated(ask, speaking):
    allowed = tokens("Rome is")
    how = {"allowed_token_ids": allowed, "max_tokens": 12, "return_token_ids": True, "temperature": 1}
    done = ask("/v1/completions", prompt="x", **how)
    ids = done["choices"][0]["token_ids"]
    assert len(ids) == 12 and set(ids) <= set(allowed)
    refused = speaking.post("/v1/completions", {"model": "prod", "prompt": "x", "allowed_token_ids": [10**6]})
    assert refused.json()["error"]["param"] == "allowed_token_ids"


def test_bad_words_are_not_said(ask):
    assert "Rome" in content(ask())
    done = content(ask(bad_words=["Rome", "capital"], max_tokens=100))
    assert "Rome" not in done and "capital" not in done


def test_a_long_prompt_is_truncated_where_it_is_asked_for(ask):
    ids = tokens("one two three four five six")
    for side, kept in (("left", ids[-3:]), ("right", ids[:3])):
        how = {"truncate_prompt_tokens": 3, "truncation_side": side, "return_token_ids": True, "max_tokens": 1}
        done = ask("/v1/completions", prompt=ids, **how)
        assert (done["choices"][0]["prompt_token_ids"], done["usage"]["prompt_tokens"]) == (kept, 3)
    long = "word " * 5000
    chat = ask(messages=[{"role": "user", "content": long}], truncate_prompt_tokens=50, max_tokens=1)
    assert chat["usage"]["prompt_tokens"] == 50


def test_tokens_are_named_by_id_where_it_is_asked_for(ask):
    how = {"logprobs": 1, "max_tokens": 3, "return_tokens_as_token_ids": True, "return_token_ids": True}
    choice = ask("/v1/completions", prompt="The capital", **how)["choices"][0]
    assert choice["logprobs"]["tokens"] == [f"token_id:{token}" for token in choice["token_ids"]]
