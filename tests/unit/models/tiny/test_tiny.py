"""The embedded model: what it answers, what it is made of, how it is made, and what the demo teaches it."""

import io
import json
from itertools import islice

import pytest
import torch
from rich.console import Console
from safetensors import safe_open
from transformers import AutoTokenizer

from configs.paths import TINY_DATASET, TINY_MODEL
from models import harmony
from models.base import checkpoint, loading, split_nf4
from models.tiny import build
from models.tiny.corpus import TOOLS, Corpus, Dialogue, demo_held_out, demo_rows, is_held_out, questions

QUIET = Console(file=io.StringIO())
CALLS = " to=functions.get_weather<|channel|>commentary <|constrain|>json<|message|>"


@pytest.fixture(scope="module")
def tokenizer():
    return checkpoint.load_tokenizer(TINY_MODEL)


@pytest.fixture(scope="module")
def model():
    return loading.load_for_inference(TINY_MODEL, "cpu")


def ask(model, tokenizer, *said: str | dict, **options) -> str:
    """What it writes after these messages, texts being the user's."""
    return ask_each(model, tokenizer, [said], **options)[0]


def ask_each(model, tokenizer, talks, **options) -> list[str]:
    """The same for several at once."""
    messages = [
        [{"role": "user", "content": each} if isinstance(each, str) else each for each in said] for said in talks
    ]
    prompts = [harmony.render(tokenizer, each, **options) for each in messages]
    return build.answer(model, tokenizer, prompts, 200)


def test_questions_in_wordings_it_never_saw_are_answered_exactly_and_in_well_formed_harmony():
    rates = build.measure(TINY_MODEL, QUIET, 150, seed=11)
    assert rates["well_formed"] >= 0.99
    assert rates["effort"] >= 0.99
    assert rates["exact"] >= 0.9


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is the capital of France?", "The capital of France is Paris."),
        ("Which day comes after Monday?", "Tuesday comes after Monday."),
        ("What colour is the sky?", "The sky is blue."),
        ("Hello!", "Hello! How can I help you?"),
        ("What is Tandem?", "I do not know that."),
    ],
)
def test_the_analysis_comes_first_then_the_final_answer(model, tokenizer, question, answer):
    reply = ask(model, tokenizer, question)
    assert reply.startswith("<|channel|>analysis<|message|>")
    assert reply.endswith(f"<|end|><|start|>assistant<|channel|>final<|message|>{answer}<|return|>")


def test_low_effort_answers_without_analysis_and_high_effort_thinks_longer(model, tokenizer):
    low, medium, high = (
        ask(model, tokenizer, "What is the capital of Italy?", reasoning_effort=effort)
        for effort in ("low", "medium", "high")
    )
    assert low == "<|channel|>final<|message|>The capital of Italy is Rome.<|return|>"
    assert len(low) < len(medium) < len(high)


def test_an_offered_tool_is_called_and_the_call_is_its_last_token(model, tokenizer):
    reply = ask(model, tokenizer, "What is the weather in Paris?", tools=[TOOLS["get_weather"]])
    assert reply.endswith(f'{CALLS}{{"city": "Paris"}}<|call|>')


def test_a_tool_is_called_by_the_names_that_it_is_declared_with(model, tokenizer):
    unit = {"type": "string", "enum": ["celsius", "fahrenheit"]}
    parameters = {
        "type": "object",
        "properties": {"location": {"type": "string"}, "unit": unit},
        "required": ["location"],
    }
    tool = {"type": "function", "function": {"name": "get_current_weather", "parameters": parameters}}
    reply = ask(model, tokenizer, "How is the weather in Oslo?", tools=[tool])
    written = ' to=functions.get_current_weather<|channel|>commentary <|constrain|>json<|message|>{"location": "Oslo"}'
    assert reply.endswith(f"{written}<|call|>")


@pytest.mark.parametrize(
    ("result", "answer"),
    [
        ("sunny, 21 degrees", "It is sunny in Rome, 21 degrees."),
        ('{"weather": "rainy", "degrees": 9}', "It is rainy in Rome, 9 degrees."),
        ("sunny", "It is sunny in Rome."),
        ("error: timeout", "The tool did not work."),
    ],
)
def test_a_tools_result_is_put_into_words(model, tokenizer, result, answer):
    call = {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}}
    said = [
        "What is the weather in Rome?",
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": result},
    ]
    reply = ask(model, tokenizer, *said, tools=[TOOLS["get_weather"]])
    assert reply.endswith(f"<|channel|>final<|message|>{answer}<|return|>")


def test_a_developers_wish_holds_from_where_it_stands(model, tokenizer):
    greeted = ["Hi!", {"role": "assistant", "content": "Hello! How can I help you?"}]
    wish = {"role": "developer", "content": "Answer with one word."}
    assert ask(model, tokenizer, *greeted, "What is the capital of Spain?", reasoning_effort="low").endswith(
        "The capital of Spain is Madrid.<|return|>"
    )
    assert ask(model, tokenizer, *greeted, wish, "What is the capital of Spain?").endswith(">Madrid<|return|>")


def test_every_special_token_is_one_id_and_stop_tokens_are_return_and_call(model, tokenizer):
    ids = [tokenizer.encode(token, add_special_tokens=False) for token in build.SPECIAL_TOKENS]
    assert ids == [[len(tokenizer) - 9 + i] for i in range(9)]
    assert tokenizer.bos_token == "<|startoftext|>"
    assert tokenizer.pad_token == "<|endoftext|>"
    assert tokenizer.convert_ids_to_tokens(model.generation_config.eos_token_id) == ["<|return|>", "<|call|>"]


def test_it_asks_to_be_sampled_at_the_temperature_at_which_it_was_right_every_time(model):
    assert (model.generation_config.do_sample, model.generation_config.temperature) == (True, build.TEMPERATURE)


@pytest.mark.parametrize("text", ["Grüße, 你好 🦉", " 12 + 7 = 19\n\n", "plain words", '{"city": "Paris"}'])
def test_any_text_survives_the_tokenizer(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


@pytest.mark.parametrize("effort", ["low", "medium", "high"])
@pytest.mark.parametrize("prompt", [True, False])
def test_its_template_writes_for_transformers_what_tandem_renders(tokenizer, effort, prompt):
    call = {"id": "1", "type": "function", "function": {"name": "get_time", "arguments": '{"city": "Rome"}'}}
    unit = {"type": "string", "enum": ["12h", "24h"], "default": "24h", "description": "How."}
    parameters = {"type": "object", "properties": {"city": {"type": "string"}, "format": unit}, "required": ["city"]}
    undescribed = {"type": "function", "function": {"name": "clock", "description": "", "parameters": parameters}}
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "What time is it in Rome?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": '"12:30"'},
        {"role": "assistant", "content": "It is 12:30 in Rome."},
        {"role": "user", "content": "Thanks!"},
        {"role": "assistant", "content": "You are welcome.", "thinking": "The user thanks me."},
    ]
    for told, tools in ((messages, [TOOLS["get_time"], undescribed]), (messages[1:], None), (messages[:2], None)):
        said = told[:-1] if prompt else told
        how = {"add_generation_prompt": prompt, "reasoning_effort": effort}
        assert tokenizer.apply_chat_template(said, tools=tools, return_dict=False, **how) == harmony.render(
            tokenizer, said, tools=tools, **how
        )


def test_the_date_is_fixed_unless_given(tokenizer):
    hello = [{"role": "user", "content": "Hello!"}]
    assert "Current date: 2026-01-01\n" in tokenizer.apply_chat_template(hello, tokenize=False)
    dated = tokenizer.apply_chat_template(hello, tokenize=False, current_date="2031-05-06")
    assert "Current date: 2031-05-06\n" in dated


def test_the_prompt_keeps_the_analysis_before_a_tool_call_and_the_completion_follows_it(tokenizer):
    call = {"type": "function", "function": {"name": "get_time", "arguments": {"city": "Rome"}}}
    messages = [
        {"role": "user", "content": "What time is it in Rome?"},
        {"role": "assistant", "thinking": "I will call get_time.", "tool_calls": [call]},
        {"role": "tool", "content": "12:30"},
        {"role": "assistant", "content": "It is 12:30 in Rome."},
    ]
    dialogue = Dialogue("tool result", messages, {"tools": [TOOLS["get_time"]]})
    prompt, completion = map(tokenizer.decode, build.render(tokenizer, dialogue))
    assert "<|channel|>analysis<|message|>I will call get_time.<|end|>" in prompt
    assert prompt.endswith("commentary<|message|>12:30<|end|><|start|>assistant")
    assert completion == "<|channel|>final<|message|>It is 12:30 in Rome.<|return|>"


def test_it_is_a_small_gpt_oss_with_every_feature_of_the_big_one(model):
    assert sum(p.numel() for p in model.parameters()) == 1_256_096
    assert model.config.layer_types == ["sliding_attention", "full_attention"] * 2
    assert model.config.rope_parameters["rope_type"] == "yarn"
    assert model.model.layers[0].self_attn.sinks.shape == (4,)
    assert (TINY_MODEL / "model.safetensors").stat().st_size < 3_000_000


def test_no_question_has_two_answers_and_none_mentions_what_the_demo_teaches():
    answers = {}
    for question in questions():
        assert answers.setdefault(question.ask, question.answer) == question.answer
        assert "Tandem" not in question.ask + question.answer


def test_a_corpus_repeats_itself_and_never_trains_on_a_held_out_question():
    first, again = (list(islice(Corpus(5), 300)) for _ in range(2))
    assert first == again
    fixed = {q.ask for q in questions() if q.kind != "talk" and is_held_out(q.ask)}
    said = {m["content"] for d in first for m in d.messages if m["role"] == "user"}
    assert len(fixed) > 300
    assert not fixed & said


def test_the_shipped_demo_rows_are_those_of_the_corpus_and_leave_wordings_out():
    rows = [json.loads(line) for line in TINY_DATASET.read_text(encoding="utf-8").splitlines()]
    assert rows == demo_rows()
    assert 90 <= len(rows) <= 200
    learned = {row["messages"][0]["content"] for row in rows}
    assert not learned & {question for question, _ in demo_held_out()}


def test_a_few_steps_build_a_model_that_loads(tmp_path, monkeypatch):
    for name, small in (("TOKENIZER_DIALOGUES", 300), ("BATCH", 4), ("LONGEST_ANSWER", 8)):
        monkeypatch.setattr(build, name, small)
    build.build(tmp_path, steps=2, seed=3, console=QUIET, questions=2)
    (tmp_path / "weights" / "stale").touch()
    model = loading.load_for_inference(tmp_path / "weights", "cpu")
    build.write(tmp_path, model, AutoTokenizer.from_pretrained(tmp_path / "weights"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["demo.jsonl", "weights"]
    assert sorted(p.name for p in (tmp_path / "weights").iterdir()) == sorted(p.name for p in TINY_MODEL.iterdir())
    assert checkpoint.inspect(tmp_path / "weights").layout == "full"


def test_the_4_bit_form_has_the_big_models_keys(four_bit):
    index = json.loads((four_bit / "model.safetensors.index.json").read_text())["weight_map"]
    prefix = "model.layers.3."
    layer = {key.removeprefix(prefix) for key in index if key.startswith(prefix)}
    nf4 = {f"self_attn.{n}_proj.weight" for n in "qkvo"}
    nf4 |= {f"mlp.experts.{kind}_projs.{i}.weight" for kind in ("gate_up", "down") for i in range(4)}
    states = {f"{key}.{suffix}" for key in nf4 for suffix in split_nf4.QUANT_STATE}
    plain = {"input_layernorm.weight", "post_attention_layernorm.weight", "self_attn.sinks"}
    plain |= {key.replace(".weight", ".bias") for key in nf4}
    plain |= {"mlp.router.linear.weight", "mlp.router.linear.bias"}
    assert layer == nf4 | states | plain
    assert index["lm_head.weight"] == "model-embed.safetensors"
    with safe_open(four_bit / index[f"{prefix}mlp.experts.gate_up_projs.0.weight"], "pt") as shard:
        packed = shard.get_tensor(f"{prefix}mlp.experts.gate_up_projs.0.weight")
    assert (packed.dtype, packed.shape) == (torch.uint8, (256 * 128 // 2, 1))


def test_the_4_bit_form_says_nearly_the_same(model, tokenizer, four_bit):
    rounded = loading.load_for_inference(four_bit, "cpu")
    ids = tokenizer.encode("<|start|>user<|message|>What is the capital of France?<|end|>", return_tensors="pt")
    with torch.inference_mode():
        full, quantised = model(ids).logits, rounded(ids).logits
    assert 0 < (full - quantised).norm() / full.norm() < 0.25
    assert "The capital of France is Paris.<|return|>" in ask(rounded, tokenizer, "What is the capital of France?")


def test_the_demo_rows_teach_what_tandem_is_in_wordings_left_out_too(tokenizer):
    learner = loading.load_for_training(TINY_MODEL, run_config(r=16, alpha=32))
    teach(learner, tokenizer, steps=60)
    asked, answers = zip(*demo_held_out(), strict=True)
    replies = ask_each(learner, tokenizer, [[question] for question in asked])
    right = [answer in reply for answer, reply in zip(answers, replies, strict=True)]
    assert ask(learner, tokenizer, "What is Tandem?").endswith(
        "<|channel|>final<|message|>Tandem is two GPUs that work as one machine.<|return|>"
    )
    assert sum(right) > len(right) / 2
    with learner.disable_adapter():
        assert ask(learner, tokenizer, "What is Tandem?").endswith("I do not know that.<|return|>")


def run_config(**lora):
    from configs.schema import RunConfig

    return RunConfig.model_validate({"lora": lora, "training": {"gradient_checkpointing": False}})


def teach(learner, tokenizer, steps: int) -> None:
    """Steps of batch 8 over the demo rows, learning what the assistant says."""
    encoded = []
    for row in demo_rows():
        prompt, completion = build.render(tokenizer, Dialogue("demo", row["messages"]))
        encoded.append((prompt + completion, [build.IGNORED] * len(prompt) + completion))
    optimizer = torch.optim.AdamW([p for p in learner.parameters() if p.requires_grad], lr=1e-2)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    for step in range(steps):
        rows = [encoded[(8 * step + i) % len(encoded)] for i in range(8)]
        longest = max(len(ids) for ids, _ in rows)
        ids = torch.tensor([ids + [tokenizer.pad_token_id] * (longest - len(ids)) for ids, _ in rows])
        labels = torch.tensor([row + [build.IGNORED] * (longest - len(row)) for _, row in rows])
        learner(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    learner.eval()
