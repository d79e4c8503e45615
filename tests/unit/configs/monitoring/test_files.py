"""The shipped alert rules and the dashboard: valid for promtool, of names that exist, and complete."""

import json
import re
import subprocess
from itertools import combinations

import pytest
import yaml

from actors.metrics import gateway
from configs.paths import MONITORING, SOURCE
from serve.generation.engines import PROBE_S
from tests.debian import program
from tests.unit.test_docs import check, descend, table

RULES = [rule for group in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
TESTS = yaml.safe_load((MONITORING / "alerts_test.yml").read_text())["tests"]
BOARD = json.loads((MONITORING / "grafana" / "tandem.json").read_text())
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
ROWS = ["Overview", "GPUs", "Training", "Requests", "Engines", "Host"]


@pytest.mark.parametrize(
    "command", ["check rules alerts.yml", "check config prometheus.yml", "test rules alerts_test.yml"]
)
def test_promtool_is_content(command):
    done = subprocess.run([program("promtool"), *command.split()], cwd=MONITORING, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_waits_longer_than_the_exporter_and_that_longer_than_the_gateway_for_an_engine():
    """Otherwise every scrape fails while an engine loads, and the exporter counts as down."""
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    (job,) = [job for job in config["scrape_configs"] if job["job_name"] == "tandem"]
    timeout, interval = (float(job[name].removesuffix("s")) for name in ("scrape_timeout", "scrape_interval"))
    assert PROBE_S < gateway.TIMEOUT_S < timeout <= interval


@pytest.mark.parametrize("expression", [*(rule["expr"] for rule in RULES), *QUERIES])
def test_every_name_that_is_asked_for_is_documented(expression):
    kinds = {name: kind for name, (kind, *_) in table(SOURCE / "docs" / "metrics.md", "name").items()}
    known = {*kinds, "up"}
    known |= {
        f"{name}_{part}" for name, kind in kinds.items() if kind == "histogram" for part in ("bucket", "sum", "count")
    }
    asked = set(re.findall(r"\b(?:tandem_\w+|up)\b(?!\()", expression))
    assert asked and asked <= known


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_alert_says_what_to_do_and_is_shown_to_fire_and_to_be_quiet(rule):
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    for text in (rule["annotations"]["summary"], rule["annotations"]["action"]):
        assert text.endswith((".", "`"))
        for command in re.findall(r"`tandem ([^`]*)`", text):
            command, rest = descend(re.sub(r"\{\{.*?\}\}", "tiny-1", command).split())
            check(command, rest)
    judged = [each for test in TESTS for each in test["alert_rule_test"] if each["alertname"] == rule["alert"]]
    assert {bool(each["exp_alerts"]) for each in judged} == {True, False}


def test_the_documentation_lists_every_alert_with_its_severity():
    listed = {name: severity for name, (severity, _) in table(SOURCE / "docs" / "metrics.md", "alert").items()}
    assert listed == {rule["alert"]: rule["labels"]["severity"] for rule in RULES}


def test_the_dashboard_has_its_rows_and_every_panel_a_title_a_description_and_a_unit():
    assert [panel["title"] for panel in BOARD["panels"] if panel["type"] == "row"] == ROWS
    for panel in PANELS:
        assert panel["title"] and panel["description"].endswith("."), panel["title"]
        assert panel["type"] == "table" or panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]


def test_the_dashboard_asks_the_prometheus_that_its_reader_chooses():
    (variable,) = BOARD["templating"]["list"]
    assert (variable["name"], variable["type"], variable["query"]) == ("datasource", "datasource", "prometheus")
    asked = [panel["datasource"] for panel in PANELS]
    asked += [target["datasource"] for panel in PANELS for target in panel["targets"]]
    assert {json.dumps(each) for each in asked} == {'{"type": "prometheus", "uid": "${datasource}"}'}


def test_no_two_panels_overlap_or_share_an_id():
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    for one, other in combinations((panel["gridPos"] for panel in BOARD["panels"]), 2):
        apart = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert apart or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in BOARD["panels"])
