"""The prompts of a benchmark."""

import json

import pytest

from configs.errors import RequestError
from jobs.benchmark import prompts


def test_prompts_differ_from_each_other_and_are_the_same_for_the_same_seed():
    vocabulary = prompts.Vocabulary(("the", "of", "and", "to"), base=10)
    first = vocabulary.prompts(40, seed=1)
    texts = [message[0]["content"] for message, _ in zip(first.prompts("measured"), range(50), strict=False)]
    assert len(set(texts)) == 50
    assert {len(text.split()) for text in texts} == {30 + len(prompts.OPENING.split())}
    again = [message[0]["content"] for message, _ in zip(first.prompts("measured"), range(50), strict=False)]
    assert again == texts
    for other in (first.prompts("warm-up"), vocabulary.prompts(40, seed=2).prompts("measured")):
        assert next(other)[0]["content"] not in texts


def test_a_prompt_shorter_than_the_template_is_refused_with_both_numbers():
    with pytest.raises(RequestError, match=r"a prompt of 68 tokens is not possible.* takes 68") as raised:
        prompts.Vocabulary(("the",), base=68).prompts(68, seed=1)
    assert raised.value.hint == "--prompt-tokens 69 or more"


def test_a_data_sets_questions_are_what_stands_before_the_last_answer(tmp_path):
    rows = [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {
            "messages": [
                {"role": "user", "content": "c"},
                {"role": "assistant", "content": "d", "thinking": "x"},
                {"role": "user", "content": "e"},
                {"role": "assistant", "content": "f"},
            ]
        },
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    found = prompts.of_dataset(str(file), "train", seed=3)
    assert [[each["content"] for each in question] for question in found.messages] == [["a"], ["c", "d", "e"]]
    assert found.messages[1][1] == {"role": "assistant", "content": "d"}
    drawn = [question for question, _ in zip(found.prompts("measured"), range(4), strict=False)]
    assert len({id(question) for question in drawn[:2]}) == len({id(question) for question in drawn[2:]}) == 2
