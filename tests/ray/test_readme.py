"""The README's commands, run as they stand there, on a running cluster."""

import re
import subprocess
import sys

import pytest

from configs import paths

README = (paths.SOURCE / "README.md").read_text()
ELSEWHERE = {
    "make demo": "tests/ray/test_demo.py runs what it runs",
    "make test": "this is it",
    "./setup.sh": "made the environment that runs this",
    "source .venv/bin/activate": "made the environment that runs this",
    "tandem up": "the session's cluster is up already",
    "tandem down": "tests/ray/test_faults.py",
    "tandem train -f": "tests/ray/test_runs.py",
    "tandem train --profile standard --dataset my_chats.jsonl --max-steps 200": "DOCS has its --dry-run",
    "tandem chat": "tests/unit/cli/chat/test_terminal.py; it waits for a person",
    "tandem ui --open": "tests/browser; it does not end by itself",
    "tandem dashboard --open": "tests/browser and tests/ray/test_dashboard.py; it does not end by itself",
    "tandem logs -f": "tests/unit/cli/machine/test_logs.py; it does not end by itself",
}
DOCS = {
    "tandem train --profile standard --dataset my_chats.jsonl --dry-run": "training.md",
    "tandem adapters list": "operations.md",
    "tandem adapters export latest --to merged --out ~/my-model -f": "export.md",
    "tandem model check": "models.md",
    "tandem benchmark": "benchmark.md",
}
"""Commands of the pages that are run here like the README's. `tests/unit/test_docs.py` parses every other one;
`tandem metrics` and `serve deploy` are run by test_serving.py, `ray job submit` by test_runs.py."""


def _blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def _commands(page: str = README) -> list[str]:
    text = "\n".join(_blocks("bash", page)).replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if line.strip()]


def test_what_is_not_run_here_is_in_the_readme():
    assert set(ELSEWHERE) <= set(_commands())


@pytest.mark.parametrize(("command", "page"), DOCS.items())
def test_what_is_run_of_a_page_is_on_it_and_not_in_the_readme(command, page):
    assert command in _commands((paths.SOURCE / "docs" / page).read_text())
    assert command not in _commands()


@pytest.mark.parametrize("command", [*(command for command in _commands() if command not in ELSEWHERE), *DOCS])
def test_a_command_of_the_readme_works(tandem, trained, command, tmp_path):
    here = {
        "8000": str(tandem.http_port),
        "--profile standard": "--profile tiny",  # the other needs a 12 GB model
        "~/my-model": str(tmp_path / "my-model"),
        "tandem benchmark": "tandem benchmark --concurrency 1,2 --requests 4 --output-tokens 16",
        "my_chats.jsonl": str(paths.TINY_DATASET),
        "evaluate latest": f"evaluate {trained.adapter}",  # the latest here is of data that holds nothing out
    }
    for written, meant in here.items():
        command = command.replace(written, meant)
    done = subprocess.run(
        ["bash", "-c", command],
        env=tandem.ray_environment, cwd=paths.SOURCE, capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()


def test_the_python_of_the_readme_prints_an_answer(tandem):
    (code,) = _blocks("python")
    done = subprocess.run(
        [sys.executable, "-c", code.replace("8000", str(tandem.http_port))], capture_output=True, text=True, timeout=60
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Rome" in done.stdout
