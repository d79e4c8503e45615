"""A trained adapter is judged on the real endpoint, on rows that it never saw, and nothing that is served changes."""

import json
import time
from pathlib import Path

import pytest

from tests.loopback import http

pytestmark = pytest.mark.usefixtures("on_base")


def test_an_adapter_that_nobody_serves_is_judged_against_the_base_over_http(tandem, trained):
    before = tandem.ledger().aliases()
    report = tandem.json("evaluate", trained.adapter, "--compare-base", "--rows", "12", "--max-tokens", "64")
    record = json.loads((tandem.home.run(trained.id) / "resolved.json").read_text())
    assert report["rows"] == record["data"]["held_out_rows"] > 0
    assert report["trained_rows"] == record["data"]["rows"] - report["rows"]
    losses = {name: found["learned"]["loss"] for name, found in report["losses"].items()}
    assert 0 < losses["adapter"] < losses["base"]
    assert report["tallies"]["rows"]["adapter"]["asked"] == report["rows"]
    folder = Path(report["report"]["html"]).parent
    assert folder.parent == tandem.home.evaluations / trained.adapter
    assert json.loads((folder / "report.json").read_text())["losses"] == report["losses"]
    page = (folder / "report.html").read_text()
    assert trained.adapter in page and page.count("<svg") == 2
    assert tandem.ledger().aliases() == before
    deadline = time.monotonic() + 10
    while any(engine["adapters"] for engine in status(tandem)["engines"].values()):
        assert time.monotonic() < deadline, "the adapter stays loaded"
    assert status(tandem)["holds"] == []


def status(tandem) -> dict:
    return http.get(f"{tandem.http}/api/status", timeout=30).json()
