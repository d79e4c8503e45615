"""Sampling against a plain reference in Python floats, and stop strings under every way of cutting the text."""

import itertools
import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import RequestError
from serve.engine.sampling import INVALID, Sampler, SamplingParams, StopStrings, sample

LOGITS = [2.0, 1.0, 0.5, 0.0, -1.0, -3.0]


def reference(logits: list[float], params: SamplingParams) -> list[float]:
    """The distribution that the docstrings promise, token by token."""
    weights = {i: math.exp(value / params.temperature) for i, value in enumerate(logits)}
    ranked = sorted(weights, key=lambda i: (-weights[i], i))
    ranked = ranked[: params.top_k] if params.top_k > 0 else ranked
    total, kept, mass = sum(weights[i] for i in ranked), [], 0.0
    for i in ranked:
        if kept and mass >= params.top_p:
            break
        kept.append(i)
        mass += weights[i] / total
    kept = [i for i in kept if weights[i] >= params.min_p * weights[ranked[0]]]
    total = sum(weights[i] for i in kept)
    return [weights[i] / total if i in kept else 0.0 for i in range(len(logits))]


def draws(params: SamplingParams, count: int = 20_000) -> list[float]:
    """Measured frequencies of `count` independent requests in one batch."""
    samplers = [Sampler(SamplingParams(**{**vars(params), "seed": seed}), []) for seed in range(count)]
    counts = Counter(sample(torch.tensor([LOGITS]).expand(count, -1), samplers))
    return [counts[i] / count for i in range(len(LOGITS))]


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(),
        SamplingParams(temperature=0.5),
        SamplingParams(temperature=2.0, top_k=3),
        SamplingParams(top_p=0.7),
        SamplingParams(top_k=4, top_p=0.9),
        SamplingParams(min_p=0.2),
        SamplingParams(temperature=1.5, top_k=5, top_p=0.95, min_p=0.1),
        SamplingParams(top_p=1e-9),
    ],
)
def test_frequencies_follow_the_reference_distribution(params):
    expected = reference(LOGITS, params)
    for measured, probability in zip(draws(params), expected, strict=True):
        # Five standard deviations of a binomial share of 20,000 draws.
        assert abs(measured - probability) <= 5 * math.sqrt(probability * (1 - probability) / 20_000)


def test_temperature_zero_takes_the_most_likely_token():
    samplers = [Sampler(SamplingParams(temperature=0), []), Sampler(SamplingParams(top_k=1), [])]
    logits = torch.tensor([[0.0, 3.0, 3.0, 1.0]] * 2, dtype=torch.bfloat16)
    assert [sample(logits, samplers) for _ in range(5)] == [[1, 1]] * 5


def test_a_tiny_temperature_does_not_overflow():
    assert sample(torch.tensor([[1e4, -1e4, 0.0]]), [Sampler(SamplingParams(temperature=1e-38), [])]) == [0]


def test_a_seeded_row_ignores_its_neighbours():
    rows = torch.randn(40, 512, generator=torch.Generator().manual_seed(3)) * 3
    mine = SamplingParams(seed=7, temperature=0.9, top_p=0.95)
    alone = Sampler(mine, [])
    expected = [sample(row[None], [alone])[0] for row in rows]
    crowded, others = Sampler(mine, []), [Sampler(SamplingParams(top_k=5), []), Sampler(SamplingParams(), [])]
    for step, row in enumerate(rows):
        beside = [Sampler(SamplingParams(temperature=0), []), *others][: step % 4]
        batch = torch.cat([torch.randn(len(beside), 512), row[None]])
        assert sample(batch, [*beside, crowded])[-1] == expected[step]


def test_two_requests_without_a_seed_differ():
    logits = torch.zeros(2, 1000)
    samplers = [Sampler(SamplingParams(), []) for _ in range(2)]
    first, second = zip(*(sample(logits, samplers) for _ in range(8)), strict=True)
    assert first != second


def test_penalties_count_what_was_generated_and_repetition_also_the_prompt():
    logits = torch.tensor([[2.0, 1.9, -1.0]])

    def greedy(steps: int, prompt: list[int], **penalties) -> list[int]:
        sampler = Sampler(SamplingParams(temperature=0, **penalties), prompt)
        return [sample(logits, [sampler])[0] for _ in range(steps)]

    assert greedy(3, [0]) == [0, 0, 0]
    # 2.0 -> 1.5 -> (1.9 -> 1.4) -> 1.5 once only: presence.
    assert greedy(4, [0], presence_penalty=0.5) == [0, 1, 0, 0]
    # 2.0, 1.9, 1.5, 1.4, 1.0, 0.9: frequency alternates.
    assert greedy(6, [0], frequency_penalty=0.5) == [0, 1, 0, 1, 0, 1]
    assert greedy(2, [0], repetition_penalty=2.0) == [1, 0]
    assert sample(
        torch.tensor([[-2.0, -1.0, -3.0]]), [Sampler(SamplingParams(temperature=0, repetition_penalty=4.0), [1])]
    ) == [0]


def test_a_bias_is_added_to_the_logits_of_its_tokens_only():
    params = SamplingParams(temperature=0, logit_bias=((5, 100.0), (1, 1.5)))
    samplers = [Sampler(params, []), Sampler(SamplingParams(temperature=0), [])]
    assert sample(torch.tensor([LOGITS, LOGITS]), samplers) == [5, 0]
    banned = SamplingParams(temperature=0, logit_bias=((0, -100.0),))
    assert sample(torch.tensor([LOGITS]), [Sampler(banned, [])]) == [1]


def test_a_row_of_nan_is_reported_and_spares_its_neighbours():
    logits = torch.tensor([[float("nan"), 0.0], [0.0, 9.0]])
    samplers = [Sampler(SamplingParams(), []), Sampler(SamplingParams(temperature=0), [])]
    assert sample(logits, samplers) == [INVALID, 1]


def test_tokens_of_probability_zero_are_never_drawn():
    logits = torch.full((2000, 50), float("-inf"))
    logits[:, 20:22] = 0.0
    assert set(sample(logits, [Sampler(SamplingParams(seed=i), []) for i in range(2000)])) == {20, 21}


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", math.nan),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", -2),
        ("min_p", 1.5),
        ("presence_penalty", 3.0),
        ("frequency_penalty", -3.0),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", math.inf),
        ("max_tokens", 0),
        ("stop", ("",)),
        ("stop", ("x",) * 17),
    ],
)
def test_values_out_of_bounds_are_refused_by_name(param, value):
    with pytest.raises(RequestError, match=f"^{param} is ") as caught:
        SamplingParams(**{param: value})
    assert caught.value.param == param


def run(stops: list[str], pieces: list[str]) -> tuple[str, str | None]:
    search = StopStrings(stops)
    out = "".join(search.feed(piece) for piece in pieces)
    return out + search.flush(), search.matched


@pytest.mark.parametrize(
    ("stops", "text", "out", "matched"),
    [
        ([], "abc", "abc", None),
        (["\n\n"], "one\n\ntwo", "one", "\n\n"),
        (["STOP"], "no STO here ST", "no STO here ST", None),
        (["abcd", "c"], "xabcd", "xab", "c"),
        (["bc", "abc", "c"], "xabc", "x", "abc"),
        (["aab"], "aaab", "a", "aab"),
        (["é🙂"], "aé🙂b", "a", "é🙂"),
    ],
)
def test_a_stop_string_ends_the_text_however_it_is_cut(stops, text, out, matched):
    for cuts in itertools.product([False, True], repeat=len(text) - 1):
        pieces, start = [], 0
        for at, cut in enumerate(cuts, start=1):
            if cut:
                pieces.append(text[start:at])
                start = at
        assert run(stops, [*pieces, text[start:]]) == (out, matched)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text("ab", min_size=1, max_size=4), max_size=4), st.lists(st.text("abc", max_size=4), max_size=10))
def test_any_text_in_any_pieces_gives_what_the_whole_gives(stops, pieces):
    text = "".join(pieces)
    ends = [end for end in range(len(text) + 1) if any(text[:end].endswith(stop) for stop in stops)]
    if ends:
        matched = max((stop for stop in stops if text[: ends[0]].endswith(stop)), key=len)
        assert run(stops, pieces) == (text[: ends[0] - len(matched)], matched)
    else:
        assert run(stops, pieces) == (text, None)


def test_only_what_may_become_a_stop_string_is_held_back():
    search = StopStrings(["\n\nUser:"])
    assert search.feed("Hello\n") == "Hello"
    assert search.feed("there\n\nUse") == "\nthere"
    assert search.feed("d") == "\n\nUsed"
    assert search.feed("\n\nUser: x") == ""
    assert search.matched == "\n\nUser:"
    assert search.feed("more") == ""


def test_only_allowed_tokens_are_chosen_and_a_bad_word_is_never_completed():
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]])
    allowed = Sampler(SamplingParams(temperature=0, allowed_token_ids=(2, 3)), [])
    assert sample(logits, [allowed]) == [2]
    sampler = Sampler(SamplingParams(temperature=0, bad_words=((0, 0, 1), (0, 0, 0), (2,))), [])
    assert [sample(logits, [sampler])[0] for _ in range(5)] == [0, 0, 3, 0, 0]
    beside = Sampler(SamplingParams(temperature=0), [])
    assert sample(logits.repeat(2, 1), [beside, allowed]) == [0, 2]
