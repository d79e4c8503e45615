"""`tandem data inspect`: the report, the rows as they are learned, and the refusal that training would give."""

import json
import re
import sys

import pytest

from actors import cluster
from cli.training import train
from configs.errors import StateError
from models.harmony import RETURN

PLAIN = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}
TURNS = {
    "messages": [
        *PLAIN["messages"],
        {"role": "user", "content": "Bye"},
        {"role": "assistant", "thinking": "Part.", "content": "Ciao."},
    ]
}


@pytest.fixture
def chats(tmp_path):
    def write(*rows) -> str:
        path = tmp_path / "chats.jsonl"
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return str(path)

    return write


@pytest.fixture
def inspect(invoke):
    return lambda name, *flags: invoke("data", "inspect", name, "--profile", "tiny", "--set", "data.holdout=0", *flags)


def table(text: str, title: str) -> dict[str, list[str]]:
    """First word to the other cells of the table with this title."""
    lines = text.splitlines()
    begin = next(index for index, line in enumerate(lines) if line.startswith(title))
    rows = lines[begin + 1 : lines.index("", begin)]
    return {row.split("  ")[0].strip(): row.split("  ", 1)[1].split() for row in rows}


def test_the_report_shows_parts_ends_lengths_and_fingerprints(inspect, chats):
    done = inspect(chats(PLAIN, TURNS, PLAIN))
    assert (done.code, done.err) == (0, "")
    report = json.loads(inspect(chats(PLAIN, TURNS, PLAIN), "--json").out)["report"]
    assert table(done.out, "ROWS")["trained"] == ["3"]
    assert table(done.out, "ROWS")["duplicates"][0] == "1"
    parts = table(done.out, "PART")
    assert {name: int(parts[name][1]) for name in report["parts"]} == {
        name: count["learned"] for name, count in report["parts"].items()
    }
    assert parts["all"] == [str(report["tokens"]), str(report["learned_tokens"])]
    assert table(done.out, "END")[RETURN] == ["4", "4", "4"]
    assert table(done.out, "LENGTH")["longest row"] == [str(report["longest_row"]), "chats.jsonl:2"]
    assert f"data {report['data_fingerprint']}" in done.out
    assert f"template and date {report['template_fingerprint']}" in done.out
    assert sum(line.count("█") > 0 for line in done.out.splitlines()) == sum(
        count > 0 for _, count in report["histogram"]
    )


def test_learned_text_is_marked_and_nothing_else_is(inspect, chats):
    out = inspect(chats(PLAIN, TURNS), "--row", "2").out
    shown = out[out.index("--- chats.jsonl:2: ") :]
    assert shown.rstrip().endswith(
        "<|start|>user<|message|>Hi<|end|><|start|>assistant"
        "[[<|channel|>final<|message|>Hello.]][[<|end|> (learned as <|return|>)]]"
        "<|start|>user<|message|>Bye<|end|><|start|>assistant"
        "[[<|channel|>analysis<|message|>Part.<|end|>]]"
        "[[<|start|>assistant<|channel|>final<|message|>Ciao.<|return|>]]"
    )
    answers = inspect(chats(PLAIN), "--mask", "final_only", "--row", "1").out
    assert answers.rstrip().endswith("assistant<|channel|>final<|message|>[[Hello.<|return|>]]")
    assert answers.count("[[") == 1


def test_rows_are_shown_as_many_as_asked_for(inspect, chats):
    name = chats(PLAIN, TURNS, PLAIN)
    assert [inspect(name, "--rows", count).out.count("--- chats.jsonl:") for count in ("0", "1", "3")] == [0, 1, 3]
    assert "no row 4: the data set has 3 usable rows" in inspect(name, "--row", "4").one_error_line(2)


def test_a_cut_is_marked_with_what_is_lost(inspect, chats):
    long = {"messages": [PLAIN["messages"][0], {"role": "assistant", "content": "Hello. " * 9 + "End."}]}
    name = chats(*[PLAIN] * 3, long)
    whole = json.loads(inspect(name, "--json").out)["report"]["longest_row"]
    flags = ("--max-seq-length", str(whole - 3), "--row", "4")
    out = inspect(name, *flags).out
    assert "=== cut here, 3 tokens lost: " in out
    assert out.rstrip().endswith(RETURN)
    assert table(out, "LENGTH")["cut at"] == [str(whole - 3), "1", "rows", "(25", "%)"]
    assert "<- cut from here" in out
    (row,) = json.loads(inspect(name, *flags, "--json").out)["rows"]
    assert (row["where"], row["tokens"], row["cut_tokens"]) == ("chats.jsonl:4", whole, 3)
    assert sum(segment["tokens"] for segment in row["segments"] if segment["cut"]) == 3
    assert not any(segment["learned"] for segment in row["segments"] if segment["cut"])


def test_what_training_would_refuse_exits_2_with_the_gates_words_below_the_report(inspect, invoke, chats):
    name = chats(PLAIN, TURNS)
    done = inspect(name, "--mask", "tools_only")
    assert done.code == 2
    assert table(done.out, "ROWS")["trained"] == ["0"]
    (line,) = done.err.splitlines()
    assert line.startswith("error: nothing would be learned: all labels of 2 rows are -100; data.mask tools_only")
    flags = ("--profile", "tiny", "--set", "data.holdout=0", "--dataset", name, "--mask", "tools_only", "--dry-run")
    assert line in invoke("train", *flags).err.splitlines()


def test_a_refusal_in_json_is_in_the_json_too(inspect, chats):
    done = inspect(chats(PLAIN), "--json", "--max-seq-length", "20")
    assert done.code == 2
    read = json.loads(done.out)
    assert read["refused"]["reason"] in done.err
    assert read["report"]["training_rows"] == 0
    assert json.loads(inspect(chats(PLAIN), "--json").out)["refused"] is None


def test_all_bad_rows_are_shown_before_they_are_too_many(inspect, chats):
    name = chats(PLAIN, *["x"] * 7)
    done = inspect(name)
    assert done.code == 2
    assert [line for line in done.out.splitlines() if line.startswith("left out: chats.jsonl:")] == [
        f"left out: chats.jsonl:{number}: not JSON: Expecting value at column 1" for number in range(2, 9)
    ]
    assert "--max-bad-rows 7" in done.err
    assert inspect(name, "--max-bad-rows", "7").code == 0


def test_training_leaves_bad_rows_out_when_it_may_and_says_which(invoke, chats):
    flags = ("--profile", "tiny", "--dataset", chats(PLAIN, "x", PLAIN), "--dry-run")
    assert "chats.jsonl:2: not JSON" in invoke("train", *flags).one_error_line(2)
    done = invoke("train", *flags, "--max-bad-rows", "1")
    assert done.code == 0, done.err
    assert "left out: chats.jsonl:2: not JSON" in done.err


def test_what_a_terminal_would_obey_is_shown_as_text(inspect, chats):
    row = {"messages": [{"role": "user", "content": "\x1b[31mHi\r"}, {"role": "assistant", "content": "Hello."}]}
    out = inspect(chats(row), "--row", "1").out
    assert "\\x1b[31mHi\\r" in out
    assert "\x1b" not in out


def test_marks_that_turn_text_around_are_shown_as_their_codes(inspect, chats):
    row = {
        "messages": [{"role": "user", "content": "\u202eabc\u2066"}, {"role": "assistant", "content": "\u05e9 \u200d."}]
    }
    out = inspect(chats(row), "--row", "1").out
    assert "\\u202eabc\\u2066" in out
    assert "\u05e9 \u200d." in out
    assert not {"\u202e", "\u2066"} & set(out)


def test_what_was_done_with_rows_and_what_has_no_effect_is_said_once(inspect, chats):
    tags = {"messages": [PLAIN["messages"][0], {"role": "assistant", "content": "<think>Greet.</think>Hello.</s>"}]}
    name = chats(*[tags | {"score": number} for number in range(3)], PLAIN)
    done = inspect(name)
    assert [line for line in done.out.splitlines() if line.startswith("note: ")] == [
        "note: `</s>` at the end of an answer was cut off (3 rows)",
        "note: `<think>` became thinking (3 rows)",
        "note: without effect: column `score` (3 rows)",
    ]
    report = json.loads(inspect(name, "--json").out)["report"]
    assert report["unused"] == {"column `score`": 3}
    assert report["remarks"]["`<think>` became thinking"] == 3
    assert "without effect" in inspect(name, "--set", "data.special_tokens=text").out
    assert report["parts"]["analysis"]["learned"] > 0


def test_columns_that_nobody_knows_are_named_once_with_the_mapping_to_copy(inspect, chats):
    name = chats(*[{"frage": f"Lampe {number}?", "antwort": "Gr\u00fcn."} for number in range(30)])
    line = inspect(name, "--max-bad-rows", "30").one_error_line(2)
    assert line.count("cannot tell the layout") == 1
    assert "(the same in 29 more: chats.jsonl:2, chats.jsonl:3, chats.jsonl:4, ...)" in line
    (columns,) = re.findall(r'--set "(data\.columns=.*?)"', line)
    assert table(inspect(name, "--set", columns).out, "ROWS")["trained"] == ["30"]


def test_a_row_that_the_template_refuses_is_named_before_anything_is_queued(invoke, chats, monkeypatch):
    queued = []

    def submit(place, wanted, predicted):
        queued.append(wanted.config.data.dataset)
        raise StateError("queued")

    monkeypatch.setattr(cluster, "require", lambda place: None)
    monkeypatch.setattr(train, "_submit", submit)
    row = {"messages": [PLAIN["messages"][0], {"role": "assistant", "tool_calls": [{"name": "a b", "arguments": {}}]}]}
    for name in (chats(PLAIN, row), chats(row)):
        line = invoke("train", "--profile", "tiny", "--dataset", name).err.splitlines()[-1]
        assert "chats.jsonl:" in line and "'a b'" in line
    assert queued == []
    name = chats(PLAIN)
    assert invoke("train", "--profile", "tiny", "--dataset", name).err.splitlines()[-1] == "error: queued"
    assert queued == [name]


def test_a_terminal_gets_learned_text_in_the_colour_of_its_part_and_the_rest_dim(inspect, chats, monkeypatch):
    monkeypatch.setattr(sys.stdout.__class__, "isatty", lambda self: True, raising=False)
    for name, value in (("TERM", "xterm-256color"), ("COLUMNS", "200"), ("NO_COLOR", "")):
        monkeypatch.setenv(name, value)
    shown = inspect(chats(TURNS), "--row", "1").out
    assert "\x1b[1;36m<|channel|>analysis<|message|>Part.<|end|>" in shown
    assert "\x1b[1;32m<|start|>assistant<|channel|>final<|message|>Ciao.<|return|>" in shown
    assert re.search(r"\x1b\[2m<\|start\|>user<\|message\|>Bye|\x1b\[2m.*Bye", shown)
    assert "[[" not in shown


@pytest.mark.parametrize("name", ["nope.jsonl", "{}", "null"])
def test_a_data_set_that_is_not_there_is_one_line(name, inspect):
    assert f"no data set '{name}'" in inspect(name).one_error_line(2)
