"""The native engine against Transformers: crowds, caches, preemption and swaps, greedy and in float32."""

import asyncio
import copy
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from peft import PeftModel

from configs.errors import AdapterError, CheckpointError, ConfigError, RequestError, TandemError
from serve.engine.native.engine import NativeEngine
from serve.engine.protocol import GenerationRequest
from serve.engine.sampling import SamplingParams
from tests.unit.serve.engine.engines import change_logits, embedded_model, native_engine, running
from tests.unit.serve.engine.test_engines import PROMPTS, collect, eventually, greedy, reference, scores, write_adapter

QUESTIONS = (*PROMPTS, [*PROMPTS[1], *PROMPTS[3]])
VERSIONS = {
    "attention-4": {"r": 4, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]},
    "attention-32": {"r": 32, "target_modules": ["q_proj", "o_proj"]},
    "experts-8": {
        "r": 8,
        "target_modules": ["v_proj"],
        "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
    },
}
LONGEST = 90


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("adapters")
    return {
        version: write_adapter(embedded_model(), root / version, seed=seed, scale=0.7, **options)
        for seed, (version, options) in enumerate(VERSIONS.items())
    }


@pytest.fixture(scope="module")
def expected(folders):
    """What Transformers and PEFT answer, by question and version, computed once each."""

    @cache
    def model(version: str | None):
        base = embedded_model()
        if version is None:
            return base
        return PeftModel.from_pretrained(copy.deepcopy(base), str(folders[version])).eval()

    @cache
    def answer(question: int, version: str | None) -> list[int]:
        return reference(model(version), QUESTIONS[question], LONGEST)

    return answer


async def add_all(engine: NativeEngine, folders: dict[str, Path]) -> None:
    for version, path in folders.items():
        await engine.add_adapter(version, path)


async def ask(engine: NativeEngine, question: int, version: str | None, tokens: int, delay: float = 0.0) -> list[int]:
    await asyncio.sleep(delay)
    return (await collect(engine, QUESTIONS[question], greedy(tokens), adapter=version))[0]


JOB = some.tuples(
    some.integers(0, len(QUESTIONS) - 1), some.sampled_from([None, *VERSIONS]), some.integers(1, LONGEST),
    some.floats(0, 0.1),
)  # fmt: skip


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    jobs=some.lists(JOB, min_size=2, max_size=10),
    max_batch=some.sampled_from([1, 3, 8]),
    chunk=some.sampled_from([1, 7, 50, 512]),
    blocks=some.sampled_from([90, 120, 1200]),
    adapter_slots=some.sampled_from([1, 2, 8]),
)
def test_a_crowd_that_comes_and_goes_answers_as_each_would_alone(
    folders, expected, jobs, max_batch, chunk, blocks, adapter_slots
):
    """Chunks of any size, caches so small that sequences are preempted, fewer slots than adapters."""

    async def scene(engine):
        await add_all(engine, folders)
        return await asyncio.gather(*(ask(engine, *job) for job in jobs))

    options = {"max_batch": max_batch, "prefill_chunk": chunk, "blocks": blocks, "adapter_slots": adapter_slots}
    with running(native_engine, max_waiting=20, **options) as engine:
        answers = asyncio.run(scene(engine))
        assert engine.stats().kv_tokens == engine.stats().running == engine.stats().waiting == 0
        assert engine._cache.pool.free == engine._cache.pool.count
    for (question, version, tokens, _), answer in zip(jobs, answers, strict=True):
        assert answer == expected(question, version)[:tokens]


def test_preempted_sequences_go_on_where_they_were(expected):
    endless = SamplingParams(temperature=0, max_tokens=200)
    with torch.inference_mode():
        whole = (
            embedded_model()
            .generate(torch.tensor([QUESTIONS[0]]), max_new_tokens=200, do_sample=False, eos_token_id=-1)[
                0, len(QUESTIONS[0]) :
            ]
            .tolist()
        )

    async def scene(engine):
        same = (collect(engine, [*QUESTIONS[0]], endless) for _ in range(4))
        return await asyncio.gather(*same)

    with running(native_engine, blocks=60, prefill_chunk=64, max_context=400) as engine:
        answers = asyncio.run(scene(engine))
        assert engine._cache.use.preemptions > 0
    assert answers == [(whole, "length")] * 4


def test_a_second_turn_prefills_only_what_is_new_and_says_the_same(expected):
    first = QUESTIONS[1]

    async def scene(engine):
        answer, _ = await collect(engine, first, greedy(40))
        turn = [*first, *answer, *QUESTIONS[2]]
        hit = engine._cache.use.hit
        again, _ = await collect(engine, turn, greedy(20))
        return turn, again, engine._cache.use.hit - hit

    with running(native_engine) as engine:
        turn, again, hit = asyncio.run(scene(engine))
    assert hit >= len(turn) - len(QUESTIONS[2]) - 16
    assert again == reference(embedded_model(), turn, 20)


def test_a_swap_in_the_middle_of_a_crowd_leaves_every_answer_as_it_is(folders, expected):
    async def scene(engine):
        await engine.add_adapter("attention-4", folders["attention-4"])
        old = [asyncio.create_task(ask(engine, number, "attention-4", LONGEST)) for number in range(3)]
        base = [asyncio.create_task(ask(engine, number, None, LONGEST)) for number in range(3)]
        await eventually(lambda: engine.stats().generated_tokens > 10)
        await engine.add_adapter("experts-8", folders["experts-8"])
        check = await engine.verify_adapter("experts-8")
        assert check.max_difference > 0.01
        engine.remove_adapter("attention-4")
        new = [asyncio.create_task(ask(engine, number, "experts-8", LONGEST)) for number in range(3)]
        return await asyncio.gather(*old, *base, *new)

    with running(native_engine, adapter_slots=2) as engine:
        answers = asyncio.run(scene(engine))
        assert engine.adapters() == ("experts-8",)
    versions = ["attention-4"] * 3 + [None] * 3 + ["experts-8"] * 3
    assert answers == [expected(number % 3, version)[:LONGEST] for number, version in enumerate(versions)]


def test_adapters_beyond_the_slots_take_turns(folders, expected):
    async def scene(engine):
        await add_all(engine, folders)
        return await asyncio.gather(*(ask(engine, 0, version, 12) for version in VERSIONS for _ in range(2)))

    with running(native_engine, adapter_slots=1) as engine:
        answers = asyncio.run(scene(engine))
        assert engine._runner.adapters.use.evicted >= 2
    assert answers == [expected(0, version)[:12] for version in VERSIONS for _ in range(2)]


def test_an_adapter_that_had_to_leave_host_memory_is_read_again(folders, expected, monkeypatch):
    monkeypatch.setattr("serve.engine.native.engine.HOST_BYTES", 1)

    async def scene(engine):
        await add_all(engine, folders)
        return [await ask(engine, 0, version, 12) for version in VERSIONS]

    with running(native_engine, adapter_slots=1) as engine:
        assert asyncio.run(scene(engine)) == [expected(0, version)[:12] for version in VERSIONS]


def test_an_adapter_of_too_high_a_rank_is_refused_with_both_numbers(folders):
    with running(native_engine, max_lora_rank=16) as engine:
        with pytest.raises(AdapterError, match="has rank 32; this engine takes up to 16") as caught:
            asyncio.run(engine.add_adapter("attention-32", folders["attention-32"]))
        assert "max_lora_rank" in caught.value.hint
        assert engine.adapters() == ()


def test_a_context_that_the_cache_cannot_hold_is_refused_and_by_default_it_is_what_the_cache_holds():
    with pytest.raises(ConfigError, match=r"max_context is 2000, and the KV cache holds \d+ tokens"):
        native_engine(blocks=60, max_context=2000)
    with running(native_engine, blocks=60) as engine:
        most = engine._max_context
        assert 300 < most < 60 * 16
        with pytest.raises(RequestError, match=f"length is {most} tokens"):
            asyncio.run(collect(engine, [5] * most, greedy(1)))
        assert len(asyncio.run(collect(engine, [5] * (most - 4), SamplingParams(temperature=0)))[0]) == 4


def test_a_row_of_nan_ends_its_own_request_and_no_other(expected, monkeypatch):
    with running(native_engine) as engine:

        def spoilt(logits):
            if len(logits) > 1:
                logits = logits.clone()
                logits[-1] = torch.nan
            return logits

        change_logits(monkeypatch, engine, spoilt)

        async def scene():
            first = asyncio.create_task(ask(engine, 0, None, 30))
            await eventually(lambda: engine.stats().generated_tokens > 3)
            with pytest.raises(TandemError, match="logits are not numbers"):
                await ask(engine, 2, None, 30)
            return await first

        assert asyncio.run(scene()) == expected(0, None)[:30]


def test_a_step_that_fails_leaves_nothing_of_it_in_the_prefix_cache(expected, monkeypatch):
    with running(native_engine) as engine:
        with monkeypatch.context() as broken:

            def fail(logits):
                raise RuntimeError("out of luck")

            change_logits(broken, engine, fail)
            with pytest.raises(TandemError, match="out of luck"):
                asyncio.run(ask(engine, 1, None, 5))
        assert asyncio.run(ask(engine, 1, None, 40)) == expected(1, None)[:40]
        assert engine._cache.use.hit == 0


def test_a_scored_prompt_takes_no_prefix_from_the_cache_and_leaves_one():
    with running(native_engine) as engine:
        asyncio.run(collect(engine, QUESTIONS[1], greedy(1)))
        found, _ = asyncio.run(scores(engine, QUESTIONS[1]))
        assert len(found) == len(QUESTIONS[1]) and None not in found[1:]


def test_cancelled_requests_in_every_state_free_what_they_hold():
    async def scene(engine):
        streams = [
            engine.generate(GenerationRequest(f"r{number}", QUESTIONS[number % 4], SamplingParams(temperature=0)))
            for number in range(6)
        ]
        tasks = [asyncio.create_task(anext(stream)) for stream in streams]
        await eventually(lambda: engine.stats().generated_tokens > 2)
        for task in tasks[::-1]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for stream in streams:
            await stream.aclose()
        await eventually(lambda: engine.stats().running == engine.stats().waiting == 0)
        assert engine._cache.pool.free == engine._cache.pool.count

    with running(native_engine, max_batch=2, prefill_chunk=32) as engine:
        asyncio.run(scene(engine))


def test_another_architecture_is_refused_by_its_name():
    from serve.engine.native.model import Sizes

    with pytest.raises(CheckpointError, match="knows gpt_oss, not llama") as caught:
        Sizes.of({"model_type": "llama"})
    assert "engine: transformers" in caught.value.hint
    with pytest.raises(CheckpointError, match="lacks 'hidden_size'"):
        Sizes.of({"model_type": "gpt_oss", "layer_types": [], "num_hidden_layers": 1})
