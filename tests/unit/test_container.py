"""The Containerfile says nothing that the repository does not have; where a container engine answers, it is built."""

import contextlib
import http.server
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.paths import SOURCE
from configs.schema import ClusterConfig
from tests.unit.test_docs import check, commands, descend, split
from tests.unit.test_rooms import MAY_IMPORT

PROJECT = tomllib.loads((SOURCE / "pyproject.toml").read_text())["project"]
TARGETS = {"cpu", "gpu"}


def instructions() -> list[tuple[str, str, str]]:
    """(stage, instruction, its text) of every instruction, continued lines joined; the stage is "" before the first."""
    text = re.sub(r"^#.*\n", "", (SOURCE / "Containerfile").read_text(), flags=re.MULTILINE)
    found, stage = [], ""
    for line in filter(None, re.sub(r"\s*\\\n\s*", " ", text).splitlines()):
        name, _, rest = line.partition(" ")
        stage = rest.partition(" AS ")[2] if name == "FROM" else stage
        found.append((stage, name, rest))
    return found


def having(name: str) -> list[tuple[str, str]]:
    return [(stage, rest) for stage, each, rest in instructions() if each == name]


def only(name: str) -> str:
    """The text of an instruction that is there once."""
    ((_, rest),) = having(name)
    return rest


def copied() -> set[str]:
    """What comes from the repository."""
    texts = [rest for _, rest in having("COPY") if not rest.startswith("--from")]
    return {source.rstrip("/") for text in texts for source in text.split()[:-1]}


def environment() -> dict[str, str]:
    return dict(word.split("=", 1) for _, rest in having("ENV") for word in shlex.split(rest))


def test_both_targets_are_built_by_a_stage_of_their_own_and_run_as_a_user():
    stages = [stage for stage, _ in having("FROM")]
    assert set(stages) >= TARGETS | {f"build-{target}" for target in TARGETS}
    for target in TARGETS:
        assert (target, f"--from=build-{target} /opt/tandem /opt/tandem") in having("COPY")
        assert (target, "tandem") in having("USER")
    assert "useradd --uid 1000 --create-home tandem" in dict(having("RUN"))["runtime"]


def test_a_stage_begins_with_an_earlier_one_or_with_a_python_that_the_project_takes():
    earlier = set()
    for stage, rest in having("FROM"):
        image = rest.partition(" AS ")[0]
        assert image in earlier or image == "docker.io/library/python:${PYTHON}-slim-bookworm"
        earlier.add(stage)
    version = only("ARG").removeprefix("PYTHON=")
    assert PROJECT["requires-python"] == ">=3.11,<3.13"
    assert version in ("3.11", "3.12")


def test_what_is_copied_exists_is_not_ignored_and_has_every_package():
    rules = [line for line in (SOURCE / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule.removeprefix("!") for rule in rules if rule.startswith("!")} == copied()
    assert [name for name in copied() if not (SOURCE / name).exists()] == []
    assert {name for name in copied() if (SOURCE / name).is_dir()} == set(MAY_IMPORT)


def test_what_is_installed_is_what_the_project_names():
    installs = [shlex.split(rest) for _, rest in having("RUN") if rest.startswith("pip install")]
    wanted = {words[-1] for words in installs}
    extras = set(PROJECT["optional-dependencies"])
    assert wanted == {"torch", ".", ".[gpu]"} and "gpu" in extras
    assert any(requirement.startswith("torch>") for requirement in PROJECT["dependencies"])
    constraints = {words[words.index("--constraint") + 1] for words in installs if "--constraint" in words}
    assert constraints == {"constraints-cpu.txt"} <= copied()
    indexes = {words[words.index("--extra-index-url") + 1] for words in installs if "--extra-index-url" in words}
    assert all(index in (SOURCE / "setup.sh").read_text() for index in indexes)


def test_the_home_and_the_hubs_cache_are_volumes_that_their_user_owns():
    volumes = json.loads(only("VOLUME"))
    assert volumes == [environment()["TANDEM_HOME"], environment()["HF_HOME"]]
    assert f"--owner tandem --group tandem --mode 0700 {' '.join(volumes)}" in dict(having("RUN"))["runtime"]


@pytest.fixture
def endpoint() -> Iterator[tuple[str, list[tuple[str, int]]]]:
    """A server on a free port, which answers with the status that its list ends with; the list has (path, status)."""
    asked: list[tuple[str, int]] = [("", 200)]

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, asked[-1][1]))
            self.send_response(asked[-1][1])
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def test_the_health_check_asks_the_gateway_and_fails_without_an_engine(endpoint):
    address, asked = endpoint
    program, flag, code = json.loads(only("HEALTHCHECK").partition("CMD ")[2])
    assert (program, flag) == ("python", "-c")
    default = f"127.0.0.1:{ClusterConfig().http_port}"
    assert default in code

    def check_health() -> int:
        proxies = {"http_proxy": "http://127.0.0.1:9", "PATH": os.environ["PATH"]}  # it is asked past every proxy
        command = [sys.executable, "-c", code.replace(default, address)]
        return subprocess.run(command, env=proxies, capture_output=True).returncode

    assert check_health() == 0
    asked.append(("", 503))
    assert check_health() != 0
    assert {path for path, _ in asked} == {"", "/health"}


def test_the_commands_of_the_container_exist():
    shell, flag, script = json.loads(only("CMD"))
    assert (shell, flag) == ("bash", "-c")
    ours = re.findall(r"tandem [a-z]+(?: -\w+)*", script)
    assert ours == ["tandem down", "tandem up", "tandem logs -f"]
    for command in ours:
        check(*descend(command.split()[1:]))


def test_a_container_that_is_stopped_ends_its_cluster_in_order(tmp_path):
    said = tmp_path / "said"
    (tmp_path / "tandem").write_text(f'#!/bin/sh\necho "$@" >> {said}\n[ "$1" = logs ] && exec sleep 60\nexit 0\n')
    (tmp_path / "tandem").chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    container = subprocess.Popen(json.loads(only("CMD")), env={"PATH": path}, start_new_session=True)
    try:
        await_line(said, "logs -f")
        container.terminate()
        container.wait(timeout=30)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(container.pid, signal.SIGKILL)
    assert said.read_text().splitlines() == ["up", "logs -f", "down"]


def await_line(file: Path, line: str) -> None:
    deadline = time.monotonic() + 30
    while not file.exists() or line not in file.read_text().splitlines():
        assert time.monotonic() < deadline, f"{line} never came"
        time.sleep(0.02)


def shown() -> list[list[str]]:
    """The commands of the documentation that call a container engine."""
    return [parameter.values[0] for parameter in commands() if parameter.values[0][0] == "docker"]


def test_the_documentation_builds_and_runs_these_targets_with_these_volumes():
    built = [words for words in shown() if words[1] == "build"]
    started = [words for words in shown() if words[1] == "run"]
    assert {words[words.index("--target") + 1] for words in built} <= TARGETS
    assert {words[words.index("--file") + 1] for words in built} == {"Containerfile"}
    tags = {words[words.index("--tag") + 1] for words in built}
    assert {words[-1] for words in started} <= tags
    for words in started:
        mounted = [after.partition(":")[2] for word, after in itertools.pairwise(words) if word == "--volume"]
        assert mounted == json.loads(only("VOLUME"))
        assert "--network host" in " ".join(words)  # everything listens on loopback


def test_a_command_inside_the_container_is_one_of_ours():
    inside = [words for words in shown() if words[1] == "exec"]
    assert inside
    for words in inside:
        ((program, *rest),) = split(shlex.join(words[words.index("tandem") + 1 :]))
        assert program == "tandem"
        check(*descend(rest))


def engine() -> str:
    """A container engine that answers, or "": a client alone builds nothing."""
    for name in ("podman", "docker", "buildah"):
        if found := shutil.which(name):
            try:
                if subprocess.run([found, "info"], capture_output=True, timeout=30).returncode == 0:
                    return found
            except subprocess.TimeoutExpired:
                continue
    return ""


def test_the_cpu_image_is_built_where_an_engine_answers():
    if not (found := engine()):
        pytest.skip("no container engine answers here")
    command = [found, "build", "--file", "Containerfile", "--target", "cpu", "--tag", "tandem:test", "."]
    done = subprocess.run(command, cwd=SOURCE, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
