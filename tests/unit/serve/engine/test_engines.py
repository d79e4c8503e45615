"""Both engines on the embedded model in float32: equal to `model.generate`, whatever shares the batch."""

import asyncio
import copy
import json
import time
from contextlib import aclosing
from functools import partial
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from configs.errors import AdapterError, ConfigError, NotFoundError, OverloadError, RequestError, TandemError
from models.harmony import render, stop_token_ids
from serve.engine.protocol import FirstToken, GenerationRequest
from serve.engine.sampling import SamplingParams
from serve.engine.transformers import TransformersEngine
from serve.openai.errors import error_body
from tests.unit.serve.engine.engines import (
    ENGINES,
    TOKENIZER,
    change_logits,
    embedded_model,
    running,
    transformers_engine,
)

STOPS = stop_token_ids(TOKENIZER)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model():
    return embedded_model()


@pytest.fixture(params=list(ENGINES))
def engine_for(request):
    return partial(running, ENGINES[request.param])


def prompt(question: str) -> list[int]:
    return render(TOKENIZER, [{"role": "user", "content": question}])


LONG = prompt("What is the capital of France? " * 30)
PROMPTS = [prompt("What is the capital of Italy?"), LONG, prompt("Hello!"), prompt("Count from 1 to 20. " * 6)]


def greedy(tokens: int, **more) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=tokens, stop_token_ids=STOPS, **more)


def reference(model, ids: list[int], tokens: int) -> list[int]:
    """What Transformers itself generates."""
    with torch.inference_mode():
        out = model.generate(
            torch.tensor([ids]), max_new_tokens=tokens, do_sample=False, eos_token_id=list(STOPS), use_cache=True
        )
    return out[0, len(ids) :].tolist()


async def collect(engine, ids, sampling, *, name=None, adapter=None) -> tuple[list[int], str]:
    request = GenerationRequest(name or f"r{id(object())}-{time.monotonic_ns()}", ids, sampling, adapter)
    out, reason = [], None
    async for chunk in engine.generate(request):
        out += chunk.ids
        assert chunk.completion_tokens == len(out)
        assert chunk.prompt_tokens == len(ids)
        reason = chunk.finish_reason
    return out, reason


async def eventually(condition, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        await asyncio.sleep(0.002)


@pytest.mark.parametrize("chunk", [512, 50])
def test_a_single_request_equals_generate(engine_for, model, chunk):
    with engine_for(model, prefill_chunk=chunk) as engine:
        for ids in PROMPTS:
            out, reason = asyncio.run(collect(engine, ids, greedy(24)))
            assert out == reference(model, ids, 24)
            assert reason == ("stop" if out[-1] in STOPS else "length")


def test_the_chunk_with_the_first_token_says_how_long_it_queued_and_prefilled(engine_for, model):
    async def told(engine, name: str) -> tuple[list[FirstToken | None], float]:
        started, spent, found = time.perf_counter(), 0.0, []
        async for chunk in engine.generate(GenerationRequest(name, LONG, greedy(8))):
            spent = spent or time.perf_counter() - started
            found.append(chunk.first_token)
        return found, spent

    async def both(engine):
        return await asyncio.gather(told(engine, "first"), told(engine, "second"))

    with engine_for(model, max_batch=1, prefill_chunk=50) as engine:
        (first, spent), (second, second_spent) = asyncio.run(both(engine))
    for chunks, seconds in ((first, spent), (second, second_spent)):
        assert chunks[0] is not None and set(chunks[1:]) <= {None}
        assert 0 < chunks[0].queue + chunks[0].prefill <= seconds
        assert chunks[0].prefill > 0
    assert second[0].queue > first[0].queue + first[0].prefill, "there is one row, and it was the first one's"


def test_an_answer_longer_than_the_sliding_window_equals_generate(engine_for, model):
    ids, tokens = PROMPTS[0], 2 * model.config.sliding_window + 20
    endless = SamplingParams(temperature=0, max_tokens=tokens)
    with torch.inference_mode():
        expected = model.generate(torch.tensor([ids]), max_new_tokens=tokens, do_sample=False, eos_token_id=-1)
    with engine_for(model, max_batch=2) as engine:
        assert asyncio.run(collect(engine, ids, endless)) == (expected[0, len(ids) :].tolist(), "length")


def test_requests_that_join_and_leave_a_mixed_batch_equal_generate(engine_for, model):
    lengths = [5, 40, 17, 30, 9, 25, 33, 12]
    jobs = [(PROMPTS[index % len(PROMPTS)], tokens) for index, tokens in enumerate(lengths)]

    async def late(engine, index, ids, tokens):
        await asyncio.sleep(0.03 * index)
        return await collect(engine, ids, greedy(tokens))

    async def everything():
        return await asyncio.gather(*(late(engine, i, *job) for i, job in enumerate(jobs)))

    with engine_for(model, max_batch=3, prefill_chunk=64) as engine:
        results = asyncio.run(everything())
        assert engine.stats().running == engine.stats().waiting == engine.stats().kv_tokens == 0
        assert engine.stats().generated_tokens == sum(len(out) for out, _ in results)
    assert [out for out, _ in results] == [reference(model, *job) for job in jobs]


@pytest.mark.parametrize("kind", ["llama", "qwen2", "mistral"])
def test_other_architectures_equal_generate(kind):
    from transformers import MistralConfig, MistralForCausalLM

    sizes = {
        "vocab_size": 1024, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.3,
    }  # fmt: skip
    torch.manual_seed(1)
    other = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**sizes)),
        "qwen2": lambda: Qwen2ForCausalLM(
            Qwen2Config(**sizes, use_sliding_window=True, sliding_window=32, max_window_layers=1)
        ),
        "mistral": lambda: MistralForCausalLM(MistralConfig(**sizes, sliding_window=32)),
    }[kind]().eval()

    async def both(engine):
        return await asyncio.gather(*(collect(engine, ids, greedy(30)) for ids in PROMPTS))

    with running(transformers_engine, other, max_batch=4) as engine:
        results = asyncio.run(both(engine))
    assert [out for out, _ in results] == [reference(other, ids, 30) for ids in PROMPTS]


def write_adapter(model, path: Path, *, seed: int, scale: float = 1.5, **config) -> Path:
    """A LoRA of random numbers, as PEFT writes it; `scale` 0 leaves it without effect."""
    options = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "o_proj"]} | config
    adapted = get_peft_model(copy.deepcopy(model), LoraConfig(task_type="CAUSAL_LM", **options))
    generator = torch.Generator().manual_seed(seed)
    for name, weights in adapted.named_parameters():
        if "lora_B" in name:
            weights.data = torch.randn(weights.shape, generator=generator) * scale
    adapted.save_pretrained(path)
    return path


def adapted_reference(model, path: Path, ids: list[int], tokens: int) -> list[int]:
    return reference(PeftModel.from_pretrained(copy.deepcopy(model), str(path)).eval(), ids, tokens)


@pytest.fixture(scope="module")
def adapters(model, tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("adapters")
    experts = {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]}
    return {
        "tiny_quick_2026.10.01": write_adapter(model, root / "one", seed=1),
        "tiny_quick_2026.10.02": write_adapter(model, root / "two", seed=2, r=8, target_modules=["k_proj", "o_proj"]),
        "experts-a": write_adapter(model, root / "experts-a", seed=3, **experts),
        "experts-b": write_adapter(model, root / "experts-b", seed=4, **experts),
    }


def test_adapters_and_the_base_in_one_batch_each_equal_their_own_run(engine_for, model, adapters):
    jobs = [(ids, version) for ids in PROMPTS[:3] for version in (None, *adapters)]

    async def everything(engine):
        for version, path in adapters.items():
            await engine.add_adapter(version, path)
        assert engine.adapters() == tuple(adapters)
        checks = [await engine.verify_adapter(version) for version in adapters]
        assert all(check.max_difference > 1e-3 and check.repeat_difference < 1e-4 for check in checks)
        return await asyncio.gather(*(collect(engine, ids, greedy(16), adapter=version) for ids, version in jobs))

    with engine_for(model, max_batch=len(jobs)) as engine:
        results = [out for out, _ in asyncio.run(everything(engine))]
    expected = [
        adapted_reference(model, adapters[version], ids, 16) if version else reference(model, ids, 16)
        for ids, version in jobs
    ]
    assert results == expected
    assert len({tuple(out) for out in results}) > len(PROMPTS[:3]), "some adapter answers otherwise than the base"


def test_an_adapter_may_arrive_and_go_while_others_run(engine_for, model, adapters):
    version, path = next(iter(adapters.items()))
    expected = {None: reference(model, PROMPTS[0], 60), version: adapted_reference(model, path, PROMPTS[0], 30)}

    async def scene(engine):
        base = asyncio.create_task(collect(engine, PROMPTS[0], greedy(60)))
        await eventually(lambda: engine.stats().generated_tokens > 2)
        await engine.add_adapter(version, path)
        stream = engine.generate(GenerationRequest("mine", PROMPTS[0], greedy(30), version))
        first = await anext(stream)
        engine.remove_adapter(version)
        assert engine.adapters() == ()
        with pytest.raises(NotFoundError, match=version) as caught:
            await collect(engine, PROMPTS[0], greedy(1), adapter=version)
        assert caught.value.param == "model"
        assert engine.stats().adapters == {version: 1}
        rest = [token async for chunk in stream for token in chunk.ids]
        await eventually(lambda: engine.stats().adapters == {})
        assert first.ids + rest == expected[version]
        assert (await base)[0] == expected[None]
        await engine.add_adapter(version, path)
        assert (await collect(engine, PROMPTS[0], greedy(30), adapter=version))[0] == expected[version]

    with engine_for(model) as engine:
        asyncio.run(scene(engine))


def test_the_last_adapter_leaves_a_plain_model_that_takes_the_next(model, adapters, monkeypatch):
    # A model type with a conversion of its own lets PEFT ask for the active adapter while it loads.
    monkeypatch.setattr("peft.utils.transformers_weight_conversion.get_checkpoint_conversion_mapping", lambda kind: [])
    (version, path), served = next(iter(adapters.items())), copy.deepcopy(model)
    expected = adapted_reference(model, path, PROMPTS[0], 12)
    modules = [(name, type(module)) for name, module in served.named_modules()]

    async def scene(engine):
        for _ in range(2):
            await engine.add_adapter(version, path)
            assert (await collect(engine, PROMPTS[0], greedy(12), adapter=version))[0] == expected
            engine.remove_adapter(version)
            await eventually(lambda: engine.stats().adapters == {})
        assert (await collect(engine, PROMPTS[0], greedy(12)))[0] == reference(model, PROMPTS[0], 12)

    with running(partial(TransformersEngine, served, TOKENIZER)) as engine:
        asyncio.run(scene(engine))
        assert [(name, type(module)) for name, module in served.named_modules()] == modules


def test_adding_a_version_that_drains_keeps_it(engine_for, model, adapters):
    version, path = next(iter(adapters.items()))

    async def scene(engine):
        await engine.add_adapter(version, path)
        stream = engine.generate(GenerationRequest("mine", PROMPTS[0], greedy(40), version))
        async with aclosing(stream):
            await anext(stream)
            engine.remove_adapter(version)
            await engine.add_adapter(version, path)
        assert engine.adapters() == (version,)
        await eventually(lambda: engine.stats().running == 0)
        assert engine.adapters() == (version,)

    with engine_for(model) as engine:
        asyncio.run(scene(engine))


def test_an_adapter_without_effect_is_refused_with_the_number(engine_for, model, tmp_path):
    path = write_adapter(model, tmp_path / "nothing", seed=1, scale=0.0)

    async def scene(engine):
        await engine.add_adapter("nothing", path)
        with pytest.raises(AdapterError, match=r"nothing has no effect: .* by 0 at most"):
            await engine.verify_adapter("nothing")
        with pytest.raises(NotFoundError):
            await engine.verify_adapter("unknown")

    with engine_for(model) as engine:
        asyncio.run(scene(engine))


def test_an_adapter_that_overflows_is_refused(engine_for, model, tmp_path):
    path = write_adapter(model, tmp_path / "huge", seed=1, scale=5e37)

    async def scene(engine):
        await engine.add_adapter("huge", path)
        with pytest.raises(AdapterError, match="not finite"):
            await engine.verify_adapter("huge")

    with engine_for(model) as engine:
        asyncio.run(scene(engine))


def rewrite(path: Path, change) -> None:
    file = path / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def edit_config(path: Path, **changes) -> None:
    file = path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda path: (path / "adapter_config.json").unlink(), "has no adapter_config.json"),
        (lambda path: (path / "adapter_model.safetensors").write_bytes(b"x"), "cannot be read"),
        (lambda path: rewrite(path, lambda t: t.pop(sorted(t)[0])), "1 of the 24 tensors .* missing and 0 are unknown"),
        (
            lambda path: rewrite(path, lambda t: t.update(stray=torch.zeros(1))),
            "0 of the .* and 1 are unknown .* stray",
        ),
        (lambda path: rewrite(path, lambda t: t[sorted(t)[0]].fill_(torch.nan)), "1 of 24 tensors are not finite"),
        (lambda path: edit_config(path, r=5), r"is \[4, 128\], the model needs \[5, 128\]"),
        (lambda path: edit_config(path, target_modules=["c_attn"]), "does not fit GptOssForCausalLM"),
        (lambda path: edit_config(path, init_lora_weights="pissa"), "changes the base model"),
    ],
)
def test_a_broken_adapter_is_refused_and_leaves_nothing_behind(engine_for, model, tmp_path, damage, complaint):
    path = write_adapter(model, tmp_path / "a", seed=1)
    whole = write_adapter(model, tmp_path / "b", seed=1)
    damage(path)

    async def scene(engine):
        with pytest.raises(AdapterError, match=complaint):
            await engine.add_adapter("v", path)
        assert engine.adapters() == ()
        assert await collect(engine, PROMPTS[0], greedy(8)) == (reference(model, PROMPTS[0], 8), "length")
        await engine.add_adapter("v", whole)
        return await collect(engine, PROMPTS[0], greedy(8), adapter="v")

    with engine_for(model) as engine:
        assert asyncio.run(scene(engine))[0] == adapted_reference(model, whole, PROMPTS[0], 8)


def test_closing_the_stream_frees_the_row_at_once(engine_for, model):
    endless = SamplingParams(temperature=0)

    async def scene(engine):
        stream = engine.generate(GenerationRequest("gone", PROMPTS[0], endless))
        await anext(stream)
        task = asyncio.create_task(collect(engine, PROMPTS[2], endless))
        await eventually(lambda: engine.stats().waiting == 1)
        await stream.aclose()
        made = engine.stats().generated_tokens
        await eventually(lambda: engine.stats().waiting == 0)
        assert engine.stats().generated_tokens - made <= 3
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await eventually(lambda: engine.stats().running == 0)
        assert engine.stats().kv_tokens == 0

    with engine_for(model, max_batch=1) as engine:
        asyncio.run(scene(engine))


def test_abort_ends_running_and_waiting_streams_with_their_reason(engine_for, model):
    endless = SamplingParams(temperature=0)

    async def scene(engine):
        tasks = [asyncio.create_task(collect(engine, PROMPTS[0], endless, name=name)) for name in ("a", "b")]
        await eventually(lambda: engine.stats().waiting == 1 and engine.stats().generated_tokens > 1)
        engine.abort("b")
        assert await tasks[1] == ([], "abort")
        engine.abort("a")
        out, reason = await tasks[0]
        assert reason == "abort"
        assert out
        engine.abort("a")

    with engine_for(model, max_batch=1) as engine:
        asyncio.run(scene(engine))


def test_too_many_waiting_requests_are_refused_and_the_others_served(engine_for, model):
    async def scene(engine):
        results = await asyncio.gather(
            *(collect(engine, PROMPTS[2], greedy(5)) for _ in range(6)), return_exceptions=True
        )
        refused = [result for result in results if isinstance(result, OverloadError)]
        assert len(refused) == 6 - 1 - 2
        assert "wait for 1 rows" in refused[0].message
        assert [r[0] for r in results if isinstance(r, tuple)] == [reference(model, PROMPTS[2], 5)] * 3

    with engine_for(model, max_batch=1, max_waiting=2) as engine:
        asyncio.run(scene(engine))


def test_the_context_bounds_prompt_and_answer(engine_for, model):
    ids = PROMPTS[0]

    async def scene(engine):
        out, reason = await collect(engine, ids, SamplingParams(temperature=0, max_tokens=1000))
        assert (len(out), reason) == (10, "length")
        most = len(ids) + 10
        with pytest.raises(RequestError, match=rf"length is {most} tokens\. .*\({most} in the prompt") as caught:
            await collect(engine, ids + [5] * 10, greedy(1))
        assert caught.value.param == "prompt"
        assert error_body(caught.value)[1]["error"]["code"] == "context_length_exceeded"
        with pytest.raises(RequestError, match="ids outside 0 to 1023"):
            await collect(engine, [5000], greedy(1))

    with engine_for(model, max_context=len(ids) + 10) as engine:
        asyncio.run(scene(engine))
    with pytest.raises(ConfigError, match="max_context is"), engine_for(model, max_context=10**9):
        pass


def test_seeded_sampling_does_not_depend_on_the_neighbours(engine_for, model):
    wish = SamplingParams(seed=11, temperature=2.0, top_p=0.999, max_tokens=40)

    async def crowd(engine):
        others = [SamplingParams(temperature=1.0, max_tokens=20 + n) for n in range(5)]
        mine, *_ = await asyncio.gather(
            collect(engine, PROMPTS[0], wish), *(collect(engine, PROMPTS[n % 4], p) for n, p in enumerate(others))
        )
        return mine

    with engine_for(model, max_batch=4) as engine:
        alone = asyncio.run(collect(engine, PROMPTS[0], wish))
        assert asyncio.run(crowd(engine)) == alone
        assert asyncio.run(collect(engine, PROMPTS[0], SamplingParams(**{**vars(wish), "seed": 12}))) != alone


def test_a_failing_step_fails_its_requests_and_spares_the_engine(engine_for, model, monkeypatch):
    with engine_for(model) as engine:
        calls = []

        def broken(logits):
            calls.append(1)
            if len(calls) == 3:
                raise RuntimeError("out of luck")
            return logits

        change_logits(monkeypatch, engine, broken)
        with pytest.raises(TandemError, match="RuntimeError: out of luck"):
            asyncio.run(collect(engine, PROMPTS[0], greedy(20)))
        engine.check_health()
        assert engine.stats().running == 0
        assert asyncio.run(collect(engine, PROMPTS[0], greedy(8)))[0] == reference(model, PROMPTS[0], 8)


def test_an_engine_that_only_fails_says_so_and_refuses(engine_for, model, monkeypatch):
    def broken(logits):
        raise RuntimeError("the device is gone")

    with engine_for(model) as engine:
        change_logits(monkeypatch, engine, broken)
        for _ in range(3):
            with pytest.raises(TandemError, match="the device is gone"):
                asyncio.run(collect(engine, PROMPTS[0], greedy(20)))
        engine._thread.join(5)
        with pytest.raises(TandemError, match="the engine stopped: RuntimeError: the device is gone"):
            engine.check_health()
        with pytest.raises(TandemError, match="the engine stopped"):
            asyncio.run(collect(engine, PROMPTS[0], greedy(20)))


@torch.inference_mode()
def forward_logprobs(model, ids: list[int]) -> torch.Tensor:
    """Log-probabilities [len(ids) - 1, V] of what follows each position but the last, by one plain forward pass."""
    return model(torch.tensor([ids]), use_cache=False).logits[0, :-1].double().log_softmax(-1)


async def scores(engine, ids, *, adapter=None, likeliest=0, tokens: int | None = None):
    """What the engine says of the prompt, and the tokens that it generated after it."""
    sampling = greedy(tokens or 1)
    wanted = GenerationRequest(f"s{time.monotonic_ns()}", ids, sampling, adapter, likeliest, prompt_only=tokens is None)
    chunks = [chunk async for chunk in engine.generate(wanted)]
    assert [chunk.prompt_logprobs for chunk in chunks[1:]] == [None] * len(chunks[1:])
    return chunks[0].prompt_logprobs, [token for chunk in chunks for token in chunk.ids]


def assert_equal_forward(found, model, ids: list[int]) -> None:
    """Within float32's error, which may also swap the ranks of tokens that are closer together than that."""
    error = 2e-4
    expected = forward_logprobs(model, ids)
    assert found[0] is None and len(found) == len(ids)
    own = expected[range(len(ids) - 1), ids[1:]]
    scored = [at[token] for at, token in zip(found[1:], ids[1:], strict=True)]
    torch.testing.assert_close(torch.tensor([at.logprob for at in scored]).double(), own, atol=error, rtol=0)
    ranks = torch.tensor([at.rank for at in scored])
    better, not_worse = ((expected > own[:, None] + sign * error).sum(-1) for sign in (1, -1))
    assert (better < ranks).all() and (ranks <= not_worse).all()


def test_prompts_are_scored_as_a_forward_pass_scores_them_while_others_generate(engine_for, model, adapters):
    by_version = {None: model} | {
        version: PeftModel.from_pretrained(copy.deepcopy(model), str(path)).eval() for version, path in adapters.items()
    }
    long = (LONG * 3)[:700]

    async def scene(engine):
        for version, path in adapters.items():
            await engine.add_adapter(version, path)
        asked = [(ids, version) for version in by_version for ids in (PROMPTS[0], PROMPTS[3], long)]
        generating = [collect(engine, ids, greedy(30)) for ids in PROMPTS]
        scoring = [scores(engine, ids, adapter=version) for ids, version in asked]
        found = await asyncio.gather(*generating, *scoring)
        for ids, (out, _) in zip(PROMPTS, found, strict=False):
            assert out == reference(model, ids, 30)
        for (ids, version), (logprobs, generated) in zip(asked, found[len(PROMPTS) :], strict=True):
            assert generated == []
            assert all(len(at) == 1 for at in logprobs[1:])
            assert_equal_forward(logprobs, by_version[version], ids)
        assert engine.stats().running == 0

    with engine_for(model, max_batch=5) as engine:
        asyncio.run(scene(engine))


def test_a_scored_prompt_is_answered_too_and_names_the_likeliest_tokens(engine_for, model):
    ids = PROMPTS[0]
    with engine_for(model) as engine:
        found, generated = asyncio.run(scores(engine, ids, likeliest=3, tokens=12))
    assert generated == reference(model, ids, 12)
    assert_equal_forward(found, model, ids)
    for at, token, expected in zip(found[1:], ids[1:], forward_logprobs(model, ids), strict=True):
        likeliest = expected.topk(3).indices.tolist()
        assert set(at) == {*likeliest, token}
        assert [at[each].rank for each in likeliest] == [1, 2, 3]


def test_a_prompt_that_is_only_scored_may_fill_the_context(engine_for, model):
    ids = LONG[:64]
    with engine_for(model, max_context=64) as engine:
        assert_equal_forward(asyncio.run(scores(engine, ids))[0], model, ids)
        with pytest.raises(RequestError, match=r"\(64 in the prompt, 1 in the completion\)"):
            asyncio.run(scores(engine, ids, tokens=1))
        with pytest.raises(RequestError, match=r"\(65 in the prompt, 0 in the completion\)"):
            asyncio.run(scores(engine, LONG[:65]))


def test_a_prompt_that_is_scored_lets_one_that_is_answered_go_first(engine_for, model):
    """Each step prefills 512 tokens: the short prompt is through in the first although the long one was there first."""

    async def scene(engine):
        order = []

        async def note(name, work):
            await work
            order.append(name)

        scored = asyncio.create_task(note("scored", scores(engine, (LONG * 3)[:900])))
        await asyncio.sleep(0)
        await asyncio.gather(scored, note("answered", collect(engine, PROMPTS[0], greedy(1))))
        assert order == ["answered", "scored"]

    with engine_for(model) as engine:
        asyncio.run(scene(engine))


def test_logits_that_are_no_numbers_fail_the_score_and_not_the_engine(engine_for, model, monkeypatch):
    with engine_for(model) as engine:
        with monkeypatch.context() as broken:
            change_logits(broken, engine, lambda logits: logits * torch.nan)
            for _ in range(4):
                with pytest.raises(TandemError, match="logits are not numbers"):
                    asyncio.run(scores(engine, PROMPTS[0]))
        assert_equal_forward(asyncio.run(scores(engine, PROMPTS[0]))[0], model, PROMPTS[0])


def test_closing_the_engine_fails_what_is_left(engine_for, model):
    async def scene(engine):
        task = asyncio.create_task(collect(engine, PROMPTS[0], SamplingParams(temperature=0)))
        await eventually(lambda: engine.stats().generated_tokens > 1)
        engine.close()
        with pytest.raises(TandemError, match="the engine is closed"):
            await task
        with pytest.raises(TandemError, match="the engine is closed"):
            await engine.add_adapter("v", Path("nowhere"))

    with engine_for(model) as engine:
        asyncio.run(scene(engine))


async def sampled_logprobs(engine, ids, likeliest: int | None, **sampling) -> tuple[list[int], list]:
    params = SamplingParams(max_tokens=12, seed=3, **sampling)
    request = GenerationRequest(f"l{time.monotonic_ns()}", ids, params, logprobs=likeliest)
    chunks = [chunk async for chunk in engine.generate(request)]
    assert all(chunk.logprobs is None or len(chunk.logprobs) == len(chunk.ids) for chunk in chunks)
    return [token for chunk in chunks for token in chunk.ids], [at for chunk in chunks for at in chunk.logprobs or []]


def test_generated_tokens_are_scored_by_the_raw_distribution_whatever_the_sampling(engine_for, model):
    async def scene(engine):
        return await asyncio.gather(
            sampled_logprobs(engine, PROMPTS[0], 3, temperature=0.1),
            sampled_logprobs(engine, PROMPTS[2], 0, temperature=2, top_k=50, presence_penalty=2),
            sampled_logprobs(engine, PROMPTS[3], None, temperature=1),
            sampled_logprobs(engine, PROMPTS[1], 20, temperature=1, logit_bias=((7, 100.0),)),
        )

    with engine_for(model, max_batch=3) as engine:
        results = asyncio.run(scene(engine))
    assert results[2][1] == []
    for ids, likeliest, (out, found) in zip(
        (PROMPTS[0], PROMPTS[2], PROMPTS[1]), (3, 0, 20), (results[0], results[1], results[3]), strict=True
    ):
        expected = forward_logprobs(model, ids + out)[len(ids) - 1 :]
        for at, token, row in zip(found, out, expected, strict=True):
            assert next(iter(at)) == token
            assert at[token].logprob == pytest.approx(row[token].item(), abs=2e-4)
            best = row.topk(likeliest).indices.tolist()
            assert set(at) == {token, *best}
            assert [at[each].rank for each in best if each != token] == [
                place for place, each in enumerate(best, 1) if each != token
            ]
    assert set(results[3][0]) == {7}, "the bias chose it, the score is the model's own"


def test_a_bias_outside_the_vocabulary_is_refused(engine_for, model):
    with engine_for(model) as engine, pytest.raises(RequestError, match="outside 0 to 1023") as caught:
        asyncio.run(collect(engine, PROMPTS[0], greedy(3, logit_bias=((1024, 1.0),))))
    assert caught.value.param == "logit_bias"
