"""`tandem slots` against a real gateway and control actor over HTTP, and what train and status say of quarantine."""

import json
from collections.abc import Iterator

import psutil
import pytest

from actors import cluster
from actors.cluster import Cluster
from actors.home.process_id import ProcessId
from actors.runs.ledger import Ledger
from configs.schema import ClusterConfig
from tests.gateway_server import SLOTS, Server


@pytest.fixture
def server(home) -> Iterator[Server]:
    """A gateway that the commands take for the home's cluster, with this process as its head."""
    with Server(home) as running:
        port = int(running.url.rpartition(":")[2])
        head = (ProcessId.own(), psutil.Process().create_time())
        cluster._write(home.cluster, Cluster(*head, "127.0.0.1:1", port, 2, SLOTS, ClusterConfig()))
        yield running


def test_a_slot_is_taken_out_of_use_listed_and_given_back(server, invoke):
    assert invoke("slots", "quarantine", "0", "--reason", "the fan rattles").out == (
        "slot 0 is in quarantine: the fan rattles\n"
    )
    first, second = invoke("slots", "list").out.splitlines()[1:]
    assert "the fan rattles" in first and "the fan rattles" not in second
    listed = json.loads(invoke("slots", "list", "--json").out)
    assert [(row["slot"], row["roles"], (row["quarantine"] or {}).get("reason")) for row in listed] == [
        ("0", ["train"], "the fan rattles"),
        ("1", ["serve"], None),
    ]
    assert listed[0]["quarantine"]["by"] == "a person"
    assert invoke("slots", "release", "0").out == "slot 0 is out of quarantine\n"
    assert json.loads(invoke("slots", "list", "--json").out)[0]["quarantine"] is None


def test_a_second_reason_is_refused_with_the_first(server, invoke):
    invoke("slots", "quarantine", "0", "--reason", "one")
    line = invoke("slots", "quarantine", "0", "--reason", "two").one_error_line()
    assert "slot 0 is in quarantine already, since " in line and ": one" in line
    assert "`tandem slots release 0` first" in line
    assert json.loads(invoke("slots", "list", "--json").out)[0]["quarantine"]["reason"] == "one"


@pytest.mark.parametrize("reason", ["", "  "])
def test_an_empty_reason_is_refused_in_plain_words(reason, invoke, home):
    assert (
        invoke("slots", "quarantine", "0", "--reason", reason)
        .one_error_line(2)
        .startswith("error: the reason is empty -> ")
    )


def test_a_slot_that_does_not_exist_or_is_not_in_quarantine_is_one_line(server, invoke):
    assert "no slot 7 -> slots: 0, 1" in invoke("slots", "quarantine", "7").one_error_line()
    assert "slot 0 is not in quarantine" in invoke("slots", "release", "0").one_error_line()
    assert "no slot '../x'" in invoke("slots", "release", "../x").one_error_line()


def test_status_shows_the_quarantine_and_why_a_run_waits(server, invoke):
    invoke("slots", "quarantine", "0", "--reason", "the fan rattles")
    run = invoke("train", "--profile", "tiny")
    assert run.code == 0
    waits = "every slot that it could have is in quarantine (slot 0: the fan rattles)"
    assert f"not started: {waits}" in run.err
    status = invoke("status")
    assert "in quarantine: the fan rattles" in status.out
    assert f"{run.out.strip()} waits: {waits}" in status.out
    report = json.loads(invoke("status", "--json").out)
    assert [slot["quarantine"] and slot["quarantine"]["reason"] for slot in report["slots"]] == [
        "the fan rattles",
        None,
    ]
    assert report["active_runs"][0]["waits_for"].startswith(waits)


def test_while_tandem_is_down_the_slots_in_quarantine_are_listed(home, invoke):
    assert invoke("slots", "list").err == "no slots: Tandem is not running, and none is in quarantine\n"
    ledger = Ledger(home.ledger)
    ledger.quarantine("0", "its GPU is missing", "tandem")
    ledger.close()
    (row,) = json.loads(invoke("slots", "list", "--json").out)
    assert (row["slot"], row["quarantine"]["reason"], row["holders"]) == ("0", "its GPU is missing", [])
    assert "Tandem is not running" in invoke("slots", "release", "0").one_error_line()
