"""The dashboard, open in a real Chromium, while a real Tandem trains, swaps and loses an engine."""

import os
import re
import signal

from playwright.sync_api import expect

from actors import cluster
from serve.ui.server import Access, Server
from tests.chromium import launched
from tests.ray.conftest import Tandem

RESTART_MS = 90_000


def test_the_page_shows_a_run_growing_a_swap_and_a_killed_engine_as_they_happen(tandem: Tandem, trained, on_base):
    page_server = Server(f"{tandem.http}/v1", tandem.home, Access(port=cluster.free_ports(1)[0]), tab="dashboard")
    page_server.start()
    try:
        with launched() as browser:
            page = browser.new_page()
            page.set_default_timeout(RESTART_MS)
            page.goto(page_server.url)
            expect(page.locator("#part-head")).to_contain_text("All is well", timeout=RESTART_MS)
            watch_a_run(page, tandem)
            watch_a_swap(page, tandem, trained.adapter)
            watch_an_engine_die(page, tandem)
    finally:
        page_server.close()
        tandem.wait_ready()


def watch_a_run(page, tandem: Tandem) -> None:
    run = tandem.train("--max-steps", "300")
    shown = page.locator(f"#part-run [data-shown={run}]")
    expect(shown).to_have_attribute("data-points", re.compile(r"^[1-9]\d*$"), timeout=RESTART_MS)
    begun = int(shown.get_attribute("data-points"))
    page.wait_for_function(f"document.querySelector('#part-run [data-shown={run}]').dataset.points > {begun}")
    drawn = page.evaluate("document.querySelector('.curve polyline.train').points.length")
    assert drawn > begun
    expect(page.locator(f"#part-slots .tile:has-text('{run}')")).to_be_visible()
    page.locator("#part-run").get_by_role("button", name="Stop").click()
    page.click("#ask-really")
    expect(page.locator(f"#part-runs [data-run={run}] .badge")).to_have_text("stopped", timeout=RESTART_MS)
    assert tandem.ended(run).state == "STOPPED"


def watch_a_swap(page, tandem: Tandem, version: str) -> None:
    assert tandem.post("/api/aliases/prod", {"adapter": version}).status_code == 200
    expect(page.locator(f"#part-adapters [data-adapter='{version}'] .alias").first).to_have_text(
        "prod", timeout=RESTART_MS
    )
    expect(page.locator("#part-adapters [data-swap]").first).to_contain_text(version)


def watch_an_engine_die(page, tandem: Tandem) -> None:
    engine = page.locator("#part-processes [data-process^=engine]")
    pid = next(slot["pid"] for slot in tandem.json("status")["slots"] if slot["role"] == "serve")
    expect(engine).to_contain_text(str(pid))
    os.kill(pid, signal.SIGKILL)
    expect(engine).to_have_class("bad", timeout=RESTART_MS)
    expect(page.locator("#part-head .problems")).to_contain_text("engine")
    expect(engine).not_to_have_class("bad", timeout=RESTART_MS)
    expect(engine.locator(".badge")).to_have_class(re.compile("good"))
    expect(engine).not_to_contain_text(str(pid))
