"""The chat API on a real GPU: grammars, log-probabilities and several answers, 201,088 tokens in bfloat16."""

import json
import math

from tests.gpu.conftest import SKIPPED

pytestmark = SKIPPED

ASK = [{"role": "user", "content": "Describe a town."}]
TOWN = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["village", "city"]},
        "people": {"type": "integer", "minimum": 1, "maximum": 99},
        "names": {"type": "array", "items": {"type": "string", "maxLength": 6}, "maxItems": 2},
    },
    "required": ["kind", "people", "names"],
    "additionalProperties": False,
}
SEEDS = 8


def test_random_weights_obey_a_schema_wherever_they_answer(tandem):
    """Random weights that begin to think never stop, so some answers are cut; whatever is complete is valid."""
    schema = {"type": "json_schema", "json_schema": {"name": "town", "schema": TOWN, "strict": True}}
    complete = 0
    for seed in range(SEEDS):
        answer = tandem.client().chat.completions.create(
            model="prod", messages=ASK, seed=seed, max_completion_tokens=120, response_format=schema
        )
        choice = answer.choices[0]
        if choice.finish_reason == "length":
            continue
        complete += 1
        town = json.loads(choice.message.content)
        assert set(town) == {"kind", "people", "names"}
        assert town["kind"] in ("village", "city") and 1 <= town["people"] <= 99
        assert all(len(name) <= 6 for name in town["names"]) and len(town["names"]) <= 2
    assert complete > 0


def test_random_weights_call_the_tool_that_they_are_told_to(tandem):
    tool = {"name": "weather", "parameters": {"type": "object", "properties": {"day": {"enum": ["today", "later"]}}}}
    tool["parameters"] |= {"required": ["day"], "additionalProperties": False}
    called = 0
    for seed in range(SEEDS):
        answer = tandem.client().chat.completions.create(
            model="prod", messages=ASK, seed=seed, max_completion_tokens=60,
            tools=[{"type": "function", "function": tool}],
            tool_choice={"type": "function", "function": {"name": "weather"}},
        )  # fmt: skip
        choice = answer.choices[0]
        if choice.finish_reason == "tool_calls":
            called += 1
            assert json.loads(choice.message.tool_calls[0].function.arguments)["day"] in ("today", "later")
        else:
            assert choice.finish_reason == "length"
    assert called > 0


def test_logprobs_are_those_of_a_distribution(tandem):
    ask = {"model": "prod", "prompt": "Once upon a time", "max_tokens": 4, "temperature": 0, "logprobs": 5}
    answer = tandem.post("/v1/completions", ask)
    assert answer.status_code == 200, answer.text
    found = answer.json()["choices"][0]["logprobs"]
    assert len(found["token_logprobs"]) == 4
    for chosen, likeliest in zip(found["token_logprobs"], found["top_logprobs"], strict=True):
        assert math.isclose(chosen, max(likeliest.values()), abs_tol=1e-6)
        assert sum(map(math.exp, likeliest.values())) <= 1 + 1e-6


def test_several_answers_to_one_prompt_differ_and_are_counted(tandem):
    answer = tandem.client().chat.completions.create(
        model="prod", messages=ASK, n=3, seed=1, max_completion_tokens=16, extra_body={"return_token_ids": True}
    )
    ids = [choice.model_extra["token_ids"] for choice in answer.choices]
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({tuple(each) for each in ids}) == 3
    assert answer.usage.completion_tokens == sum(map(len, ids)) == 48


def test_the_responses_route_streams(tandem):
    with tandem.client().responses.stream(model="prod", input="Hi", max_output_tokens=12) as stream:
        kinds = [event.type for event in stream]
    assert kinds[0] == "response.created" and kinds[-1] == "response.incomplete"
