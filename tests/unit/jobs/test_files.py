"""Files of rows: every format gives the same dialogues, and whatever is broken is one DataError with its place."""

import csv
import json
import re

import pyarrow
import pytest
from datasets import Dataset, Features, List, Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from configs.errors import DataError
from configs.schema import DataConfig
from jobs.data import dataset

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

SAVED = {
    "jsonl": lambda folder: write(folder / "a.jsonl", f"{LINE}\n\n{LINE}\n"),
    "json list": lambda folder: write(folder / "a.json", json.dumps([ROW, ROW], indent=1)),
    "json lines": lambda folder: write(folder / "a.json", f"{LINE}\n{LINE}\n"),
    "csv with messages as JSON": lambda folder: save_csv(
        folder / "a.csv", ["id", "messages"], [1, json.dumps(MESSAGES)], [2, json.dumps(MESSAGES)]
    ),
    "csv with prompt and completion": lambda folder: save_csv(
        folder / "a.csv", ["prompt", "completion"], *[[message["content"] for message in MESSAGES]] * 2
    ),
    "parquet": lambda folder: save_parquet(folder / "a.parquet", [ROW, ROW]),
    "folder": lambda folder: (Dataset.from_list([ROW, ROW]).save_to_disk(folder / "a"), folder / "a")[1],
}


@pytest.mark.parametrize("save", SAVED.values(), ids=SAVED)
def test_every_format_gives_the_same_dialogues(save, tmp_path):
    rows = read(save(tmp_path))
    assert [dialogue.messages for dialogue in rows.dialogues] == [MESSAGES, MESSAGES]
    assert rows.bad == []


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
    "a line of 20 MB that is no JSON": (b"x" * 20_000_000, "not JSON: "),
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
    assert "a.jsonl:1: `expect.regex` is no regular expression: bad character range z-\\n" in message


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
