"""Ray's job API as the control actor uses it: start a run's driver, ask how it is, end it. Blocking calls.

Ray's REST API, not its client: that one goes by the proxies and the .netrc of the environment, secret and all.
"""

import json
import os
import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import Any

import httpx

from actors import http_clients


class JobState(StrEnum):
    ALIVE = "ALIVE"  # pending or running
    ENDED = "ENDED"  # by itself, with exit code 0
    FAILED = "FAILED"  # by itself, otherwise
    STOPPED = "STOPPED"  # somebody stopped it
    UNKNOWN = "UNKNOWN"  # Ray has never heard of it: its cluster is gone


_STATES = {
    "PENDING": JobState.ALIVE,
    "RUNNING": JobState.ALIVE,
    "SUCCEEDED": JobState.ENDED,
    "FAILED": JobState.FAILED,
    "STOPPED": JobState.STOPPED,
}


def own_id() -> str | None:
    """The id under which Ray knows the job of this process; None outside a job.

    Ray 2.60 says it in the configuration of the job, and has no call for it.
    """
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
    return job.get("metadata", {}).get("job_submission_id")


class RayJobs:
    """Jobs of one cluster, by the address of its dashboard and the file of its secret.

    Every method raises RuntimeError if Ray does not answer, or with its words for what it refuses.
    """

    def __init__(self, address: str, token: Path) -> None:
        self.address = address
        self._token = token
        self._http: httpx.Client | None = None  # made where it is used: the control actor gets its jobs through Ray

    def submit(self, job_id: str, run_id: str, kind: str) -> None:
        """Start the driver of a run: `python -m jobs.<kind> --run-id <run_id>`.

        Ray runs an entrypoint through a shell, so every word of it is quoted.
        """
        entrypoint = shlex.join([sys.executable, "-m", f"jobs.{kind}", "--run-id", run_id])
        env = {"CUDA_VISIBLE_DEVICES": ""}  # a driver sees no GPU
        job = {"entrypoint": entrypoint, "submission_id": job_id, "runtime_env": {"env_vars": env}}
        self._checked(self._ask("POST", "/api/jobs/", job))

    def state(self, job_id: str) -> JobState:
        response = self._ask("GET", f"/api/jobs/{job_id}")
        if response.status_code == 404:
            return JobState.UNKNOWN
        return _STATES[self._checked(response)["status"]]

    def message(self, job_id: str) -> str:
        """Ray's own word on how the job ended."""
        return self._checked(self._ask("GET", f"/api/jobs/{job_id}"))["message"] or ""

    def stop(self, job_id: str) -> None:
        """SIGTERM to the driver, SIGKILL after RAY_JOB_STOP_WAIT_TIME_S. Does not wait."""
        self._checked(self._ask("POST", f"/api/jobs/{job_id}/stop"))

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        try:
            self._http = self._http or http_clients.ray_client(self.address, self._token)
            return self._http.request(method, path, json=body)
        except (httpx.HTTPError, OSError) as error:
            raise RuntimeError(f"Ray's job API does not answer ({type(error).__name__})") from error

    def _checked(self, response: httpx.Response) -> dict[str, Any]:
        if not response.is_success:
            raise RuntimeError(f"Ray's job API answers {response.status_code}: {response.text}")
        return response.json()
