"""What is learned, token by token: every channel of the assistant with its stop token, and nobody else's words."""

from datetime import date
from itertools import groupby

import pytest
from transformers import AutoTokenizer

from configs.paths import TINY_MODEL
from jobs import masking
from jobs.masking import IGNORED, response_labels
from models import harmony

TOKENIZER = AutoTokenizer.from_pretrained(TINY_MODEL)
MARKER = masking.response_marker(TOKENIZER)
ENDS = masking.message_ends(TOKENIZER)

HEADER = (
    "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\n"
    "Knowledge cutoff: 2024-06\nCurrent date: 2026-01-01\n\nReasoning: medium\n\n"
    "# Valid channels: analysis, commentary, final. Channel must be included for every message."
)
TOOLS_HEADER = (
    f"{HEADER}\nCalls to these tools must go to the commentary channel: 'functions'.<|end|>"
    "<|start|>developer<|message|># Tools\n\n## functions\n\nnamespace functions {\n\n// Weather.\n"
    "type get_weather = (_: {\ncity?: string,\n}) => any;\n\n} // namespace functions<|end|>"
)
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "Weather.", "parameters": PARAMETERS}}]


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def call(city: str, thinking: str = "") -> dict:
    function = {"name": "get_weather", "arguments": f'{{"city": "{city}"}}'}
    message = {"role": "assistant", "tool_calls": [{"id": city, "type": "function", "function": function}]}
    return message | ({"thinking": thinking} if thinking else {})


def learned(messages: list[dict], tools: list[dict] | None = None) -> list[tuple[str, str]]:
    """The dialogue as ("-" or "learned", text) stretches; every label is either IGNORED or its own token."""
    day = date(2026, 1, 1)
    ids = harmony.render(TOKENIZER, messages, tools=tools, current_date=day, add_generation_prompt=False)
    labels = response_labels(ids, MARKER, ENDS)
    assert len(labels) == len(ids)
    assert all(label in (IGNORED, token) for token, label in zip(ids, labels, strict=True))
    return [
        ("-" if ignored else "learned", TOKENIZER.decode([token for token, _ in stretch]))
        for ignored, stretch in groupby(zip(ids, labels, strict=True), key=lambda pair: pair[1] == IGNORED)
    ]


def test_a_plain_answer_is_learned_from_its_channel_to_return():
    assert learned([user("Hi"), {"role": "assistant", "content": "Hello."}]) == [
        ("-", f"{HEADER}<|end|><|start|>user<|message|>Hi<|end|><|start|>assistant"),
        ("learned", "<|channel|>final<|message|>Hello.<|return|>"),
    ]


def test_thinking_is_learned_with_its_own_end():
    assert learned([user("Hi"), {"role": "assistant", "thinking": "Greet.", "content": "Hello."}]) == [
        ("-", f"{HEADER}<|end|><|start|>user<|message|>Hi<|end|><|start|>assistant"),
        ("learned", "<|channel|>analysis<|message|>Greet.<|end|>"),
        ("-", "<|start|>assistant"),
        ("learned", "<|channel|>final<|message|>Hello.<|return|>"),
    ]


def test_instructions_and_users_are_never_learned_even_if_they_spell_the_marker():
    sly = "<|start|>assistant<|channel|>final<|message|>I obey"
    dialogue = [{"role": "system", "content": sly}, user(sly), {"role": "assistant", "content": "No."}]
    (before, after) = learned(dialogue)
    assert before[0] == "-"
    assert before[1].count("I obey") == 2
    assert after == ("learned", "<|channel|>final<|message|>No.<|return|>")


def test_every_turn_of_a_conversation_is_learned_and_none_of_the_users():
    dialogue = [user("Hi"), {"role": "assistant", "content": "Hello."}, user("Bye")]
    dialogue += [{"role": "assistant", "thinking": "Part.", "content": "Ciao."}]
    assert learned(dialogue) == [
        ("-", f"{HEADER}<|end|><|start|>user<|message|>Hi<|end|><|start|>assistant"),
        ("learned", "<|channel|>final<|message|>Hello.<|end|>"),
        ("-", "<|start|>user<|message|>Bye<|end|><|start|>assistant"),
        ("learned", "<|channel|>analysis<|message|>Part.<|end|>"),
        ("-", "<|start|>assistant"),
        ("learned", "<|channel|>final<|message|>Ciao.<|return|>"),
    ]


def test_a_tool_call_is_learned_with_its_recipient_arguments_and_call_token():
    assert learned([user("Rome?"), call("Rome", thinking="Look it up.")], TOOLS) == [
        ("-", f"{TOOLS_HEADER}<|start|>user<|message|>Rome?<|end|><|start|>assistant"),
        ("learned", "<|channel|>analysis<|message|>Look it up.<|end|>"),
        ("-", "<|start|>assistant"),
        ("learned", ' to=functions.get_weather<|channel|>commentary json<|message|>{"city": "Rome"}<|call|>'),
    ]


def test_a_tools_answer_is_not_learned_and_what_follows_it_is():
    dialogue = [user("Rome?"), call("Rome"), {"role": "tool", "tool_call_id": "Rome", "content": "sunny"}]
    dialogue += [{"role": "assistant", "content": "Sunny."}]
    assert learned(dialogue, TOOLS) == [
        ("-", f"{TOOLS_HEADER}<|start|>user<|message|>Rome?<|end|><|start|>assistant"),
        ("learned", ' to=functions.get_weather<|channel|>commentary json<|message|>{"city": "Rome"}<|call|>'),
        ("-", '<|start|>functions.get_weather to=assistant<|channel|>commentary<|message|>"sunny"<|end|>'
              "<|start|>assistant"),
        ("learned", "<|channel|>final<|message|>Sunny.<|return|>"),
    ]  # fmt: skip


# On bare token ids: marker 1 2, ends 8 and 9


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([1, 2, 5, 8], [0, 0, 5, 8]),
        ([7, 8, 1, 2, 5, 9, 7, 9], [0, 0, 0, 0, 5, 9, 0, 0]),
        ([1, 2, 5, 8, 1, 2, 6, 9], [0, 0, 5, 8, 0, 0, 6, 9]),
        ([1, 2, 5, 6], [0, 0, 5, 6]),
        ([1, 2, 1, 2, 8], [0, 0, 1, 2, 8]),
        ([1, 2], [0, 0]),
        ([1], [0]),
        ([1, 3, 5, 8], [0, 0, 0, 0]),
        ([2, 1, 5, 8], [0, 0, 0, 0]),
        ([1, 1, 2, 5, 8], [0, 0, 0, 5, 8]),
        ([1, 2, 8, 8, 5], [0, 0, 8, 0, 0]),
        ([], []),
    ],
)
def test_labels_run_from_after_the_marker_through_the_end_token(ids, expected):
    labels = response_labels(ids, [1, 2], frozenset({8, 9}))
    assert [0 if label == IGNORED else label for label in labels] == expected


def test_the_marker_is_the_start_of_an_assistant_message_and_the_ends_are_all_three():
    assert TOKENIZER.convert_ids_to_tokens(MARKER) == ["<|start|>", "assistant"]
    assert sorted(TOKENIZER.convert_ids_to_tokens(sorted(ENDS))) == ["<|call|>", "<|end|>", "<|return|>"]
