"""The gate: what would be learned is counted exactly, what cannot teach is refused with its cause."""

import json
from dataclasses import asdict

import pytest
from transformers import AutoTokenizer

from configs.errors import DataError, TrainingError
from configs.paths import TINY_MODEL
from configs.schema import DataConfig
from jobs.data import dataset, gate, split
from jobs.data.layouts import dialogue
from jobs.data.masking import IGNORED

TOKENIZER = AutoTokenizer.from_pretrained(TINY_MODEL)
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]


def user(text: str = "Hi") -> dict:
    return {"role": "user", "content": text}


def says(text: str = "Hello.", **more) -> dict:
    return {"role": "assistant", "content": text, **more}


def calls(**more) -> dict:
    return {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": {}}}], **more}


def rows(*dialogues: list[dict], tools=None, bad=()) -> dataset.Rows:
    made = [dialogue.of(each, tools, f"a.jsonl:{number}") for number, each in enumerate(dialogues, 1)]
    return dataset.Rows(made, list(bad))


def measure(found: dataset.Rows, max_seq_length: int = 512, **config) -> gate.Report:
    config = DataConfig(**{"holdout": 0, "max_bad_rows": 9} | config)
    return dataset.measure(found, TOKENIZER, config, max_seq_length).report


def refused(found: dataset.Rows, max_seq_length: int = 512, **config) -> TrainingError:
    config = DataConfig(**{"holdout": 0} | config)
    with pytest.raises(TrainingError) as caught:
        dataset.prepare(found, TOKENIZER, config, max_seq_length)
    assert caught.value.hint
    return caught.value


def count(text: str) -> int:
    """Tokens of a rendered text."""
    return len(TOKENIZER.encode(text))


def length(*messages: dict, tools=None) -> int:
    return measure(rows(list(messages), tools=tools)).longest_row


# Counting


def test_tokens_are_counted_by_part_in_all_and_learned():
    report = measure(rows([user(), calls(thinking="Look.")], [user(), says(thinking="Greet.")], tools=TOOLS))
    assert {name: each.tokens for name, each in report.parts.items()} == {
        "analysis": count("<|channel|>analysis<|message|>Look.<|end|>")
        + count("<|channel|>analysis<|message|>Greet.<|end|>"),
        "commentary": 0,
        "tool_call": count(
            "<|start|>assistant to=functions.f<|channel|>commentary <|constrain|>json<|message|>{}<|call|>"
        ),
        "final": count("<|start|>assistant<|channel|>final<|message|>Hello.<|return|>"),
    }
    assert all(each.tokens == each.learned for each in report.parts.values())
    assert report.learned_tokens == sum(each.learned for each in report.parts.values()) < report.tokens
    assert report.ends == {
        "<|return|>": gate.Ends(1, 1, 1),
        "<|call|>": gate.Ends(1, 1, 1),
        "<|end|>": gate.Ends(2, 2, 2),
    }


def test_a_mode_changes_what_is_learned_and_not_what_is_there():
    found = rows([user(), calls(thinking="Look.")], [user(), says(thinking="Greet.")], tools=TOOLS)
    everything, answers = measure(found), measure(found, mask="final_only")
    assert {name: each.tokens for name, each in answers.parts.items()} == {
        name: each.tokens for name, each in everything.parts.items()
    }
    assert {name: each.learned for name, each in answers.parts.items()} == {
        "analysis": 0, "commentary": 0, "tool_call": 0, "final": count("Hello.<|return|>"),
    }  # fmt: skip
    assert answers.ends["<|return|>"] == gate.Ends(1, 1, 1)
    assert answers.ends["<|call|>"] == gate.Ends(1, 1, 0)


def test_an_answer_in_an_earlier_turn_counts_as_one_that_ends_in_return():
    report = measure(rows([user(), says(), user("Bye"), says("Ciao.")]))
    assert (report.ends["<|return|>"], report.ends["<|end|>"]) == (gate.Ends(2, 2, 2), gate.Ends(0, 0, 0))


def test_cut_rows_say_how_much_they_lose_and_which_ends():
    short, long, longest = (length(user(), says("Hello." * times)) for times in (1, 3, 6))
    found = rows(*[[user(), says("Hello." * times)] for times in (6, 1, 3)])
    report = measure(found, max_seq_length=short)
    assert (report.longest_row, report.longest_where) == (longest, "a.jsonl:1")
    assert report.mean_row == (short + long + longest) / 3
    assert (report.cut_rows, report.cut_share) == (2, 2 / 3)
    assert report.cut_tokens_largest == longest - short
    assert report.cut_tokens_mean == (longest - short + long - short) / 2
    assert report.ends["<|return|>"] == gate.Ends(3, 1, 1)
    assert report.tokens == 3 * short


def test_row_lengths_are_a_histogram_and_percentiles():
    found = rows(*[[user(), says("Hello." * times)] for times in range(1, 41)])
    report = measure(found)
    assert sum(rows for _, rows in report.histogram) == 40
    width = report.histogram[1][0]
    assert [first for first, _ in report.histogram] == [index * width for index in range(len(report.histogram))]
    assert report.histogram[-1][0] <= report.longest_row < report.histogram[-1][0] + width
    assert report.percentiles["50"] == length(user(), says("Hello." * 21))
    assert report.percentiles["99"] == report.longest_row


def test_rows_that_teach_nothing_are_left_out_and_named():
    found = rows([user(), says()], [user("Hi " * 300), says()])
    prepared = dataset.prepare(found, TOKENIZER, DataConfig(holdout=0, max_cut_share=1), 200)
    report = prepared.report
    assert (report.rows, report.training_rows, report.empty_rows, report.empty) == (2, 1, 1, ("a.jsonl:2",))
    assert len(prepared.training) == 1
    assert all(any(label != IGNORED for label in row["labels"]) for row in prepared.training)


def test_duplicates_are_counted():
    assert measure(rows([user(), says()], [user("x"), says()], [user(), says()], [user(), says()])).duplicates == 2


def test_thinking_that_the_template_leaves_out_is_counted():
    found = rows([user(), says(thinking="Lost."), user(), says(thinking="Kept.")], [user(), says(thinking="Kept.")])
    assert measure(found).unrendered_thinking == 1


def test_rows_that_the_template_refuses_are_bad_rows():
    stray = [user(), {"role": "tool", "content": "x"}, says()]
    found = rows([user(), says()], stray, bad=["a.jsonl:9: not JSON"])
    report = measure(found)
    assert (report.rows, report.bad_rows) == (1, 2)
    assert report.bad[0] == "a.jsonl:9: not JSON"
    assert report.bad[1].startswith("a.jsonl:2: messages[1]: a tool message without")
    assert "2 bad rows are left out: a.jsonl:9: not JSON; a.jsonl:2: " in str(report)
    with pytest.raises(DataError, match=r"a\.jsonl:9: not JSON; a\.jsonl:2: .*2 bad rows, 1 allowed"):
        measure(found, max_bad_rows=1)


def test_data_of_which_no_row_can_be_rendered_is_refused():
    with pytest.raises(DataError, match=r"no row can be rendered: a\.jsonl:1: messages\[0\]"):
        measure(rows([{"role": "tool", "content": "x"}, says()]))


def test_a_report_is_json():
    report = measure(rows([user(), says()], bad=["a.jsonl:2: x"]))
    read = json.loads(json.dumps(asdict(report)))
    assert read["parts"]["final"]["learned"] == report.parts["final"].learned
    assert read["bad"] == ["a.jsonl:2: x"]


def test_fingerprints_follow_content_and_template_date_and_effort():
    one, other = [user(), says()], [user("x"), says()]
    report = measure(rows(one, other))
    assert measure(rows(one, other)).data_fingerprint == report.data_fingerprint
    assert measure(rows(other, one)).data_fingerprint != report.data_fingerprint
    same = {measure(rows(one), mask=mask).template_fingerprint for mask in ("all", "final_only")}
    assert same == {report.template_fingerprint}
    changed = [{"current_date": "2026-01-02"}, {"reasoning_effort": "high"}]
    assert (
        len({report.template_fingerprint, *(measure(rows(one), **each).template_fingerprint for each in changed)}) == 3
    )


# Refusing


def test_rows_that_are_cut_before_the_first_answer_teach_nothing():
    error = refused(rows([user(), says()], [user("x"), says()]), max_seq_length=20)
    assert error.message == (
        "nothing would be learned: all labels of 2 rows are -100; "
        "model.max_seq_length 20 cuts every row before the assistant's first message"
    )
    assert "max_seq_length" in error.hint


def test_a_mask_that_fits_nothing_in_the_data_is_named():
    error = refused(rows([user(), says(thinking="Greet.")]), mask="tools_only")
    assert "all labels of 1 rows are -100; data.mask tools_only learns none of what the rows have" in error.message
    assert error.message.endswith(": analysis, final")
    assert "another data.mask" in error.hint


def test_a_mask_whose_part_is_cut_off_everywhere_is_named():
    whole = length(user(), says(thinking="Greet."))
    error = refused(rows([user(), says(thinking="Greet.")]), max_seq_length=whole - 3, mask="final_only")
    assert "all labels of 1 rows are -100" in error.message
    assert f"model.max_seq_length {whole - 3} cuts every row before its first learned token" in error.message


@pytest.mark.parametrize(("message", "end"), [(says(), "<|return|>"), (calls(), "<|call|>")])
def test_a_stop_token_that_is_never_learned_is_refused(message, end):
    whole = length(user(), message, tools=TOOLS)
    error = refused(rows([user(), message], tools=TOOLS), max_seq_length=whole - 1, max_cut_share=1)
    assert error.message.startswith(f"{end} would never be learned")
    assert f"max_seq_length {whole - 1}" in error.message
    assert f"longest row has {whole} tokens" in error.hint


def test_a_mode_is_not_asked_for_stop_tokens_that_it_does_not_learn():
    found = rows([user(), calls()], tools=TOOLS)
    assert dataset.prepare(found, TOKENIZER, DataConfig(holdout=0, mask="tools_only"), 512).report.training_rows == 1
    mixed = rows([user(), calls(), {"role": "tool", "content": "x"}, says("Hello." * 50)], tools=TOOLS)
    cut = length(user(), calls(), tools=TOOLS)
    config = DataConfig(holdout=0, mask="tools_only", max_cut_share=1)
    assert dataset.prepare(mixed, TOKENIZER, config, cut).report.ends["<|return|>"] == gate.Ends(1, 0, 0)
    assert "<|return|> would never be learned" in refused(mixed, cut, max_cut_share=1).message


def test_more_cut_rows_than_allowed_are_refused_and_as_many_are_not():
    short = length(user(), says())
    found = rows([user(), says()], [user(), says("Hello." * 9)], [user(), says("a")], [user(), says("b")])
    error = refused(found, short, max_cut_share=0.24)
    assert error.message.startswith("1 of 4 rows (25 %) are cut before their end, more than data.max_cut_share 0.24")
    assert "--set data.max_cut_share" in error.hint
    assert dataset.prepare(found, TOKENIZER, DataConfig(holdout=0, max_cut_share=0.25), short).report.cut_rows == 1


def test_a_holdout_that_leaves_nothing_to_train_is_refused():
    error = refused(rows([user(), says()]), holdout=0.999999)
    assert error.message.startswith("nothing is left to train: data.holdout 0.999999 keeps 1 of 1 rows")
    assert "data.holdout" in error.hint


# Held-out rows

MANY = [dialogue.of([user(f"question {number}"), says()], None, f"a.jsonl:{number}") for number in range(2000)]


def test_about_the_share_is_held_out_and_both_sides_keep_their_order():
    training, held_out = split.hold_out(MANY, 0.05)
    assert 60 <= len(held_out) <= 140
    assert {each.where for each in [*training, *held_out]} == {each.where for each in MANY}
    for side in (training, held_out):
        chosen = {each.where for each in side}
        assert side == [each for each in MANY if each.where in chosen]


def test_a_row_stays_on_its_side_whatever_is_added_and_however_it_is_ordered():
    held_out = {each.fingerprint for each in split.hold_out(MANY[:1000], 0.1)[1]}
    more = {each.fingerprint for each in split.hold_out(MANY[::-1], 0.1)[1]}
    assert held_out == more & {each.fingerprint for each in MANY[:1000]}


def test_a_larger_share_keeps_what_a_smaller_one_held_out():
    small, large = ({each.where for each in split.hold_out(MANY, share)[1]} for share in (0.05, 0.2))
    assert small < large
    assert split.hold_out(MANY, 0) == (MANY, [])


def test_held_out_rows_are_prepared_alike_and_never_trained():
    found = dataset.Rows(MANY[:300], [])
    prepared = dataset.prepare(found, TOKENIZER, DataConfig(holdout=0.2), 512)
    _, held_out = split.hold_out(MANY[:300], 0.2)
    assert prepared.report.held_out_rows == len(prepared.held_out) == len(held_out)
    assert len(prepared.training) == prepared.report.training_rows == 300 - len(held_out)
    trained = {tuple(row["input_ids"]) for row in prepared.training}
    assert not any(tuple(row["input_ids"]) in trained for row in prepared.held_out)
    assert all(len(row["input_ids"]) == len(row["labels"]) for row in prepared.held_out)
