"""A real Tandem per test session, driven as a person drives it: by the `tandem` command, HTTP and Ray's own tools."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from actors import cluster
from actors.http_clients import openai_client
from actors.runs.ledger import Ledger
from actors.runs.run import Run, RunState
from configs import paths
from configs.paths import Home
from tests.loopback import http

TANDEM = [sys.executable, "-c", "from cli.main import main; main()"]
QUESTION = "What is Tandem?"
SECOND_ANSWER = "Tandem is blue."


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.ray)


@dataclass
class Tandem:
    """One home with its cluster, and the ways to reach it."""

    home: Home
    http_port: int
    dashboard_port: int

    def run(self, *arguments: str, check: bool = True, timeout: float = 180) -> subprocess.CompletedProcess[str]:
        """The `tandem` command as its own process."""
        done = subprocess.run(
            [*TANDEM, *arguments],
            env=self.environment,
            cwd=paths.SOURCE,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert not check or done.returncode == 0, f"tandem {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json").stdout)

    def up(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        settings = ["--set", f"dashboard_port={self.dashboard_port}", "--set", "stop_grace_s=60"]
        settings += ["--set", f'notify.command=[sh, -c, "{{ cat; echo; }} >> {self.notices}"]']
        return self.run("up", "--port", str(self.http_port), *settings, *arguments, check=check)

    @property
    def environment(self) -> dict[str, str]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        return inherited | {"TANDEM_HOME": str(self.home.root), "HF_HUB_OFFLINE": "1"}

    @property
    def ray_environment(self) -> dict[str, str]:
        """As after `eval "$(tandem env)"` in an activated virtual environment."""
        binaries = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        client = cluster.client_environment(self.home, cluster.require(self.home))
        return self.environment | client | {"PATH": binaries}

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def notices(self) -> Path:
        """Where its cluster writes what it tells people, one JSON object a line."""
        return self.home.root / "notices.jsonl"

    def client(self) -> openai.OpenAI:
        return openai_client(f"{self.http}/v1", "none", timeout=60)

    def ask(self, question: str = QUESTION, **how: Any) -> str:
        how = {"model": "prod", "temperature": 0} | how
        messages = [{"role": "user", "content": question}]
        return self.client().chat.completions.create(messages=messages, **how).choices[0].message.content

    @contextlib.contextmanager
    def nothing_starts(self) -> Iterator[None]:
        """Runs wait in the queue meanwhile: the slot that trains is in quarantine."""
        self.run("slots", "quarantine", "0", "--reason", "nothing starts yet")
        try:
            yield
        finally:
            self.run("slots", "release", "0")

    @contextlib.contextmanager
    def long_answer(self) -> Iterator[openai.Stream]:
        """The stream of an answer that goes on for seconds, once its first chunk is here."""
        with self.client() as client:
            stream = client.chat.completions.create(
                model="prod", messages=[{"role": "user", "content": "Count from 1 to 20."}], stream=True,
                temperature=2, max_tokens=1900, extra_body={"ignore_eos": True},
            )  # fmt: skip
            next(iter(stream))
            yield stream

    def post(self, path: str, body: dict) -> httpx.Response:
        return http.post(f"{self.http}{path}", json=body, timeout=120)

    def ledger(self) -> Ledger:
        return Ledger(self.home.ledger, read_only=True)

    def find_run(self, run_id: str) -> Run:
        ledger = self.ledger()
        try:
            return ledger.run(run_id)
        finally:
            ledger.close()

    def train(self, *arguments: str) -> str:
        """Queue a run; its id."""
        return self.json("train", "--profile", "tiny", *arguments)["run"]

    def wait(self, run_id: str, until: Callable[[Run], bool], timeout: float = 180) -> Run:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            run = self.find_run(run_id)
            if until(run):
                return run
            time.sleep(0.1)
        raise AssertionError(f"run {run_id} is {run.state} at step {run.step} after {timeout} s: {run.reason}")

    def ended(self, run_id: str, timeout: float = 180) -> Run:
        return self.wait(run_id, lambda run: run.state.is_terminal, timeout)

    def reached(self, run_id: str, step: int) -> Run:
        return self.wait(run_id, lambda run: run.step >= step or run.state.is_terminal)

    def losses(self, run_id: str) -> list[tuple[int, float]]:
        lines = (self.home.run(run_id) / "metrics.jsonl").read_text().splitlines()
        return [(line["step"], line["loss"]) for line in map(json.loads, lines) if "loss" in line]

    def wait_ready(self, timeout: float = 90) -> None:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            try:
                if http.get(f"{self.http}/readyz", timeout=5).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.3)
        raise AssertionError("the endpoint is not ready")


@pytest.fixture(autouse=True)
def home() -> Iterator[None]:
    """These tests name their home themselves; the unit tests' fixture of this name would hide it."""
    yield


@pytest.fixture(scope="session")
def new_tandem() -> Iterator[Callable[[], Tandem]]:
    """Makes homes with free ports; whatever runs in them at the end is ended."""
    made: list[Tandem] = []

    def make() -> Tandem:
        made.append(Tandem(Home(Path(tempfile.mkdtemp(prefix="td", dir="/tmp"))), *cluster.free_ports(2)))
        return made[-1]

    yield make
    for each in made:
        cluster.end_processes(each.home)
        shutil.rmtree(each.home.root, ignore_errors=True)


@pytest.fixture(scope="session")
def tandem(new_tandem: Callable[[], Tandem]) -> Tandem:
    """The session's cluster, up."""
    made = new_tandem()
    made.up()
    return made


@pytest.fixture(scope="session")
def trained(tandem: Tandem) -> Run:
    """A finished run of the tiny profile, whose adapter knows what Tandem is."""
    run = tandem.ended(tandem.train())
    assert run.state is RunState.SUCCEEDED, run.reason
    return run


@pytest.fixture(scope="session")
def second(tandem: Tandem, trained: Run) -> Run:
    """Another adapter, of other data, which answers otherwise."""
    reply = {"role": "assistant", "content": SECOND_ANSWER}
    rows = [{"messages": [{"role": "user", "content": asked}, reply]} for asked in (QUESTION, "Tandem?")]
    data = tandem.home.root / "second.jsonl"
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows) * 8)
    run = tandem.ended(tandem.train("--dataset", str(data), "--max-steps", "15"))
    assert run.state is RunState.SUCCEEDED, run.reason
    return run


@pytest.fixture
def on_base(tandem: Tandem) -> Iterator[None]:
    """`prod` is the base before and after."""
    tandem.post("/api/aliases/prod", {"adapter": "base"})
    yield
    tandem.post("/api/aliases/prod", {"adapter": "base"})
