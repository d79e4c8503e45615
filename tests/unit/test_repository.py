"""What surrounds the code is true: CI, hooks and templates."""

import re
import shlex
import tomllib

import yaml

from configs.paths import SOURCE
from tests.unit.test_docs import check, descend

PROJECT = tomllib.loads((SOURCE / "pyproject.toml").read_text())["project"]


def test_ci_runs_the_readmes_test_command_with_every_python_that_the_project_takes():
    (job,) = yaml.safe_load((SOURCE / ".github" / "workflows" / "test.yml").read_text())["jobs"].values()
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.12"]
    assert PROJECT["requires-python"] == ">=3.11,<3.13"
    assert [step["run"] for step in job["steps"] if "run" in step] == ["make test"]
    assert "```bash\nmake demo\nmake test\n```" in (SOURCE / "README.md").read_text()


def test_the_hooks_are_the_pinned_ruff_and_mypy():
    pinned = [each for each in PROJECT["optional-dependencies"]["dev"] if each.startswith(("ruff", "mypy"))]
    assert re.fullmatch(r"ruff==[\d.]+ mypy==[\d.]+", " ".join(pinned))
    (repository,) = yaml.safe_load((SOURCE / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    started = [shlex.split(hook["entry"])[:2] for hook in repository["hooks"]]
    assert started == [[".venv/bin/ruff", "check"], [".venv/bin/ruff", "format"], [".venv/bin/mypy"]]


def test_the_templates_are_forms_that_name_commands_which_exist():
    forms = [path for path in (SOURCE / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config"]
    assert {path.stem for path in forms} == {"bug", "feature"}
    for path in forms:
        form = yaml.safe_load(path.read_text())
        assert {"name", "description", "body"} <= set(form)
        assert len({field["id"] for field in form["body"]}) == len(form["body"])
        for command in re.findall(r"`tandem ([^`]*)`", path.read_text()):
            check(*descend(command.split()))
    assert "make test" in (SOURCE / ".github" / "PULL_REQUEST_TEMPLATE.md").read_text()
