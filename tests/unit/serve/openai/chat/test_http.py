"""Chat parameters proven by their effect: the openai client, a gateway over real HTTP, the embedded model."""

import json

import jsonschema
import openai
import pytest

from tests.gateway_server import TOKENIZER

ITALY = [{"role": "user", "content": "What is the capital of Italy?"}]
BASIC = {"model": "prod", "messages": ITALY, "temperature": 0}
VAGUE = [{"role": "user", "content": "Say something."}]
STORY = [{"role": "user", "content": "Tell me a story about a fox."}]
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 10},
        "stars": {"type": "integer", "minimum": 1, "maximum": 5},
    },
    "required": ["city", "stars"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA, "strict": True}}
TOOL = {"type": "function", "function": {"name": "rate", "parameters": SCHEMA}}


@pytest.fixture
def ask(speaking):
    client = speaking.client()

    def create(**fields):
        return client.chat.completions.create(**BASIC | fields)

    return create


def text(done) -> str:
    return done.choices[0].message.content


def test_json_of_a_schema_streamed_and_whole(ask):
    whole = ask(response_format=FORMAT, seed=3, temperature=1)
    jsonschema.validate(json.loads(text(whole)), SCHEMA)
    chunks = list(ask(response_format=FORMAT, seed=3, temperature=1, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == text(whole)


def test_the_clients_own_parse_gives_an_object(speaking):
    from pydantic import BaseModel, Field

    class Place(BaseModel):
        city: str = Field(max_length=10)
        stars: int = Field(ge=1, le=5)

    done = speaking.client().chat.completions.parse(**BASIC, response_format=Place)
    assert 1 <= done.choices[0].message.parsed.stars <= 5


@pytest.mark.parametrize("stream", [False, True])
def test_a_broken_schema_is_a_400_with_its_reason_and_the_next_request_is_answered(ask, stream):
    broken = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "objekt"}}}
    with pytest.raises(openai.BadRequestError, match="Invalid type: objekt") as caught:
        ask(response_format=broken, stream=stream)
    assert caught.value.param == "response_format"
    assert text(ask()) == "The capital of Italy is Rome."


@pytest.mark.parametrize("depth", [200, 700])
def test_a_schema_nested_too_deep_is_a_400_for_an_answer_and_for_a_tool(ask, depth):
    deep: dict = {"items": {}}
    for _ in range(depth):
        deep = {"items": deep}
    function = {"type": "function", "function": {"name": "f", "parameters": deep}}
    with pytest.raises(openai.BadRequestError) as caught:
        ask(response_format={"type": "json_schema", "json_schema": {"name": "deep", "schema": deep}})
    assert caught.value.param == "response_format"
    with pytest.raises(openai.BadRequestError):
        ask(tools=[function], tool_choice="required")


def test_a_forced_call_is_a_call_with_valid_arguments(ask):
    done = ask(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "rate"}})
    (call,) = done.choices[0].message.tool_calls
    jsonschema.validate(json.loads(call.function.arguments), SCHEMA)
    assert (call.function.name, done.choices[0].finish_reason) == ("rate", "tool_calls")


def test_logprobs_are_of_all_tokens_and_the_greedy_token_is_the_likeliest(ask):
    done = ask(logprobs=True, top_logprobs=2)
    entries = done.choices[0].logprobs.content
    assert len(entries) == done.usage.completion_tokens
    assert "".join(entry.token for entry in entries) == (
        f"<|channel|>analysis<|message|>{done.choices[0].message.reasoning}<|end|><|start|>assistant"
        "<|channel|>final<|message|>The capital of Italy is Rome.<|return|>"
    )
    for entry in entries:
        assert entry.logprob <= 0
        assert [entry.top_logprobs[0].token, entry.top_logprobs[0].logprob] == [entry.token, entry.logprob]
        assert entry.top_logprobs[1].logprob <= entry.logprob
    streamed = [
        entry
        for chunk in ask(logprobs=True, top_logprobs=2, stream=True)
        for entry in (chunk.choices[0].logprobs.content if chunk.choices[0].logprobs else [])
    ]
    assert streamed == entries


def test_choices_differ_by_their_seeds_and_repeat_with_them(ask, speaking):
    how = {"messages": VAGUE, "n": 4, "temperature": 2, "seed": 5, "max_completion_tokens": 30}
    first, again = ask(**how), ask(**how)
    thoughts = [(choice.message.reasoning_content, choice.message.content) for choice in first.choices]
    assert thoughts == [(choice.message.reasoning_content, choice.message.content) for choice in again.choices]
    assert len(set(thoughts)) == 4
    assert [choice.index for choice in first.choices] == [0, 1, 2, 3]
    alone = ask(**how | {"n": 1})
    assert (alone.choices[0].message.reasoning_content, text(alone)) == thoughts[0]
    assert first.usage.prompt_tokens == alone.usage.prompt_tokens
    assert first.usage.completion_tokens > 2 * alone.usage.completion_tokens


def test_streamed_choices_are_told_apart_and_counted_once(ask):
    how = {"n": 3, "temperature": 1.5, "seed": 5, "max_completion_tokens": 40}
    whole = ask(**how)
    chunks = list(ask(**how, stream=True, stream_options={"include_usage": True}))
    for choice in whole.choices:
        mine = [c.choices[0] for c in chunks if c.choices and c.choices[0].index == choice.index]
        assert "".join(part.delta.content or "" for part in mine) == choice.message.content
        assert [part.finish_reason for part in mine if part.finish_reason] == [choice.finish_reason]
    assert [c.usage for c in chunks if c.usage] == [whole.usage]


def test_a_client_that_leaves_ends_all_its_choices(ask, speaking):
    stream = ask(n=3, stream=True, temperature=2, seed=1, logit_bias={str(TOKENIZER.eos_token_id): -100})
    next(iter(stream))
    stream.close()
    for _ in range(2000):
        if speaking.engine.stats().running == 0:
            break
        text(ask(max_tokens=1))
    assert speaking.engine.stats().running == 0


def test_max_completion_tokens_within_the_reasoning_is_length_and_no_answer(ask):
    done = ask(max_completion_tokens=6)
    (choice,) = done.choices
    assert (choice.finish_reason, choice.message.content) == ("length", "")
    whole = ask().choices[0].message.reasoning_content
    assert choice.message.reasoning_content and whole.startswith(choice.message.reasoning_content)
    assert done.usage.completion_tokens == 6
    assert done.usage.completion_tokens_details.reasoning_tokens == 3


def test_a_stop_text_cuts_the_answer(ask):
    done = ask(stop=[" is"])
    assert (text(done), done.choices[0].finish_reason) == ("The capital of Italy", "stop")


def test_the_same_seed_gives_the_same_answer_and_another_another(ask):
    def said(seed: int) -> str:
        message = ask(messages=VAGUE, temperature=2, seed=seed, max_tokens=40).choices[0].message
        return message.reasoning_content + message.content

    assert said(1) == said(1)
    assert said(2) != said(1)


@pytest.mark.parametrize(
    "penalty", [{"presence_penalty": 2}, {"frequency_penalty": 2}, {"extra_body": {"repetition_penalty": 3.0}}]
)
def test_penalties_make_the_answer_repeat_itself_less(ask, penalty):
    def different_tokens(**fields) -> int:
        extra = {"return_token_ids": True} | fields.pop("extra_body", {})
        endless = {str(TOKENIZER.eos_token_id): -100}
        done = ask(
            messages=STORY, temperature=1, seed=1, max_tokens=100, logit_bias=endless, extra_body=extra, **fields
        )
        return len(set(done.choices[0].token_ids))

    assert different_tokens(**penalty) > different_tokens()


def test_a_bias_forbids_or_forces_a_token(ask):
    rome, *_ = TOKENIZER.encode(" Rome", add_special_tokens=False)
    assert "Rome" in text(ask(logit_bias={str(rome): 0}))
    assert "Rome" not in text(ask(logit_bias={str(rome): -100}))
    forced = ask(max_tokens=5, logit_bias={str(rome): 100}, extra_body={"return_token_ids": True})
    assert forced.choices[0].token_ids == [rome] * 5


def test_token_ids_are_those_of_prompt_and_answer(ask):
    done = ask(extra_body={"return_token_ids": True})
    assert len(done.prompt_token_ids) == done.usage.prompt_tokens
    assert len(done.choices[0].token_ids) == done.usage.completion_tokens
    said = TOKENIZER.decode(done.choices[0].token_ids)
    assert said.endswith("<|channel|>final<|message|>The capital of Italy is Rome.<|return|>")


def test_usage_so_far_grows_with_every_chunk(ask):
    options = {"include_usage": True, "continuous_usage_stats": True}
    counts = [chunk.usage.completion_tokens for chunk in ask(stream=True, stream_options=options)]
    assert counts == sorted(counts)
    assert len(set(counts)) > 5
