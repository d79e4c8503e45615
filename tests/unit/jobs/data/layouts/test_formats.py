"""Layouts: every row becomes the same dialogue, whatever its columns are called and however its JSON is packed."""

import json
import re

import pytest

from configs import load
from configs.errors import DataError
from configs.paths import SOURCE
from jobs.data.layouts import formats

USER = {"role": "user", "content": "Rome?"}
ANSWER = {"role": "assistant", "content": "Sunny."}
CALL = {"id": "a", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Rome"}}}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
SYSTEM = {"role": "system", "content": "Be brief."}
THOUGHT = ANSWER | {"thinking": "It shines."}


def read(row, layout="auto", **columns):
    return formats.dialogue_of(row, "chats.jsonl:4", layout, columns)


def refused(row, layout="auto", **columns) -> str:
    with pytest.raises(DataError) as caught:
        read(row, layout, **columns)
    where, _, reason = caught.value.message.partition("chats.jsonl:4: ")
    assert where == ""
    assert "chats.jsonl" not in reason, "the place is said once"
    return reason


SAME = {
    "chat": {"messages": [SYSTEM, USER, THOUGHT]},
    "chat as JSON text": {"messages": json.dumps([SYSTEM, USER, THOUGHT])},
    "chat with nulls": {
        "messages": [each | {"tool_calls": None, "name": None} for each in (SYSTEM, USER, THOUGHT)],
        "tools": None,
    },
    "chat with reasoning_content": {
        "messages": [SYSTEM, USER, ANSWER | {"reasoning_content": "It shines."}],
    },
    "prompt and completion": {
        "system": "Be brief.", "prompt": "Rome?", "completion": "Sunny.", "thinking": "It shines.",
    },
    "prompt and completion as messages": {"prompt": [SYSTEM, USER], "completion": [THOUGHT]},
    "alpaca": {
        "system": "Be brief.", "instruction": "Rome?", "input": "", "output": "Sunny.", "thinking": "It shines.",
    },
}  # fmt: skip


@pytest.mark.parametrize("row", SAME.values(), ids=SAME)
def test_every_layout_makes_the_same_dialogue_with_the_same_fingerprint(row):
    dialogue = read(row)
    assert (dialogue.messages, dialogue.tools, dialogue.where) == ([SYSTEM, USER, THOUGHT], None, "chats.jsonl:4")
    assert dialogue.fingerprint == read(SAME["chat"]).fingerprint


def test_fingerprints_tell_contents_apart_and_nothing_else():
    chat = {"messages": [USER, ANSWER]}
    one = read(chat).fingerprint
    assert len(one) == 64
    assert formats.dialogue_of({"id": 7, **chat}, "other:9", "chat", {}).fingerprint == one
    different = [
        {"messages": [USER, THOUGHT]},
        {**chat, "tools": [TOOL]},
        {"messages": [USER | {"content": "x"}, ANSWER]},
    ]
    assert len({one, *(read(row).fingerprint for row in different)}) == 4


def test_an_alpaca_input_stands_below_its_instruction():
    row = {"instruction": "Translate.", "input": "Ciao", "output": "Hello"}
    assert read(row).messages[0] == {"role": "user", "content": "Translate.\n\nCiao"}


TOOL_ROWS = {
    "objects": {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}], "tools": [TOOL]},
    "arguments as JSON": {
        "messages": [
            USER,
            {
                "role": "assistant",
                "tool_calls": [{**CALL, "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}}],
            },
        ],
        "tools": json.dumps([TOOL]),
    },
    "calls and each tool as JSON": {
        "messages": [USER, {"role": "assistant", "tool_calls": json.dumps([CALL])}], "tools": [json.dumps(TOOL)],
    },
    "parameters as JSON, bare function": {
        "messages": [USER, {"role": "assistant", "tool_calls": [CALL]}],
        "tools": [{"name": "get_weather", "parameters": '{"type": "object"}'}],
    },
}  # fmt: skip


@pytest.mark.parametrize("row", TOOL_ROWS.values(), ids=TOOL_ROWS)
def test_tools_and_calls_may_be_objects_or_json_text(row):
    dialogue = read(row)
    assert dialogue.messages == [USER, {"role": "assistant", "tool_calls": [CALL]}]
    assert dialogue.tools == [TOOL]


def test_sharegpt_speakers_calls_and_observations_become_roles():
    call = json.dumps({"name": "get_weather", "arguments": {"city": "Rome"}})
    row = {
        "system": "Be brief.",
        "conversations": [
            {"from": "human", "value": "Rome?"},
            {"from": "function_call", "value": call},
            {"from": "function_call", "value": call},
            {"from": "observation", "value": "sunny"},
            {"from": "observation", "value": "still sunny"},
            {"from": "gpt", "value": "Sunny."},
        ],
        "tools": json.dumps([TOOL["function"]]),
    }
    dialogue = read(row)
    made = {"type": "function", "function": CALL["function"]}
    assert dialogue.messages == [
        SYSTEM, USER, {"role": "assistant", "tool_calls": [made, made]}, {"role": "tool", "content": "sunny"},
        {"role": "tool", "content": "still sunny"}, ANSWER,
    ]  # fmt: skip
    assert dialogue.tools == [TOOL]


def test_multilingual_thinking_rows_read_as_they_are():
    """The columns of HuggingFaceH4/Multilingual-Thinking, whose messages all have all three keys."""
    row = {
        "reasoning_language": "French",
        "developer": "You are an AI chatbot with a lively personality.",
        "user": "Can you show me the latest trends?",
        "analysis": "D'accord, l'utilisateur demande les tendances.",
        "final": "Here are the latest trends.",
        "messages": [
            {"content": "reasoning language: French\n\nYou are an AI chatbot.", "role": "system", "thinking": None},
            {"content": "Can you show me the latest trends?", "role": "user", "thinking": None},
            {"content": "Here are.", "role": "assistant", "thinking": "D'accord."},
        ],
    }
    assert read(row).messages == [
        {"role": "system", "content": "reasoning language: French\n\nYou are an AI chatbot."},
        {"role": "user", "content": "Can you show me the latest trends?"},
        {"role": "assistant", "content": "Here are.", "thinking": "D'accord."},
    ]


def test_columns_under_other_names_are_mapped():
    row = {"question": "Rome?", "answer": "Sunny.", "prompt": "unused"}
    assert read(row, prompt="question", completion="answer").messages == [USER, ANSWER]
    assert read({"turns": [USER, ANSWER]}, messages="turns").messages == [USER, ANSWER]


def test_a_layout_that_cannot_be_told_names_columns_found_and_expected_and_the_mapping_that_reads_it():
    row = {"Frage 1": "Rome?", "reply": "Sunny."}
    reason = refused(row, prompt="frage")
    assert reason == (
        "cannot tell the layout: found columns Frage 1, reply; expected messages or conversations or "
        "prompt+completion or instruction+output (data.columns: prompt is frage); "
        """to read it: --set "data.columns={prompt: 'Frage 1', completion: reply}\""""
    )
    (flag,) = re.findall(r'--set "(.*)"', reason)
    config = load.load_run("tiny", [flag])
    assert read(row, **config.data.columns).messages == [USER, ANSWER]


def test_a_layout_that_was_asked_for_wins_and_says_what_is_missing():
    row = {"messages": [USER], "prompt": "Rome?", "completion": "Sunny."}
    assert read(row, "prompt_completion").messages == [USER, ANSWER]
    assert refused(row, "alpaca") == (
        "no instruction and no output for alpaca: found columns messages, prompt, completion"
    )


def test_a_mapping_to_a_column_of_ours_that_does_not_exist_is_refused():
    with pytest.raises(DataError, match="maps promt, which no layout has") as caught:
        formats.check_columns({"promt": "question", "completion": "answer"})
    assert "messages, conversations, prompt, completion" in caught.value.hint


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "", "completion": "x"}, "`prompt` is '', not text"),
        ({"prompt": "x", "completion": True}, "`completion` is True, not text"),
        ({"prompt": "x", "completion": [5]}, "`completion` is [5], not text"),
        ({"prompt": "x", "completion": float("nan")}, "`completion` is empty: null, or a cell that says nan"),
        ({"prompt": [], "completion": "x"}, "`prompt` is [], not text"),
        ({"instruction": "x", "output": "  "}, "`output` is '  ', not text"),
        ({"conversations": []}, "no list `conversations`"),
        ({"conversations": [5]}, "message 1: role 5 is none of system, developer, user"),
        ({"conversations": [{"from": "human"}]}, "message 1: no `content`"),
        ({"conversations": [{"from": "narrator", "value": "x"}]}, "message 1: role 'narrator' is none of system"),
        ({"conversations": [{"from": ["human"], "value": "x"}]}, "message 1: role ['human'] is none of system"),
        ({"conversations": [{"from": "function_call", "value": "x"}]}, "message 1: a call: not JSON: "),
        ({"messages": [USER, {"role": "assistant", "tool_calls": [{"id": "a"}]}]}, "message 2: call 1: no function"),
        (
            {"messages": [USER, {"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{x"}]}]},
            "message 2: call 1: `arguments`: not JSON: ",
        ),
        (
            {"messages": [USER, {"role": "assistant", "tool_calls": [{"name": "f", "arguments": "[1]"}]}]},
            "message 2: call 1: `arguments` is not an object",
        ),
        ({"messages": [USER, ANSWER], "tools": "{x"}, "`tools`: not JSON"),
        ({"messages": [USER, ANSWER], "tools": [{"type": "function"}]}, "tool 1: no function with a `name`"),
        ({"messages": [USER, {"role": "assistant", "content": "\ud800"}]}, "a lone surrogate"),
        ({"messages": [USER, {"role": "assistant", "content": "a\0b"}]}, "a NUL character"),
        ({"messages": [USER, {"role": "assistant", "content": "a" * 2**23}]}, "8388"),
        ({"messages": [USER, {"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"x": float("nan")}}]}]},
         "a value that JSON cannot hold"),
    ],
)  # fmt: skip
def test_a_row_that_fits_no_dialogue_is_refused_with_the_reason(row, reason):
    assert refused(row).startswith(reason)


def test_text_that_only_looks_like_a_nul_escape_is_fine():
    assert read({"messages": [USER, {"role": "assistant", "content": "write \\u0000"}]}).messages[1]["content"]


EXAMPLES = re.findall(r"^```json\n(.*?)^```$", (SOURCE / "docs" / "data.md").read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_in_the_documentation_is_a_good_row(example):
    assert read(json.loads(example)).messages[-1]["role"] == "assistant"
    assert len(EXAMPLES) == 5
