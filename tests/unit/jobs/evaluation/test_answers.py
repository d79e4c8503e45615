"""Answers are held to the format strictly, and to what was expected."""

import json

import pytest
from transformers import AutoTokenizer

from configs.errors import DataError
from configs.paths import TINY_MODEL
from configs.schema import DataConfig
from jobs.data import dataset
from jobs.data.layouts import expectation
from jobs.data.layouts.dialogue import Dialogue
from jobs.data.masking import Marks
from jobs.evaluation import answers
from jobs.evaluation.answers import Question, assess

TOKENIZER = AutoTokenizer.from_pretrained(TINY_MODEL)
MARKS = Marks.of(TOKENIZER)
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
THOUGHT = "<|channel|>analysis<|message|>Think.<|end|><|start|>assistant"
ROME = '{"city": "Rome"}'


def judged(generated: str, **expect):
    question = Question("file", "here", [{"role": "user", "content": "?"}], [TOOL], expect)
    ids = TOKENIZER.encode(generated, add_special_tokens=False)
    return assess(question, ids, "stop", TOKENIZER, MARKS)


def test_a_whole_answer_has_no_problems_and_its_channels_apart():
    answer = judged(f"{THOUGHT}<|channel|>final<|message|>Rome.<|return|>", exact="Rome.")
    assert (answer.text, answer.reasoning, answer.calls, answer.problems) == ("Rome.", "Think.", [], [])
    assert answer.matched is True


@pytest.mark.parametrize(
    "generated",
    [
        f"{THOUGHT} to=functions.get_weather<|channel|>commentary json<|message|>{ROME}<|call|>",
        f"{THOUGHT}<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{ROME}<|call|>",
        f"<|channel|>commentary to=functions.get_weather<|message|>{ROME}<|call|>",
    ],
)
def test_a_call_of_an_offered_tool_with_json_has_no_problems(generated):
    answer = judged(generated, call={"name": "get_weather", "arguments": {"city": "Rome"}})
    assert answer.calls == [{"name": "get_weather", "arguments": ROME}]
    assert (answer.problems, answer.matched) == ([], True)


@pytest.mark.parametrize(
    ("generated", "problems"),
    [
        ("<|channel|>final<|message|>Rome", ["the final channel is not closed", "no stop token within {n} tokens"]),
        ("<|channel|>final<|message|>Rome.<|end|>", ["no stop token within {n} tokens"]),
        ("Rome.<|return|>", ["the header 'Rome.<|return|>' is malformed"]),
        (
            "<|channel|>musing<|message|>Rome.<|return|>",
            ["the header '<|channel|>musing<|message|>' is malformed", "neither an answer nor a call"],
        ),
        (f"{THOUGHT}<|channel|>final<|message|><|return|>", ["neither an answer nor a call"]),
        (
            f"{THOUGHT}<|channel|>final<|message|>a<|channel|>b<|return|>",
            ["a special token inside the final channel"],
        ),
        (
            "<|channel|>final<|message|>a<|end|><|start|>user<|message|>b<|return|>",
            ["a message without the assistant's header"],
        ),
        (
            f"<|channel|>commentary to=functions.rain<|message|>{ROME}<|call|>",
            ["calls rain, which was not offered"],
        ),
        (
            "<|channel|>commentary to=functions.get_weather<|message|>{city<|call|>",
            ["the arguments of get_weather are not a JSON object"],
        ),
        (
            "<|channel|>commentary to=functions.get_weather<|message|>[1]<|call|>",
            ["the arguments of get_weather are not a JSON object"],
        ),
        ("", ["no stop token within 0 tokens", "neither an answer nor a call"]),
    ],
)
def test_what_a_strict_reader_would_refuse_is_named(generated, problems):
    answer = judged(generated)
    expected = [problem.replace("{n}", str(answer.tokens)) for problem in problems]
    assert sorted(answer.problems) == sorted(expected)
    assert answer.matched is None


@pytest.mark.parametrize(
    ("expect", "matched"),
    [
        ({"exact": " Rome is it.\n"}, True),
        ({"exact": "Rome is"}, False),
        ({"regex": r"\brome\b"}, False),
        ({"regex": r"(?i)\brome\b"}, True),
        ({"call": {"name": "get_weather"}}, False),
    ],
    ids=str,
)
def test_an_answer_is_compared_with_what_was_expected(expect, matched):
    assert judged("<|channel|>final<|message|>Rome is it.<|return|>", **expect).matched is matched


@pytest.mark.parametrize(
    ("wanted", "matched"),
    [
        ({"name": "get_weather"}, True),
        ({"name": "get_weather", "arguments": '{"city":"Rome"}'}, True),
        ({"name": "get_weather", "arguments": {"city": "Oslo"}}, False),
        ({"name": "rain"}, False),
    ],
    ids=str,
)
def test_a_call_is_compared_by_name_and_by_the_value_of_its_arguments(wanted, matched):
    call = f"<|channel|>commentary to=functions.get_weather<|message|>{ROME}<|call|>"
    assert judged(call, call=wanted).matched is matched


def test_a_row_asks_what_stands_before_its_last_answer():
    user, answer = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
    call = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Rome"}}}
    asks = {"role": "assistant", "tool_calls": [call]}
    result = {"role": "tool", "content": "sunny"}

    def question(*messages):
        return answers.of_row(Dialogue(list(messages), [TOOL], "d:1"))

    assert question(user, answer).messages == [user] and question(user, answer).expect == {"exact": "A"}
    assert question(user, answer, user, answer).messages == [user, answer, user]
    assert question(user, asks).expect == {"call": {"name": "get_weather", "arguments": {"city": "Rome"}}}
    assert question(user, asks, result, answer).messages == [user, asks, result]
    assert question(user, asks).tools == [TOOL]
    assert question(answer) is None


def test_a_row_that_says_what_is_expected_is_held_to_that(tmp_path):
    row = {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}
    rows = [row | {"expect": {"regex": "[AB]"}}, row | {"expect": "somebody else's column"}, row]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    read = dataset.read(DataConfig(dataset=str(tmp_path / "d.jsonl"))).dialogues
    assert [answers.of_row(each).expect for each in read] == [{"regex": "[AB]"}, {"exact": "A"}, {"exact": "A"}]
    assert len({each.fingerprint for each in read}) == 1
    (tmp_path / "bad.jsonl").write_text(json.dumps(row | {"expect": {"regex": "("}}))
    with pytest.raises(DataError, match=r"bad\.jsonl:1: `expect\.regex` is not a regular expression"):
        dataset.read(DataConfig(dataset=str(tmp_path / "bad.jsonl")))


def test_questions_are_read_from_a_file(tmp_path):
    file = tmp_path / "asked.jsonl"
    rows = [
        {"prompt": "Q", "expect": {"regex": "A"}},
        {"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "R"}], "tools": [TOOL]},
    ]
    file.write_text("\n\n".join(map(json.dumps, rows)))
    first, second = answers.read(file)
    assert (first.messages, first.expect, first.where) == (
        [{"role": "user", "content": "Q"}],
        {"regex": "A"},
        f"{file.name}:1",
    )
    assert (second.text, second.tools, second.where) == ("R", [TOOL], "asked.jsonl:3")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "not JSON"),
        ("[]", "neither `prompt` nor `messages`"),
        ("{}", "neither `prompt` nor `messages`"),
        ('{"prompt": "a", "messages": []}', "neither `prompt` nor `messages`, or both"),
        ('{"prompt": 5}', "the question is not text"),
        ('{"prompt": null}', "the question is not text"),
        ('{"messages": []}', "`messages` is not a list of messages"),
        ('{"messages": "hi"}', "`messages` is not a list of messages"),
        ('{"prompt": "a", "tools": 5}', "`tools` is not a list"),
        ('{"prompt": "a", "expect": "b"}', "`expect` is not an object with one of exact, regex, call"),
        ('{"prompt": "a", "expect": {"exact": "b", "regex": "c"}}', "`expect` has exact, regex, not one of"),
        ('{"prompt": "a", "expect": {"regex": "("}}', "not a regular expression"),
        ('{"prompt": "a", "expect": {"regex": "a{99999999999}"}}', "not a regular expression: the repetition number"),
        ('{"prompt": "a", "expect": {"a\\nb": 5}}', "`expect` has a\\nb, not one of"),
        ('{"prompt": "a", "expect": {"exact": 5}}', "`expect.exact` is not text"),
        ('{"prompt": "a", "expect": {"call": {}}}', "`expect.call` has no name"),
    ],
)
def test_a_bad_question_is_refused_with_file_and_line(line, complaint, tmp_path):
    file = tmp_path / "asked.jsonl"
    file.write_text('{"prompt": "fine"}\n' + line)
    with pytest.raises(DataError, match=r"asked\.jsonl:2: ") as caught:
        answers.read(file)
    assert complaint in caught.value.message


def test_an_empty_file_of_questions_is_refused(tmp_path):
    file = tmp_path / "asked.jsonl"
    file.write_text("\n")
    with pytest.raises(DataError, match="has no prompts"):
        answers.read(file)


def test_the_built_in_questions_expect_what_can_be_checked():
    for question in answers.BUILT_IN:
        assert expectation.checked(question.expect or None, question.where) == question.expect
