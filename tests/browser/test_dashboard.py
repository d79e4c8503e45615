"""The dashboard as a person sees it, in a real Chromium: a real page over a real home, ledger and gateway."""

import os
import re
from collections.abc import Callable, Iterator
from unittest import mock

import pytest
from playwright.sync_api import expect

from actors.runs.run import RunState
from actors.status import overview
from configs.paths import Home
from serve.ui.dashboard import reading, tab
from serve.ui.server import Access, Server
from tests.browser.conftest import Window, free_port
from tests.browser.machine import ME, Card, Machine
from tests.browser.test_safety import PAYLOADS
from tests.samples import TRAIN, publish

PERIOD_MS = 300
SAID_MS = 1500
NOBODY = 2**22 - 1  # above the highest pid


class Board(Window):
    """A window at the dashboard."""

    def loaded(self, page) -> None:
        expect(page.locator("#part-events header h2")).to_have_text("Events")

    def part(self, name: str):
        return self.page.locator(f"#part-{name}")

    def confirm(self) -> None:
        self.page.click("#ask-really")
        expect(self.page.locator("#ask")).to_be_hidden()

    def says(self, text: str | re.Pattern) -> None:
        expect(self.page.locator("#said .notice")).to_contain_text(text)


@pytest.fixture(scope="module")
def running(tmp_path_factory, chromium) -> Iterator[tuple[Machine, Server]]:
    """A page that looks more often than a person needs, so that nothing here waits long."""
    machine = Machine(Home(tmp_path_factory.mktemp("board")), Card("GPU-aaaa"), Card("GPU-bbbb"))
    server = Server(f"{machine.gateway.url}/v1", machine.home, Access(port=free_port()), tab="dashboard")
    quick = tab.PULSE.replace(str(tab.PERIOD_MS), str(PERIOD_MS)).replace(str(tab.SAID_MS), str(SAID_MS))
    patched = mock.patch.object(tab, "PULSE", quick), mock.patch.object(reading, "FRESH_S", 0.1)
    # Gradio reads from the environment where uploads go, and the other tests' page has its own folder.
    with patched[0], patched[1], mock.patch.dict(os.environ):
        server.start()
        yield machine, server
        server.close()
    machine.close()


@pytest.fixture
def machine(running) -> Iterator[Machine]:
    """As it was when it started, but for the runs and events of earlier tests."""
    yield running[0]
    running[0].reset()


@pytest.fixture(scope="module")
def profile(chromium):
    context = chromium.new_context(viewport={"width": 1360, "height": 900})
    context.set_default_timeout(15_000)
    return context


@pytest.fixture
def board(running, profile) -> Iterator[Callable[[], Board]]:
    opened: list[Board] = []

    def open_board() -> Board:
        opened.append(Board(profile, running[1].url))
        return opened[-1]

    yield open_board
    for page in profile.pages:
        page.close()
    for each in opened:
        assert each.outside == [], "the page asked somebody else"
        assert each.dialogs == []


# Runs


def test_a_runs_curve_grows_while_somebody_watches(machine, board):
    log = machine.begin("growing-1", steps=12)
    seen = board()
    run = seen.part("run")
    expect(run.locator("[data-shown=growing-1]")).to_have_attribute("data-points", "12")
    assert points(seen, "train") == 12
    assert points(seen, "held-out") == 1
    for step in range(13, 21):
        machine.step("growing-1", log, step)
    expect(run.locator("[data-shown=growing-1]")).to_have_attribute("data-points", "20")
    assert (points(seen, "train"), points(seen, "held-out")) == (20, 2)
    expect(run).to_contain_text("20 of 60")
    expect(run.locator("line.level")).to_have_count(2)
    expect(run).to_contain_text(re.compile(r"left"))
    expect(seen.part("runs").locator("[data-run=growing-1]")).to_contain_text("20/60")


def points(seen: Board, kind: str) -> int:
    return seen.page.evaluate(f"document.querySelector('.curve polyline.{kind}').points.length")


def test_the_pointer_reads_the_curve(machine, board):
    machine.begin("reading-1", steps=30, max_steps=30)
    seen = board()
    seen.part("runs").get_by_role("button", name="reading-1").click()
    expect(seen.part("run").locator("[data-shown=reading-1]")).to_be_visible()
    seen.part("run").locator(".curve").hover()
    expect(seen.part("run").locator("output")).to_have_text(re.compile(r"step 1[56] · loss 0\.\d+ · held out 0\.\d+"))


def test_a_run_is_chosen_and_stopped_after_asking(machine, board):
    machine.ledger.submit("waiting-1", **TRAIN)
    seen = board()
    seen.part("runs").get_by_role("button", name="waiting-1").click()
    expect(seen.part("run").locator("[data-shown=waiting-1]")).to_contain_text("waits for its turn")
    seen.part("run").get_by_role("button", name="Stop").click()
    expect(seen.page.locator("#ask")).to_contain_text("Stop waiting-1?")
    seen.page.click("#ask-leave")
    assert machine.ledger.run("waiting-1").state is RunState.QUEUED
    seen.part("run").get_by_role("button", name="Stop").click()
    seen.confirm()
    seen.says("waiting-1 is stopped")
    assert machine.ledger.run("waiting-1").state is RunState.STOPPED


def test_a_damaged_metrics_file_is_drawn_as_far_as_it_goes_and_the_page_says_so(machine, board):
    log = machine.begin("damaged-1", steps=5)
    with log.path.open("ab") as file:
        file.write(b'\x00\xff{"step": \n{"step": 7, "loss": "much"}\n[1]\n')
    machine.step("damaged-1", log, 8)
    seen = board()
    seen.part("runs").get_by_role("button", name="damaged-1").click()
    expect(seen.part("run")).to_contain_text("3 lines of metrics.jsonl cannot be read")
    expect(seen.part("run").locator("[data-shown=damaged-1]")).to_have_attribute("data-points", "6")
    expect(seen.part("head").locator(".problems")).to_contain_text("damaged-1")


def test_the_lines_of_a_traceback_stay_lines(machine, board):
    reason = "its job ended (FAILED): Traceback:\n  File train.py\nValueError: no rows"
    machine.begin("broken-1")
    machine.ledger.transition("broken-1", RunState.FAILED, reason)
    seen = board()
    event = seen.part("events").locator("li", has_text="Traceback").first.locator(".text")
    rest = ["  File train.py", "ValueError: no rows"]
    assert event.inner_text().splitlines()[1:] == rest
    seen.part("runs").get_by_role("button", name="broken-1").click()
    expect(seen.part("run").locator("[data-shown=broken-1]")).to_be_visible()
    assert seen.part("run").locator(".reason").inner_text().splitlines()[1:] == [
        "  File train.py",
        "ValueError: no rows",
    ]


def test_on_a_phone_a_queued_run_ends_in_no_bare_dash(machine, running, chromium):
    machine.ledger.submit("queued-1", **TRAIN)
    context = chromium.new_context(viewport={"width": 390, "height": 844})
    context.set_default_timeout(15_000)
    row = Board(context, running[1].url).part("runs").locator("[data-run=queued-1]")
    expect(row).to_be_visible()
    assert "\u2013" not in row.inner_text()
    assert re.search(r"queued #\d+", row.inner_text())
    context.close()


# Adapters


def test_a_swap_by_somebody_else_shows_up(machine, board):
    version = publish(machine.gateway.registry, run_id="swap-1").version
    seen = board()
    expect(seen.part("adapters").locator(f"[data-adapter={version}]")).to_contain_text("published")
    assert machine.gateway.post("/api/aliases/prod", {"adapter": version}).status_code == 200
    row = seen.part("adapters").locator(f"[data-adapter={version}]")
    expect(row.locator(".alias")).to_have_text("prod")
    expect(row).to_contain_text("live")
    expect(seen.part("adapters").locator("[data-swap]").first).to_contain_text(f"prod: base → {version}")
    expect(seen.part("head")).to_contain_text(version)


def test_swap_and_back_ask_first_and_say_what_happened(machine, board):
    version = publish(machine.gateway.registry, run_id="swap-2").version
    seen = board()
    seen.part("adapters").locator(f"[data-adapter={version}]").get_by_role("button", name="Swap").click()
    expect(seen.page.locator("#ask")).to_contain_text(f"prod answers with base now. Let it answer with {version}?")
    assert machine.ledger.aliases().get("prod") is None
    seen.confirm()
    seen.says(f"prod answers with {version} now")
    assert machine.ledger.aliases()["prod"] == version
    seen.part("adapters").get_by_role("button", name="Back to base").click()
    seen.confirm()
    seen.says("prod answers with base now")
    edge = "getComputedStyle(document.querySelector('#said .done .notice')).borderLeftColor"
    assert seen.page.evaluate(edge) == "rgb(21, 128, 61)", "a success is green"
    expect(seen.page.locator("#said")).to_be_hidden()
    assert machine.ledger.aliases()["prod"] is None


def test_a_refused_swap_shows_the_gateways_words(machine, board):
    version = publish(machine.gateway.registry, run_id="swap-3", base_fingerprint="0" * 64).version
    seen = board()
    seen.part("adapters").locator(f"[data-adapter={version}]").get_by_role("button", name="Swap").click()
    seen.confirm()
    seen.says(re.compile("trained on another base|was trained on"))
    expect(seen.part("adapters").locator(f"[data-adapter={version}]")).to_contain_text("refused")
    assert machine.ledger.aliases().get("prod") is None


# What is wrong


def test_a_dead_replica_turns_red_and_green_again(machine, board):
    seen = board()
    row = seen.part("processes").locator("[data-process=engine_1]")
    expect(row.locator(".badge")).to_have_class(re.compile("good"))
    machine.deployments["engine_1"] = machine.deployment(NOBODY)
    expect(row).to_have_class("bad")
    expect(row.locator(".badge")).to_have_text("gone")
    expect(seen.part("head").locator(".problems")).to_contain_text(f"engine_1 is GONE, process {NOBODY}")
    machine.deployments["engine_1"] = machine.deployment(ME, dead=1)
    expect(row).not_to_have_class("bad")
    expect(row.locator(".badge")).to_have_class(re.compile("good"))


def test_a_quarantined_slot_and_a_vanished_gpu_are_obvious(machine, board):
    reason = "GPU 0 failed 3 runs in a row with CUDA errors"
    seen = board()
    tiles = seen.part("slots").locator(".tile")
    expect(tiles.nth(1)).to_contain_text("NVIDIA GeForce RTX 3090")
    machine.cards[1].lost = True
    expect(tiles.nth(1)).to_have_class("tile bad")
    expect(tiles.nth(1)).to_contain_text("GPU gone: the driver does not show it any more")
    machine.cards[1].lost = False
    machine.ledger.quarantine("0", reason, "tandem")
    expect(tiles.nth(0)).to_have_class("tile bad")
    expect(tiles.nth(0)).to_contain_text(f"Quarantined: {reason}")
    expect(tiles.nth(0)).to_contain_text("tandem slots release 0")
    expect(seen.part("head").locator(".problems")).to_contain_text("slot 0 is in quarantine")
    machine.ledger.release_quarantine("0", accepted=None)
    expect(tiles.nth(0)).not_to_have_class("tile bad")


def test_without_a_gpu_the_page_says_so(machine, board):
    machine.cards.clear()
    machine.up()
    seen = board()
    expect(seen.part("slots")).to_contain_text("No NVIDIA GPU answers here")
    expect(seen.part("slots").locator("[data-slot='0']")).to_contain_text("processors")


def test_a_cluster_that_is_down_says_so_and_comes_alive(machine, board):
    machine.down()
    seen = board()
    expect(seen.part("head")).to_contain_text("Tandem is not running")
    expect(seen.part("processes")).to_contain_text("No process runs")
    expect(seen.part("requests")).to_contain_text("No gateway")
    expect(seen.part("adapters").get_by_role("button")).to_have_count(0)
    machine.up()
    expect(seen.part("head")).not_to_contain_text("not running")
    expect(seen.part("head").get_by_role("link", name="Ray's dashboard")).to_have_attribute(
        "href", f"http://127.0.0.1:{machine.ray.server_port}"
    )
    expect(seen.part("requests")).to_contain_text("answered since the gateway started")


# The page itself


def test_texts_of_runs_events_and_adapters_are_text(machine, board):
    name = "<img src=x onerror='window.hacked=1'>"
    machine.ledger.submit(name, **TRAIN)
    machine.ledger.transition(name, RunState.FAILED, "".join(PAYLOADS[:4]))
    for payload in PAYLOADS:
        machine.ledger.note("<b>kind</b>", payload, run_id=name)
    seen = board()
    expect(seen.part("events").locator("li").first).to_contain_text(PAYLOADS[-1])
    seen.part("runs").get_by_role("button", name="<img src=x").click()
    expect(seen.part("run").locator("h2")).to_have_text(name)
    expect(seen.part("run")).to_contain_text(PAYLOADS[0])
    seen.page.evaluate("new Promise(done => { const last = new Image(); last.onerror = done; last.src = '/none.png' })")
    assert seen.page.evaluate("window.hacked") is None
    assert seen.page.locator("#board :is(img, script, iframe, object, embed, form, link, style)").count() == 0
    assert seen.refused == []


def test_a_page_of_a_thousand_runs_shows_fifty_and_more_on_request(machine, board):
    for number in range(1000):
        machine.ledger._db.execute(
            "INSERT INTO runs (id, kind, state, reason, profile, config, priority, attached, created_at, started_at,"
            " ended_at) VALUES (?, 'train', 'SUCCEEDED', 'published', 'tiny', '{}', 0, 0, ?, 1, 2)",
            (f"old-{number}", number),
        )
    seen = board()
    rows = seen.part("runs").locator("tbody tr")
    expect(rows).to_have_count(50)
    seen.part("runs").get_by_role("button", name="more of").click()
    expect(rows).to_have_count(100)


def test_it_asks_nothing_while_another_tab_is_shown(machine, board):
    seen = board()
    asked = []
    seen.page.get_by_role("tab", name="Chat").click()
    expect(seen.page.locator("#question textarea")).to_be_visible()
    with mock.patch.object(overview, "read", side_effect=lambda *a, **k: asked.append(1)):
        seen.page.wait_for_timeout(4 * PERIOD_MS)
    assert asked == []
    machine.ledger.note("note", "written meanwhile")
    seen.page.get_by_role("tab", name="Dashboard").click()
    expect(seen.part("events").locator("li").first).to_contain_text("written meanwhile")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(scheme, machine, running, chromium):
    context = chromium.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    context.set_default_timeout(15_000)
    seen = Board(context, running[1].url)
    widest = (
        "Math.max(...[...document.querySelectorAll('#board .card')].map(card => card.getBoundingClientRect().right))"
    )
    assert seen.page.evaluate(widest) <= 390
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= 390
    inside = "[...document.querySelectorAll('#board .tile')].every(tile => tile.scrollWidth <= tile.clientWidth + 1)"
    assert seen.page.evaluate(inside)
    context.close()


LONG = "gpt-oss-20b-reasoning-20261124-043019-a1b2"


@pytest.mark.parametrize("width", [390, 1280])
def test_no_cell_is_cut_and_no_head_covers_a_row(width, machine, running, chromium):
    version = publish(machine.gateway.registry, run_id=f"{LONG}-{width}").version
    machine.begin(f"{LONG}-{width}", steps=12)
    context = chromium.new_context(viewport={"width": width, "height": 844})
    context.set_default_timeout(15_000)
    seen = Board(context, running[1].url)
    expect(seen.part("runs").locator(f"[data-run={LONG}-{width}]")).to_be_visible()
    cut = """[...document.querySelectorAll('#board :is(td, th)')].filter(cell => {
        const [inner, outer] = [cell, cell.closest('.scroll') ?? cell.closest('.card')];
        const over = inner.getBoundingClientRect().right - outer.getBoundingClientRect().right;
        return cell.checkVisibility() && over > 1;
    }).length"""
    assert seen.page.evaluate(cut) == 0
    covered = """[...document.querySelectorAll('#board table')].filter(table => {
        const [head, row] = [table.querySelector('th'), table.querySelector('tbody tr')];
        return head.checkVisibility() && head.getBoundingClientRect().bottom > row.getBoundingClientRect().top + 1;
    }).length"""
    seen.page.locator("#part-requests tbody tr").last.scroll_into_view_if_needed()
    seen.page.evaluate("document.querySelector('#dashboard > .column').scrollBy(0, 90)")
    assert seen.page.evaluate(covered) == 0
    height = "row => row.getBoundingClientRect().height"
    assert seen.part("adapters").locator(f"[data-adapter={version}]").evaluate(height) < 100
    assert seen.part("runs").locator("tbody tr").first.evaluate(height) < 125  # its long name takes two lines
    context.close()


def test_a_swap_far_down_a_phones_page_is_answered_where_it_was_asked(machine, running, chromium):
    version = publish(machine.gateway.registry, run_id="phone").version
    context = chromium.new_context(viewport={"width": 390, "height": 844})
    context.set_default_timeout(15_000)
    seen = Board(context, running[1].url)
    seen.part("adapters").locator(f"[data-adapter={version}]").get_by_role("button", name="Swap").click()
    expect(seen.page.locator("#ask")).to_be_in_viewport()
    seen.confirm()
    seen.says(f"prod answers with {version} now")
    expect(seen.page.locator("#said .notice")).to_be_in_viewport()
    context.close()
