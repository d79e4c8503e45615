"""`min_tokens` and `ignore_eos`: how long an answer is, whatever the model would rather do."""

import asyncio

import pytest
import torch
from transformers import AutoTokenizer

from configs.errors import RequestError
from configs.paths import TINY_MODEL
from models.harmony import render, stop_token_ids
from serve.engine.protocol import Engine, GenerationRequest, TokenChunk
from serve.engine.sampling import Sampler, SamplingParams, sample
from serve.openai.chat import request as chat
from serve.openai.chat.answer import ChunkWriter, ResponseWriter
from serve.openai.completions import request as completions
from serve.openai.responses import request as responses
from serve.openai.responses.turn import Turn
from tests.gateway_server import BASIC, tokens
from tests.unit.serve.engine.engines import ENGINES, running

TOKENIZER = AutoTokenizer.from_pretrained(TINY_MODEL)
RETURN, CALL = TOKENIZER.convert_tokens_to_ids(["<|return|>", "<|call|>"])
EOS = stop_token_ids(TOKENIZER)
PROMPT = render(TOKENIZER, [{"role": "user", "content": "What is the capital of Italy?"}])
CONTEXT = 256


@pytest.fixture(scope="module", params=list(ENGINES))
def engine(request):
    with running(ENGINES[request.param], max_batch=2, max_context=CONTEXT) as engine:
        yield engine


def generated(engine: Engine, sampling: SamplingParams) -> tuple[list[int], str]:
    """All tokens that a request gains, and why it ended."""

    async def collect() -> list[TokenChunk]:
        return [chunk async for chunk in engine.generate(GenerationRequest("one", PROMPT, sampling))]

    chunks = asyncio.run(asyncio.wait_for(collect(), 60))
    return [token for chunk in chunks for token in chunk.ids], chunks[-1].finish_reason


def chat_sampling(**fields) -> SamplingParams:
    return chat.parse_request(BASIC | {"temperature": 0} | fields).samplings(EOS)[0]


# In the body


def test_the_models_stop_tokens_end_nothing_when_ignored_and_the_requests_own_still_do():
    plain = completions.parse_request({"model": "prod", "prompt": "a", "stop_token_ids": [5]})
    assert plain.samplings(EOS)[0].stop_token_ids == (5, *EOS)
    assert plain.samplings(EOS)[0].ignored_stop_ids == ()
    ignoring = completions.parse_request({"model": "prod", "prompt": "a", "stop_token_ids": [5], "ignore_eos": True})
    assert ignoring.samplings(EOS)[0].stop_token_ids == (5,)
    assert ignoring.samplings(EOS)[0].ignored_stop_ids == EOS
    assert chat_sampling(ignore_eos=True).stop_token_ids == ()


def test_the_three_routes_take_both():
    asked = {"min_tokens": 3, "ignore_eos": True}
    request = responses.parse_request({"model": "prod", "input": "Hi"} | asked)
    of_responses = Turn(request, own=request.items).chat()
    of_completions = completions.parse_request({"model": "prod", "prompt": "a"} | asked)
    for request in (chat.parse_request(BASIC | asked), of_responses, of_completions):
        assert (request.samplings(EOS)[0].min_tokens, request.samplings(EOS)[0].ignored_stop_ids) == (3, EOS)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"min_tokens": 6, "max_tokens": 5}, "min_tokens is 6, and the answer may have 5 tokens at most"),
        ({"min_tokens": 6, "max_completion_tokens": 5, "max_tokens": 9}, "min_tokens is 6, and .* 5 tokens"),
        ({"min_tokens": -1}, "min_tokens is -1, allowed is 0 or more"),
        ({"min_tokens": "3"}, 'min_tokens: .*not "3"'),
        ({"min_tokens": 1.5}, "min_tokens: .*not 1.5"),
        ({"ignore_eos": 1}, "ignore_eos: .*not 1"),
    ],
)
def test_what_cannot_be_is_refused_by_its_name(fields, words):
    with pytest.raises(RequestError, match=words) as caught:
        chat.parse_request(BASIC | fields).samplings(EOS)
    assert caught.value.param in ("min_tokens", "ignore_eos")


@pytest.mark.parametrize("fields", [{"min_tokens": 17}, {"min_tokens": 1, "max_tokens": 0, "echo": True}])
def test_a_completion_may_not_be_shorter_than_its_least_either(fields):
    with pytest.raises(RequestError, match=r"min_tokens is \d+, .* tokens at most"):
        completions.parse_request({"model": "prod", "prompt": "a"} | fields).samplings(EOS)


@pytest.mark.parametrize("longer", [{"min_tokens": 5}, {"ignore_eos": True}])
@pytest.mark.parametrize(
    "held",
    [
        {"response_format": {"type": "json_object"}},
        {"tools": [{"type": "function", "function": {"name": "now"}}], "tool_choice": "required"},
    ],
)
def test_an_answer_that_is_held_to_a_schema_ends_where_that_says(longer, held):
    (name,) = longer
    with pytest.raises(RequestError, match=f"{name} does not go with") as caught:
        chat.parse_request(BASIC | longer | held).constraint()
    assert caught.value.param == name
    assert chat.parse_request(BASIC | longer).constraint() is None


# In the engine


def test_before_min_tokens_no_stop_token_has_a_chance_and_after_it_all_have():
    logits = torch.zeros(1, 8)
    logits[0, 3], logits[0, 4], logits[0, 6] = 9.0, 8.0, 1.0
    wish = SamplingParams(temperature=0, stop_token_ids=(3,), ignored_stop_ids=(4,), min_tokens=2)
    sampler = Sampler(wish, [])
    assert [sample(logits, [sampler])[0] for _ in range(4)] == [6, 6, 3, 3]
    pushed = Sampler(SamplingParams(temperature=1, stop_token_ids=(3,), min_tokens=50, logit_bias=((3, 100.0),)), [])
    assert 3 not in [sample(logits, [pushed])[0] for _ in range(50)]


def test_an_answer_goes_on_to_min_tokens_and_then_ends_by_itself(engine):
    own, reason = generated(engine, chat_sampling())
    assert reason == "stop" and own[-1] == RETURN
    longer, reason = generated(engine, chat_sampling(min_tokens=len(own) + 20))
    assert longer[: len(own) - 1] == own[:-1]
    assert len(longer) > len(own) + 20 or reason == "length"
    assert not set(EOS) & set(longer[: len(own) + 20])


def test_ignored_stop_tokens_are_tokens_like_any_other_up_to_the_limit(engine):
    own, _ = generated(engine, chat_sampling())
    ids, reason = generated(engine, chat_sampling(ignore_eos=True, max_tokens=len(own) + 15))
    assert ids[: len(own)] == own and len(ids) == len(own) + 15
    assert reason == "length"


def test_both_together_give_exactly_so_many_tokens_none_of_which_ends_the_message(engine):
    ids, reason = generated(engine, chat_sampling(ignore_eos=True, min_tokens=90, max_tokens=90))
    assert (len(ids), reason) == (90, "length")
    assert not set(EOS) & set(ids)


def test_more_than_the_context_leaves_is_refused_with_the_numbers(engine):
    room = CONTEXT - len(PROMPT)
    with pytest.raises(RequestError, match=f"min_tokens is {room + 1}, .* leaves {room} of {CONTEXT}") as caught:
        generated(engine, chat_sampling(min_tokens=room + 1))
    assert caught.value.param == "min_tokens"
    with pytest.raises(RequestError, match="stop_token_ids has ids outside") as caught:
        generated(engine, SamplingParams(stop_token_ids=(10**6,), min_tokens=1))
    assert caught.value.param == "stop_token_ids"


# In the answer


@pytest.mark.parametrize("stop", ["<|return|>", "<|call|>"])
def test_what_follows_an_ignored_stop_token_is_counted_and_not_shown(stop):
    header = "functions.f" if stop == "<|call|>" else ""
    opening = f" to={header}<|channel|>commentary<|message|>" if header else "<|channel|>final<|message|>"
    request = chat.parse_request(BASIC | {"ignore_eos": True, "return_token_ids": True, "logprobs": False})
    ids = tokens(f"{opening}{{}}{stop} noise<|start|>assistant<|channel|>final<|message|>more<|return|>")
    writer = ResponseWriter(ChunkWriter(TOKENIZER, request))
    for count, token in enumerate(ids, 1):
        writer.write(TokenChunk([token], "length" if count == len(ids) else None, 9, count))
    answer = writer.response()
    (choice,) = answer.choices
    assert choice.finish_reason == "length"
    assert answer.usage.completion_tokens == len(ids) and choice.token_ids == ids
    if header:
        assert [(call.function.name, call.function.arguments) for call in choice.message.tool_calls] == [("f", "{}")]
        assert choice.message.content is None
    else:
        assert choice.message.content == "{}"


def test_over_http_min_tokens_above_max_tokens_is_400_and_names_both(refusing):
    error = refusing.refusal(400, BASIC | {"min_tokens": 8, "max_tokens": 7})
    assert error["param"] == "min_tokens"
    assert error["message"] == "min_tokens is 8, and the answer may have 7 tokens at most"
