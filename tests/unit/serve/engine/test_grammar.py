"""Masks without a model: what a grammar forbids has no chance, and a row whose grammar fails spares its neighbours."""

import asyncio
import subprocess
import sys

import pytest
import torch
from transformers import AutoTokenizer

from configs.errors import RequestError, TandemError
from configs.paths import SOURCE, TINY_MODEL
from serve.engine.grammar import Constraint, Grammars, Matcher, mask
from serve.engine.sampling import INVALID, Sampler, SamplingParams, sample

TOKENIZER = AutoTokenizer.from_pretrained(TINY_MODEL)
PADDED = len(TOKENIZER) + 70
"""Logits of a model whose embedding is larger than its tokenizer, and no multiple of 32."""
YES_NO = 'start: ("yes" | "no") <|return|>'


def token(text: str) -> int:
    return TOKENIZER.convert_tokens_to_ids(text)


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    return Grammars(TOKENIZER, PADDED)


def matcher(grammars: Grammars, grammar: str = YES_NO) -> Matcher:
    return asyncio.run(grammars.matcher(Constraint(grammar, "response_format")))


def allowed(logits: torch.Tensor) -> set[str]:
    return {TOKENIZER.decode([index]) for index in (logits > float("-inf")).nonzero()[:, 0].tolist()}


def test_only_what_continues_the_grammar_is_left_and_padding_never(grammars):
    logits = torch.zeros(3, PADDED)
    mask(logits, {0: matcher(grammars), 2: matcher(grammars, "start: /[0-9]/ <|call|>")})
    assert all("yes".startswith(text) or "no".startswith(text) for text in allowed(logits[0]))
    assert {"y", "n"} <= allowed(logits[0])
    assert torch.equal(logits[1], torch.zeros(PADDED))
    assert allowed(logits[2]) == set("0123456789")
    assert torch.isneginf(logits[0, len(TOKENIZER) :]).all()


def test_a_stop_token_ends_the_grammar_and_text_never_spells_one(grammars):
    ours = matcher(grammars, "start: /(.|\\n)*/ <|return|>")
    logits = torch.zeros(1, PADDED)
    mask(logits, {0: ours})
    specials = {name for name in TOKENIZER.get_added_vocab() if name in allowed(logits[0])}
    assert specials == {"<|return|>"}
    assert not ours.complete
    ours.advance(token("<|return|>"))
    assert ours.complete
    assert ours.fault is None


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_sampling_takes_the_likeliest_of_what_is_allowed_in_any_float_type(grammars, temperature):
    logits = torch.zeros(1, PADDED, dtype=torch.bfloat16)
    logits[0, token("n")], logits[0, token("z")] = 50, 100
    sampler = Sampler(SamplingParams(temperature=temperature, seed=1, repetition_penalty=1.2), [5], matcher(grammars))
    assert sample(logits, [sampler]) == [token("n")]


def test_a_row_whose_grammar_fails_is_reported_and_spares_its_neighbours(grammars):
    broken, whole = matcher(grammars), matcher(grammars)
    broken.advance(token("z"))
    assert "the answer's grammar failed" in broken.fault
    samplers = [Sampler(SamplingParams(seed=1), [], each) for each in (broken, None, whole)]
    out = sample(torch.zeros(3, PADDED), samplers)
    assert out[0] == INVALID
    assert out[1] != INVALID
    assert TOKENIZER.decode([out[2]]) in allowed(torch.where(torch.arange(PADDED) == out[2], 0.0, float("-inf")))
    assert [sampler.fault is None for sampler in samplers] == [False, True, True]


def test_a_row_of_nan_is_reported_under_a_grammar_too(grammars):
    sampler = Sampler(SamplingParams(), [], matcher(grammars))
    assert sample(torch.full((1, PADDED), float("nan")), [sampler]) == [INVALID]


def test_an_engine_whose_requests_need_no_grammar_needs_no_llguidance():
    code = "import sys, serve.engine.sampling, serve.openai.chat.answer; sys.exit('llguidance' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=SOURCE).returncode == 0


def test_without_llguidance_a_constraint_is_refused_and_says_what_is_missing(grammars, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(TandemError, match="cannot honour response_format") as caught:
        matcher(grammars)
    assert caught.value.hint == "pip install llguidance"


def test_a_grammar_that_does_not_compile_is_refused_by_the_parameter_that_asked(grammars):
    with pytest.raises(RequestError, match=r"^guided: ") as caught:
        asyncio.run(grammars.matcher(Constraint("start: nothing", "guided")))
    assert caught.value.param == "guided"


def test_a_grammar_is_compiled_once_and_every_request_has_a_place_of_its_own(grammars, monkeypatch):
    import llguidance

    compiled = []
    make = llguidance.LLMatcher
    monkeypatch.setattr(llguidance, "LLMatcher", lambda *args, **how: compiled.append(args[1]) or make(*args, **how))
    counting = Grammars(TOKENIZER, PADDED)
    first = matcher(counting)
    first.advance(token("y"))
    second = matcher(counting)
    logits = torch.zeros(2, PADDED)
    mask(logits, {0: first, 1: second})
    assert allowed(logits[0]) <= {"e", "es"} and {"y", "n"} <= allowed(logits[1])
    first.advance(token("z"))
    assert first.fault and not second.fault and not matcher(counting).fault
    assert compiled == [YES_NO]


def test_the_grammars_asked_for_last_are_kept_and_refused_ones_are_not(monkeypatch):
    import llguidance

    compiled = []
    make = llguidance.LLMatcher
    monkeypatch.setattr(llguidance, "LLMatcher", lambda *args, **how: compiled.append(args[1]) or make(*args, **how))
    monkeypatch.setattr("serve.engine.grammar.MOST_COMPILED", 2)
    keeping = Grammars(TOKENIZER, PADDED)
    one, two, three = (f'start: "{text}"' for text in ("one", "two", "three"))
    for grammar in (one, two, one, three, one, two):
        matcher(keeping, grammar)
    assert compiled == [one, two, three, two]
    for _ in range(2):
        with pytest.raises(RequestError):
            matcher(keeping, "start: nothing")
    assert compiled[4:] == ["start: nothing"] * 2
