"""Entrypoints of every kind: outside a Ray job they say what to type instead, and a run of another kind is refused."""

import pytest
from click.testing import CliRunner

from actors import client
from actors.runs.run import Run, RunKind
from configs.errors import StateError
from jobs import driver, export, train
from tests import samples


@pytest.mark.parametrize(
    ("main", "arguments", "words"),
    [
        (train.main, [], "jobs.train is the entrypoint of a Ray job -> `tandem train`, or `ray job submit"),
        (export.main, ["--run-id", "a"], "jobs.export is the entrypoint of a Ray job -> `tandem adapters export`\n"),
    ],
    ids=["train", "export"],
)
def test_an_entrypoint_started_by_hand_says_what_to_type(main, arguments, words, monkeypatch):
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")  # it is changed, and restored after the test
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1 and done.output.startswith(f"error: {words}")


def test_every_kind_has_its_entrypoint():
    assert {job.kind for job in (train.TRAIN, export.EXPORT)} == set(RunKind)


def test_a_run_of_another_kind_is_refused_before_anything_is_waited_for(monkeypatch):
    class Control:
        def run(self, run_id: str) -> Run:
            return samples.run(run_id, samples.RUN_CONFIG)

    monkeypatch.setattr(client, "BlockingClient", Control)
    with pytest.raises(StateError, match=r"run a is of kind train, this is jobs\.export"):
        driver.drive(export.EXPORT, "a")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Traceback\n  File x\ntorch.AcceleratorError: CUDA error: unknown error\nCompile with `TORCH_USE_CUDA_DSA`\n",
         "torch.AcceleratorError: CUDA error: unknown error"),
        ("Traceback\nValueError: no such row", "ValueError: no such row"),
        ("it ended", "it ended"),
        ("", "RuntimeError"),
    ],
)  # fmt: skip
def test_the_reason_of_a_failed_task_is_the_line_that_names_the_error(text, reason):
    assert driver._words(RuntimeError(text)) == reason
