"""What goes through a shell when a run is started: a known kind and a checked id, nothing else."""

import shlex
import sys

import pytest

from actors.ray_jobs import RayJobs
from actors.run import RunKind
from configs.errors import NotFoundError


class Client:
    """Ray's job client, as far as it is used to submit."""

    def __init__(self) -> None:
        self.jobs: list[dict] = []

    def submit_job(self, **job) -> None:
        self.jobs.append(job)


@pytest.fixture
def jobs():
    made = RayJobs("http://127.0.0.1:1")
    made._client = Client()
    return made


@pytest.mark.parametrize("kind", RunKind)
def test_a_run_is_started_by_the_entrypoint_of_its_kind(jobs, kind):
    jobs.submit("a-1", "a", kind)
    (job,) = jobs._client.jobs
    assert shlex.split(job["entrypoint"]) == [sys.executable, "-m", f"jobs.{kind}", "--run-id", "a"]
    assert job["submission_id"] == "a-1" and job["runtime_env"] == {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}}


@pytest.mark.parametrize(("run_id", "kind"), [("a; reboot", "train"), ("a", "train; reboot"), ("a", "../x")])
def test_nothing_else_reaches_the_shell(jobs, run_id, kind):
    with pytest.raises((NotFoundError, ValueError)):
        jobs.submit("a-1", run_id, kind)
    assert jobs._client.jobs == []
