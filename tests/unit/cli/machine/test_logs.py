"""`tandem logs` over files, without a cluster."""

import json
import time
from datetime import datetime

import pytest

from actors.logs import reading
from actors.runs.ledger import Ledger
from cli.machine import logs

NOW = time.time()


@pytest.fixture
def told(home):
    """Logs of three actors and of a run."""
    write(home, "control", (-50, {"message": "queued", "run": "tiny-1", "level": "info"}))
    error = {"type": "ValueError", "traceback": "Traceback\n  ValueError: \x1b[2J\n"}
    write(home, "gateway", (-40, {"message": "POST /v1", "request": "r1", "status": 200, "level": "info"}))
    write(home, "gateway", (-20, {"message": "bad \x1b[2J", "request": "r2", "error": error, "level": "error"}))
    write(home, "engine_1", (-30, {"message": "generation ended", "request": "r1/ab", "level": "info"}))
    ledger = Ledger(home.ledger)
    ledger.submit("tiny-1", config={})
    ledger.close()
    home.run("tiny-1").mkdir(parents=True)
    stamp = time.strftime("%F %T", time.localtime(NOW - 45))
    (home.run("tiny-1") / "log.txt").write_text(f"{stamp} step 1\nTraceback\n")
    return home


def write(home, actor: str, *lines: tuple[float, dict]) -> None:
    home.logs.mkdir(parents=True, exist_ok=True)
    with (home.logs / f"{actor}.jsonl").open("a") as file:
        for at, fields in lines:
            when = datetime.fromtimestamp(NOW + at).astimezone().isoformat()
            file.write(json.dumps({"at": when, "actor": actor, "pid": 1, "logger": "x"} | fields) + "\n")


def shown(done) -> list[str]:
    """The messages, from --json."""
    assert done.code == 0, done.err
    return [json.loads(line)["message"] for line in done.out.splitlines()]


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        ([], ["queued", "POST /v1", "generation ended", "bad \x1b[2J"]),
        (["-n", "1"], ["bad \x1b[2J"]),
        (["-n", "0"], []),
        (["--actor", "engine_1"], ["generation ended"]),
        (["--request", "r1"], ["POST /v1", "generation ended"]),
        (["--request", "resp_r1"], ["POST /v1", "generation ended"]),
        (["--level", "WARNING"], ["bad \x1b[2J"]),
        (["--since", "35s"], ["generation ended", "bad \x1b[2J"]),
        (["--run", "tiny-1", "--actor", "control"], ["queued"]),
    ],
)
def test_lines_are_merged_by_time_and_chosen(arguments, messages, told, invoke, monkeypatch):
    monkeypatch.setattr(logs.time, "time", lambda: NOW)
    assert shown(invoke("logs", "--json", *arguments)) == messages


def test_a_runs_lines_have_what_its_trainer_printed_among_them(told, invoke):
    found = shown(invoke("logs", "--run", "latest", "--json"))
    assert (found[0], found[1].partition(" step ")[2], found[2:]) == ("queued", "1", ["Traceback"])
    assert shown(invoke("logs", "--run", "tiny-1", "--actor", "trainer", "--json"))[0].endswith(" step 1")


def test_people_read_time_level_actor_message_fields_and_traceback_and_no_escapes(told, invoke):
    lines = invoke("logs").out.splitlines()
    when = time.strftime("%F %T", time.localtime(NOW - 50))
    assert lines[0].startswith(when) and lines[0].endswith(" info    control   queued run=tiny-1")
    assert lines[1].endswith(" info    gateway   POST /v1 request=r1 status=200")
    assert lines[3].endswith(" error   gateway   bad \u241b[2J request=r2")
    assert lines[4:] == ["    Traceback", "      ValueError: \u241b[2J"]


def test_a_message_of_several_lines_keeps_its_fields_on_the_first(told, invoke):
    write(told, "driver", (-10, {"message": "failed\nbecause", "run": "tiny-1", "level": "info"}))
    first, second = invoke("logs", "--actor", "driver").out.splitlines()
    assert first.endswith("driver    failed run=tiny-1") and second == "    because"


def test_times_are_those_of_the_file_to_the_millisecond(told, invoke):
    for thousandth in range(1000):
        when = datetime.fromtimestamp(1_800_000_000).astimezone().replace(microsecond=thousandth * 1000)
        with (told.logs / "driver.jsonl").open("a") as file:
            file.write(json.dumps({"at": when.isoformat(), "message": "x"}) + "\n")
    shown = invoke("logs", "--actor", "driver", "-n", "1000").out.splitlines()
    assert [line[20:23] for line in shown] == [f"{thousandth:03}" for thousandth in range(1000)]


def test_damaged_lines_are_shown_as_they_are(told, invoke):
    with (told.logs / "control.jsonl").open("ab") as file:
        file.write(b'{"at": "2026\n\xff\x1b]0;title\x07\n')
    done = invoke("logs", "--actor", "control")
    assert [line.split(maxsplit=1)[1] for line in done.out.splitlines()[1:]] == [
        '{"at": "2026',
        "\ufffd\u241b]0;title\u2407",
    ]
    assert shown(invoke("logs", "--actor", "control", "--json"))[1:] == ['{"at": "2026', "\ufffd\x1b]0;title\x07"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--actor", "nobody"], "no actor 'nobody' has logged -> actors: control, engine_1, gateway"),
        (["--run", "nope"], "no run 'nope' -> newest runs: tiny-1"),
        (["--run", "../../etc"], "no run '../../etc' -> newest runs: tiny-1"),
        (["--request", "nope"], "no line of request 'nope'; old ones are deleted -> newest requests: r2, r1"),
    ],
)
def test_what_there_is_not_is_an_error_that_says_what_there_is(arguments, words, told, invoke):
    assert invoke("logs", *arguments).one_error_line() == f"error: {words}"


def test_before_anything_was_logged_it_says_so(home, invoke):
    assert "nothing has been logged in" in invoke("logs").one_error_line()
    assert (
        invoke("logs", "--run", "latest").one_error_line().startswith("error: no run 'latest' -> nothing was trained")
    )
    assert "--request names no request" in invoke("logs", "--request", "").one_error_line(2)
    assert invoke("logs", "--since", "soon").one_error_line(2).startswith("error: --since soon is not an age")


def test_following_shows_what_comes_also_from_new_actors_and_ends_with_ctrl_c(told, invoke, monkeypatch):
    polls = iter(range(3))

    def sleep(seconds: float) -> None:
        poll = next(polls)
        if poll == 0:
            write(told, "gateway", (1, {"message": "new"}))
            write(told, "driver", (2, {"message": "driver begins"}))
        elif poll == 1:
            (told.logs / "gateway.jsonl").rename(told.logs / "gateway.jsonl.1")
            write(told, "gateway", (3, {"message": "rotated"}))
        else:
            raise KeyboardInterrupt

    monkeypatch.setattr(logs.time, "sleep", sleep)
    assert shown(invoke("logs", "-f", "-n", "1", "--json")) == ["bad \x1b[2J", "new", "driver begins", "rotated"]
    assert reading.actors(told) == ["control", "driver", "engine_1", "gateway"]
