"""The one screen: made-up Overviews as text, also of GPUs that this machine does not have."""

import re
from dataclasses import replace

import pynvml
import pytest

from actors.hardware import gpus
from actors.runs.event import Event
from actors.runs.pace import Eta
from actors.runs.run import Run, RunKind, RunState
from actors.status.overview import RunReading
from actors.status.rates import Rate
from actors.status.request_stats import Latency, Traffic
from cli.screens import meter
from cli.screens.board import Board
from tests.unit.actors.hardware.test_gpus import Nvml
from tests.unit.cli.screens.boards import ALL_WELL, DOWN, NOW, coloured, lines

LATENCY = Latency(20, 2.0, ((0.05, 0), (0.1, 10), (0.2, 20)))
TRAFFIC = Traffic({"200": 40, "503": 2}, 3, 1, 5000, 1234, {"time_to_first_token": LATENCY})
ETA = Eta(252.0, 234.0, 300.0, 2.0)


def run(run_id="tiny-1", state=RunState.RUNNING, **changes) -> Run:
    values = {"id": run_id, "kind": RunKind.TRAIN, "state": state, "reason": "at work", "profile": "tiny", "config": {}}
    values |= {"priority": 0, "slot_wanted": None, "slot": "0", "parent": None, "job_id": None, "attached": False}
    values |= {"attempt": 1, "step": 30, "max_steps": 60, "loss": 0.5, "tokens_per_s": 5617.4, "adapter": None}
    values |= {"created_at": NOW - 90, "started_at": NOW - 60, "ended_at": None, "heartbeat_at": NOW - 1}
    return Run(**values | changes)


def running(**changes) -> RunReading:
    return RunReading(run(**changes), None, ETA, (3.0, 2.0, 1.0, 0.5))


def section(text: list[str], title: str) -> list[str]:
    """The lines below a section's title."""
    begin = next(index for index, line in enumerate(text) if line.startswith(f"── {title}")) + 1
    end = next((index for index in range(begin, len(text)) if text[index].startswith("── ")), len(text))
    return text[begin:end]


def one(text: list[str], begins: str) -> str:
    (found,) = [line for line in text if line.startswith(begins)]
    return found


# GPUs


def test_a_gpu_is_one_line_of_bars_and_readings_in_80_columns():
    machine = section(lines(Board(ALL_WELL)), "machine")
    assert re.fullmatch(
        r"0 RTX 3090 +█{6,}[▏▎▍▌▋▊▉]?░+  18\.0/24\.0 GiB  █+[▏▎▍▌▋▊▉]? +98%  84 °C  348/350 W", one(machine, "0 RTX")
    )
    assert re.fullmatch(r"1 RTX 3090 .*  6\.0/24\.0 GiB .* 25%  51 °C  140/350 W", one(machine, "1 RTX"))
    assert re.fullmatch(r"CPU 16 cores .* 16\.0/64\.0 GiB .* 50%", one(machine, "CPU"))


def test_a_wide_terminal_shows_clock_and_fan_too():
    assert one(section(lines(Board(ALL_WELL), width=120), "machine"), "0 RTX").endswith("348/350 W  1695 MHz  85%")


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_no_line_is_wider_than_the_terminal_and_the_bars_use_what_is_there(width):
    long = replace(ALL_WELL.gpus[0], index=10, name="NVIDIA RTX PRO 6000 Blackwell Server Edition")
    text = lines(Board(replace(ALL_WELL, gpus=(*ALL_WELL.gpus, long), traffic=TRAFFIC, runs=(running(),))), width=width)
    assert max(map(len, text)) <= width
    assert max(len(line) for line in section(text, "machine")) > min(width, 155) - 5
    assert len(section(text, "machine")) == 5, "no GPU needs a second line"


def test_a_reading_that_the_driver_refuses_is_a_dash_and_not_zero():
    refused = ("nvmlDeviceGetUtilizationRates", "nvmlDeviceGetTemperature", "nvmlDeviceGetPowerUsage")
    unknown = gpus._read(Nvml(*refused), 3)
    line = one(section(lines(Board(replace(ALL_WELL, gpus=(unknown,)))), "machine"), "3 RTX")
    assert re.fullmatch(r"3 RTX 3090 .* 1\.0/24\.0 GiB  ·+ +- +- +-", line)


def test_a_gpu_that_vanished_from_the_driver_is_named_in_machine_and_slots(monkeypatch):
    def handle(index):
        if index == 1:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return "handle"

    for name, answer in (Nvml().answers | {"nvmlDeviceGetUUID": "GPU-a"}).items():
        monkeypatch.setattr(pynvml, name, lambda *args, answer=answer: answer)
    for name in ("nvmlInit", "nvmlShutdown"):
        monkeypatch.setattr(pynvml, name, lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 2)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", handle)
    text = lines(Board(replace(ALL_WELL, gpus=tuple(gpus.readings()))))
    assert re.fullmatch(r"1 gone +GPU-b", one(section(text, "machine"), "1 gone"))
    assert re.match(r"1 +serve +GPU 1 gone  engine_1", one(section(text, "slots"), "1 "))


def test_a_machine_without_a_gpu_shows_its_processor_only():
    slots = tuple(replace(slot, gpu=None, uuid=None) for slot in ALL_WELL.slots)
    text = lines(Board(replace(ALL_WELL, gpus=(), slots=slots)))
    assert [line.split()[0] for line in section(text, "machine")] == ["memory", "CPU"]
    assert re.match(r"0 +train +CPU +free +- +-", one(section(text, "slots"), "0 "))


@pytest.mark.parametrize(("part", "colour"), [(0.1, "green"), (0.75, "yellow"), (0.95, "red")])
def test_a_bar_has_the_colour_of_its_load(part, colour):
    assert meter.bar(part, 10).spans[0].style == colour


@pytest.mark.parametrize(
    ("part", "drawn"),
    [(0, "░░░░"), (1, "████"), (0.5, "██░░"), (0.53, "██▏░"), (7, "████"), (-1, "░░░░"), (None, "····")],
)
def test_a_bar_is_as_long_as_its_part_and_never_longer(part, drawn):
    assert meter.bar(part, 4).plain == drawn


# Slots and processes


def test_a_quarantined_slot_is_obvious_and_its_reason_stands_once_above():
    slots = (replace(ALL_WELL.slots[0], quarantine="3 CUDA errors in a row"), ALL_WELL.slots[1])
    seen = replace(ALL_WELL, slots=slots, problems=("slot 0 is in quarantine: 3 CUDA errors in a row",))
    assert re.fullmatch(r"0 +train +GPU 0 +quarantined +- +-", one(section(lines(Board(seen)), "slots"), "0 "))
    assert [line for line in lines(Board(seen)) if "CUDA" in line] == [f"! {seen.problems[0]}"]
    assert "41mquarantined" in coloured(Board(seen)), "white on red"
    held = replace(seen, slots=(replace(slots[0], holder="r1"), slots[1]))
    assert " r1, quarantined " in one(section(lines(Board(held)), "slots"), "0 ")


def test_what_others_wrote_is_shown_and_not_obeyed_by_the_terminal():
    bad = "\x1b]0;title\x07 \x9b2J gone"
    slots = (replace(ALL_WELL.slots[0], holder=bad, quarantine=bad), ALL_WELL.slots[1])
    ended = RunReading(run("bad", RunState.FAILED, reason=bad, ended_at=NOW), None, None, ())
    event = Event(1, NOW, "failed", "bad", bad)
    seen = replace(ALL_WELL, slots=slots, runs=(ended,), problems=(bad,), events=(event,))
    text = "\n".join(lines(Board(seen), width=160))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)
    assert text.count("␛]0;title") == text.count("�2J gone") == 4


def test_a_slot_says_who_holds_it_in_which_process_and_for_how_long():
    slots = section(lines(Board(ALL_WELL)), "slots")
    assert re.fullmatch(r"1 +serve +GPU 1 +engine_1 +2\.0h +4242", one(slots, "1 "))
    assert re.fullmatch(r"0 +train +GPU 0 +free +- +-", one(slots, "0 "))


def test_a_dead_process_is_red_and_one_that_was_restarted_shows_how_often():
    dead = replace(ALL_WELL.processes[1], state="GONE", restarts=3)
    seen = replace(ALL_WELL, processes=(ALL_WELL.processes[0], dead))
    assert re.fullmatch(
        r"engine_1 +GONE +4242 +1\.0m +3 +12\.0 GiB", one(section(lines(Board(seen)), "proc"), "engine")
    )
    assert "31mGONE" in coloured(Board(seen))


def test_a_process_on_its_way_is_yellow_and_starting():
    coming = replace(ALL_WELL.processes[1], state="MISSING", pid=None, on_its_way=True)
    board = Board(replace(ALL_WELL, processes=(coming,)))
    assert re.match(r"engine_1 +STARTING +-", one(section(lines(board), "processes"), "engine"))
    assert "33mSTARTING" in coloured(board)


def test_live_a_process_has_its_share_of_a_core():
    board = Board(ALL_WELL, Rate(5, 0, 0, 0, 0, {}, {4242: 0.37}))
    assert one(section(lines(board), "processes"), "engine_1").endswith("37%")


# Serving


def test_engines_and_aliases_are_shown():
    serving = section(lines(Board(ALL_WELL)), "serving")
    assert serving[:2] == ["prod -> v1", "previous -> base"]
    assert re.match(r"engine_1  KV ██░+ 25%  2 running  1 waiting  12\.0 GiB cuda", one(serving, "engine_1"))


def test_long_names_of_adapters_stand_below_their_engine():
    names = [f"gpt-oss-20b-unsloth-bnb-4bit_quick-test_20261129-01471{number}" for number in range(2)]
    stats = ALL_WELL.engines["engine_1"] | {"adapters": dict.fromkeys(names, 0)}
    serving = section(lines(Board(replace(ALL_WELL, engines={"engine_1": stats}))), "serving")
    at = serving.index(one(serving, "engine_1"))
    assert serving[at].endswith("cuda")
    assert serving[at + 1 : at + 3] == [f"  adapter {name}" for name in names]
    assert one(section(lines(Board(ALL_WELL)), "serving"), "engine_1").endswith("cuda  adapters v1")


def test_an_engine_that_does_not_answer_says_so():
    broken = replace(ALL_WELL, engines={"engine_1": {"error": "no answer within 5 s"}})
    assert one(section(lines(Board(broken)), "serving"), "engine_1") == "engine_1 no answer within 5 s"
    assert "no engine answers yet" in section(lines(Board(replace(ALL_WELL, engines={}))), "serving")


def test_requests_are_totals_once_and_rates_when_live():
    seen = replace(ALL_WELL, traffic=TRAFFIC)
    text = " ".join(section(lines(Board(seen), 120), "serving"))
    assert "42 answered  3 now  2 errors  1 disconnected  1,234 tokens written" in text
    assert "since the start  TTFT ≈ 100 ms (p95 ≈ 190 ms)" in text
    rate = Rate(10.0, 2.5, 0.1, 30.0, 120.0, {"time_to_first_token": Latency(2, 3.0, ((1.0, 0), (2.0, 2)))})
    text = " ".join(section(lines(Board(seen, rate), 120), "serving"))
    assert "2.5/s  120 tok/s last 10 s  TTFT 1.5 s (mean)" in text


# Runs and events


def test_a_running_run_shows_progress_time_left_loss_and_speed():
    runs = section(lines(Board(replace(ALL_WELL, runs=(running(),)))), "runs")
    assert runs[0] == "tiny-1  RUNNING  slot 0  1.0m"
    assert re.fullmatch(r"  █+░+ 30/60 50%  4\.2m left \(3\.9m to 5\.0m\)", runs[1])
    assert runs[2] == "  loss 0.5000 █▅▂▁  5,617 tok/s"


def test_while_down_a_run_says_when_it_goes_on_instead_of_speed_and_time_left():
    runs = section(lines(Board(replace(DOWN, runs=(replace(running(), eta=None),)))), "runs")
    assert runs[1].endswith(" 30/60 50%  goes on after `tandem up`")
    assert runs[2] == "  loss 0.5000 █▅▂▁"


def test_of_an_unknown_number_of_steps_there_is_no_share():
    runs = section(lines(Board(replace(ALL_WELL, runs=(RunReading(run(max_steps=None), None, None, ()),)))), "runs")
    assert re.fullmatch(r"  ·+ 30/\? -", runs[1].rstrip())


def test_the_queue_is_in_its_order_and_ended_runs_say_what_became_of_them():
    readings = (
        RunReading(run("later", RunState.QUEUED, priority=-1), 2, None, ()),
        RunReading(run("sooner", RunState.QUEUED), 1, None, (), "slot 0 is in quarantine"),
        RunReading(run("works", step=0, max_steps=None, loss=None, tokens_per_s=None), None, None, ()),
        RunReading(run("broken", RunState.FAILED, reason="out of memory", ended_at=NOW - 30), None, None, ()),
        RunReading(run("done", RunState.SUCCEEDED, adapter="v7", ended_at=NOW - 60), None, None, ()),
    )
    counts = {"RUNNING": 1, "QUEUED": 2, "FAILED": 1, "SUCCEEDED": 10, "STOPPED": 0}
    text = lines(Board(replace(ALL_WELL, runs=readings, run_counts=counts)))
    runs = section(text, "runs: 1 running, 2 queued, 1 failed, 10 succeeded")
    assert [line for line in runs if "·" not in line] == [
        "works  RUNNING  slot 0  1.0m",
        "sooner  QUEUED  next in the queue  1.5m",
        "sooner waits: slot 0 is in quarantine",
        "later  QUEUED  2. in the queue  1.5m  priority -1",
        "broken  FAILED  30s ago  out of memory",
        "done  SUCCEEDED  1.0m ago  v7",
    ]


def test_an_event_is_one_line_however_long_and_a_bracket_is_no_markup():
    events = (Event(2, NOW - 5, "r", "failed", "[red]no\nway[/] " + "x" * 200), Event(1, NOW + 99, None, "swap", "y"))
    shown = section(lines(Board(replace(ALL_WELL, events=events))), "events")
    assert shown[0].startswith("    5s failed    r: [red]no way[/] xxx") and len(shown[0]) == 80
    assert shown[1].split() == ["0s", "swap", "y"], "no age is negative"


# The whole


def test_problems_come_first_and_the_head_counts_them():
    text = lines(Board(replace(ALL_WELL, problems=("engine_1 is GONE, process 1", "GPU 0 is gone"))))
    assert "2 to look at" in text[0] and "well" not in text[0]
    assert text[2:4] == ["! engine_1 is GONE, process 1", "! GPU 0 is gone"]
    assert "  well  " in lines(Board(ALL_WELL))[0]


def test_many_problems_are_cut_and_counted():
    text = lines(Board(replace(ALL_WELL, problems=tuple(f"problem {i}" for i in range(30)))))
    assert "! problem 7" in text and "! problem 8" not in text and "! and 22 more" in text


def test_while_down_it_says_so_and_shows_what_is_known():
    seen = replace(DOWN, runs=(RunReading(run("waits", RunState.QUEUED), 1, None, ()),))
    text = lines(Board(seen))
    assert text[0] == "Tandem is not running (home: /home/me/.tandem)"
    assert "prod -> v1" in text and "waits  QUEUED  next in the queue  1.5m" in text
    assert not any(line.startswith("── slots") for line in text)


def test_long_sentences_go_on_indented_below_their_beginning():
    reason = "its job ended (FAILED): Unexpected error occurred: The actor died unexpectedly before finishing"
    ended = RunReading(run("broken", RunState.FAILED, reason=reason, ended_at=NOW - 30), None, None, ())
    text = lines(Board(replace(ALL_WELL, runs=(ended,), problems=(f"broken {reason}",))))
    at = text.index(one(text, "! broken"))
    assert text[at + 1] == "  unexpectedly before finishing"
    assert section(text, "runs")[-2:] == [
        "broken  FAILED  30s ago  its job ended (FAILED): Unexpected error occurred:",
        "  The actor died unexpectedly before finishing",
    ]


def test_events_stand_in_columns_however_long_their_kinds_are():
    kinds = (("r", "interrupted", "x"), (None, "quarantine", "y"), (None, "log", "z"))
    events = tuple(Event(9, NOW, *each) for each in kinds)
    assert section(lines(Board(replace(ALL_WELL, events=events))), "events") == [
        "    0s interrupted r: x",
        "    0s quarantine  y",
        "    0s log         z",
    ]


def test_a_long_holder_leaves_the_rest_of_its_slot_whole():
    name = "gpt-oss-20b-reasoning-20261124-043019-a1b2"
    slots = (replace(ALL_WELL.slots[0], holder=name, pid=1234567, since=NOW - 90), ALL_WELL.slots[1])
    text = section(lines(Board(replace(ALL_WELL, slots=slots))), "slots")
    assert re.match(r"0 +train +GPU 0 +gpt-oss-20b-\S+ +1\.5m +1234567$", one(text, "0 "))
    assert name in "".join("".join(re.findall(r"gpt-oss\S+|^ {10,}\S+$", line)).strip() for line in text)


@pytest.mark.parametrize("lines_of_problems", [1, 3])
def test_on_a_low_screen_with_many_problems_the_runs_stay_and_a_line_says_what_is_left_out(lines_of_problems):
    problems = tuple(f"problem {number} {'is long ' * 9 * lines_of_problems}" for number in range(8))
    seen = replace(ALL_WELL, problems=problems, runs=(running(),), events=(Event(1, NOW, None, "note", "x"),))
    whole, text = lines(Board(seen)), lines(Board(seen, height=24))
    assert len(text) == 24
    assert section(text, "runs")[:3] == section(whole, "runs")
    assert [line.split()[1] for line in text if line.startswith("── ")] == ["machine", "runs"]
    assert text[2].startswith("! problem 0")
    assert text[-1] == f"… and {len(whole) - 23} lines more: `tandem status` shows all of them"


@pytest.mark.parametrize("height", [10, 16, 24, 40])
def test_of_a_low_screen_events_go_first_then_processes_and_never_the_machine_nor_the_runs(height):
    events = tuple(Event(seq, NOW, None, "note", f"event {seq}") for seq in range(8, 0, -1))
    board = Board(replace(ALL_WELL, events=events, runs=(running(),)), height=height)
    text = lines(board)
    assert len(text) <= height
    titles = [line.split()[1] for line in text if line.startswith("── ")]
    assert (
        titles
        == {
            10: ["machine", "runs"],
            16: ["machine", "slots", "runs"],
            24: ["machine", "slots", "serving", "runs", "processes"],
            40: ["machine", "slots", "serving", "runs", "processes", "events"],
        }[height]
    )
    assert text[-1].startswith("… and ") == (height < 40)
