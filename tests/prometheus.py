"""A real Prometheus and the exporter that it scrapes."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import yaml

from actors import cluster
from configs.paths import MONITORING, SOURCE
from tests.debian import program
from tests.loopback import http


class Prometheus:
    """One that runs."""

    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of every series of the answer. Raises for an expression that Prometheus refuses."""
        answer = http.get(f"{self.url}/api/v1/query", params={"query": expression}, timeout=10).json()
        assert answer["status"] == "success", f"{expression}: {answer}"
        return [(series["metric"], float(series["value"][1])) for series in answer["data"]["result"]]

    def wait(self, holds: Callable[[], bool], seconds: float = 30) -> bool:
        """Whether `holds` came true in time."""
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)
        return True


@contextmanager
def exporting(environment: dict[str, str]) -> Iterator[int]:
    """`tandem metrics` in this environment; its port."""
    (port,) = cluster.free_ports(1)
    command = [sys.executable, "-c", "from cli.main import main; main()", "metrics", "--port", str(port)]
    exporter = subprocess.Popen(command, env=environment, cwd=SOURCE, stderr=subprocess.PIPE, text=True)
    try:
        assert exporter.stderr.readline().startswith(f"metrics at http://127.0.0.1:{port}/metrics")
        yield port
    finally:
        exporter.send_signal(signal.SIGINT)
        assert exporter.wait(10) == 0
        exporter.stderr.close()


@contextmanager
def running(folder: Path, exporter_port: int) -> Iterator[Prometheus]:
    """With the shipped configuration, but every second and with the exporter on another port. `folder` is its own."""
    (port,) = cluster.free_ports(1)
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text().replace("9464", str(exporter_port)))
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s", "scrape_timeout": "1s"}
    config["rule_files"] = [str(MONITORING / name) for name in config["rule_files"]]
    for job in config["scrape_configs"]:
        job |= {"scrape_interval": "1s", "scrape_timeout": "1s"}
        for source in job.get("http_sd_configs", ()):
            source["refresh_interval"] = "1s"
    (folder / "prometheus.yml").write_text(json.dumps(config))
    command = [
        program("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
    ]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
    process = subprocess.Popen(command)
    prometheus = Prometheus(f"http://127.0.0.1:{port}")
    try:
        assert prometheus.wait(lambda: _ready(prometheus.url)), "Prometheus did not start"
        yield prometheus
    finally:
        process.terminate()
        process.wait(10)


def _ready(url: str) -> bool:
    try:
        return http.get(f"{url}/-/ready", timeout=1).status_code == 200
    except httpx.HTTPError:
        return False
