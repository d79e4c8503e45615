"""What goes through a shell when a run is started: a known kind and a checked id, nothing else."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from actors.ray_edge.jobs import JobState, RayJobs
from actors.runs.run import RunKind


class Ray:
    """Ray's job API, as far as it is used."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.jobs: list[dict] = []
        self.answer = httpx.Response(200, json={"status": "RUNNING", "message": None})

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append((request.method, request.url.path))
        self.jobs += [json.loads(request.content)] if request.content else []
        return self.answer


@pytest.fixture
def ray():
    return Ray()


@pytest.fixture
def jobs(ray):
    made = RayJobs("http://127.0.0.1:1", Path("/nonexistent"))
    made._http = httpx.Client(base_url=made.address, transport=httpx.MockTransport(ray))
    return made


@pytest.mark.parametrize("kind", RunKind)
def test_a_run_is_started_by_the_entrypoint_of_its_kind(jobs, ray, kind):
    jobs.submit("a-1", "a", kind)
    (job,) = ray.jobs
    assert ray.asked == [("POST", "/api/jobs/")]
    assert shlex.split(job["entrypoint"]) == [sys.executable, "-m", f"jobs.{kind}", "--run-id", "a"]
    assert job["submission_id"] == "a-1" and job["runtime_env"] == {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}}


@pytest.mark.parametrize(("run_id", "kind"), [("a; reboot", "train"), ("$(reboot)", "train"), ("a", "train; reboot")])
def test_no_word_means_anything_to_the_shell(jobs, ray, run_id, kind):
    jobs.submit("a-1", run_id, kind)
    (job,) = ray.jobs
    echoed = subprocess.run(f"printf '%s\\n' {job['entrypoint']}", shell=True, capture_output=True, text=True).stdout
    assert echoed.splitlines() == [sys.executable, "-m", f"jobs.{kind}", "--run-id", run_id]


@pytest.mark.parametrize(
    ("status", "body", "state"),
    [
        (200, {"status": "PENDING"}, JobState.ALIVE),
        (200, {"status": "RUNNING"}, JobState.ALIVE),
        (200, {"status": "SUCCEEDED"}, JobState.ENDED),
        (200, {"status": "FAILED"}, JobState.FAILED),
        (200, {"status": "STOPPED"}, JobState.STOPPED),
        (404, "Job a-1 does not exist", JobState.UNKNOWN),
    ],
)
def test_a_jobs_state_is_told_from_rays_answer(jobs, ray, status, body, state):
    ray.answer = httpx.Response(status, json=body)
    assert jobs.state("a-1") is state
    assert ray.asked == [("GET", "/api/jobs/a-1")]


def test_a_jobs_message_is_rays_own_word_or_nothing(jobs, ray):
    assert jobs.message("a-1") == ""
    ray.answer = httpx.Response(200, json={"status": "FAILED", "message": "exit code 1"})
    assert jobs.message("a-1") == "exit code 1"


def test_a_job_is_stopped_by_its_id(jobs, ray):
    jobs.stop("a-1")
    assert ray.asked == [("POST", "/api/jobs/a-1/stop")]


def test_what_ray_refuses_is_said_with_its_words(jobs, ray):
    ray.answer = httpx.Response(500, text="No available agent to submit job, please try again later.")
    with pytest.raises(RuntimeError, match=r"answers 500: No available agent"):
        jobs.submit("a-1", "a", RunKind.TRAIN)


def test_a_ray_that_does_not_answer_is_a_runtime_error():
    with pytest.raises(RuntimeError, match=r"Ray's job API does not answer \(FileNotFoundError\)"):
        RayJobs("http://127.0.0.1:1", Path("/nonexistent")).state("a-1")
