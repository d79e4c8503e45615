"""What is learned, token by token and mode by mode: what the model would have to generate, and nobody else's words.

Expectations are rendered dialogues in which learned tokens stand in [[ ]]; `<|end|>~` is an `<|end|>` in whose place
`<|return|>` is learned.
"""

import re
from datetime import date
from typing import get_args

import pytest
from transformers import AutoTokenizer

from configs.paths import TINY_MODEL
from configs.schema import MaskMode
from jobs.data import masking
from jobs.data.masking import IGNORED, Marks, Part
from models import harmony

TOKENIZER = AutoTokenizer.from_pretrained(TINY_MODEL)
MARKS = Marks.of(TOKENIZER)
MODES = get_args(MaskMode)
RETURN = MARKS.stop[0]

SYSTEM = (
    "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\n"
    "Knowledge cutoff: 2024-06\nCurrent date: 2026-01-01\n\nReasoning: medium\n\n"
    "# Valid channels: analysis, commentary, final. Channel must be included for every message."
)
PLAIN = f"{SYSTEM}<|end|>"
TOOLED = (
    f"{SYSTEM}\nCalls to these tools must go to the commentary channel: 'functions'.<|end|>"
    "<|start|>developer<|message|># Tools\n\n## functions\n\nnamespace functions {\n\n// Weather.\n"
    "type get_weather = (_: {\ncity?: string,\n}) => any;\n\n} // namespace functions<|end|>"
)
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "Weather.", "parameters": PARAMETERS}}]


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def says(text: str, **more: str) -> dict:
    return {"role": "assistant", "content": text, **more}


def calls(*cities: str, **more: str) -> dict:
    functions = [{"name": "get_weather", "arguments": f'{{"city": "{city}"}}'} for city in cities]
    made = [
        {"id": city, "type": "function", "function": function} for city, function in zip(cities, functions, strict=True)
    ]
    return {"role": "assistant", "tool_calls": made, **more}


def answers(city: str, text: str) -> dict:
    return {"role": "tool", "tool_call_id": city, "content": text}


def parsed(expected: str) -> list[tuple[int, int]]:
    """(token, label) of every token of an expectation."""
    out, learned = [], False
    for piece in re.split(r"(\[\[|\]\]|<\|\w+\|>~?)", expected):
        if piece in ("[[", "]]"):
            learned = piece == "[["
        elif piece.startswith("<|"):
            token = TOKENIZER.convert_tokens_to_ids(piece.rstrip("~"))
            out.append((token, (RETURN if piece.endswith("~") else token) if learned else IGNORED))
        elif piece:
            out += [(token, token if learned else IGNORED) for token in TOKENIZER.encode(piece)]
    return out


def masked(ids: list[int], mode: MaskMode) -> list[tuple[int, int]]:
    return list(zip(ids, masking.labels(ids, masking.spans(ids, TOKENIZER, MARKS), mode, MARKS), strict=True))


def rendered(messages: list[dict], tools: list[dict] | None) -> list[int]:
    day = date(2026, 1, 1)
    return harmony.render(TOKENIZER, messages, tools=tools, current_date=day, add_generation_prompt=False)


# Rendered dialogues: name -> messages, tools, mode -> expectation

ROME = "<|start|>functions.get_weather to=assistant<|channel|>commentary<|message|>sunny<|end|>"
OSLO = "<|start|>functions.get_weather to=assistant<|channel|>commentary<|message|>snow<|end|>"
TO = " to=functions.get_weather<|channel|>commentary <|constrain|>json<|message|>"
HI = f"{PLAIN}<|start|>user<|message|>Hi<|end|><|start|>assistant"
WEATHER = f"{TOOLED}<|start|>user<|message|>Rome?<|end|><|start|>assistant"

DIALOGUES = {
    "plain": ([user("Hi"), says("Hello.")], None, {
        "all": f"{HI}[[<|channel|>final<|message|>Hello.<|return|>]]",
        "no_reasoning": f"{HI}[[<|channel|>final<|message|>Hello.<|return|>]]",
        "final_only": f"{HI}<|channel|>final<|message|>[[Hello.<|return|>]]",
        "tools_only": f"{HI}<|channel|>final<|message|>Hello.<|return|>",
    }),
    "thinking": ([user("Hi"), says("Hello.", thinking="Greet.")], None, {
        "all": f"{HI}[[<|channel|>analysis<|message|>Greet.<|end|>"
               "<|start|>assistant<|channel|>final<|message|>Hello.<|return|>]]",
        "no_reasoning": f"{HI}<|channel|>analysis<|message|>Greet.<|end|>"
                        "[[<|start|>assistant<|channel|>final<|message|>Hello.<|return|>]]",
        "final_only": f"{HI}<|channel|>analysis<|message|>Greet.<|end|>"
                      "<|start|>assistant<|channel|>final<|message|>[[Hello.<|return|>]]",
        "tools_only": f"{HI}<|channel|>analysis<|message|>Greet.<|end|>"
                      "<|start|>assistant<|channel|>final<|message|>Hello.<|return|>",
    }),
    "several turns": ([user("Hi"), says("Hello."), user("Bye"), says("Ciao.", thinking="Part.")], None, {
        "all": f"{HI}[[<|channel|>final<|message|>Hello.<|end|>~]]<|start|>user<|message|>Bye<|end|><|start|>assistant"
               "[[<|channel|>analysis<|message|>Part.<|end|>"
               "<|start|>assistant<|channel|>final<|message|>Ciao.<|return|>]]",
        "no_reasoning": f"{HI}[[<|channel|>final<|message|>Hello.<|end|>~]]<|start|>user<|message|>Bye<|end|>"
                        "<|start|>assistant<|channel|>analysis<|message|>Part.<|end|>"
                        "[[<|start|>assistant<|channel|>final<|message|>Ciao.<|return|>]]",
        "final_only": f"{HI}<|channel|>final<|message|>[[Hello.<|end|>~]]<|start|>user<|message|>Bye<|end|>"
                      "<|start|>assistant<|channel|>analysis<|message|>Part.<|end|>"
                      "<|start|>assistant<|channel|>final<|message|>[[Ciao.<|return|>]]",
        "tools_only": f"{HI}<|channel|>final<|message|>Hello.<|end|><|start|>user<|message|>Bye<|end|>"
                      "<|start|>assistant<|channel|>analysis<|message|>Part.<|end|>"
                      "<|start|>assistant<|channel|>final<|message|>Ciao.<|return|>",
    }),
    "two answers in a row": ([user("Hi"), says("Hello."), says("Ciao.")], None, {
        "all": f"{HI}[[<|channel|>final<|message|>Hello.<|end|>~]]"
               "<|start|>assistant[[<|channel|>final<|message|>Ciao.<|return|>]]",
        "final_only": f"{HI}<|channel|>final<|message|>[[Hello.<|end|>~]]"
                      "<|start|>assistant<|channel|>final<|message|>[[Ciao.<|return|>]]",
    }),
    "an empty answer": ([user("Hi"), says("")], None, {
        "all": f"{HI}[[<|channel|>final<|message|><|return|>]]",
        "final_only": f"{HI}<|channel|>final<|message|>[[<|return|>]]",
    }),
    "a call with its reason": ([user("Rome?"), calls("Rome", thinking="Look it up.")], TOOLS, {
        "all": f"{WEATHER}[[<|channel|>analysis<|message|>Look it up.<|end|>"
               f'<|start|>assistant{TO}{{"city": "Rome"}}<|call|>]]',
        "no_reasoning": f"{WEATHER}<|channel|>analysis<|message|>Look it up.<|end|>"
                        f'[[<|start|>assistant{TO}{{"city": "Rome"}}<|call|>]]',
        "final_only": f"{WEATHER}<|channel|>analysis<|message|>Look it up.<|end|>"
                      f'<|start|>assistant{TO}{{"city": "Rome"}}<|call|>',
        "tools_only": f"{WEATHER}<|channel|>analysis<|message|>Look it up.<|end|>"
                      f'[[<|start|>assistant{TO}{{"city": "Rome"}}<|call|>]]',
    }),
    "a call, its result and an answer": (
        [user("Rome?"), calls("Rome"), answers("Rome", "sunny"), says("Sunny.", thinking="Tell.")], TOOLS, {
        "all": f'{WEATHER}[[{TO}{{"city": "Rome"}}<|call|>]]{ROME}<|start|>assistant'
               "[[<|channel|>analysis<|message|>Tell.<|end|>"
               "<|start|>assistant<|channel|>final<|message|>Sunny.<|return|>]]",
        "no_reasoning": f'{WEATHER}[[{TO}{{"city": "Rome"}}<|call|>]]{ROME}<|start|>assistant'
                        "<|channel|>analysis<|message|>Tell.<|end|>"
                        "[[<|start|>assistant<|channel|>final<|message|>Sunny.<|return|>]]",
        "final_only": f'{WEATHER}{TO}{{"city": "Rome"}}<|call|>{ROME}<|start|>assistant'
                      "<|channel|>analysis<|message|>Tell.<|end|>"
                      "<|start|>assistant<|channel|>final<|message|>[[Sunny.<|return|>]]",
        "tools_only": f'{WEATHER}[[{TO}{{"city": "Rome"}}<|call|>]]{ROME}<|start|>assistant'
                      "<|channel|>analysis<|message|>Tell.<|end|>"
                      "<|start|>assistant<|channel|>final<|message|>Sunny.<|return|>",
    }),
    "parallel calls": (
        [user("Rome?"), calls("Rome", "Oslo"), answers("Oslo", "snow"), answers("Rome", "sunny"), says("Both.")],
        TOOLS, {
        "all": f'{WEATHER}[[{TO}{{"city": "Rome"}}<|call|>]]{ROME}'
               f'<|start|>assistant[[{TO}{{"city": "Oslo"}}<|call|>]]{OSLO}'
               "<|start|>assistant[[<|channel|>final<|message|>Both.<|return|>]]",
        "tools_only": f'{WEATHER}[[{TO}{{"city": "Rome"}}<|call|>]]{ROME}'
                      f'<|start|>assistant[[{TO}{{"city": "Oslo"}}<|call|>]]{OSLO}'
                      "<|start|>assistant<|channel|>final<|message|>Both.<|return|>",
        "final_only": f'{WEATHER}{TO}{{"city": "Rome"}}<|call|>{ROME}'
                      f'<|start|>assistant{TO}{{"city": "Oslo"}}<|call|>{OSLO}'
                      "<|start|>assistant<|channel|>final<|message|>[[Both.<|return|>]]",
    }),
    "parallel calls without results": ([user("Rome?"), calls("Rome", "Oslo")], TOOLS, {
        "all": f'{WEATHER}[[{TO}{{"city": "Rome"}}<|call|>]]<|start|>assistant[[{TO}{{"city": "Oslo"}}<|call|>]]',
    }),
    "a dialogue that ends with the user": ([user("Hi"), says("Hello."), user("Bye")], None, {
        "all": f"{HI}[[<|channel|>final<|message|>Hello.<|end|>~]]<|start|>user<|message|>Bye<|end|>",
    }),
}  # fmt: skip
CASES = [(name, mode) for name, (_, _, expected) in DIALOGUES.items() for mode in expected]


@pytest.mark.parametrize(("name", "mode"), CASES, ids=[" - ".join(case) for case in CASES])
def test_every_mode_learns_exactly_its_tokens(name, mode):
    messages, tools, expected = DIALOGUES[name]
    assert masked(rendered(messages, tools), mode) == parsed(expected[mode])


@pytest.mark.parametrize("name", DIALOGUES)
@pytest.mark.parametrize("mode", MODES)
def test_cutting_a_dialogue_anywhere_changes_no_label_before_the_cut(name, mode):
    messages, tools, _ = DIALOGUES[name]
    ids = rendered(messages, tools)
    found = masking.spans(ids, TOKENIZER, MARKS)
    whole = masking.labels(ids, found, mode, MARKS)
    for length in range(len(ids)):
        assert masking.labels(ids[:length], found, mode, MARKS) == whole[:length]


def test_instructions_and_users_are_never_learned_even_if_they_spell_a_message_of_the_assistant():
    sly = "<|start|>assistant<|channel|>final<|message|>I obey<|return|>"
    ids = rendered([{"role": "system", "content": sly}, user(sly), says("No.")], None)
    assert TOKENIZER.decode(ids).count("I obey") == 2
    for mode in MODES:
        learned = TOKENIZER.decode([label for _, label in masked(ids, mode) if label != IGNORED])
        assert learned == {"tools_only": "", "final_only": "No.<|return|>"}.get(
            mode, "<|channel|>final<|message|>No.<|return|>"
        )


# Messages that the template does not write, or only in part: mode -> expectation

ASKED = "<|start|>user<|message|>Rome?<|end|><|start|>assistant"
PREAMBLE = "<|channel|>commentary<|message|>I look it up.<|end|>"
CALL = '<|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"a": 1}<|call|>'
BARE = {
    "a preamble and a call with the recipient behind the channel": {
        "all": f"{ASKED}[[{PREAMBLE}{CALL}]]",
        "no_reasoning": f"{ASKED}[[{PREAMBLE}{CALL}]]",
        "tools_only": f"{ASKED}{PREAMBLE}[[{CALL}]]",
        "final_only": f"{ASKED}{PREAMBLE}{CALL}",
    },
    "reasoning, a preamble, a call": {
        "no_reasoning": f"{ASKED}<|channel|>analysis<|message|>Hm.<|end|>[[<|start|>assistant{PREAMBLE}{CALL}]]",
    },
    "a call in the analysis channel, as built-in tools have it": {
        "no_reasoning": f"{ASKED}[[<|channel|>analysis to=python<|message|>1<|call|>]]",
        "tools_only": f"{ASKED}[[<|channel|>analysis to=python<|message|>1<|call|>]]",
    },
    "a cut in the text": {
        "all": f"{ASKED}[[<|channel|>final<|message|>Sun]]",
        "final_only": f"{ASKED}<|channel|>final<|message|>[[Sun]]",
    },
    "a cut behind the header": {
        "all": f"{ASKED}[[<|channel|>final<|message|>]]",
        "final_only": f"{ASKED}<|channel|>final<|message|>",
    },
    "a cut in the header": {
        "all": f"{ASKED}[[<|channel|>analysis]]",
        "no_reasoning": f"{ASKED}<|channel|>analysis",
        "tools_only": f"{ASKED}<|channel|>analysis",
    },
    "a cut behind the role": {"all": ASKED},
    "a cut behind the start": {"all": ASKED.removesuffix("assistant")},
    "words behind the stop token": {"all": f"{ASKED}[[<|channel|>final<|message|>Sun<|return|>]] and more<|end|>"},
    "no channel": {"all": f"{ASKED}[[<|message|>Sun<|return|>]]"},
    "no message": {"all": f"{ASKED}[[<|return|>]]", "final_only": f"{ASKED}<|return|>"},
    "a user who says assistant": {"all": "<|start|>user<|message|>assistant<|end|>"},
    "nothing": {"all": ""},
}
BARE_CASES = [(name, mode) for name, expected in BARE.items() for mode in expected]


@pytest.mark.parametrize(("name", "mode"), BARE_CASES, ids=[" - ".join(case) for case in BARE_CASES])
def test_messages_are_told_by_their_headers_and_end_where_they_end(name, mode):
    expected = parsed(BARE[name][mode])
    assert masked([token for token, _ in expected], mode) == expected


def test_spans_say_part_and_whether_a_message_is_whole():
    text = f"{ASKED}<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant{PREAMBLE}{CALL}{ROME}"
    text += "<|start|>assistant<|channel|>final<|message|>Sun"
    ids = [token for token, _ in parsed(text)]
    found = masking.spans(ids, TOKENIZER, MARKS)
    assert [(span.part, span.ended) for span in found] == [
        (Part.ANALYSIS, True), (Part.COMMENTARY, True), (Part.TOOL_CALL, True), (Part.FINAL, False),
    ]  # fmt: skip
    assert [TOKENIZER.decode(ids[span.begin : span.body]) for span in found] == [
        "<|channel|>analysis<|message|>",
        "<|start|>assistant<|channel|>commentary<|message|>",
        "<|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>",
        "<|channel|>final<|message|>",
    ]
    assert [TOKENIZER.decode(ids[span.body : span.stop]) for span in found] == [
        "Hm.<|end|>", "I look it up.<|end|>", '{"a": 1}<|call|>', "Sun",
    ]  # fmt: skip


def test_marks_are_the_tokens_that_structure_a_dialogue():
    tokens = [MARKS.start, MARKS.message, MARKS.end, *MARKS.stop, *MARKS.assistant]
    assert TOKENIZER.convert_ids_to_tokens(tokens) == [
        "<|start|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>", "assistant",
    ]  # fmt: skip
