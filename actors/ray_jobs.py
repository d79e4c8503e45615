"""Ray's job API as the control actor uses it: start a run's driver, ask how it is, end it. Blocking calls."""

import shlex
import sys
from enum import StrEnum

from actors.run import RunKind, check_run_id


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


class RayJobs:
    """Jobs of one cluster, by the address of its dashboard."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._client = None

    @property
    def client(self):
        if self._client is None:
            from ray.job_submission import JobSubmissionClient

            self._client = JobSubmissionClient(self.address)
        return self._client

    def submit(self, job_id: str, run_id: str, kind: RunKind) -> None:
        """Start the driver of a run of this kind.

        The entrypoint goes through a shell, so nothing but a known kind and a checked id enters it.
        """
        entrypoint = f"{shlex.quote(sys.executable)} -m jobs.{RunKind(kind)} --run-id {check_run_id(run_id)}"
        env = {"CUDA_VISIBLE_DEVICES": ""}  # a driver sees no GPU
        self.client.submit_job(entrypoint=entrypoint, submission_id=job_id, runtime_env={"env_vars": env})

    def state(self, job_id: str) -> JobState:
        try:
            return _STATES[str(self.client.get_job_status(job_id).value)]
        except RuntimeError as error:  # the client's only exception; its text carries the HTTP status
            if "404" in str(error) or "does not exist" in str(error):
                return JobState.UNKNOWN
            raise

    def message(self, job_id: str) -> str:
        """Ray's own word on how the job ended."""
        return str(self.client.get_job_info(job_id).message or "")

    def stop(self, job_id: str) -> None:
        """SIGTERM to the driver, SIGKILL after RAY_JOB_STOP_WAIT_TIME_S. Does not wait."""
        self.client.stop_job(job_id)
