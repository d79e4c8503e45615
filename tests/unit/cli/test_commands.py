"""Commands without a cluster: reading works, and what is wrong is refused before anything is queued."""

import contextlib
import json
import re
import sqlite3

import pytest

from actors.runs.adapter_state import AdapterState
from actors.runs.curve import MetricsLog
from actors.runs.ledger import Ledger
from actors.runs.ledger_schema import VERSION
from actors.runs.run import RunState
from cli import output
from configs import units
from configs.schema import Slot
from models.lora.adapter import WEIGHTS
from models.lora.registry import Registry
from tests.samples import EXPORT, TRAIN, go_live, publish, verify

SLOT = Slot(name="0", roles=("train",))
GOOD_ROW = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}\n'


@pytest.fixture
def ledger(home):
    book = Ledger(home.ledger)
    yield book
    book.close()


def submit(ledger: Ledger, run_id: str = "tiny-1", **how) -> None:
    ledger.submit(run_id, **TRAIN | how)


# Runs


def test_an_empty_home_lists_no_runs_and_says_what_to_do(invoke, home):
    done = invoke("runs", "list")
    assert (done.code, done.out, done.err) == (0, "", "no runs yet -> tandem train\n")
    assert json.loads(invoke("runs", "list", "--json").out) == []
    assert not home.ledger.exists(), "looking makes nothing"


def test_runs_are_listed_newest_first_for_people_and_for_machines(invoke, ledger):
    submit(ledger, "old", priority=4)
    submit(ledger, "new")
    ledger.grant("new", SLOT)
    ledger.progress("new", step=3, max_steps=60, loss=1.23456, tokens_per_s=10.0)
    lines = invoke("runs", "list").out.splitlines()
    assert re.match(r"RUN +KIND +STATE +STEP +LOSS +PRIORITY", lines[0])
    assert re.match(r"new +train +STARTING +3/60 +1\.2346 +- +0 ", lines[1])
    assert re.match(r"old +train +QUEUED +0/60 +- +4 +- .*submitted", lines[2])
    listed = json.loads(invoke("runs", "list", "--json").out)
    assert [(run["id"], run["state"], run["step"]) for run in listed] == [("new", "STARTING", 3), ("old", "QUEUED", 0)]


def test_only_active_runs_or_only_some_are_listed_on_request(invoke, ledger):
    for run_id in ("a", "b", "c"):
        submit(ledger, run_id)
    ledger.transition("c", RunState.STOPPED, "no")
    assert [run["id"] for run in json.loads(invoke("runs", "list", "--active", "--json").out)] == ["b", "a"]
    assert [run["id"] for run in json.loads(invoke("runs", "list", "--limit", "1", "--json").out)] == ["c"]


def test_latest_is_the_newest_run_and_logs_need_no_name(invoke, ledger, home):
    assert "there is no run yet" in invoke("runs", "logs").one_error_line(1)
    for name in ("older", "newer"):
        submit(ledger, name)
        home.run(name).mkdir(parents=True)
        (home.run(name) / "log.txt").write_text(f"the {name} log\n")
    assert json.loads(invoke("runs", "show", "latest", "--json").out)["id"] == "newer"
    assert invoke("runs", "logs").out == invoke("runs", "logs", "latest").out == "the newer log\n"
    assert invoke("runs", "logs", "older").out == "the older log\n"
    compared = json.loads(invoke("runs", "compare", "latest", "older", "--json").out)
    assert [each["run"] for each in compared["runs"]] == ["newer", "older"]


def test_a_run_is_shown_with_its_curve_and_events(invoke, ledger, home):
    submit(ledger)
    ledger.transition("tiny-1", RunState.FAILED, "the disk is full")
    home.run("tiny-1").mkdir(parents=True)
    log = MetricsLog(home.run("tiny-1") / "metrics.jsonl")
    for step, loss in enumerate((4.0, 2.0, 1.0), 1):
        log.append({"step": step, "loss": loss})
    log.append({"step": 3, "eval_loss": 9.0})
    shown = invoke("runs", "show", "tiny-1").out
    assert "FAILED  the disk is full" in shown
    assert "loss 4.000 █▃▁ 1.000" in shown
    assert re.search(r"queued +submitted", shown)
    values = json.loads(invoke("runs", "show", "tiny-1", "--json").out)
    assert [line["loss"] for line in values["metrics"][:3]] == [4.0, 2.0, 1.0]
    assert values["metrics"][3] == {"step": 3, "eval_loss": 9.0}
    assert [event["kind"] for event in values["events"]] == ["queued", "failed"]


def test_a_damaged_line_of_a_curve_is_said_and_hides_no_other(invoke, ledger, home):
    submit(ledger)
    home.run("tiny-1").mkdir(parents=True)
    curve = b'{"step": 1, "loss": 4.0}\n\xff\n{"step": 3, "loss": 1.0}\n'
    (home.run("tiny-1") / "metrics.jsonl").write_bytes(curve)
    for command in (("show", "tiny-1"), ("compare", "tiny-1")):
        done = invoke("runs", *command, "--json")
        assert "1 of the lines" in done.err and "metrics.jsonl cannot be read and is left out" in done.err
    assert json.loads(invoke("runs", "compare", "tiny-1", "--json").out)["runs"][0]["last_loss"] == 1.0


def test_an_export_is_listed_and_shown_as_what_it_is(invoke, ledger):
    ledger.submit("e", **EXPORT)
    ledger.grant("e", SLOT)
    ledger.progress("e", step=3, max_steps=71, loss=None, tokens_per_s=None)
    assert re.search(r"^e +export +STARTING +3/71 +- +- +0 ", invoke("runs", "list").out, re.MULTILINE)
    shown = invoke("runs", "show", "e").out
    for fact in ("kind +export", "exports +tiny_tiny_1", "to +merged", "out +/nowhere/out", "base +its own"):
        assert re.search(f"^{fact} *$", shown, re.MULTILINE), fact
    assert "profile" not in shown


@pytest.mark.parametrize("reason", ["closing tag [/red] here", "data[train] is empty", "[bold]no", "[Errno 28] full"])
def test_a_reason_with_brackets_is_shown_as_it_is(reason, invoke, ledger):
    submit(ledger)
    ledger.transition("tiny-1", RunState.FAILED, reason)
    assert reason in invoke("runs", "list").out
    assert reason in invoke("runs", "show", "tiny-1").out


@pytest.mark.parametrize("command", ["show", "logs", "stop", "resume"])
@pytest.mark.parametrize("run_id", ["../../etc/passwd", "a;b", "UPPER"])
def test_what_is_no_run_id_is_refused_everywhere(command, run_id, invoke, ledger):
    line = invoke("runs", command, run_id).one_error_line()
    assert "is not a run id" in line or "is not running" in line


@pytest.mark.parametrize("command", ["show", "logs", "resume"])
def test_an_unknown_run_is_one_line(command, invoke, ledger):
    assert "no run nope" in invoke("runs", command, "nope").one_error_line()


def test_a_starting_run_says_its_stage_wherever_it_is_shown(invoke, ledger):
    submit(ledger)
    ledger.grant("tiny-1", SLOT)
    ledger.set_stage("tiny-1", "loading the model")
    for command in (["runs", "list"], ["runs", "show", "tiny-1"], ["status"]):
        assert "loading the model" in invoke(*command).out, command
    assert json.loads(invoke("runs", "show", "tiny-1", "--json").out)["stage"] == "loading the model"
    assert json.loads(invoke("status", "--json").out)["active_runs"][0]["stage"] == "loading the model"
    ledger.progress("tiny-1", step=1, max_steps=9, loss=1.0, tokens_per_s=1.0)
    assert "loading the model" not in invoke("runs", "show", "tiny-1").out


@pytest.mark.parametrize("command", ["show", "logs"])
def test_a_run_before_the_first_up_is_one_line(command, invoke, home):
    assert f"no ledger in {home.root}" in invoke("runs", command, "tiny-1").one_error_line()


def test_the_log_of_a_run_is_printed_as_it_is(invoke, ledger, home):
    submit(ledger)
    assert invoke("runs", "logs", "tiny-1").err == "no log yet: the run has not started\n"
    ledger.grant("tiny-1", SLOT)
    ledger.set_stage("tiny-1", "importing libraries")
    words = invoke("runs", "logs", "tiny-1").err
    assert "no log yet: the run is STARTING, importing libraries, for 0s" in words
    assert re.search(r"\d queued submitted\n\S+ \S+ starting granted slot 0", words)
    home.run("tiny-1").mkdir(parents=True)
    (home.run("tiny-1") / "log.txt").write_bytes(b"one\n[/two]\n\xff\n")
    assert invoke("runs", "logs", "tiny-1").out == "one\n[/two]\n\ufffd\n"


@pytest.mark.parametrize(("end", "code"), [(RunState.SUCCEEDED, 0), (RunState.FAILED, 1), (RunState.STOPPED, 3)])
def test_following_an_ended_run_exits_with_its_result(end, code, invoke, ledger, home):
    submit(ledger)
    ledger.grant("tiny-1", SLOT)
    ledger.transition("tiny-1", RunState.STOPPING, "x")
    ledger.transition("tiny-1", end, "the reason")
    home.run("tiny-1").mkdir(parents=True)
    (home.run("tiny-1") / "log.txt").write_text("the log\n")
    done = invoke("runs", "logs", "-f", "tiny-1")
    assert (done.code, done.out) == (code, "the log\n")
    assert f"{end}: the reason" in done.err


def test_a_ledger_that_is_no_ledger_is_one_line(invoke, home):
    home.ledger.write_bytes(b"x" * 5000)
    for command in (["runs", "list"], ["runs", "show", "tiny-1"], ["status"], ["adapters", "list"]):
        assert str(home.ledger) in invoke(*command).one_error_line()


# Adapters


def test_an_empty_home_lists_no_adapters(invoke):
    assert json.loads(invoke("adapters", "list", "--json").out) == []
    assert "no adapters yet" in invoke("adapters", "list").err


def test_adapters_are_listed_with_state_alias_and_size(invoke, ledger, home):
    registry = Registry(home.models)
    old, new = publish(registry, run_id="a"), publish(registry, run_id="b")
    go_live(ledger, old.version)
    listed = json.loads(invoke("adapters", "list", "--json").out)
    assert [(row["version"], row["state"], row["aliases"]) for row in listed] == [
        (new.version, "PUBLISHED", []),
        (old.version, "LIVE", ["prod"]),
    ]
    assert listed[0]["files"][WEIGHTS]["bytes"] > 0
    table = invoke("adapters", "list").out
    assert re.search(rf"{old.version} +LIVE +prod +tiny +4 +3 +0\.5000 +\d", table)


def test_a_suspect_adapter_is_marked_wherever_adapters_and_runs_are_shown(invoke, ledger, home):
    submit(ledger)
    version = publish(Registry(home.models), suspect=["its loss is 5.75, the base's 0.99"]).version
    ledger.set_adapter("tiny-1", version)
    listed = invoke("adapters", "list")
    assert re.search(rf"{version} +PUBLISHED  suspect +", listed.out)
    assert f"{version} is suspect: its loss is 5.75, the base's 0.99" in " ".join(listed.err.split())
    assert json.loads(invoke("adapters", "list", "--json").out)[0]["suspect"] == ["its loss is 5.75, the base's 0.99"]
    assert "its loss is 5.75, the base's 0.99" in invoke("adapters", "show", version).out
    assert f"{version} (suspect)" in invoke("runs", "show", "tiny-1").out
    assert f"{version} (suspect)" in invoke("runs", "list").out
    assert "PUBLISHED  suspect" in invoke("status").out
    assert "so none is latest" in invoke("adapters", "show", "latest").one_error_line()


def test_an_adapter_is_shown_after_every_file_was_checked(invoke, home):
    registry = Registry(home.models)
    version = publish(registry).version
    shown = invoke("adapters", "show", "latest").out
    assert version in shown
    assert "all match the manifest" in shown
    assert "attention 64" in shown
    file = registry.path(version) / WEIGHTS
    file.write_bytes(file.read_bytes()[:-1])
    assert "bytes, the manifest says" in invoke("adapters", "show", version).one_error_line()


def test_a_refused_adapter_shows_why(invoke, ledger, home):
    version = publish(Registry(home.models)).version
    verify(ledger, version)
    ledger.set_adapter_state(version, AdapterState.REFUSED, "changes nothing")
    assert json.loads(invoke("adapters", "show", version, "--json").out)["reason"] == "changes nothing"


@pytest.mark.parametrize("name", ["nope", "../ledger.db", ".."])
def test_an_unknown_adapter_is_one_line(name, invoke):
    assert f"no adapter '{name}'" in invoke("adapters", "show", name).one_error_line()


def test_latest_of_nothing_says_how_to_get_one(invoke):
    assert "no adapter has been published yet -> train one" in invoke("adapters", "show", "latest").one_error_line()


# Swap and ask


@pytest.mark.parametrize("arguments", [[], ["latest", "--back"]])
def test_a_swap_names_an_adapter_or_the_way_back(arguments, invoke):
    assert "name an adapter or --back" in invoke("swap", *arguments).one_error_line(2)


@pytest.mark.parametrize(
    "command",
    [
        ["swap", "latest"],
        ["swap", "--back"],
        ["ask", "Who are you?"],
        ["runs", "stop", "tiny-1"],
        ["env"],
        ["down"],
        ["train", "--profile", "tiny"],
    ],
    ids=" ".join,
)
def test_what_needs_the_cluster_says_that_it_is_not_running_and_how_to_start_it(command, invoke, home):
    done = invoke(*command)
    assert done.code == 1
    assert done.out == ""
    assert done.err.splitlines()[-1] == f"error: Tandem is not running (home: {home.root}) -> start it with `tandem up`"


# Status


def test_status_without_a_cluster_exits_with_1_and_says_how_to_start(invoke, home):
    done = invoke("status")
    assert done.code == 1
    assert f"Tandem is not running (home: {home.root})" in done.out
    assert "tandem up" in done.err


def test_status_shows_queued_runs_and_aliases_while_the_cluster_is_down(invoke, ledger):
    submit(ledger)
    go_live(ledger, "v1")
    done = invoke("status")
    assert (done.code, "tiny-1" in done.out, "prod -> v1" in done.out) == (1, True, True)
    report = json.loads(invoke("status", "--json").out)
    assert (report["up"], report["aliases"]["prod"]) == (False, "v1")
    assert [run["id"] for run in report["active_runs"]] == ["tiny-1"]


def test_a_damaged_cluster_file_is_one_line_with_the_way_out(invoke, home):
    home.cluster.write_text("{")
    line = invoke("status").one_error_line()
    assert f"{home.cluster} is damaged" in line
    assert "tandem down" in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--max-context", "4097"],
            "max_context is 4097, and tiny takes at most 4096 tokens -> tandem up --max-context 4096",
        ),
        (["--max-context", "63"], "63 is not in the range x>=64"),
        (
            ["--set", "max_context=4096"],
            "unknown key 'max_context' in --set max_context=4096 -> did you mean `tandem ",
        ),
    ],
)
def test_a_context_that_cannot_be_served_is_refused_before_anything_starts(arguments, words, invoke, home):
    assert words in invoke("up", "--base", "tiny", *arguments).one_error_line(2)
    assert list(home.root.iterdir()) == []


def test_an_interrupted_up_says_in_one_line_that_nothing_stays(invoke, home, monkeypatch):
    from actors import cluster

    def interrupt(*_) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cluster, "start", interrupt)
    done = invoke("up", "--base", "tiny")
    assert (done.code, done.out, done.err) == (130, "", "interrupted: ended what was started\n")


def test_down_cleans_a_damaged_cluster_file_away(invoke, home):
    home.cluster.write_text("{")
    done = invoke("down")
    assert (done.code, done.out) == (0, "nothing is running\n")
    assert not home.cluster.exists()


def test_a_cluster_that_died_is_told_from_one_that_never_was(invoke, home):
    from actors import cluster
    from actors.cluster import Cluster
    from actors.home.process_id import ProcessId
    from configs.schema import ClusterConfig

    gone = ProcessId(2**22 - 1, 1, "an earlier boot", 1)
    cluster._write(home.cluster, Cluster(gone, 1.0, "127.0.0.1:1", 1, 2, (SLOT,), ClusterConfig()))
    line = invoke("swap", "latest").one_error_line()
    assert "Tandem's cluster died" in line
    assert "queued runs are kept" in line


# Up, refused before anything starts


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "htp_port=1"], "unknown key 'htp_port' in --set htp_port=1 -> did you mean 'http_port'?"),
        (["--port", "99999"], "Invalid value for '--port': 99999 is not in the range 1<=x<=65535"),
        (["--port", "0"], "0"),
        (["--config", "nowhere.yaml"], "no configuration file nowhere.yaml"),
        (["--set", "slots=[{name: a, gpu: 99, roles: [train, serve]}]"], "slot a names gpu 99"),
    ],
)
def test_a_wrong_setting_stops_up_before_anything_is_started(arguments, words, invoke, home, monkeypatch):
    monkeypatch.setattr("actors.cluster._start_head", lambda *how: pytest.fail("something was started"))
    assert words in invoke("up", *arguments).one_error_line(2)
    assert not home.cluster.exists()


@pytest.mark.parametrize("damage", ["random", "newer"])
def test_up_on_a_ledger_that_cannot_be_read_is_one_line_and_starts_nothing(damage, invoke, home, monkeypatch):
    monkeypatch.setattr("actors.cluster.start", lambda *how: pytest.fail("something was started"))
    home.root.mkdir(exist_ok=True)
    if damage == "random":
        home.ledger.write_bytes(b"\x9c\x01\xff" * 3000)
        words = f"{home.ledger} is not a readable ledger: file is not a database -> move it away or restore it"
    else:
        Ledger(home.ledger).close()
        with contextlib.closing(sqlite3.connect(home.ledger)) as db:
            db.execute("PRAGMA user_version = 99")
        words = f"{home.ledger} has version 99, this Tandem knows {VERSION} -> update Tandem"
    assert invoke("up", "--base", "tiny").one_error_line() == f"error: {words}"
    assert not home.cluster.exists()


# Train, refused before anything is queued


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--profile", "standrd"], "no profile named 'standrd' -> did you mean 'standard'?"),
        (["--set", "lora.rank=4"], "unknown key 'lora.rank' in --set lora.rank=4"),
        (["--set", "training.max_steps=ten"], "'training.max_steps' in --set training.max_steps=ten cannot be 'ten'"),
        (["--set", "max_steps"], "--set max_steps is not of the form key=value"),
        (["--profile", "nowhere.yaml"], "no configuration file nowhere.yaml"),
        (["--dataset", "nope.jsonl"], "no data set 'nope.jsonl'"),
        (["--resume", "nope"], "no run nope"),
        (["--resume", "tiny-1", "--profile", "tiny"], "--resume keeps the run's own profile"),
    ],
)
def test_a_wrong_request_is_one_line_and_queues_nothing(arguments, words, invoke, home):
    done = invoke("train", *arguments)
    assert words in done.one_error_line(1 if "no run" in words else 2)
    assert not home.ledger.exists()


def test_a_bad_row_is_named_with_its_line(silent_cluster, invoke, tmp_path):
    silent_cluster()
    data = tmp_path / "chats.jsonl"
    data.write_text(f'{GOOD_ROW}{{"messages": [{{"role": "narrator", "content": "x"}}]}}\n{GOOD_ROW}not json\n')
    line = invoke("train", "--profile", "tiny", "--dataset", str(data)).one_error_line(2)
    assert "chats.jsonl:2: message 1: role 'narrator' is none of system, developer, user, assistant, tool" in line
    assert "chats.jsonl:4: not JSON" in line


def test_a_dry_run_checks_everything_and_queues_nothing(invoke, home, tmp_path):
    data = tmp_path / "chats.jsonl"
    data.write_text(GOOD_ROW * 3)
    done = invoke("train", "--dry-run", "--dataset", str(data), "--set", "lora.r=2", "--json")
    assert done.code == 0, done.err
    config = json.loads(done.out)
    assert (config["profile"], config["lora"]["r"], config["data"]["dataset"]) == ("tiny", 2, str(data))
    assert "3 dialogues" in done.err
    assert "rendered: 3 rows" in done.err
    assert not home.ledger.exists()
    assert "nothing queued (--dry-run)" in invoke("train", "--dry-run").out


def test_a_dry_run_finds_a_base_that_is_not_there(invoke):
    done = invoke("train", "--dry-run", "--set", "model.base=/nowhere/model")
    assert done.code == 1
    assert "/nowhere/model" in done.err.splitlines()[-1]


def test_a_dry_run_finds_data_that_teaches_nothing(invoke):
    done = invoke("train", "--dry-run", "--set", "model.max_seq_length=16")
    assert (done.code, "nothing would be learned" in done.err.splitlines()[-1]) == (1, True)


# Words and numbers


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-"), (0, "0s"), (59.4, "59s"), (60, "1.0m"), (5400, "1.5h"), (86400 * 2.5, "2.5d")]
)
def test_durations_are_told_in_the_largest_unit_that_makes_sense(seconds, text):
    assert units.short_duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(None, "-"), (0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (353 * 2**20, "353.0 MiB"),
                         (24 * 2**30, "24.0 GiB"), (2**41, "2048.0 GiB")],
)  # fmt: skip
def test_sizes_are_told_in_binary_units(number, text):
    assert units.size(number) == text


@pytest.mark.parametrize(
    ("values", "line"), [([], ""), ([1.0], "▁"), ([1, 1, 1], "▁▁▁"), ([8, 4.5, 1], "█▅▁"), ([0, 7], "▁█")]
)
def test_a_curve_is_drawn_in_blocks(values, line):
    assert output.sparkline(values) == line


def test_a_long_curve_is_averaged_down_to_the_width():
    drawn = output.sparkline([float(value) for value in range(1000)])
    assert len(drawn) == 60
    assert drawn == "".join(sorted(drawn))
    assert (drawn[0], drawn[-1]) == ("▁", "█")


def test_output_is_plain_when_nobody_looks(invoke, ledger, monkeypatch):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    submit(ledger)
    assert "\x1b[" not in invoke("runs", "list").out


def test_an_export_is_checked_before_it_needs_a_cluster(invoke, home, tmp_path, monkeypatch):
    version = publish(Registry(home.models)).version
    monkeypatch.delenv("TANDEM_LLAMA_CPP", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    asked = ("adapters", "export", version, "--out", str(tmp_path / "out"))
    assert "llama.cpp's converter is missing" in invoke(*asked, "--to", "gguf").one_error_line()
    assert "Tandem is not running" in invoke(*asked, "--to", "peft").one_error_line()
    assert "no adapter 'nope'" in invoke("adapters", "export", "nope", "--to", "peft", "--out", "x").one_error_line()
    assert "'--to'" in invoke(*asked, "--to", "onnx").one_error_line(2)
    assert list(tmp_path.iterdir()) == []
