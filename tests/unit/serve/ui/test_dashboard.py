"""What the dashboard is drawn from: one shared look, curves read as they grow, figures, and actions' words."""

import asyncio
import json
import math
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from unittest import mock

import pytest

from actors.energy import prices, usage
from actors.energy.usage import Attempt, Day, EnergyUse
from actors.runs.curve import MetricsLog
from actors.runs.event import Event
from actors.runs.pace import Eta
from actors.runs.run import RunState
from actors.status import overview
from actors.status.processes import ProcessReading
from actors.status.request_stats import Latency, Traffic
from configs.errors import ClusterError, RequestError
from configs.paths import Home
from configs.schema import EnergyConfig, Slot
from models.lora.registry import Registry
from serve.ui.dashboard import actions, adapters, events, head, processes, requests, runs, slots
from serve.ui.dashboard.actions import Action
from serve.ui.dashboard.chart import Level, loss_curve, sparkline, thinned
from serve.ui.dashboard.curves import Curve, Curves
from serve.ui.dashboard.markup import ago, clock, duration, latency, left, number, size
from serve.ui.dashboard.reading import ROWS, PageData, SharedReading
from tests.samples import TRAIN, publish


def polyline(html: str, kind: str) -> list[tuple[float, float]]:
    places = re.search(f'<polyline class="{kind}" points="([^"]*)"', html)[1]
    return [tuple(map(float, place.split(","))) for place in places.split()]


# One look for everybody


def test_viewers_at_the_same_time_share_one_reading(home):
    looks, read = SharedReading(home), mock.Mock(side_effect=overview.read)

    async def many():
        return await asyncio.gather(*(looks.now() for _ in range(8)))

    with mock.patch.object(overview, "read", read):
        found = asyncio.run(many())
    assert read.call_count == 1
    assert all(look is found[0] for look in found)


def test_a_longer_page_is_read_at_once_and_after_a_change_too(home):
    looks, read = SharedReading(home), mock.Mock(side_effect=overview.read)

    async def look():
        for how in ({}, {"rows": 2 * ROWS}, {}, {"anew": True}):
            await looks.now(**how)

    with mock.patch.object(overview, "read", read):
        asyncio.run(look())
    assert [call.kwargs["limit"] for call in read.call_args_list] == [ROWS, 2 * ROWS, 2 * ROWS]


def test_every_part_of_an_empty_home_says_what_is_missing_in_words(home):
    look = asyncio.run(SharedReading(home).now())
    said = [part.html(look) for part in (head, slots, processes, adapters, requests, events)]
    said += [runs.table(look, "", ROWS, ROWS), runs.detail(look, None, Curve(), {})]
    for words in (
        "Tandem is not running", "No NVIDIA GPU answers here", "No process runs", "No adapter is published yet",
        "Nothing was swapped yet", "No gateway: the cluster is down", "Nothing has happened yet", "No run yet",
        "The loss curve of a run is drawn here",
    ):  # fmt: skip
        assert sum(words in html for html in said) == 1, words


def test_the_newest_readable_evaluation_of_an_adapter_is_shown(home):
    looks = SharedReading(home)
    for moment, text in (("20260101-000000", "{}"), ("20260102-000000", "not json")):
        folder = home.evaluations / "v1" / moment
        folder.mkdir(parents=True)
        (folder / "report.json").write_text(text)
    assert looks._evaluation("v1") == {}
    report = {"losses": {"adapter": {"learned": {"loss": 0.25}}, "base": {"learned": {"loss": 2.5}}}, "rows": 12}
    newest = home.evaluations / "v1" / "20260103-000000"
    newest.mkdir()
    (newest / "report.json").write_text(json.dumps(report))
    assert looks._evaluation("v1") == {"adapter": 0.25, "base": 2.5, "rows": 12}


def test_a_suspect_adapter_has_a_badge_with_its_reasons_and_is_swapped_in_by_force_only(home):
    sound = publish(Registry(home.models), run_id="a").version
    suspect = publish(Registry(home.models), run_id="b", suspect=["5.75 against 0.99"]).version
    look = asyncio.run(SharedReading(home).now())
    html = adapters.html(replace(look, overview=replace(look.overview, up=True)))
    assert '<span class="badge warn" title="5.75 against 0.99">suspect</span>' in html
    assert f'data-do="force" data-what="{suspect}"' in html and f'data-do="swap" data-what="{sound}"' in html


def test_the_bases_loss_stands_at_step_0_of_the_curve():
    drawn = loss_curve([(1, 2.0), (2, 1.0)], [(0, 2.5), (2, 1.5)], [], last_step=2, label="x")
    assert 'data-begin="0" data-end="2"' in drawn and '<polyline class="held-out" points="0.0,' in drawn
    assert 'data-begin="1"' in loss_curve([(1, 2.0), (2, 1.0)], [], [], last_step=2, label="x")


def test_a_cluster_that_is_starting_is_no_disaster(home):
    look = asyncio.run(SharedReading(home).now())
    html = head.html(replace(look, overview=replace(look.overview, up=True, starting=True)))
    assert 'class="lamp warn"' in html and "Tandem is starting" in html and "wrong" not in html


def process(name: str, state: str, **changes) -> ProcessReading:
    return ProcessReading(name, name, state, None, 0, None, None, None, **changes)


def test_a_process_on_its_way_is_not_red_and_a_missing_one_is(home):
    look = asyncio.run(SharedReading(home).now())
    control = process("control", "MISSING")
    html = lambda *found: processes.html(replace(look, overview=replace(look.overview, processes=found)))  # noqa: E731
    starting = html(process("head", "ALIVE"), replace(control, on_its_way=True))
    assert "1 up · 1 starting" in starting and '<span class="badge busy" title="">starting</span>' in starting
    assert 'class="bad"' not in starting and "missing" not in starting
    missing = html(process("head", "ALIVE"), control)
    assert "1 of 2 not up" in missing and '<tr class="bad" data-process="control">' in missing


# Curves


def test_a_curve_is_read_on_from_where_it_was_and_anew_after_it_was_replaced(home):
    home.run("r").mkdir(parents=True)
    log, curves = MetricsLog(home.run("r") / "metrics.jsonl"), Curves(home)
    assert curves.of("r").train == []
    for step in (1, 2, 3):
        log.append({"step": step, "loss": 1.0 / step, "at": 0.0})
    first = curves.of("r")
    assert first.train == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    with log.path.open("a") as file:
        file.write('{"step": 4, "lo')
    assert len(curves.of("r").train) == 3
    with log.path.open("a") as file:
        file.write('ss": 0.25, "at": 0}\n')
    log.append({"step": 4, "eval_loss": 0.75, "at": 0.0})
    again = curves.of("r")
    assert again is first
    assert (again.train[-1], again.held_out) == ((4, 0.25), [(4, 0.75)])
    log.begin_after(2)
    assert curves.of("r").train == [(1, 1.0), (2, 0.5)]


@pytest.fixture
def eager_threads():
    """Threads that take turns a hundred times as often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(before / 100)
    yield
    sys.setswitchinterval(before)


def test_many_viewers_in_threads_read_each_line_of_a_curve_once(home, eager_threads):
    home.run("r").mkdir(parents=True)
    path, curves, viewers = home.run("r") / "metrics.jsonl", Curves(home), 8
    steps = [(step, 0.5) for step in range(1, 6001)]
    together = threading.Barrier(viewers)

    def look(_: int) -> Curve:
        together.wait()
        return curves.of("r")

    with ThreadPoolExecutor(viewers) as pool, path.open("a") as file:
        for begin, end in ((0, 1), (1, 3000), (3000, 6000)):
            file.writelines(f'{{"step": {step}, "loss": {loss}}}\n' for step, loss in steps[begin:end])
            file.flush()
            assert all(curve.train == steps[:end] for curve in pool.map(look, range(viewers)))


def test_lines_that_are_none_are_counted_and_left_out():
    curve = Curve()
    for line in (b"{", b"[]", b'{"step": 1}', b'{"step": 2, "loss": "x"}', b'{"step": 3, "loss": true}', b"\xff\x00"):
        curve.take(line)
    curve.take(b'{"step": 4, "loss": 0.5}')
    curve.take(b'{"step": 3, "rollback": "nan", "from": 4}')
    assert (curve.train, curve.unreadable, curve.rollbacks) == ([(4, 0.5)], 5, 1)


@pytest.mark.parametrize("line", ['"step": 2, "loss": H', '"step": Infinity, "loss": 1', '"step": H, "loss": 1'])
def test_a_number_that_no_float_can_hold_is_a_line_that_is_none(line):
    curve = Curve()
    curve.take(b"{%s}" % line.replace("H", "9" * 400).encode())
    assert (curve.train, curve.unreadable) == ([], 1)


@pytest.mark.parametrize("others", [[2.0, -2.0], [-2.0, -1.0], [-2.0]])
def test_negative_losses_have_room_below_zero(others):
    html = loss_curve(list(enumerate(others, 1)), [], [], last_step=3, label="loss")
    low, high = (float(re.search(f'data-{end}="([^"]*)"', html)[1]) for end in ("low", "high"))
    assert low <= -2.0 and high >= max(others)
    assert all(0 <= y <= 100 for _, y in polyline(html, "train"))


def test_values_too_large_for_an_axis_are_left_out_and_so_is_no_step():
    points = [(1, 1.0), (2, 1.7e308), (3, -1.7e308), (10**300, 0.5)]
    html = loss_curve(points, [], [], last_step=9, label="loss")
    assert [y for _, y in polyline(html, "train")] == [0, 50]


def test_a_curve_stands_where_its_values_are():
    html = loss_curve([(1, 2.0), (50, 1.0), (99, 0.0)], [(50, 0.5)], [], last_step=99, label="loss")
    assert polyline(html, "train") == [(0, 0), (50, 50), (100, 100)]
    assert polyline(html, "held-out") == [(50, 75)]


def axis(html: str) -> list[str]:
    return re.findall(r'<span class="y"[^>]*>([^<]*)<', html)


def test_losses_far_apart_are_drawn_by_powers_of_ten():
    html = loss_curve([(1, 10.0), (2, 1.0), (3, 0.1)], [], [Level(0.01, "target", "target")], last_step=3, label="loss")
    assert 'data-low="0.01" data-high="10.0" data-scale="log"' in html
    assert axis(html) == ["0.01", "0.1", "1", "10"]
    assert [y for _, y in polyline(html, "train")] == [0, pytest.approx(33.33), pytest.approx(66.67)]
    assert '<line class="level target" x1="0" x2="100" y1="100.0" y2="100.0"/>' in html


@pytest.mark.parametrize("lowest", [0.1, 0.0, -1.0])
def test_losses_near_each_other_or_not_positive_are_drawn_evenly(lowest):
    html = loss_curve([(1, 2.0), (2, lowest)], [], [], last_step=2, label="loss")
    assert 'data-scale="linear"' in html


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.04, 1.5, ["0.02", "0.05", "0.1", "0.2", "0.5", "1", "2"]),
        (0.0003, 4.0, ["0.0001", "0.001", "0.01", "0.1", "1", "10"]),
        (1e-12, 10.0, ["1e-12", "1e-09", "1e-06", "0.001", "1", "1000"]),
        (1e-320, 1e99, None),
    ],
)
def test_the_axis_by_powers_of_ten_has_round_numbers_and_room(low, high, ticks):
    html = loss_curve([(1, high), (2, low)], [], [], last_step=2, label="loss")
    assert ticks is None or axis(html) == ticks
    assert len(axis(html)) <= 8
    assert all(0 <= y <= 100 for _, y in polyline(html, "train"))


def test_values_that_are_not_finite_are_left_out_and_nothing_left_draws_nothing():
    html = loss_curve([(1, 1.0), (2, math.nan), (3, math.inf), (4, 0.5)], [], [], last_step=4, label="loss")
    assert len(polyline(html, "train")) == 2
    assert loss_curve([(1, math.nan)], [], [Level(0.5, "target", "target")], last_step=9, label="loss") == ""


def test_labels_of_a_curve_are_escaped():
    html = loss_curve([(1, 1.0)], [], [Level(0.5, "<b>", "target")], last_step=2, label='"><script>')
    assert "<b>" not in html
    assert "<script>" not in html
    assert "&lt;b&gt;" in html


def test_a_thinned_curve_keeps_its_spikes_its_order_and_its_end():
    points = [(step, 1.0) for step in range(1, 5001)]
    points[1233], points[4001] = (1234, 9.0), (4002, 0.1)
    kept = thinned(points)
    assert len(kept) <= 361
    assert kept == sorted(kept)
    assert {(1234, 9.0), (4002, 0.1), (5000, 1.0)} <= set(kept)


def test_a_sparkline_leaves_a_gap_where_a_reading_is_missing():
    html = sparkline([0.5, None, 1.0, 1.0], 1, label="busy", length=4)
    assert re.findall(r'<polyline points="([^"]*)"', html) == ["0.0,12.0", "66.7,1.0 100.0,1.0"]


# Figures


def test_figures_are_short():
    assert [size(0), size(1536), size(19.4 * 2**30), size(None)] == ["0 B", "1.5 KiB", "19.4 GiB", "\u2013"]
    assert [duration(3.2), duration(90), duration(5400), duration(86400 * 12)] == ["3 s", "2 min", "1.5 h", "12 d"]
    assert [latency(0.0123), latency(0.9999), latency(2.5), latency(None)] == ["12.3 ms", "1 s", "2.5 s", "\u2013"]
    assert [latency(0), latency(0.0004), latency(0.001)] == ["< 1 ms", "< 1 ms", "1 ms"]
    assert [left(348), left(59), left(599), left(600), left(5400)] == ["5.8 min", "59 s", "10.0 min", "10 min", "1.5 h"]
    assert [number(0.6), number(812.5), number(12345.6), number(None)] == ["0.600", "812", "12,346", "\u2013"]


def test_a_clock_that_jumped_gives_no_negative_age_and_a_strange_time_no_error():
    assert ago(2000.0, 1000.0) == "0 s"
    assert clock(1e30) == "?"


def test_a_quarantined_slot_names_its_reason_and_the_way_out(home):
    look = asyncio.run(SharedReading(home).now())
    slot = Slot(name="0", roles=("train",), gpu=0, uuid="GPU-gone")
    held = {"role": "train", "holder": None, "pid": None, "since": None}
    reading = overview.SlotReading(**slot.model_dump(), **held, quarantine="<3 CUDA errors>")
    html = slots.html(replace(look, overview=replace(look.overview, slots=(reading,))))
    assert "&lt;3 CUDA errors&gt;. Nobody gets it until <code>tandem slots release 0</code>." in html
    assert "GPU gone:" in html
    assert 'class="tile bad"' in html
    silent = slots.html(replace(look, overview=replace(look.overview, slots=(reading,), driver_fault="<mismatch>")))
    assert "the NVIDIA driver does not answer: &lt;mismatch&gt;." in silent
    assert "GPU gone" not in silent and "shares of the processors" not in silent


def test_runs_stand_in_the_order_in_which_they_matter(home):
    from actors.runs.ledger import Ledger

    ledger = Ledger(home.ledger)
    for name in ("old", "first", "second", "works"):
        ledger.submit(name, **TRAIN)
    ledger.transition("old", RunState.STOPPED, "test")
    ledger.grant("works", Slot(name="0", roles=("train",)))
    ledger.close()
    look = asyncio.run(SharedReading(home).now())
    assert [reading.run.id for reading in look.overview.ordered] == ["works", "first", "second", "old"]
    assert runs.find(look, "").run.id == "works"
    assert runs.find(look, "old").run.id == "old"
    assert runs.find(look, "nobody").run.id == "works"


def account(home, run_id: str) -> None:
    """A run's consumption: 200 Wh in one day."""
    day = Day(joules=720_000.0, seconds=600.0, tokens=1000, steps=10)
    kept = EnergyUse([Attempt(1, "0", "cuda", False, "counter", days={"2026-11-01": day})])
    home.run(run_id).mkdir(parents=True)
    (home.run(run_id) / usage.FILE).write_text(json.dumps(asdict(kept)))


def test_a_runs_energy_and_its_price_are_shown_while_it_trains(home, monkeypatch):
    from actors.runs.ledger import Ledger

    ledger = Ledger(home.ledger)
    ledger.submit("works", **TRAIN)
    ledger.grant("works", Slot(name="0", roles=("train",)))
    ledger.close()
    account(home, "works")
    monkeypatch.setattr(prices, "current", lambda home: EnergyConfig(price_per_kwh=0.5, currency="EUR"))
    looks = SharedReading(home)
    look = asyncio.run(looks.now())
    html = runs.detail(look, look.overview.runs[0], Curve(), looks.energy("works"))
    figures = re.findall(r'<b>([^<]*)</b>\s*<span class="quiet">([^<]*)</span><span class="name">([^<]*)</span>', html)
    assert ("200", "Wh", "energy") in figures and ("0.1", "EUR", "cost") in figures
    assert looks.energy("nobody") is None


def test_prices_are_those_of_the_looks_own_home_and_read_once_for_many_beats(home, tmp_path):
    looks = SharedReading(Home(tmp_path / "elsewhere"))
    account(looks.home, "r")
    with mock.patch.object(prices, "current", mock.Mock(return_value=EnergyConfig(price_per_kwh=0.5))) as asked:
        assert [looks.energy("r").cost for _ in range(5)] == [0.1] * 5
    assert [call.args for call in asked.call_args_list] == [(looks.home,)]


def test_a_damaged_cluster_file_costs_the_price_and_not_the_page(home):
    account(home, "r")
    home.cluster.write_text("{")
    bill = SharedReading(home).energy("r")
    assert (bill.joules, bill.cost) == (720_000, None)


def test_a_run_of_a_cluster_that_is_down_waits_for_it(home):
    from actors.runs.ledger import Ledger

    ledger = Ledger(home.ledger)
    ledger.submit("works", **TRAIN | {"max_steps": 60})
    ledger.grant("works", Slot(name="0", roles=("train",)))
    ledger.transition("works", RunState.RUNNING, "at work")
    ledger.progress("works", step=2, max_steps=60, loss=1.0, tokens_per_s=812.5)
    ledger.close()
    log = MetricsLog(home.run("works") / "metrics.jsonl")
    log.path.parent.mkdir(parents=True)
    for step in (1, 2):
        log.append({"step": step, "loss": 1.0, "at": float(step)})
    down = asyncio.run(SharedReading(home).now())
    up = replace(down, overview=replace(down.overview, up=True))

    def drawn(look):
        return runs.detail(look, look.overview.runs[0], Curve(), None) + runs.table(look, "works", ROWS, ROWS)

    for words in ("at work", "badge good", 'data-do="stop"', ">812<", ">tokens/s<"):
        assert words in drawn(up), words
        assert words not in drawn(down), words
    assert drawn(down).count('<span class="badge calm">waits for tandem up</span>') == 2
    assert " left" not in drawn(down)


def seen_run(home, **changes) -> PageData:
    """A look at a run on slot 0 that is up, with these changes to its row."""
    from actors.runs.ledger import Ledger

    ledger = Ledger(home.ledger)
    ledger.submit("works", **TRAIN)
    ledger.grant("works", Slot(name="0", roles=("train",)))
    ledger.close()
    look = asyncio.run(SharedReading(home).now())
    reading = look.overview.runs[0]
    reading = replace(reading, **{name: changes.pop(name) for name in ("eta", "position") if name in changes})
    reading = replace(reading, run=replace(reading.run, **changes))
    return replace(look, overview=replace(look.overview, up=True, runs=(reading,)))


def test_the_time_left_has_a_decimal_below_ten_minutes(home):
    look = seen_run(home, eta=Eta(348.0, 318.0, 372.0, 1.0))
    assert ">5.8 min left<" in runs.table(look, "", ROWS, ROWS)
    html = runs.detail(look, look.overview.runs[0], Curve(), None)
    assert '<b>5.8 min</b> <span class="quiet">5.3 min to 6.2 min</span>' in html


def test_what_a_queued_run_does_not_have_is_left_out_on_a_phone_and_its_place_stands_apart(home):
    nothing = {"loss": None, "tokens_per_s": None, "started_at": None}
    html = runs.table(seen_run(home, state=RunState.QUEUED, position=1, **nothing), "", ROWS, ROWS)
    assert re.findall(r'<td class="n none" data-label="([^"]*)">\u2013</td>', html) == ["loss", "tokens/s", ""]
    assert '</span> <span class="quiet">#1</span>' in html.replace("\n", "")
    works = seen_run(Home(home.root / "other"), started_at=100.0, ended_at=None)
    html = runs.table(replace(works, overview=replace(works.overview, at=160.0)), "", ROWS, ROWS)
    assert '<td class="n " data-label="so far">1 min</td>' in html


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (1, "1 line of metrics.jsonl cannot be read and is left out"),
        (2, "2 lines of metrics.jsonl cannot be read and are left out"),
    ],
)
def test_lines_that_cannot_be_read_are_counted_in_words(count, said, home):
    look = seen_run(home)
    assert said in runs.detail(look, look.overview.runs[0], Curve(unreadable=count), None)


def test_good_news_of_the_watchdog_are_green_and_its_warnings_are_not(home):
    look = asyncio.run(SharedReading(home).now())
    told = tuple(Event(1, 5.0, "r", "watchdog", text) for text in ("good: the mean loss is 0.2", "it stands still"))
    html = events.html(replace(look, overview=replace(look.overview, events=told)))
    assert re.findall(r'<span class="kind (\w+)">watchdog</span>', html) == ["good", "warn"]


def test_what_stands_in_backticks_is_code_and_what_is_html_is_text(home):
    look = asyncio.run(SharedReading(home).now())
    problems = ("<b>it</b> died -> `tandem up` starts it again",)
    html = head.html(replace(look, overview=replace(look.overview, problems=problems)))
    assert "<li>&lt;b&gt;it&lt;/b&gt; died -&gt; <code>tandem up</code> starts it again</li>" in html


def test_the_kv_cache_has_its_figure_and_latencies_say_how_sure_they_are(home):
    look = asyncio.run(SharedReading(home).now())
    queue = Latency(40, 0.004, ((0.001, 30), (0.1, 40)))
    latencies = {"time_to_first_token_part_queue": queue, "time_to_first_token": Latency(2, 3.92, ((1.0, 0), (2.0, 2)))}
    traffic = Traffic({"200": 40}, 0, 0, 1, 1, latencies)
    engine = {"kv_tokens": 12_288, "kv_capacity": 49_152, "running": 1, "waiting": 0}
    seen = replace(look.overview, up=True, traffic=traffic, engines={"engine_1": engine})
    html = requests.html(replace(look, overview=seen))
    cells = lambda name: re.findall(r'class="n">([^<]*)<', html[html.index(f"<td>{name}</td>") :])[:3]  # noqa: E731
    assert cells("First token") == ["\u2013", "\u2013", "1.96 s"]
    assert cells("queue") == ["&lt; 1 ms", "≈ 80.2 ms", "&lt; 1 ms"]
    assert '<i style="width: 25.0%"></i></span>\n  <span class="quiet">25%</span>' in html


# Ray's own pages


def test_processes_and_runs_lead_to_rays_pages_and_the_page_says_where_its_token_is(home):
    look = seen_run(home, job_id="works-1", started_at=100.0)
    begun = replace(process("head", "ALIVE"), started=50.0)
    seen = replace(look.overview, dashboard="http://ray", processes=(begun, process("control", "ALIVE", actor="abc")))
    look = replace(look, overview=seen)
    html = processes.html(look)
    assert re.findall(r'<a href="([^"]*)"[^>]*>([^<]*)</a>', html) == [("http://ray/#/actors/abc", "control")]
    detail = runs.detail(look, seen.runs[0], Curve(), None)
    assert re.findall(r'<a href="([^"]*)"', detail) == ["http://ray/#/jobs/works-1"]
    assert f"<code>{home.root}/ray_token</code>" in head.html(look)
    older = replace(look, overview=replace(seen, processes=(replace(begun, started=150.0),)))
    assert "<a " not in runs.detail(older, seen.runs[0], Curve(), None), "Ray forgot it"


# Actions


@pytest.mark.parametrize(("kind", "what"), [("delete", "v1"), ("swap", ""), ("stop", ""), ("", "x"), ("back", "")])
def test_there_are_no_other_actions(kind, what):
    with pytest.raises(RequestError, match="the dashboard cannot do"):
        Action(kind, what)


def test_the_way_back_is_a_swap_to_the_version_that_its_button_shows(home):
    empty = asyncio.run(SharedReading(home).now())
    swapped = replace(empty.overview, up=True, aliases={"prod": "v2", "previous": "v1"})
    html = adapters.html(replace(empty, overview=swapped))
    (button,) = re.findall(r"<button ([^>]*)>Back to v1</button>", html)
    assert 'data-do="swap"' in button and 'data-what="v1"' in button
    forced = Action("force", "v1").question("v2", "v1 is suspect: 5.75 against 0.99")
    assert forced.startswith("v1 is suspect: 5.75 against 0.99. prod answers with v2 now. Let it answer with v1?")
    assert Action("force", "v1").verb == "Swap all the same"
    assert Action("swap", "v1").question("v2").startswith("prod answers with v2 now. Let it answer with v1?")


def test_without_a_cluster_an_action_says_so(home):
    with pytest.raises(ClusterError, match="not running"):
        asyncio.run(actions.do(home, Action("swap", "v1")))
