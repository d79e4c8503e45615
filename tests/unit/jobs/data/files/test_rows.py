"""Files of rows: every format gives the same dialogues, and whatever is broken is one DataError with its place."""

import bz2
import csv
import gzip
import json
import lzma
import re
from pathlib import Path

import pandas
import pyarrow
import pytest
from datasets import Dataset, Features, List, Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import ipc, parquet
from transformers import AutoTokenizer

from configs import load
from configs.errors import ConfigError, DataError
from configs.paths import TINY_MODEL
from configs.schema import DataConfig
from jobs.data import dataset
from jobs.data.files import rows as row_files

MESSAGES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": 'One\nline, or "two"; \u2028 é'}]
ROW = {"messages": MESSAGES}
LINE = json.dumps(ROW)


def read(path, **config) -> dataset.Rows:
    return dataset.read(DataConfig(dataset=str(path), **config))


def refused(path, **config) -> DataError:
    with pytest.raises(DataError) as caught:
        read(path, **config)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 3000
    return caught.value


def write(path, content: str | bytes):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def save_csv(path, columns, *rows):
    with path.open("w", newline="") as handle:
        csv.writer(handle).writerows([columns, *rows])
    return path


def save_parquet(path, rows):
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


# Formats

TURNS = [
    {"messages": [
        {"role": "system", "content": "Be brief.", "name": None}, {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "thinking": "Look.", "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "get", "arguments": {"city": "Rome", "zone": None}}},
        ]},
        {"role": "tool", "tool_call_id": "a", "content": "21"},
        {"role": "assistant", "content": "21 \u2028 \u00e9\r\nand \U0001f600", "weight": 1},
    ], "tools": [{"type": "function", "function": {"name": "get", "description": "Gets.", "parameters": {
        "type": "object", "properties": {"city": {"type": "string", "enum": None}, "zone": None}, "required": ["city"],
    }}}], "score": float("nan")},
    {"messages": [
        {"role": "user", "content": "Time?"}, {"role": "assistant", "content": "Noon.", "weight": 0},
        {"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "<think>Hm.</think>Yes.</s>"},
    ], "tools": None, "score": 0.5},
]  # fmt: skip
FLAT = [
    {"instruction": "Add.", "input": "2+2", "output": 4, "system": None, "score": 1.5, "history": [["a?", "b."]]},
    {"instruction": "Take 1 from 0.5", "input": "", "output": -1, "system": "S", "score": None, "history": None},
]  # fmt: skip
TEXTS = [
    {"prompt": 'Say "hi";\tnow, | or\r\nlater', "completion": " Hi\n", "thinking": "Hm.", "": 1},
    {"prompt": "sep=;", "completion": "{'a': 1}", "thinking": None, "": 2},
]


def packed(row: dict) -> dict:
    """A row for a table: lists as JSON, nothing as pandas writes it."""
    texts = {key: json.dumps(value) if isinstance(value, list) else value for key, value in row.items()}
    return {key: "nan" if value is None else value for key, value in texts.items()}


def table(path, rows, delimiter=","):
    with path.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, [*rows[0]], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(map(packed, rows))
    return path


def arrow_file(path, rows, new):
    data = pyarrow.Table.from_pylist(rows)
    with new(str(path), data.schema) as writer:
        writer.write_table(data)
    return path


def lines(rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


SAVED = {
    "jsonl": lambda folder, rows: write(folder / "a.jsonl", lines(rows).replace(b"\n", b"\n\n")),
    "jsonl of Windows": lambda folder, rows: write(folder / "a.jsonl", lines(rows).replace(b"\n", b"\r\n")),
    "jsonl of old Macs": lambda folder, rows: write(folder / "a.jsonl", lines(rows).replace(b"\n", b"\r")),
    "jsonl with a byte order mark": lambda folder, rows: write(folder / "a.jsonl", b"\xef\xbb\xbf" + lines(rows)),
    "jsonl with commas": lambda folder, rows: write(folder / "a.jsonl", lines(rows).replace(b"\n", b",\n")),
    "ndjson": lambda folder, rows: write(folder / "a.ndjson", lines(rows)),
    "jsonl over several lines": lambda folder, rows: write(
        folder / "a.jsonl", "\n".join(json.dumps(row, indent=2) for row in rows)
    ),
    "jsonl that is a list": lambda folder, rows: write(folder / "a.jsonl", json.dumps(rows)),
    "json list": lambda folder, rows: write(folder / "a.json", json.dumps(rows, indent=1)),
    "json list with a last comma": lambda folder, rows: write(folder / "a.json", json.dumps(rows)[:-1] + ",\n]"),
    "json lines": lambda folder, rows: write(folder / "a.json", lines(rows)),
    "no suffix": lambda folder, rows: write(folder / "rows", lines(rows)),
    "utf-16": lambda folder, rows: write(folder / "a.jsonl", lines(rows).decode().encode("utf-16")),
    "gzip": lambda folder, rows: write(folder / "a.jsonl.gz", gzip.compress(lines(rows))),
    "gzip under another name": lambda folder, rows: write(folder / "a.jsonl", gzip.compress(lines(rows))),
    "bzip2": lambda folder, rows: write(folder / "a.json.bz2", bz2.compress(lines(rows))),
    "xz": lambda folder, rows: write(folder / "a.ndjson.xz", lzma.compress(lines(rows))),
    "zstandard": lambda folder, rows: write(
        folder / "a.jsonl.zst", pyarrow.compress(lines(rows), codec="zstd", asbytes=True)
    ),
    "csv": lambda folder, rows: table(folder / "a.csv", rows),
    "csv with semicolons": lambda folder, rows: table(folder / "a.csv", rows, ";"),
    "csv with bars": lambda folder, rows: table(folder / "a.csv", rows, "|"),
    "csv with tabs": lambda folder, rows: table(folder / "a.csv", rows, "\t"),
    "tsv": lambda folder, rows: table(folder / "a.tsv", rows, "\t"),
    "csv of Excel": lambda folder, rows: write(
        folder / "b.csv", b"\xef\xbb\xbf" + b"sep=;\r\n" + table(folder / "a.csv", rows, ";").read_bytes()
    ),
    "csv of pandas": lambda folder, rows: (
        pandas.DataFrame(rows).to_csv(folder / "a.csv", na_rep="nan"), folder / "a.csv"
    )[1],
    "packed csv": lambda folder, rows: write(
        folder / "b.csv.gz", gzip.compress(table(folder / "a.csv", rows).read_bytes())
    ),
    "parquet": lambda folder, rows: save_parquet(folder / "a.parquet", rows),
    "packed parquet": lambda folder, rows: write(
        folder / "b.parquet.gz", gzip.compress(save_parquet(folder / "a.parquet", rows).read_bytes())
    ),
    "feather": lambda folder, rows: arrow_file(folder / "a.feather", rows, ipc.new_file),
    "arrow stream": lambda folder, rows: arrow_file(folder / "a.arrow", rows, ipc.new_stream),
    "folder of datasets": lambda folder, rows: (Dataset.from_list(rows).save_to_disk(folder / "a"), folder / "a")[1],
    "folder of jsonl": lambda folder, rows: write(folder / "train.jsonl", lines(rows)).parent,
    "folder of parquet": lambda folder, rows: (
        save_parquet(folder / "train-00000-of-00002.parquet", rows[:1]),
        save_parquet(folder / "train-00001-of-00002.parquet", rows[1:]).parent,
    )[1],
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(TINY_MODEL)


@pytest.mark.parametrize("rows", [TURNS, FLAT, TEXTS], ids=["messages", "alpaca", "texts"])
@pytest.mark.parametrize("save", SAVED.values(), ids=SAVED)
def test_the_same_rows_train_the_same_tokens_in_every_format(save, rows, tmp_path, tokenizer):
    def trained(found: dataset.Rows) -> list[dict]:
        assert found.bad == []
        return dataset.prepare(found, tokenizer, DataConfig(holdout=0), 4096).training

    expected = trained(read(write(tmp_path / "expected.jsonl", lines(rows))))
    (folder := tmp_path / "saved").mkdir()
    assert len(expected) == 2 and trained(read(save(folder, rows))) == expected


# Arrow's types


TYPES = {
    "binary": pyarrow.binary(), "large_string": pyarrow.large_string(),
    "dictionary": pyarrow.dictionary(pyarrow.int32(), pyarrow.string()),
}  # fmt: skip


@pytest.mark.parametrize("kind", TYPES.values(), ids=TYPES)
def test_text_is_text_in_whatever_type_arrow_holds_it(kind, tmp_path):
    columns = {name: pyarrow.array([text], pyarrow.string()).cast(kind) for name, text in
               (("prompt", "Lamp? \u00e9"), ("completion", "Green."))}  # fmt: skip
    when = pyarrow.array([10**18], pyarrow.timestamp("ns"))
    parquet.write_table(pyarrow.table({**columns, "when": when, "price": [float("nan")]}), tmp_path / "a.parquet")
    (dialogue,) = read(tmp_path / "a.parquet").dialogues
    assert [each["content"] for each in dialogue.messages] == ["Lamp? \u00e9", "Green."]
    assert dialogue.unused == ("column `when`", "column `price`")


def test_bytes_that_are_no_text_and_are_used_are_refused(tmp_path):
    save_parquet(tmp_path / "a.parquet", [{"prompt": b"\xff", "completion": "Green."}])
    assert "`prompt` is bytes that are not UTF-8" in refused(tmp_path / "a.parquet").message


def test_arguments_of_arrows_type_map_are_an_object(tmp_path):
    arguments = pyarrow.map_(pyarrow.string(), pyarrow.string())
    call = pyarrow.struct([("name", pyarrow.string()), ("arguments", arguments)])
    message = pyarrow.struct(
        [("role", pyarrow.string()), ("content", pyarrow.string()), ("tool_calls", pyarrow.list_(call))]
    )
    said = [
        {"role": "user", "content": "Rome?"},
        {"role": "assistant", "tool_calls": [{"name": "get", "arguments": [("city", "Rome")]}]},
    ]
    rows = pyarrow.array([said], pyarrow.list_(message))
    parquet.write_table(pyarrow.table({"messages": rows}), tmp_path / "a.parquet")
    (dialogue,) = read(tmp_path / "a.parquet").dialogues
    assert dialogue.messages[1]["tool_calls"][0]["function"] == {"name": "get", "arguments": {"city": "Rome"}}


# Encodings, folders


def test_other_encodings_are_named_and_read_if_they_are_given(tmp_path):
    path = write(tmp_path / "a.csv", "prompt,completion\nCaf\xe9?,\xd6ffnet um 9 \x80.\n".encode("latin-1"))
    message = refused(path).message
    assert message.endswith(
        "bytes that are not UTF-8; if the file has another encoding, as from Excel: --set data.encoding=cp1252"
    )
    (dialogue,) = read(path, encoding="cp1252").dialogues
    assert [each["content"] for each in dialogue.messages] == ["Caf\xe9?", "\xd6ffnet um 9 \u20ac."]
    plain = write(tmp_path / "b.jsonl", LINE.encode("utf-16-be"))
    assert "--set data.encoding=utf-16-be" in refused(plain).hint
    assert len(read(plain, encoding="utf-16-be").dialogues) == 1
    assert "is not cp1252: " in refused(write(tmp_path / "c.jsonl", b"\x81"), encoding="cp1252").message
    with pytest.raises(ConfigError, match="no text encoding of Python"):
        load.load_run("tiny", ["data.encoding=utf-9"])


def test_a_folder_gives_the_files_of_its_split(tmp_path):
    def row(text: str) -> str:
        return json.dumps({"prompt": "a", "completion": text})

    for name in (
        "chats.jsonl",
        "data/test-00000-of-00001.jsonl",
        "validation/a.ndjson",
        "more.json.gz",
        ".hidden.jsonl",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        content = row(name).encode()
        write(tmp_path / name, gzip.compress(content) if name.endswith("gz") else content)
    (tmp_path / "README.md").write_text("x")
    (tmp_path / "dataset_infos.json").write_text("{}")

    def texts(**config) -> list[tuple[str, str]]:
        return [(each.where, each.messages[1]["content"]) for each in read(tmp_path, **config).dialogues]

    assert texts() == [("chats.jsonl:1", "chats.jsonl"), ("more.json.gz:1", "more.json.gz")]
    assert texts(split="test") == [("data/test-00000-of-00001.jsonl:1", "data/test-00000-of-00001.jsonl")]
    assert texts(split="val") == texts(split="validation") == [("validation/a.ndjson:1", "validation/a.ndjson")]
    error = refused(tmp_path, split="train_sft")
    assert error.message == f"{tmp_path} has no split 'train_sft'"
    assert error.hint == "splits: train, test, validation; choose one: --set data.split=train"


@pytest.mark.parametrize("name", ["a.xlsx", "a.zip", "a.pkl", "a.sqlite", "a.tar", "a.yaml"])
def test_files_that_hold_rows_somewhere_else_are_refused_with_what_to_do(name, tmp_path):
    error = refused(write(tmp_path / name, b"PK\x03\x04"))
    assert error.message == f"{tmp_path / name} is not a file of rows"
    assert error.hint == row_files.FOREIGN[Path(name).suffix]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.jsonl.xz", "a.jsonl.bz2"])
def test_a_packed_file_that_is_cut_off_is_refused(name, tmp_path):
    content = SAVED[{"gz": "gzip", "zst": "zstandard", "xz": "xz", "bz2": "bzip2"}[name.split(".")[-1]]](
        tmp_path, TURNS
    )
    path = write(tmp_path / name, content.read_bytes()[:-9])
    assert refused(path).message.startswith(f"{path} is packed and cannot be unpacked: ")


def test_a_comment_is_a_bad_row_and_a_table_may_have_columns_without_names(tmp_path):
    path = write(tmp_path / "a.jsonl", f"// my data\n{LINE}\n# more\n")
    assert refused(path).message == (
        "a.jsonl:1: a comment, which JSON does not have: remove the line (the same in 1 more: a.jsonl:3)"
    )
    (dialogue,) = read(write(tmp_path / "a.csv", ",prompt,completion,\n0,a,b,\n")).dialogues
    assert (dialogue.messages[1]["content"], dialogue.unused) == ("b", ("column `a column without a name`",))


def test_a_list_of_one_conversation_is_one_row_and_lists_of_lists_are_rows(tmp_path):
    assert [each.messages for each in read(write(tmp_path / "a.json", json.dumps(MESSAGES))).dialogues] == [MESSAGES]
    two = write(tmp_path / "b.json", json.dumps([MESSAGES, MESSAGES]))
    assert [each.messages for each in read(two).dialogues] == [MESSAGES] * 2
    assert [each.where for each in read(write(tmp_path / "c.jsonl", f"{json.dumps(MESSAGES)}\n" * 2)).dialogues] == [
        "c.jsonl:1", "c.jsonl:2",
    ]  # fmt: skip


# Places

WHERE = {
    "a.jsonl": (f"{LINE}\n\n\n{LINE}", ["a.jsonl:1", "a.jsonl:4"]),
    "a.json": (f'\n[\n{LINE},\n {json.dumps(ROW, indent=1)}, {LINE}]', ["a.json:3", "a.json:4", "a.json:15"]),
    "one.json": (f"\n\n{json.dumps(ROW, indent=1)}\n", ["one.json:3"]),
    "a.csv": ('prompt,completion\r\n"two\r\nlines",b\r\n\r\nc,"d\n\ne"\nf,g', ["a.csv:2", "a.csv:5", "a.csv:8"]),
}  # fmt: skip


@pytest.mark.parametrize("name", WHERE)
def test_rows_are_placed_by_the_line_on_which_they_begin(name, tmp_path):
    content, places = WHERE[name]
    assert [dialogue.where for dialogue in read(write(tmp_path / name, content)).dialogues] == places


def test_a_csv_cell_may_hold_unicode_line_separators_without_quotes(tmp_path):
    (dialogue,) = read(write(tmp_path / "a.csv", "prompt,completion\na\u2028b\x85c,d\x0ce\n")).dialogues
    assert [message["content"] for message in dialogue.messages] == ["a\u2028b\x85c", "d\x0ce"]


def test_rows_without_lines_are_placed_by_their_number(tmp_path):
    save_parquet(tmp_path / "a.parquet", [ROW] * 600)
    assert [each.where for each in read(tmp_path / "a.parquet").dialogues][::599] == ["a.parquet[0]", "a.parquet[599]"]


def test_arrows_nulls_are_absent_also_inside_arguments_and_schemas(tmp_path):
    def row(name: str, **arguments) -> dict:
        schema = {key: {"type": "string"} for key in arguments}
        call = {"id": name, "type": "function", "function": {"name": name, "arguments": arguments}}
        tool = {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": schema}}}
        return {"messages": [MESSAGES[0], {"role": "assistant", "tool_calls": [call]}], "tools": [tool]}

    rows = [row("weather", city="Rome"), row("time", zone="UTC")]
    got = read(save_parquet(tmp_path / "a.parquet", rows)).dialogues
    assert [{"messages": each.messages, "tools": each.tools} for each in got] == rows


def test_multilingual_thinking_reads_as_arrow_has_it(tmp_path):
    """The schema of HuggingFaceH4/Multilingual-Thinking, every message with all three keys."""
    said = [("system", "reasoning language: French\n\nBe lively.", None), ("user", "Trends?", None)]
    said += [("assistant", "Here are the trends.", "D'accord, les tendances.")]
    row = {"reasoning_language": "French", "developer": "Be lively.", "user": "Trends?"}
    row |= {"analysis": "D'accord, les tendances.", "final": "Here are the trends."}
    row |= {"messages": [{"content": text, "role": role, "thinking": thinking} for role, text, thinking in said]}
    message = {"content": Value("string"), "role": Value("string"), "thinking": Value("string")}
    texts = dict.fromkeys(("reasoning_language", "developer", "user", "analysis", "final"), Value("string"))
    Dataset.from_list([row], features=Features({**texts, "messages": List(message)})).save_to_disk(tmp_path / "a")
    (dialogue,) = read(tmp_path / "a").dialogues
    assert dialogue.messages == [
        {"role": "system", "content": "reasoning language: French\n\nBe lively."},
        {"role": "user", "content": "Trends?"},
        {"role": "assistant", "content": "Here are the trends.", "thinking": "D'accord, les tendances."},
    ]


# Bad rows and broken files

BAD_LINES = {
    "not JSON": (b"{nope", "not JSON: "),
    "NaN": (b'{"messages": NaN}', "`messages` is empty: null, or a cell that says nan"),
    "a number that is too large": (b'{"messages": [], "x": 1e999}', None),
    "a key twice": (b'{"messages": 1, "messages": 2}', "key 'messages' appears twice"),
    "an integer of 5000 digits": (b'{"x": ' + b"1" * 5000 + b"}", "not JSON: Exceeds the limit (4300 digits)"),
    "lists in lists": (b"[" * 100_000 + b"]" * 100_000, "nested deeper than 50 levels"),
    "objects in objects": (b'{"a":' * 60 + b"1" + b"}" * 60, "nested deeper than 50 levels"),
    "deep arguments": (LINE.replace('"Hi"', '"Hi", "x": ' + "[" * 60 + "]" * 60).encode(), "nested deeper"),
    "latin-1": (LINE.replace("Hi", "H\xe9").encode("latin-1"), "bytes that are not UTF-8"),
    "a lone surrogate": (LINE.replace("Hi", "\\ud83d").encode(), "a lone surrogate: '\\ud83d'"),
    "a NUL byte": (LINE.replace("Hi", "H\0").encode(), "not JSON: Invalid control character"),
    "an escaped NUL": (LINE.replace("Hi", "H\\u0000").encode(), "a NUL character"),
    "a line of 20 MB": (LINE.replace("Hi", "x" * 20_000_000).encode(), "20000"),
    "a line of 20 MB that is not JSON": (b"x" * 20_000_000, "not JSON: "),
    "binary": (bytes(range(11, 256)), "not JSON: "),
}  # fmt: skip


@pytest.mark.parametrize(("line", "reason"), BAD_LINES.values(), ids=BAD_LINES)
def test_a_bad_line_is_named_and_can_be_left_out(line, reason, tmp_path):
    path = write(tmp_path / "a.jsonl", LINE.encode() + b"\n" + line + b"\n" + LINE.encode())
    message = refused(path).message
    assert message.startswith("a.jsonl:2: ")
    assert (reason or "no list `messages`") in message
    rows = read(path, max_bad_rows=1)
    assert ([each.where for each in rows.dialogues], rows.bad) == (["a.jsonl:1", "a.jsonl:3"], [message])


def test_more_bad_rows_than_allowed_say_how_many(tmp_path):
    path = write(tmp_path / "a.jsonl", f"{LINE}\nx\ny\n{LINE}\nz")
    error = refused(path, max_bad_rows=2)
    assert error.message.endswith("; 3 bad rows, 2 allowed")
    assert "--max-bad-rows 3" in error.hint
    assert [bad.split(":")[1] for bad in read(path, max_bad_rows=3).bad] == ["2", "3", "5"]


def test_bad_rows_alone_are_an_empty_data_set_that_says_why(tmp_path):
    message = refused(write(tmp_path / "a.jsonl", "x\n"), max_bad_rows=9).message
    assert "has no row that can be used: a.jsonl:1: not JSON" in message


def test_names_out_of_a_file_stay_on_one_line_of_a_message(tmp_path):
    columns = b'\0\0,\0,\x01,"\0\n\0",\x02'
    message = refused(write(tmp_path / "a.csv", columns + b"\n,,,\0,")).message
    assert (
        "a.csv:3: cannot tell the layout: found columns \\x00\\x00, \\x00, \\x01, \\x00\\n\\x00, \\x02; expected"
        in message
    )
    rows = [{"\x1b[2J": 1, "a\u2028b": 2, "é " * 500: 3}, {f"column {n}": n for n in range(500)}]
    message = refused(write(tmp_path / "a.json", json.dumps(rows))).message
    assert f"found columns \\x1b[2J, a\\u2028b, {'é ' * 30}...; expected" in message
    assert "column 18, column 19 and 480 more; expected" in message
    expect = json.dumps({"messages": MESSAGES, "expect": {"regex": "[z-\n]"}})
    message = refused(write(tmp_path / "a.jsonl", expect)).message
    assert "a.jsonl:1: `expect.regex` is not a regular expression: bad character range z-\\n" in message


CSV_ROWS = {
    "too many cells": ("a,b,c", "3 cells, the header has 2"),
    "too few cells": ("a", "1 cells, the header has 2"),
    "text behind a quote": ('"a"b,c', "not CSV: "),
    "a NUL": ("a\0,b", "a NUL character"),
    "no completion": ("a,", "`completion` is '', not text"),
    "blanks for a completion": ("a,  ", "`completion` is '  ', not text"),
    **{
        f"{word} for a completion": (f"a,{word}", "`completion` is empty: null, or a cell that says nan, None or null")
        for word in ("nan", "NaN", "None", "null", "NULL", "<NA>")
    },
}


@pytest.mark.parametrize(("record", "reason"), CSV_ROWS.values(), ids=CSV_ROWS)
def test_a_bad_csv_record_is_named_by_the_line_on_which_it_begins(record, reason, tmp_path):
    path = write(tmp_path / "a.csv", f'prompt,completion\n"two\nlines",b\n{record}\nc,d\n')
    message = refused(path).message
    assert message.startswith(f"a.csv:4: {reason}")
    rows = read(path, max_bad_rows=1)
    assert ([each.where for each in rows.dialogues], rows.bad) == (["a.csv:2", "a.csv:5"], [message])


def test_a_quote_that_is_never_closed_swallows_no_rows_silently(tmp_path):
    path = write(tmp_path / "a.csv", 'prompt,completion\na,b\n"c,d\ne,f\n')
    assert refused(path).message == "a.csv:3: not CSV: unexpected end of data"


@pytest.mark.parametrize("header", ["prompt,prompt", ",", '"prompt'])
def test_a_csv_header_must_name_columns_and_none_twice(header, tmp_path):
    assert refused(write(tmp_path / "a.csv", f"{header}\na,b\n")).message.startswith("a.csv:1: ")


JSON_FILES = {
    "cut off": (f"[\n{LINE},\n{LINE[:40]}", "a.json:3: not JSON: "),
    "no comma": (f"[\n{LINE}\n{LINE}]", "a.json:3: not JSON: expected ',' or ']' after a row"),
    "deep": (f"[\n{LINE},\n{'[' * 100_000}", "a.json:3: "),
    "a key twice": (f'[{LINE},\n{{"a": 1, "a": 2}}]', "a.json:2: key 'a' appears twice"),
    "a huge number": (f"[{LINE},\n{'1' * 5000}]", "a.json:2: Exceeds the limit (4300 digits)"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "reason"), JSON_FILES.values(), ids=JSON_FILES)
def test_a_broken_json_list_is_named_with_its_line(content, reason, tmp_path):
    assert refused(write(tmp_path / "a.json", content)).message.startswith(reason)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet"])
@pytest.mark.parametrize(
    "content", [b"", b"\0" * 1000, b"\xff\xfe" + "x".encode("utf-16-le"), b"PAR1" * 4, b"\xef\xbb\xbf"]
)
def test_a_file_that_is_something_else_is_refused_in_one_line(name, content, tmp_path):
    message = refused(write(tmp_path / name, content)).message
    assert name in message


@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9, 0.99])
def test_a_truncated_parquet_file_is_refused(kept, tmp_path):
    path = save_parquet(tmp_path / "a.parquet", [ROW] * 50)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    assert refused(path).message.startswith("a.parquet[0]: not readable as Parquet: ")


def test_a_parquet_file_with_a_broken_column_name_is_refused(tmp_path):
    path = save_parquet(tmp_path / "a.parquet", [ROW] * 3)
    path.write_bytes(path.read_bytes().replace(b"\x04list", b"\x04\xffist", 1))
    assert refused(path).message.startswith("a.parquet[0]: not readable as Parquet: ")


def test_a_truncated_folder_of_datasets_is_refused(tmp_path):
    Dataset.from_list([ROW] * 50).save_to_disk(tmp_path / "a")
    (arrow,) = (tmp_path / "a").glob("*.arrow")
    arrow.write_bytes(arrow.read_bytes()[:300])
    assert "a is a folder of datasets and cannot be read: " in refused(tmp_path / "a").message


# Anything at all

PLACE = re.compile(r"\.(jsonl|json|csv|parquet)(:\d+|\[\d+\])?\b")
SEEDS = {
    "a.jsonl": f"{LINE}\n{LINE}\n".encode(),
    "a.json": json.dumps([ROW, {"prompt": "a", "completion": "b"}], indent=1).encode(),
    "a.csv": b'instruction,output\n"a\nb",c\nd,"e ""f"" g"\n',
}
PIECES = st.sampled_from(
    [b"\0", b"\xff", b'"', b"\\", b"\\ud800", b"[", b"]", b"{", b"}", b"\n", b"\r", b",", b"NaN", b"1e999"]
)


@st.composite
def mutated(draw, content: bytes) -> bytes:
    """`content` with a few places cut, doubled or overwritten."""
    for _ in range(draw(st.integers(1, 4))):
        start, stop = sorted((draw(st.integers(0, len(content))), draw(st.integers(0, len(content)))))
        between = draw(st.one_of(PIECES, st.binary(max_size=8), st.just(content[start:stop] * 2)))
        stop = draw(st.sampled_from([start, min(start + 1, stop), stop]))
        content = content[:start] + between + content[stop:]
    return content


@pytest.mark.parametrize("name", [*SEEDS, "a.parquet"])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_a_file_holds_it_is_read_or_refused_with_its_place(name, tmp_path, data):
    if name not in SEEDS:
        SEEDS[name] = save_parquet(tmp_path / "seed.parquet", [ROW] * 3).read_bytes()
    path = write(tmp_path / name, data.draw(st.one_of(st.binary(max_size=200), mutated(SEEDS[name]))))
    try:
        rows = read(path)
    except DataError as error:
        assert PLACE.search(error.message), error.message
        assert "\n" not in error.message
    else:
        assert rows.dialogues and not rows.bad
        assert all(PLACE.search(dialogue.where) and len(dialogue.fingerprint) == 64 for dialogue in rows.dialogues)
