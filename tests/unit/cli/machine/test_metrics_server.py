"""The exporter's HTTP: what it answers, to whom, and while everything else is down or damaged."""

import json
import socket
import threading
from collections.abc import Iterator

import httpx
import psutil
import pytest

from cli.machine.metrics_server import Exporter
from tests.loopback import http


@pytest.fixture
def exporter(home) -> Iterator[Exporter]:
    with Exporter(home, 0) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_it_answers_while_there_is_no_cluster_and_says_so(exporter):
    answer = http.get(f"{exporter.url}/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert {"tandem_up 0.0", "tandem_gateway_up 0.0", "tandem_ledger_readable 1.0"} <= {*answer.text.splitlines()}
    assert json.loads(http.get(f"{exporter.url}/ray").text) == []


def test_it_answers_while_cluster_file_and_ledger_are_damaged(exporter, home):
    home.cluster.write_text("{")
    home.ledger.write_bytes(b"\xff" * 9000)
    lines = {*http.get(f"{exporter.url}/metrics").text.splitlines()}
    broken = {'tandem_scrape_errors{part="cluster"} 1.0', 'tandem_scrape_errors{part="ledger"} 1.0'}
    assert {"tandem_up 0.0", "tandem_ledger_readable 0.0"} | broken <= lines
    assert f"tandem_host_cpus {float(psutil.cpu_count())}" in lines


def test_a_probe_by_head_gets_the_head_alone(exporter):
    answer = httpx.head(f"{exporter.url}/metrics")
    assert (answer.status_code, answer.text) == (200, "") and int(answer.headers["content-length"]) > 0


@pytest.mark.parametrize("path", ["/", "/metrics/../etc/passwd", "/nothing", "/metrics/x", "/rays"])
def test_nothing_else_is_there(path, exporter):
    assert http.get(f"{exporter.url}{path}").status_code == 404


def test_it_only_reads(exporter):
    assert http.post(f"{exporter.url}/metrics", content="x").status_code == 501


def test_it_listens_on_loopback_alone(exporter):
    port = exporter.server_address[1]
    mine = [each.laddr.ip for each in psutil.Process().net_connections("tcp") if each.laddr.port == port]
    assert set(mine) == {"127.0.0.1"}


def test_a_client_that_hangs_up_leaves_no_traceback(exporter, capfd, monkeypatch):
    def hang_up(path: str) -> None:
        asked.set()
        raise BrokenPipeError

    asked = threading.Event()
    monkeypatch.setattr(exporter, "answer", hang_up)
    with pytest.raises(httpx.HTTPError):
        http.get(f"{exporter.url}/metrics")
    assert asked.is_set()
    assert capfd.readouterr().err == ""


def test_a_client_that_says_nothing_holds_up_nobody(exporter):
    with socket.create_connection(exporter.server_address):
        assert http.get(f"{exporter.url}/metrics", timeout=5).status_code == 200
