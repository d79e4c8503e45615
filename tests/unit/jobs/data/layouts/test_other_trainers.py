"""Rows as other trainers and servers write them: each is read for what it says, refused in words, or counted."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from configs.errors import DataError
from configs.paths import SOURCE, TINY_MODEL
from configs.schema import DataConfig
from jobs.data import dataset
from jobs.data.layouts import formats, keys
from jobs.data.layouts.dialogue import Dialogue
from jobs.data.masking import IGNORED

TOKENIZER = AutoTokenizer.from_pretrained(TINY_MODEL)
ASK = {"role": "user", "content": "Lamp?"}
GREEN = {"role": "assistant", "content": "Green."}
THOUGHT = GREEN | {"thinking": "They ask."}
PIRATE = {"role": "system", "content": "Be a pirate."}
CALL = {"type": "function", "function": {"name": "stock", "arguments": {"item": 0}}}
TOOL = {"type": "function", "function": {"name": "stock", "parameters": {"type": "object"}}}


def read(row, *, keep_tokens=False, layout="auto", **columns) -> Dialogue:
    return formats.dialogue_of(row, "a.jsonl:1", layout, columns, keep_tokens=keep_tokens)


def refused(row, **how) -> str:
    with pytest.raises(DataError) as caught:
        read(row, **how)
    return caught.value.message.removeprefix("a.jsonl:1: ")


def said(text: str, **more) -> dict:
    return {"messages": [ASK, {"role": "assistant", "content": text, **more}]}


def learned(*rows, **config) -> list[str]:
    """What is learned of each row, as text."""
    found = dataset.Rows([read(row) for row in rows], [])
    measured = dataset.measure(found, TOKENIZER, DataConfig(holdout=0, **config), 512)
    return [
        TOKENIZER.decode([label for label in each.labels if label != IGNORED]).replace("<|start|>assistant", "")
        for each in measured.training
    ]


# What is learned

FLAGS = [
    *(pair for name in ("weight", "loss_weight", "loss_mask") for pair in ((name, 0), (name, 0.0), (name, "0"))),
    *((name, False) for name in ("train", "training", "trainable", "train_on_turn", "loss", "loss_mask")),
    ("masked", True), ("train", "false"), ("loss_scale", 0),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), FLAGS, ids=str)
def test_a_message_that_is_marked_as_context_is_not_learned(key, value):
    red = {"role": "assistant", "content": "Red.", "thinking": "Hm.", key: value}
    row = {"messages": [ASK, red, ASK | {"content": "Sure?"}, THOUGHT]}
    assert read(row).messages[1] == {"role": "assistant", "content": "Red.", "thinking": "Hm.", "weight": 0}
    assert learned(row) == ["<|channel|>analysis<|message|>They ask.<|end|><|channel|>final<|message|>Green.<|return|>"]
    spoken = {"conversations": [{"from": "human", "value": "Lamp?"}, {"from": "gpt", "value": "Red.", key: value}]}
    assert learned({"conversations": [*spoken["conversations"], *spoken["conversations"][:1], THOUGHT]}) == learned(row)


@pytest.mark.parametrize(("key", "value"), [("weight", 1), ("train", True), ("masked", False), ("weight", 1.0)])
def test_a_message_that_is_marked_as_learned_is_as_one_without_a_mark(key, value):
    row = {"messages": [ASK, GREEN | {key: value}]}
    assert read(row).messages == [ASK, GREEN]
    assert read(row).fingerprint == read({"messages": [ASK, GREEN]}).fingerprint
    assert read({"messages": [ASK, GREEN | {"weight": 0}]}).fingerprint != read(row).fingerprint


def test_marks_of_other_speakers_change_nothing_and_one_that_asks_for_more_is_counted():
    assert read({"messages": [ASK | {"weight": 0}, GREEN]}).messages == [ASK, GREEN]
    dialogue = read({"messages": [ASK | {"train": True}, GREEN]})
    assert dialogue.messages == [ASK, GREEN]
    assert dialogue.remarks == ("words that are not the assistant's are marked as learned, and are not",)


def test_calls_are_context_as_answers_are():
    calls = {"role": "assistant", "content": None, "tool_calls": [CALL, CALL], "weight": 0}
    result = {"role": "tool", "content": "4"}
    row = {"messages": [ASK, calls, result, result, GREEN], "tools": [TOOL]}
    assert learned(row) == ["<|channel|>final<|message|>Green.<|return|>"]
    report = dataset.measure(dataset.Rows([read(row)], []), TOKENIZER, DataConfig(holdout=0), 512).report
    assert (report.ends["<|call|>"].expected, report.ends["<|return|>"].learned) == (0, 1)
    assert report.remarks == {"a message is marked as context and is not learned": 1}


def test_a_row_of_context_alone_teaches_nothing():
    rows = [read({"messages": [ASK, GREEN | {"weight": 0}]}), read({"messages": [ASK, GREEN]})]
    report = dataset.measure(dataset.Rows(rows, []), TOKENIZER, DataConfig(holdout=0), 512).report
    assert (report.empty_rows, report.training_rows) == (1, 1)


UNCLEAR = {
    "a share": ({"weight": 0.5}, "message 2: `weight` is 0.5: a message is learned (1, true) or not (0, false)"),
    "two marks": ({"weight": 1, "train": False}, "message 2: `train` contradicts another key"),
    "mask": ({"mask": True}, "message 2: `mask` means learned to some trainers and left out to others"),
    "tokens": ({"loss_mask": [0, 1]}, "message 2: `loss_mask` is [0, 1]: a message is learned (1, true) or not"),
    "characters": ({"train_detail": [{"begin_offset": 0}]}, "message 2: `train_detail` marks single characters"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNCLEAR)
def test_a_mark_that_is_not_clear_is_refused(name):
    more, words = UNCLEAR[name]
    assert refused(said("Green.", **more)).startswith(words)


# Thinking in every layout

THINKING = {
    **{key: said("Green.", **{key: "They ask."}) for key in ("thinking", "reasoning", "reasoning_content", "thought")},
    "as a server sends both": said("Green.", reasoning="They ask.", reasoning_content="They ask."),
    "OpenRouter's details": said("Green.", reasoning_details=[{"type": "reasoning.text", "text": "They ask."}]),
    "Anthropic's parts": said([{"type": "thinking", "thinking": "They ask."}, {"type": "text", "text": "Green."}]),
    "LiteLLM's blocks": said("Green.", thinking_blocks=[{"type": "thinking", "thinking": "They ask."}]),
    "ShareGPT": {
        "conversations": [
            {"from": "human", "value": "Lamp?"}, {"from": "gpt", "value": "Green.", "reasoning": "They ask."},
        ],
    },
    "a message of its own": {
        "conversations": [
            {"from": "human", "value": "Lamp?"}, {"from": "thought", "value": "They ask."},
            {"from": "gpt", "value": "Green."},
        ],
    },
    "harmony's channels": {
        "messages": [
            ASK, {"role": "assistant", "channel": "analysis", "content": "They ask."}, GREEN | {"channel": "final"},
        ],
    },
    "a column beside prompt and completion": {"prompt": "Lamp?", "completion": "Green.", "reasoning": "They ask."},
    "a column beside messages": {"messages": [ASK, GREEN], "reasoning_content": "They ask."},
    "harmony's channels as columns": {"user": "Lamp?", "analysis": "They ask.", "final": "Green."},
    "medical-o1": {"Question": "Lamp?", "Complex_CoT": "They ask.", "Response": "Green."},
    "alpaca": {"instruction": "Lamp?", "output": "Green.", "thought": "They ask."},
    "<think>": said("<think>\nThey ask.\n</think>\n\nGreen."),
    "<think> on one line": said("<think>They ask.</think>Green."),
    "<think> that the template opened": said("They ask.\n</think>\n\nGreen."),
    "[THINK]": said("[THINK]They ask.[/THINK]Green."),
    "OpenThoughts": said(
        "<|begin_of_thought|>\n\nThey ask.\n\n<|end_of_thought|>\n\n"
        "<|begin_of_solution|>\n\nGreen.\n\n<|end_of_solution|>"
    ),
    "thinking with its tag": said("Green.", reasoning_content="<think>\nThey ask.\n</think>"),
    "<think> in a completion": {"prompt": "Lamp?", "completion": "<think>They ask.</think>\n\nGreen."},
}  # fmt: skip


@pytest.mark.parametrize("row", THINKING.values(), ids=THINKING)
def test_thinking_is_thinking_in_every_layout(row):
    assert read(row).messages == [ASK, THOUGHT]


def test_a_model_that_did_not_think_has_empty_tags():
    assert read(said("<think>\n\n</think>\n\nGreen.")).messages == [ASK, GREEN]


@pytest.mark.parametrize("value", ["on", "off", "high", "None", True])
def test_a_column_that_switches_reasoning_is_no_thought(value):
    dialogue = read({"input": "Lamp?", "output": "Green.", "reasoning": value})
    assert (dialogue.messages, dialogue.unused) == ([ASK, GREEN], ("column `reasoning`",))


def test_two_different_thoughts_are_refused():
    assert "message 2: `reasoning_content` and another key both hold its thinking, and differ" in refused(
        said("Green.", reasoning="They ask.", reasoning_content="Something else.")
    )
    assert "two different thoughts" in refused(said("<think>One.</think>Green.", thinking="Another."))


# Tags in the text of an answer

RENDERED = "<|channel|>analysis<|message|>They ask.<|end|><|start|>assistant<|channel|>final<|message|>Green."
SPLIT = {
    "as a server logs it": RENDERED,
    "with its end": f"{RENDERED}<|return|>",
    "with its beginning": f"<|start|>assistant{RENDERED}<|return|>",
    "with the end of another template": f"{RENDERED}<|endoftext|>",
    "with line ends between": RENDERED.replace("<|start|>", "\n<|start|>"),
}


@pytest.mark.parametrize("text", SPLIT.values(), ids=SPLIT)
def test_rendered_channels_become_thinking_and_answer(text):
    for row in (said(text), {"prompt": "Lamp?", "completion": text}, {"instruction": "Lamp?", "output": text}):
        dialogue = read(row)
        assert dialogue.messages == [ASK, THOUGHT]
        assert "channel tags in an answer became thinking, calls and answer" in dialogue.remarks


def test_a_rendered_answer_alone_and_a_rendered_call_are_taken_apart():
    assert read(said("<|channel|>final<|message|>Green.<|return|>")).messages == [ASK, GREEN]
    call = '<|channel|>commentary to=functions.stock <|constrain|>json<|message|>{"item": 0}<|call|>'
    made = {"role": "assistant", "tool_calls": [CALL]}
    assert read(said(call)).messages == [ASK, made]
    thought = "<|channel|>analysis<|message|>They ask.<|end|>"
    late = 'assistant to=functions.stock<|channel|>commentary json<|message|>{"item": 0}<|call|>'
    assert read(said(f"{thought}<|start|>{late}")).messages == [ASK, made | {"thinking": "They ask."}]
    preamble = "<|channel|>commentary<|message|>I look.<|end|>"
    whole = f"{thought}<|start|>assistant{preamble}<|start|>assistant{call}"
    assert read(said(whole)).messages == [ASK, made | {"thinking": "They ask.", "content": "I look."}]


NOT_EXACT = {
    "words before": f"Sure: {RENDERED}",
    "reasoning without its header": RENDERED.removeprefix("<|channel|>analysis<|message|>"),
    "cut in the reasoning": "<|channel|>analysis<|message|>They ask",
    "reasoning alone": "<|channel|>analysis<|message|>They ask.<|end|>",
    "two answers": f"{RENDERED}<|end|><|start|>assistant<|channel|>final<|message|>Red.",
    "two thoughts": f"<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant{RENDERED}",
    "the user's next words": f"{RENDERED}<|end|><|start|>user<|message|>And?<|end|>",
    "a tool that is built in": "<|channel|>analysis to=python<|message|>1+1<|call|>",
    "tags in tags": RENDERED.replace("They ask.", "They <|channel|>final ask."),
    "without the tags": "analysisThey ask.assistantfinalGreen.",
    "without the tags, cut": "analysisThe user asks about the lamp and",
    "without the tags, the answer": "assistantfinalGreen.",
    "without the tags, a call": 'analysisHm.assistantcommentary to=functions.stock json{"item": 0}',
    "ChatML without its tags": "assistant\nGreen.",
    "ChatML that ran on": "Green.<|im_end|>\n<|im_start|>user\nAnd the desk?",
    "Llama 3 that ran on": "Green.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nAnd?",
    "a thought that never ends": "<think>They ask",
    "two thoughts in tags": "<think>One.</think>Green.<think>Two.</think>Red.",
    "a call of Mistral": '[TOOL_CALLS] [{"name": "stock", "arguments": {}}]',
    "a call of Glaive": '<functioncall> {"name": "stock"}',
    "a call with words behind": '<tool_call>{"name": "stock", "arguments": {}}</tool_call> Done.',
}


@pytest.mark.parametrize("text", NOT_EXACT.values(), ids=NOT_EXACT)
def test_tags_that_cannot_be_taken_apart_exactly_are_refused_and_stay_text_if_that_is_meant(text):
    reason = refused(said(text))
    assert reason.startswith("message 2: `content`: ")
    assert reason.endswith("--set data.special_tokens=text")
    assert read(said(text), keep_tokens=True).messages == [ASK, GREEN | {"content": text}]


@pytest.mark.parametrize("end", ["<|im_end|>", "</s>", "<|endoftext|>", "<|return|>", "<|eot_id|>", "<|end|>", "<eos>"])
def test_a_last_end_token_is_cut_off_and_named(end):
    for text in (f"Green.{end}", f"Green.{end}\n", f"Green.{end}{end}"):
        dialogue = read(said(text))
        assert (dialogue.messages, dialogue.remarks) == (
            [ASK, GREEN],
            (f"`{end}` at the end of an answer was cut off",),
        )
    assert read(said(f"Green.{end}"), keep_tokens=True).messages[1]["content"] == f"Green.{end}"
    assert refused(said(end)).startswith("message 2: an empty answer")


def test_text_about_tokens_is_text_and_named():
    about = "<|return|> ends an answer, </think> a thought."
    for text in (about, "Strike it: <s>old</s>"):
        assert read(said(text)).messages == [ASK, GREEN | {"content": text}]
    assert read(said(about)).remarks == (
        "`<|return|>` inside an answer is learned letter by letter",
        "`</think>` inside an answer is learned letter by letter",
    )
    row = {"messages": [{"role": "user", "content": RENDERED}, GREEN]}
    assert read(row).messages == row["messages"]
    row = {"prompt": "<|im_start|>user\nLamp?<|im_end|>\n<|im_start|>assistant\n", "completion": "Green."}
    assert read(row).messages == [ASK, GREEN]
    assert read(row, keep_tokens=True).messages == [{"role": "user", "content": row["prompt"]}, GREEN]


# Answers that say nothing

EMPTY = {
    "no text": said(""),
    "spaces without a width": said("\u200b\ufeff\u00a0"),
    "blanks": said("  \n"),
    "parts without text": said([]),
    "reasoning alone": said("", thinking="They ask."),
    "tags around nothing": said("<think>They ask.</think>\n"),
    "null": said(None),
    "ShareGPT": {"conversations": [{"from": "human", "value": "Lamp?"}, {"from": "gpt", "value": ""}]},
    "a history without an answer": {"instruction": "Desk?", "output": "Brown.", "history": [["Lamp?", ""]]},
    "a completion of blanks": {"prompt": "Lamp?", "completion": " "},
    "an output that is null": {"instruction": "Lamp?", "output": None},
    "calls that are none": said(None, tool_calls=[], function_call=None),
}


@pytest.mark.parametrize("row", EMPTY.values(), ids=EMPTY)
def test_an_answer_that_says_nothing_is_a_bad_row(row):
    assert any(words in refused(row) for words in ("an empty answer", "neither `content` nor", "not text", "is empty"))


# Columns and speakers

SAME = {
    "messages": {"messages": [PIRATE, ASK, GREEN]},
    "a column system": {"messages": [ASK, GREEN], "system": "Be a pirate."},
    "a column system_prompt": {"question": "Lamp?", "response": "Green.", "system_prompt": "Be a pirate."},
    "the same system twice": {"messages": [PIRATE, ASK, GREEN], "system": "Be a pirate."},
    "a list": [PIRATE, ASK, GREEN],
    "a list of ShareGPT": [
        {"from": "system", "value": "Be a pirate."}, {"from": "human", "value": "Lamp?"},
        {"from": "gpt", "value": "Green."},
    ],
    "conversations of role and content": {"conversations": [PIRATE, ASK, GREEN]},
    "roles in other letters": {
        "messages": [
            {"role": "System", "content": "Be a pirate."}, {"role": "Human", "content": "Lamp?"},
            {"role": "MODEL", "content": "Green."},
        ],
    },
    "Gemini": {
        "systemInstruction": {"parts": [{"text": "Be a pirate."}]},
        "contents": [{"role": "user", "parts": [{"text": "Lamp?"}]}, {"role": "model", "parts": [{"text": "Green."}]}],
    },
    "XTuner": {"conversation": [{"system": "Be a pirate.", "input": "Lamp?", "output": "Green."}]},
    "text parts": {
        "messages": [
            {"role": role, "content": [{"type": "text", "text": text}]}
            for role, text in (("system", "Be a pirate."), ("user", "Lamp?"), ("assistant", "Green."))
        ],
    },
    "a list of texts as content": {
        "messages": [{"role": role, "content": [text]} for role, text in
                     (("system", "Be a pirate."), ("user", "Lamp?"), ("assistant", "Green."))],
    },
    "query and response": {"system": "Be a pirate.", "query": "Lamp?", "response": "Green.", "history": []},
    "messages in Python's notation": {"messages": str([PIRATE, ASK, GREEN])},
    "messages as columns": {
        "messages": {
            "role": ["system", "user", "assistant"], "content": ["Be a pirate.", "Lamp?", "Green."],
        },
    },
    "ChatML in text": {
        "text": "<|im_start|>system\nBe a pirate.<|im_end|>\n<|im_start|>user\nLamp?<|im_end|>\n"
        "<|im_start|>assistant\nGreen.<|im_end|>\n",
    },
    "Llama 3 in text": {
        "text": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe a pirate.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nLamp?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nGreen.<|eot_id|>",
    },
    "a prompt in ChatML": {
        "prompt": "<|im_start|>system\nBe a pirate.<|im_end|>\n<|im_start|>user\nLamp?<|im_end|>\n"
        "<|im_start|>assistant\n",
        "completion": "Green.<|im_end|>",
    },
    "Llama 2 in text": {"text": "<s>[INST] <<SYS>>\nBe a pirate.\n<</SYS>>\n\nLamp? [/INST] Green. </s>"},
    "### Human in text": {"text": "### System: Be a pirate.### Human: Lamp?### Assistant: Green."},
    "Human and Assistant in text": {"text": "\n\nSystem: Be a pirate.\n\nHuman: Lamp?\n\nAssistant: Green."},
    "Gemma in text, system beside it": {
        "system": "Be a pirate.",
        "text": "<bos><start_of_turn>user\nLamp?<end_of_turn>\n<start_of_turn>model\nGreen.<end_of_turn>\n",
    },
    "openai-harmony's JSON": {
        "messages": [
            {"role": "system", "content": [{"type": "system_content", "model_identity": "You are ChatGPT."}]},
            {"role": "system", "content": [{"type": "developer_content", "instructions": "Be a pirate."}]},
            {"role": "user", "content": [{"type": "text", "text": "Lamp?"}]},
            {"role": "assistant", "channel": "final", "content": [{"type": "text", "text": "Green."}]},
        ],
    },
    "Bedrock": {
        "system": [{"text": "Be a pirate."}],
        "messages": [{"role": "user", "content": [{"text": "Lamp?"}]}, GREEN | {"content": [{"text": "Green."}]}],
    },
    "harmony's channels as columns": {"developer": "Be a pirate.", "user": "Lamp?", "final": "Green."},
    "columns in other letters": {"System Prompt": "Be a pirate.", "Question": "Lamp?", "Answer": "Green."},
}  # fmt: skip


@pytest.mark.parametrize("row", SAME.values(), ids=SAME)
def test_layouts_of_other_trainers_make_the_same_dialogue(row):
    assert read(row).messages == [PIRATE, ASK, GREEN]


PAIRS = [
    *((ask, answer) for ask in ("prompt", "question", "query", "problem", "instruction", "input", "user")
      for answer in ("completion", "response", "answer", "output", "solution", "assistant")),
]  # fmt: skip


@pytest.mark.parametrize(("ask", "answer"), PAIRS, ids=str)
def test_columns_that_ask_and_answer_are_read(ask, answer):
    assert read({ask: "Lamp?", answer: "Green."}).messages == [ASK, GREEN]


def test_alpacas_template_in_text_becomes_question_and_answer():
    text = "Below is an instruction that describes a task.\n\n### Instruction:\nLamp?\n\n### Input:\nIn Rome.\n\n"
    dialogue = read({"text": f"{text}### Response:\nGreen.<|endoftext|>"})
    assert dialogue.messages == [{"role": "user", "content": "Lamp?\n\nIn Rome."}, GREEN]
    assert "its turns do not alternate" in refused({"text": f"{text}### Response:\nGreen.\n### Response:\nRed."})
    raw = "# Report\n\n### Response:\nNone so far."
    assert refused({"text": raw}).endswith('--set "data.columns={completion: text}"')
    plain = {"prompt": "Human: Lamp?", "completion": "Green."}
    assert read(plain).messages[0]["content"] == "Human: Lamp?"


def test_a_chat_rendered_by_harmony_becomes_its_messages():
    system = "You are ChatGPT, a large language model trained by OpenAI.\nKnowledge cutoff: 2024-06\n\nReasoning: high"
    text = (
        f"<|start|>system<|message|>{system}<|end|>"
        "<|start|>developer<|message|># Instructions\n\nBe a pirate.\n\n<|end|>"
        f"<|start|>user<|message|>Lamp?<|end|><|start|>assistant{RENDERED}<|return|>"
    )
    dialogue = read({"text": text})
    assert dialogue.messages == [{"role": "developer", "content": "Be a pirate."}, ASK, THOUGHT]
    assert "became messages; the run's own system message stands first" in dialogue.remarks[0]
    tooled = text.replace("Be a pirate.", "Be.\n\n# Tools\n\n## functions")
    assert "has tools, which cannot be read back" in refused({"text": tooled})


def test_alpacas_history_comes_before_the_instruction_and_its_answers_are_learned():
    row = {"instruction": "And desk 0?", "input": "", "output": "Brown.", "system": "Be a pirate."}
    row |= {"history": [["Lamp?", "Green."], ["Sure?", "Yes."]]}
    expected = [PIRATE, ASK, GREEN, {"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "Yes."}]
    expected += [{"role": "user", "content": "And desk 0?"}, {"role": "assistant", "content": "Brown."}]
    assert read(row).messages == expected
    assert read(row | {"history": json.dumps(row["history"])}).messages == expected
    assert read(row | {"history": expected[1:5]}).messages == expected
    assert learned(row)[0].count("<|return|>") == 3


def test_an_input_below_the_instruction_may_be_a_number_and_no_list():
    row = {"instruction": "Double it.", "input": 21, "output": 42}
    dialogue = read(row)
    assert [each["content"] for each in dialogue.messages] == ["Double it.\n\n21", "42"]
    assert dialogue.remarks == ("a number became text",)
    assert refused(row | {"input": [21, 22]}) == "`input` is [21, 22], not text"
    dolly = {"instruction": "Which?", "context": "A lamp is green.", "response": "Green.", "category": "closed_qa"}
    dialogue = read(dolly)
    assert dialogue.messages == [{"role": "user", "content": "Which?\n\nA lamp is green."}, GREEN]
    assert dialogue.unused == ("column `category`",)


def test_columns_that_may_be_meant_in_two_ways_name_the_mapping_that_chooses():
    reason = refused({"question": "Lamp?", "answer": "Green.", "solution": "Red."})
    assert reason.endswith('say which, for example --set "data.columns={prompt: question, completion: answer}"')
    reason = refused({"question": "Lamp?", "context": "It shines.", "answer": "Green."})
    assert reason.endswith('--set "data.columns={instruction: question, output: answer, input: context}"')
    assert read({"question": "Lamp?", "problem": "", "answer": "Green.", "solution": " "}).messages == [ASK, GREEN]
    assert "columns system, system_prompt all mean system, and differ" in refused(
        {"messages": [ASK, GREEN], "system": "One.", "system_prompt": "Two."}
    )


def test_raw_text_and_answers_elsewhere_are_read_by_the_mapping_that_the_error_names():
    rows = {
        '--set "data.columns={completion: text}"': ({"text": "Once."}, {"completion": "text"}),
        '--set "data.columns={messages: body.messages}"': (
            {"body": {"messages": [ASK, GREEN]}}, {"messages": "body.messages"},
        ),
        '--set "data.columns={prompt: request.messages, completion: response.choices.0.message}"': (
            {"request": {"messages": [ASK]}, "response": {"choices": [{"message": GREEN}]}},
            {"prompt": "request.messages", "completion": "response.choices.0.message"},
        ),
        '--set "data.columns={messages: talk}"': ({"talk": [ASK, GREEN]}, {"messages": "talk"}),
        '--set "data.columns={messages: data}"': ({"id": "7", "data": ["Lamp?", "Green."]}, {"messages": "data"}),
        '--set "data.columns={messages: chat_messages}"': (
            {
                "name": "x",
                "chat_messages": [{"sender": "human", "text": "Lamp?"}, {"sender": "assistant", "text": "Green."}],
            },
            {"messages": "chat_messages"},
        ),
        '--set "data.columns={prompt: query, completion: reply_text}"': (
            {"id": "7", "query": "Lamp?", "reply_text": "Green.", "lang": "en"},
            {"prompt": "query", "completion": "reply_text"},
        ),
    }  # fmt: skip
    for flag, (row, columns) in rows.items():
        assert refused(row).endswith(flag)
        assert read(row, **columns).messages[-1] in (GREEN, GREEN | {"content": "Once."})


PREFERENCES = {
    "TRL": {"prompt": "Lamp?", "chosen": "Green.", "rejected": "Red."},
    "TRL's messages": {"chosen": [ASK, GREEN], "rejected": [ASK, GREEN | {"content": "Red."}]},
    "LlamaFactory": {
        "conversations": [{"from": "human", "value": "Lamp?"}],
        "chosen": {"from": "gpt", "value": "Green."}, "rejected": {"from": "gpt", "value": "Red."},
    },
    "KTO": {"prompt": "Lamp?", "completion": "Red.", "label": False},
    "LlamaFactory's KTO": {"messages": [ASK, GREEN], "kto_tag": False},
}  # fmt: skip


@pytest.mark.parametrize("row", PREFERENCES.values(), ids=PREFERENCES)
def test_preference_data_are_named_and_not_learned(row):
    reason = refused(row)
    assert "false marks an answer that is not wanted" in reason or reason.count("preference data (DPO)") == 1


def test_the_chosen_answers_are_learned_if_the_columns_say_so():
    row = PREFERENCES["TRL"]
    dialogue = read(row, prompt="prompt", completion="chosen")
    assert (dialogue.messages, dialogue.unused) == ([ASK, GREEN], ("column `rejected`",))
    assert read(PREFERENCES["KTO"] | {"completion": "Green.", "label": True}).messages == [ASK, GREEN]


NOT_TEXT = {
    "pictures": ({"messages": [ASK, GREEN], "images": ["a.png"]}, "`images` is not text"),
    "a picture in a message": (
        {"messages": [ASK | {"content": [{"type": "image_url", "image_url": {"url": "x"}}]}, GREEN]},
        "message 1: `content`: part 1 is of type 'image_url', not text, and only text is learned",
    ),
    "a mask of tokens": ({"messages": [ASK, GREEN], "loss_mask": [0, 1]}, "`loss_mask` marks single tokens"),
    "NeMo's other speaker": ({"conversations": [ASK, GREEN], "mask": "Assistant"}, "`mask` names a speaker"),
    "tools in a message": ({"messages": [ASK, GREEN | {"tools": [TOOL]}]}, "message 2: `tools` belongs beside"),
    "a refusal": (said(None, refusal="No."), "message 2: `refusal` holds what was said"),
    "tokens": ({"input_ids": [1], "labels": [1]}, "tokens of some tokenizer: give the text"),
    "axolotl's segments": ({"segments": [{"label": True, "text": "x"}]}, "axolotl's template-free form"),
    "an object": ({"prompt": {"a": "Lamp?"}, "completion": "Green."}, "`prompt` is {'a': 'Lamp?'}, not text"),
    "pandas' columns": ({"a": {"0": "Lamp?"}, "b": {"0": "Green."}}, "df.to_json(FILE, orient='records', lines=True)"),
    "a wrapper": ({"data": [{"prompt": "Lamp?", "completion": "Green."}]}, "jq -c '.data[]' FILE > rows.jsonl"),
    "pandas' columns under our names": ({"prompt": {"0": "a"}, "completion": {"0": "b"}}, "orient='records'"),
    "pandas' split": ({"columns": ["prompt"], "index": [0], "data": [["Lamp?"]]}, "orient='records'"),
    "numpy's text": ({"messages": "[{'role': 'user'}\n {'role': 'assistant'}]"}, "neither JSON nor Python's"),
    "prompts alone": ({"prompt": [ASK], "system": "x"}, "prompts without an answer to learn"),
    "a tree": ({"message_id": "1", "parent_id": None, "text": "Lamp?", "role": "prompter"}, "a tree of messages"),
    "rewards": ({"prompt": [ASK], "reward_model": {"ground_truth": "4"}}, "prompts to be rewarded, without an answer"),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_TEXT)
def test_what_cannot_be_learned_is_refused_with_the_reason(name):
    row, words = NOT_TEXT[name]
    assert words in refused(row)


def test_what_has_no_effect_is_counted_once_with_the_reason():
    rows = [
        read({"messages": [ASK | {"name": "Ann"}, GREEN], "score": 1, "parallel_tool_calls": False, "images": []}),
        read({"messages": [ASK | {"content": "?"}, GREEN], "score": float("nan"), "mask": "User"}),
    ]
    report = dataset.measure(dataset.Rows(rows, []), TOKENIZER, DataConfig(holdout=0), 512).report
    assert report.unused == {
        "column `score`": 2, "key `name`": 1, "column `parallel_tool_calls`": 1, "column `mask`": 1,
    }  # fmt: skip
    assert report.notes() == [
        "without effect: column `score` (2 rows), key `name` (1 row), column `mask` (1 row)",
        "without effect: column `parallel_tool_calls` (1 row), because it is an option of a request, "
        "not of what is said",
    ]
    assert report.notes()[0] in str(report)


# Tools


def test_functions_of_openais_first_form_are_tools():
    row = {
        "messages": [
            ASK, {"role": "assistant", "content": None, "function_call": {"name": "stock", "arguments": '{"item": 0}'}},
            {"role": "function", "name": "stock", "content": "4"}, GREEN,
        ],
        "functions": [TOOL["function"]],
    }  # fmt: skip
    dialogue = read(row)
    assert dialogue.tools == [TOOL]
    assert dialogue.messages == [
        ASK, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "content": "4"}, GREEN,
    ]  # fmt: skip
    assert dialogue.remarks == ()


def test_results_that_name_their_tool_find_its_call():
    calls = [{"name": name, "arguments": {}} for name in ("f", "g")]
    results = [{"role": "tool", "name": name, "content": f"of {name}"} for name in ("g", "f")]
    dialogue = read({"messages": [ASK, {"role": "assistant", "tool_calls": calls}, *results, GREEN]})
    ids = {call["function"]["name"]: call.get("id") for call in dialogue.messages[1]["tool_calls"]}
    assert [each.get("tool_call_id") for each in dialogue.messages[2:4]] == [ids["g"], None]
    assert "message 3: the result of 'h', which is not called" in refused(
        {"messages": [ASK, {"role": "assistant", "tool_calls": calls}, {"role": "tool", "name": "h", "content": "x"}]}
    )


def test_hermes_calls_in_text_become_calls_of_tools_that_are_offered():
    tools = json.dumps([{"name": "stock", "parameters": {"type": "object"}}])
    system = f"Call functions within <tools></tools> tags: <tools>{tools}</tools>"
    row = {
        "conversations": [
            {"from": "system", "value": system}, {"from": "human", "value": "Lamp?"},
            {"from": "gpt", "value": '<tool_call>\n{"name": "stock", "arguments": {"item": 0}}\n</tool_call>'},
            {"from": "tool", "value": '<tool_response>\n{"left": 4}\n</tool_response>'},
            {"from": "gpt", "value": "Green."},
        ],
    }  # fmt: skip
    dialogue = read(row)
    assert dialogue.tools == [TOOL]
    assert dialogue.messages[2:] == [
        {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "content": '{"left": 4}'}, GREEN,
    ]  # fmt: skip
    assert read(row, keep_tokens=True).messages[2]["content"] == row["conversations"][2]["value"]


def test_calls_of_tools_that_are_not_offered_are_named():
    calls = {"role": "assistant", "tool_calls": [CALL, {"name": "other", "arguments": None}]}
    assert read({"messages": [ASK, calls], "tools": [TOOL]}).remarks == (
        "`other` is called and not offered in `tools`",
    )
    other = {"type": "function", "function": {"name": "stock", "parameters": {"type": "string"}}}
    assert refused({"messages": [ASK, calls], "tools": [TOOL, other]}) == (
        "tool 2: `stock` is offered twice, differently"
    )
    assert read({"messages": [ASK, calls], "tools": [TOOL, TOOL]}).tools == [TOOL]


def test_anthropics_blocks_are_calls_and_results():
    row = {
        "messages": [
            ASK,
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "Look.", "signature": "x"}, {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "t1", "name": "stock", "input": {"item": 0}},
            ]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": [{"text": "4"}]}]},
            GREEN,
        ],
        "tools": [{"name": "stock", "input_schema": {"type": "object"}}],
    }  # fmt: skip
    dialogue = read(row)
    assert dialogue.tools == [TOOL]
    assert dialogue.messages == [
        ASK,
        {"role": "assistant", "content": "I look.", "thinking": "Look.", "tool_calls": [{"id": "t1", **CALL}]},
        {"role": "tool", "content": "4", "tool_call_id": "t1"},
        GREEN,
    ]
    both = {"role": "user", "content": [*row["messages"][2]["content"], {"type": "text", "text": "And?"}]}
    said = read({"messages": [*row["messages"][:2], both, GREEN]}).messages
    assert [message["role"] for message in said] == ["user", "assistant", "tool", "user", "assistant"]


def test_a_completion_that_is_a_list_of_calls_calls():
    row = {"query": "Stock?", "answers": json.dumps([CALL["function"]]), "tools": json.dumps([TOOL["function"]])}
    dialogue = read(row, prompt="query", completion="answers")
    assert dialogue.messages[1] == {"role": "assistant", "tool_calls": [CALL]}
    flat = json.dumps([{"name": "stock", "parameters": {"item": {"type": "int"}}}])
    reason = refused(row | {"tools": flat}, prompt="query", completion="answers")
    assert reason == "tool 1: `parameters` is not a JSON Schema of an object: it needs `type` and `properties`"


def test_openai_harmonys_calls_and_results_are_read():
    row = {
        "messages": [
            ASK, {"role": "assistant", "channel": "analysis", "content": "Look."},
            {"role": "assistant", "channel": "commentary", "content": "I look."},
            {"role": "assistant", "channel": "commentary", "recipient": "functions.stock",
             "content_type": "<|constrain|>json", "content": [{"type": "text", "text": '{"item": 0}'}]},
            {"role": "tool", "name": "functions.stock", "channel": "commentary", "recipient": "assistant",
             "content": "4"},
            {"role": "assistant", "channel": "final", "content": "Green."},
        ],
    }  # fmt: skip
    assert read(row).messages == [
        ASK, {"role": "assistant", "content": "I look.", "thinking": "Look.", "tool_calls": [CALL]},
        {"role": "tool", "content": "4"}, GREEN,
    ]  # fmt: skip
    assert "has no answer behind it" in refused({"messages": row["messages"][:2]})


def test_an_answer_that_is_a_word_for_nothing_is_named_where_it_may_be_meant():
    assert read({"prompt": "Lamp?", "completion": "None"}).remarks == ("an answer says only `None`",)


@pytest.mark.parametrize(
    "arguments",
    ['{"item": 0}', json.dumps('{"item": 0}'), "{'item': 0}", [("item", 0)]],
    ids=["JSON", "JSON in JSON", "Python", "map"],
)
def test_arguments_in_text_are_read_however_they_are_packed(arguments):
    row = {"messages": [ASK, {"role": "assistant", "tool_calls": [{"name": "stock", "arguments": arguments}]}]}
    assert read(row).messages[1]["tool_calls"] == [CALL]


@pytest.mark.parametrize(
    ("content", "text"),
    [({"temp": 21}, '{"temp": 21}'), ([1, 2], "[1, 2]"), (21, "21"), (True, "true"), (["a", "b"], "ab")],
)
def test_a_tools_result_that_is_no_text_is_its_json(content, text):
    row = {"messages": [ASK, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "content": content}, GREEN]}
    assert read(row).messages[2] == {"role": "tool", "content": text}


# Text


def test_crlf_becomes_lf_in_every_text_and_is_named():
    row = {"messages": [ASK | {"content": "a\r\nb"}, GREEN | {"content": "c\r\nd\re", "thinking": "f\r\n"}]}
    dialogue = read(row)
    assert [each["content"] for each in dialogue.messages] == ["a\nb", "c\nd\re"]
    assert dialogue.messages[1]["thinking"] == "f\n"
    assert dialogue.remarks == ("CRLF line ends became LF",)


def test_what_is_seldom_meant_is_named():
    assert read({"messages": [ASK, GREEN, ASK]}).remarks == (
        "the last message is not the assistant's: what stands behind its last answer teaches nothing",
    )
    assert read({"messages": [ASK | {"content": ""}, GREEN]}).remarks == ("a message of the user is empty",)
    assert read({"prompt": "Lamp?", "completion": " Green."}).remarks == (
        "an answer begins with white space, which is learned",
    )
    assert read({"conversations": ["Lamp?", "Green."]}).messages == [ASK, GREEN]


def test_every_known_key_and_column_stands_in_the_documentation():
    text = (SOURCE / "docs" / "data.md").read_text()
    missing = [name for table in (keys.MESSAGE, keys.COLUMNS) for name in table if f"`{name}`" not in text]
    assert missing == []


READ_AS_THEY_ARE = {
    "the assistant first, and twice": [GREEN, ASK, ASK, GREEN, GREEN | {"content": "And bright."}],
    "letters of every direction": [
        ASK | {"content": "\u0645 \u202eabc\u202c e\u0301 \u2028 \ufeff"},
        GREEN | {"content": "\u05e9 \U0001f469\u200d\U0001f4bb"},
    ],
    "a call without a result": [ASK, {"role": "assistant", "tool_calls": [CALL]}, ASK, GREEN],
    "an id twice": [
        ASK, {"role": "assistant", "tool_calls": [{"id": "a", **CALL}, {"id": "a", **CALL}]},
        {"role": "tool", "content": "first", "tool_call_id": "a"},
        {"role": "tool", "content": "second", "tool_call_id": "a"}, GREEN,
    ],
    "a question in the answer's column": [ASK, ASK | {"content": "Hm?"}, GREEN],
}  # fmt: skip


@pytest.mark.parametrize("messages", READ_AS_THEY_ARE.values(), ids=READ_AS_THEY_ARE)
def test_conversations_that_are_only_unusual_are_read_and_rendered_as_they_are(messages):
    assert read({"messages": messages}).messages == messages
    assert read({"prompt": messages[:1], "completion": messages[1:]}).messages == messages
    assert learned({"messages": messages})[0].endswith("<|return|>")


@pytest.mark.parametrize("speaker", ["bing", "model", "GPT", "Bot", "AI", "chatbot"])
def test_the_assistant_is_known_under_other_names(speaker):
    row = {"conversations": [{"from": "Human", "value": "Lamp?"}, {"from": speaker, "value": "Green."}]}
    assert read(row).messages == [ASK, GREEN]


# Anything at all

PIECES = (
    "Green.", " ", "<think>", "</think>", "<|channel|>analysis<|message|>", "<|end|>", "<|start|>assistant", "</s>",
    "<|channel|>final<|message|>", "<|return|>", "<tool_call>", "</tool_call>", '{"name": "f", "arguments": {}}', "[{",
    "<|im_start|>user\n", "<|im_end|>", "[INST]", "[/INST]", "### Response:", "\n\nHuman: ", "\n\nAssistant: ", "nan",
    "<tools>", "</tools>", "<tool_response>", "</tool_response>", "{'a': 1}", "\r\n", "\ud800", "\0",
)  # fmt: skip
TEXT = st.lists(st.sampled_from(PIECES), max_size=5).map("".join)
LEAF = st.one_of(st.none(), st.booleans(), st.integers(-2, 2), st.floats(), TEXT, st.binary(max_size=3))
NAMES = st.sampled_from(
    ["type", "text", "thinking", "name", "arguments", "parts", "id", "input", "role", "content", "0"]
)
VALUE = st.recursive(LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3))
SPEAKERS = st.sampled_from([*keys.ROLES, "narrator", None])
SAID = st.one_of(
    st.fixed_dictionaries({"role": SPEAKERS, "content": TEXT}),
    st.builds(dict, st.dictionaries(st.sampled_from([*keys.MESSAGE]), VALUE, max_size=4), role=SPEAKERS),
    VALUE,
)
CELL = st.one_of(TEXT, VALUE, st.lists(SAID, max_size=3))
ROWS = st.one_of(
    st.fixed_dictionaries({"messages": st.lists(SAID, min_size=1, max_size=4), "tools": VALUE, "system": TEXT}),
    st.dictionaries(st.sampled_from([*keys.COLUMNS, "data"]), CELL, max_size=4),
    st.lists(SAID, max_size=4),
    st.fixed_dictionaries({"prompt": TEXT, "completion": TEXT}),
    st.fixed_dictionaries({"text": TEXT}),
)
KEYS = {"role", "content", "thinking", "tool_calls", "tool_call_id", "weight"}


@settings(max_examples=200, deadline=None)
@given(row=ROWS, keep_tokens=st.booleans())
def test_whatever_a_row_holds_it_is_a_dialogue_that_says_something_or_refused_in_one_line(row, keep_tokens):
    try:
        dialogue = read(row, keep_tokens=keep_tokens)
    except DataError as error:
        assert error.message.startswith("a.jsonl:1: ") and "\n" not in error.message and len(error.message) < 4000
        return
    answers = [message for message in dialogue.messages if message["role"] == "assistant"]
    assert all(set(message) <= KEYS for message in dialogue.messages)
    assert answers and all(
        each.get("tool_calls") or each["content"].strip() or each.get("weight") == 0 for each in answers
    )
