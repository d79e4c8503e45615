"""Numbers that a client chooses reach tensors: what no tensor can hold must harm neither its own row nor another's."""

import math

import pytest
import torch

from configs.errors import RequestError
from serve.engine.sampling import GREEDY_BELOW, MOST_STOP_TOKENS, Sampler, SamplingParams, sample

LOGITS = [2.0, 1.0, 0.5, 0.0, -1.0, -3.0]


@pytest.mark.parametrize(
    "how",
    [
        {"top_k": 10**30},
        {"top_k": 2**63},
        {"seed": 2**64},
        {"seed": -(10**30)},
        {"max_tokens": 10**30},
        {"min_p": 1.0},
        {"min_p": 1e-300},
        {"top_p": 1e-300},
        {"top_p": 1 - 1e-16},
        {"repetition_penalty": 0.01},
        {"repetition_penalty": 100.0},
        {"logit_bias": ((0, 100.0), (5, -100.0))},
        {"temperature": GREEDY_BELOW, "top_k": 10**30, "top_p": 0.5},
    ],
)
def test_an_extreme_number_gives_a_token_and_leaves_the_rest_of_the_batch_alone(how):
    beside = Sampler(SamplingParams(temperature=0), [0, 4])
    for _ in range(3):
        token, other = sample(torch.tensor([LOGITS, LOGITS]), [Sampler(SamplingParams(**how), [0, 4]), beside])
        assert 0 <= token < len(LOGITS) and other == 0


@pytest.mark.parametrize("temperature", [1e-46, 1e-300, 5e-324, 9e-6])
def test_a_temperature_too_small_for_float32_takes_the_most_likely_token(temperature):
    params = SamplingParams(temperature=temperature, top_p=0.9, seed=1)
    assert params.greedy and not params.filtered
    assert sample(torch.tensor([[0.0, 3.0, 1.0]]), [Sampler(params, [])]) == [1]


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("repetition_penalty", 1e-300),
        ("repetition_penalty", 0.0099),
        ("repetition_penalty", 100.1),
        ("repetition_penalty", math.nan),
        ("min_p", math.nan),
        ("top_p", math.nan),
        ("presence_penalty", math.nan),
        ("frequency_penalty", math.inf),
        ("stop_token_ids", tuple(range(MOST_STOP_TOKENS + 1))),
    ],
)
def test_what_has_no_meaning_is_refused_by_name(param, value):
    with pytest.raises(RequestError, match=f"^{param} is .*, allowed is ") as caught:
        SamplingParams(**{param: value})
    assert caught.value.param == param


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e308])
def test_a_bias_that_is_no_number_is_refused(value):
    with pytest.raises(RequestError, match=r"^logit_bias is ") as caught:
        SamplingParams(logit_bias=((0, value),))
    assert caught.value.param == "logit_bias"


def test_the_tensors_of_a_bias_are_built_once(monkeypatch):
    sampler = Sampler(SamplingParams(temperature=0, logit_bias=((5, 100.0),)), [])
    assert sample(torch.tensor([LOGITS]), [sampler]) == [5]
    ids, values = sampler._bias
    assert sample(torch.tensor([LOGITS]), [sampler]) == [5]
    assert sampler._bias[0] is ids and sampler._bias[1] is values
