"""Data sets: every bad row is named with its line, and the report counts what will be learned."""

import json

import pytest
from datasets import Dataset, DatasetDict
from transformers import AutoTokenizer

from configs.errors import DataError, TrainingError
from configs.paths import TINY_DATASET, TINY_MODEL
from configs.schema import DataConfig
from jobs.data import dataset, masking
from jobs.data.layouts.dialogue import Dialogue

TOKENIZER = AutoTokenizer.from_pretrained(TINY_MODEL)
USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Hello."}
GOOD = {"messages": [USER, ANSWER]}
BAD_ROWS = {
    "not JSON": ("{nope", "not JSON: "),
    "a list": ("[1, 2]", "a row is an object with columns or a list of messages, not [1, 2]"),
    "no known columns": (
        '{"text": "Hi", "label": 1}',
        "cannot tell the layout: found columns text, label; "
        "expected messages or conversations or prompt+completion or instruction+output; "
        'to learn it as answers without questions: --set "data.columns={completion: text}"',
    ),
    "empty messages": ('{"messages": []}', "no list `messages`"),
    "messages that are text": ('{"messages": "Hi"}', "no list `messages`"),
    "a message that is text": ('{"messages": ["Hi"]}', "message 1: role 'Hi' is none of"),
    "an unknown role": (
        '{"messages": [{"role": "narrator", "content": "x"}]}',
        "message 1: role 'narrator' is none of",
    ),
    "no role": ('{"messages": [{"content": "x"}]}', "message 1: role None is none of"),
    "a flag as content": (
        json.dumps({"messages": [USER, {"role": "assistant", "content": True}]}),
        "message 2: `content` is True, not text",
    ),
    "an object as thinking": (
        json.dumps({"messages": [USER, ANSWER | {"thinking": {"steps": 5}}]}),
        "message 2: `thinking` is {'steps': 5}, not text",
    ),
    "nothing said": (json.dumps({"messages": [USER, {"role": "assistant"}]}), "message 2: neither `content` nor"),
    "null said": (json.dumps({"messages": [USER, ANSWER | {"content": None}]}), "message 2: neither `content` nor"),
    "no assistant": (json.dumps({"messages": [USER]}), "no assistant message, so nothing to learn"),
    "tools that are text": (json.dumps(GOOD | {"tools": "weather"}), "`tools`: not JSON: "),
}


def write(path, *rows) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def read(name: str, **config) -> list[Dialogue]:
    """The dialogues of a data set in which no row is bad."""
    rows = dataset.read(DataConfig(dataset=name, **config))
    assert rows.bad == []
    return rows.dialogues


def refused(name: str, **config) -> DataError:
    with pytest.raises(DataError) as caught:
        dataset.read(DataConfig(dataset=name, **config))
    assert "\n" not in caught.value.message
    return caught.value


# Reading


def test_the_bundled_data_set_reads_by_name():
    dialogues = read("tiny-demo")
    assert len(dialogues) == len(TINY_DATASET.read_text().splitlines())
    assert dialogues[0].where == "demo.jsonl:1"
    assert [message["role"] for message in dialogues[0].messages] == ["user", "assistant"]


def test_rows_keep_their_words_and_know_their_line(tmp_path):
    thinking = {"role": "assistant", "thinking": "Greet.", "content": "Hello."}
    name = write(tmp_path / "chats.jsonl", GOOD, "", {"messages": [USER, thinking], "tools": []})
    first, second = read(name)
    assert (first.messages, first.where) == ([USER, ANSWER], "chats.jsonl:1")
    assert (second.messages, second.where, second.tools) == ([USER, thinking], "chats.jsonl:3", None)


@pytest.mark.parametrize(("row", "complaint"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_bad_row_is_named_with_its_line_and_reason(row, complaint, tmp_path):
    message = refused(write(tmp_path / "chats.jsonl", GOOD, row, GOOD)).message
    assert message.startswith("chats.jsonl:2: ")
    assert complaint in message


def test_all_bad_rows_are_found_at_once_and_many_are_counted(tmp_path):
    rows = [GOOD, "{", GOOD, *(["[]"] * 7)]
    message = refused(write(tmp_path / "chats.jsonl", *rows)).message
    assert "chats.jsonl:2: not JSON" in message
    assert message.endswith(
        "chats.jsonl:4: a row is an object with columns or a list of messages, not [] "
        "(the same in 6 more: chats.jsonl:5, chats.jsonl:6, chats.jsonl:7, ...)"
    )
    different = [json.dumps({"messages": [{"role": f"role {number}"}]}) for number in range(8)]
    assert refused(write(tmp_path / "chats.jsonl", GOOD, *different)).message.endswith("; and 3 more")


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER, {"role": "assistant", "tool_calls": ["x"]}]},
        {"messages": [USER, {"role": "assistant", "tool_calls": "x"}]},
        {"messages": [USER, {"role": "assistant", "tool_calls": 5}]},
        {"messages": [USER, ANSWER], "tools": ["x"]},
    ],
    ids=["call is text", "calls are text", "calls are a number", "tool is text"],
)
def test_malformed_tools_and_calls_are_a_data_error_with_the_line(row, tmp_path):
    with pytest.raises(DataError, match=r"chats\.jsonl:1: "):
        prepare(read(write(tmp_path / "chats.jsonl", row)))


def test_text_may_hold_unicode_line_separators(tmp_path):
    text = "one\u2028two\x85three"
    path = tmp_path / "chats.jsonl"
    row = {"messages": [USER, {"role": "assistant", "content": text}]}
    path.write_text(json.dumps(row, ensure_ascii=False) + "\n" + json.dumps(GOOD) + "\n", encoding="utf-8")
    first, second = read(str(path))
    assert first.messages[1]["content"] == text
    assert second.where == "chats.jsonl:2"


def test_windows_line_ends_are_fine(tmp_path):
    path = tmp_path / "chats.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b"\r\n" + json.dumps(GOOD).encode() + b"\r\n")
    assert [dialogue.where for dialogue in read(str(path))] == ["chats.jsonl:1", "chats.jsonl:2"]


def test_a_file_that_is_not_utf8_is_refused_with_its_name(tmp_path):
    path = tmp_path / "chats.jsonl"
    path.write_bytes(b"\xff\xfe\x00")
    error = refused(str(path))
    assert str(path) in error.message
    assert "UTF-8" in error.hint


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file_is_refused(content, tmp_path):
    path = tmp_path / "chats.jsonl"
    path.write_text(content)
    assert "is empty" in refused(str(path)).message


def test_another_kind_of_file_is_refused(tmp_path):
    path = tmp_path / "chats.txt"
    path.write_text("a,b")
    error = refused(str(path))
    assert error.message == f"{path} is not a file of rows"
    assert error.hint.startswith("one of .jsonl, .ndjson, .json, .csv, .tsv, .parquet, .arrow, .feather, packed (.gz")


@pytest.mark.parametrize("name", ["nope.jsonl", "./nope", "/nope/chats.jsonl", "~/nope.jsonl", "nope", "a/b/c"])
def test_what_is_neither_a_file_nor_a_hub_name_is_refused_with_what_would_do(name):
    error = refused(name)
    assert error.message == f"no data set '{name}'"
    assert "tiny-demo" in error.hint
    assert ".jsonl" in error.hint


@pytest.mark.parametrize("name", ["HuggingFaceH4/Multilingual-Thinking", "owner/data-v1.5"])
def test_a_hub_name_is_no_local_file(name):
    assert dataset.locate(name) is None


def test_a_hub_data_set_that_cannot_be_had_is_named_in_one_line():
    error = refused("nobody-of-this-name/no-such-data")
    assert error.message.startswith("cannot load data set 'nobody-of-this-name/no-such-data' (train): ")
    assert "network" in error.hint


def test_a_relative_path_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "chats.jsonl", GOOD)
    assert dataset.locate("chats.jsonl") == tmp_path / "chats.jsonl"


def test_a_folder_made_by_datasets_reads_and_arrows_absent_keys_are_absent(tmp_path):
    silent = [message | {"thinking": None} for message in (USER, ANSWER)]
    thinking = [silent[0], ANSWER | {"thinking": "Greet."}]
    Dataset.from_list([{"messages": silent}, {"messages": thinking}]).save_to_disk(tmp_path / "data")
    first, second = read(str(tmp_path / "data"))
    assert first.messages == [USER, ANSWER]
    assert second.messages[1]["thinking"] == "Greet."
    assert second.where == "data[1]"


def test_a_split_that_does_not_exist_lists_those_that_do(tmp_path):
    whole = DatasetDict({"train": Dataset.from_list([GOOD]), "test": Dataset.from_list([GOOD])})
    whole.save_to_disk(tmp_path / "data")
    assert len(read(str(tmp_path / "data"), split="test")) == 1
    error = refused(str(tmp_path / "data"), split="validation")
    assert "no split 'validation'" in error.message
    assert error.hint == "splits: train, test; choose one: --set data.split=train"


def test_a_folder_without_rows_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("Hi")
    assert refused(str(tmp_path)).message == f"{tmp_path} holds no files of rows"


# Preparing


def prepare(dialogues, max_seq_length: int = 512, **config) -> dataset.Prepared:
    """With nothing held out, and as many rows cut as may be, unless the test says otherwise."""
    config = DataConfig(**{"holdout": 0, "max_cut_share": 1} | config)
    return dataset.prepare(dataset.Rows(list(dialogues), []), TOKENIZER, config, max_seq_length)


def dialogue(*messages: dict, where: str = "chats.jsonl:1") -> Dialogue:
    return Dialogue(list(messages), None, where)


def test_rows_are_ids_and_labels_of_equal_length_and_are_counted():
    prepared = prepare([dialogue(USER, ANSWER)] * 3)
    (row, *_) = prepared.training
    assert len(row["input_ids"]) == len(row["labels"])
    answer = "<|channel|>final<|message|>Hello.<|return|>"
    assert TOKENIZER.decode([label for label in row["labels"] if label != masking.IGNORED]) == answer
    report = prepared.report
    assert (report.rows, report.cut_rows, report.empty_rows) == (3, 0, 0)
    assert report.tokens == 3 * len(row["input_ids"]) == 3 * report.longest_row
    assert report.learned_tokens == 3 * len(TOKENIZER.encode(answer, add_special_tokens=False))


def test_a_row_that_is_too_long_is_cut_at_the_end_and_counted():
    rows = [dialogue(USER, {"role": "assistant", "content": "Hello, hello, hello."}), dialogue(USER, ANSWER)]
    whole = prepare(rows)
    length = whole.report.longest_row
    cut = prepare(rows, max_seq_length=length - 2)
    assert cut.training[0]["input_ids"] == whole.training[0]["input_ids"][:-2]
    assert cut.training[1] == whole.training[1]
    assert (cut.report.cut_rows, cut.report.longest_row) == (1, length)
    assert (cut.report.cut_tokens_largest, cut.report.cut_tokens_mean, cut.report.cut_share) == (2, 2, 0.5)
    assert cut.report.tokens == whole.report.tokens - 2
    assert cut.report.learned_tokens == whole.report.learned_tokens - 2
    assert f"1 rows lose their end (the longest has {length} tokens)" in str(cut.report)
    assert prepare(rows, max_seq_length=length).report.cut_rows == 0


def test_a_row_that_is_cut_before_its_answer_teaches_nothing_and_is_counted():
    long = dialogue({"role": "user", "content": "Hi " * 500}, ANSWER)
    report = prepare([long, dialogue(USER, ANSWER)], max_seq_length=200).report
    assert (report.rows, report.cut_rows, report.empty_rows) == (2, 1, 1)
    assert "1 rows teach nothing" in str(report)


def test_data_in_which_nothing_is_learned_is_refused():
    with pytest.raises(TrainingError) as caught:
        prepare([dialogue(USER, ANSWER)] * 2, max_seq_length=20)
    assert "all labels of 2 rows are -100" in caught.value.message
    assert "max_seq_length" in caught.value.hint


def test_a_dialogue_that_the_template_refuses_is_named_with_its_line():
    stray = dialogue(USER, {"role": "tool", "content": "sunny"}, ANSWER, where="chats.jsonl:7")
    with pytest.raises(DataError) as caught:
        prepare([dialogue(USER, ANSWER), stray])
    assert caught.value.message.startswith("chats.jsonl:7: messages[1]: ")


def test_reasoning_effort_and_date_are_in_every_row_and_change_nothing_else():
    text = TOKENIZER.decode(
        prepare([dialogue(USER, ANSWER)], reasoning_effort="high", current_date="2031-05-06").training[0]["input_ids"]
    )
    assert "Reasoning: high" in text
    assert "Current date: 2031-05-06" in text
    assert prepare([dialogue(USER, ANSWER)]).training == prepare([dialogue(USER, ANSWER)]).training


def test_the_bundled_data_set_fits_its_profile_without_a_cut():
    report = prepare(read("tiny-demo")).report
    assert (report.cut_rows, report.empty_rows) == (0, 0)
    assert report.learned_tokens > report.rows * 5
