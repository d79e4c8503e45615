"""What `tandem up` does, step by step: Ray, then the control actor, then the chat endpoint until it answers.

Every wait has a limit, and ends with words as soon as a process is gone that it waits for. Called by `tandem up` and
`tandem demo`.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import Any, TypeVar

import httpx

from actors import cluster, http_clients
from actors.cluster import Cluster
from actors.hardware.placement import default_base
from actors.home import folder
from actors.notify import targets
from actors.ray_edge import proxy
from actors.runs.ledger import Ledger
from configs import environment, paths
from configs.errors import ClusterError, ConfigError
from configs.paths import Home
from configs.schema import ClusterConfig, ServeConfig
from models.base import checkpoint

Result = TypeVar("Result")

READY_TIMEOUT_S = 1800
"""Loading a 20B model from a cold disk takes minutes; a failure shows long before."""
FRONT_PATIENCE_S = 5
"""For HAProxy, once it has complained, to start at another try."""
PATIENCE_S = 180
"""For Ray and Serve to take what they are given, on a machine that is busy."""
SERVE = "/api/serve/applications/"
"""Where Ray's REST API takes and shows what Serve runs."""
FIX = "fix it and `tandem up` again"
TOO_BUSY = "is the machine busy? `tandem up` again; TANDEM_HOME/ray/session_latest/logs has more"


def bring_up(home: Home, config: ClusterConfig, serving: ServeConfig, say: Callable[[str], None]) -> Cluster:
    """Ray, then the control actor, then the chat endpoint until it answers. Whatever fails, nothing stays behind.

    Raises ConfigError or ClusterError.
    """
    folder.check(home)
    _have_ledger(home)
    targets.check(config.notify)
    _have_base(serving, say)
    running = cluster.start(home, config, say)
    try:
        say("starting the control actor")
        _start_control(home, running)
        say("deploying the chat endpoint")
        from serve import app  # imports Ray, a second and a half

        with http_clients.ray_client(running.dashboard, home.token, timeout=PATIENCE_S) as ray:
            _deploy(ray, running, app.deployment_config(running.http_port, serving))
            _await_ready(ray, running, home, say)
    except BaseException as error:
        if not isinstance(error, KeyboardInterrupt):
            say("not started; ending what was started")
        cluster.stop(home)
        raise
    return running


def _have_ledger(home: Home) -> None:
    """See that what the control actor will open can be read, before anything is started. Raises ClusterError."""
    if home.ledger.exists():
        with contextlib.closing(Ledger(home.ledger, read_only=True)) as ledger:
            ledger.quarantines()  # of any version, so that more than the first page is read


def _have_base(serving: ServeConfig, say: Callable[[str], None]) -> None:
    """Find the base before anything is started, downloading it in sight if need be, and see that it takes the context.

    Raises CheckpointError or ConfigError.
    """
    name = default_base() if serving.base == "auto" else serving.base
    if name != checkpoint.TINY:  # which is shipped
        say(f"looking for the base model {name}")
    longest = checkpoint.inspect(checkpoint.resolve(name)).longest
    if longest is not None and serving.max_context > longest:
        raise ConfigError(
            f"max_context is {serving.max_context}, and {name} takes at most {longest} tokens",
            hint=f"tandem up --max-context {longest}",
        )


def _start_control(home: Home, running: Cluster) -> None:
    """In a process of its own, because Ray's C++ ends a driver whose raylet is too slow, and `up` has to clean up then.

    On a busy machine Ray may need several tries. Raises ClusterError with the last one's words.
    """
    command = [sys.executable, "-c", "from actors import control; control.main()"]
    surroundings = environment.for_children(os.environ) | cluster.client_environment(home, running)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with tempfile.TemporaryFile() as said:
            streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": said}
            starter = subprocess.Popen(command, cwd=paths.SOURCE, env=surroundings, **streams)
            try:
                while starter.poll() is None and time.monotonic() < deadline:
                    cluster.require_alive(running, "the control actor was starting")
                    time.sleep(0.1)
            finally:
                starter.kill()
                starter.wait()
            if starter.returncode == 0:
                return
            said.seek(0)
            words = _reason(said.read().decode(errors="replace"))
        cluster.require_alive(running, "the control actor was starting")
        if time.monotonic() > deadline:
            raise ClusterError(f"the control actor did not start: {words}", hint=TOO_BUSY)
        time.sleep(1)


def while_alive(running: Cluster, doing: str, call: Callable[[], Result]) -> Result:
    """What `call` returns or raises. Raises ClusterError if Ray is gone: without its raylet it never answers."""
    pool = ThreadPoolExecutor(1)
    try:
        answer = pool.submit(call)
        while not wait([answer], timeout=0.2).done:
            cluster.require_alive(running, doing)
        cluster.require_alive(running, doing)
        return answer.result()
    finally:
        pool.shutdown(wait=False)  # what still waits is broken off when the cluster is ended


def _deploy(ray: httpx.Client, running: Cluster, config: dict[str, Any]) -> None:
    """Again while Serve itself is not up to it. Raises ClusterError with its words."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            answer = while_alive(running, "Serve was being told of the endpoint", partial(ray.put, SERVE, json=config))
            if answer.is_success:
                return
            problem, final = answer.text, answer.is_client_error
        except httpx.HTTPError as error:
            problem, final = f"no answer ({type(error).__name__})", False
        if final or time.monotonic() > deadline:
            raise ClusterError(f"Serve did not take the endpoint: {_reason(problem)}", hint=TOO_BUSY)
        time.sleep(1)


def _await_ready(ray: httpx.Client, running: Cluster, home: Home, say: Callable[[str], None]) -> None:
    deadline, told = time.monotonic() + READY_TIMEOUT_S, ""
    front = Front(home)
    with http_clients.client(running.http, timeout=10) as endpoint:
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.HTTPError):
                if endpoint.get("/readyz").status_code == 200:
                    return
            status, problem = while_alive(running, "the endpoint was starting", partial(_progress, ray))
            if problem:
                raise ClusterError(
                    f"the endpoint could not be deployed: {problem}", hint="fix it and `tandem up` again"
                )
            front.check(status)
            if status != told:
                say(f"endpoint: {status.lower()}")
                told = status
            time.sleep(0.3)
    raise ClusterError(f"the endpoint was not ready after {READY_TIMEOUT_S} s", hint="see TANDEM_HOME/ray for its logs")


class Front:
    """What listens on the endpoint's port, while it starts. Serve says nothing of it, and tries it again for ever."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._failing_since: float | None = None
        self._silent_since: float | None = None

    def check(self, status: str) -> None:
        """Raises ClusterError if it goes on failing, or does not answer long after the application runs."""
        now, why = time.monotonic(), proxy.failure(self._home)
        self._failing_since = (self._failing_since or now) if why else None
        self._silent_since = (self._silent_since or now) if status == "RUNNING" else None
        if self._failing_since and now - self._failing_since > FRONT_PATIENCE_S:
            raise ClusterError(f"HAProxy cannot listen on the endpoint's port: {why}", hint=FIX)
        if self._silent_since and now - self._silent_since > PATIENCE_S:
            raise ClusterError(f"the endpoint runs, but its port does not answer after {PATIENCE_S} s", hint=TOO_BUSY)


def _progress(ray: httpx.Client) -> tuple[str, str]:
    """Serve's word for where the application is, and what went wrong if something did."""
    status = "WAITING"
    try:
        details = ray.get(SERVE).raise_for_status().json()
    except (httpx.HTTPError, ValueError):  # asked again, while Ray lives
        return status, ""
    for application in details["applications"].values():
        status = application["status"]
        parts = [application, *application["deployments"].values()]
        if failed := [part["message"] for part in parts if part["status"] == "DEPLOY_FAILED"]:
            return status, _reason(max(failed, key=len))
    return status, ""


def _reason(message: str) -> str:
    """The line of a Serve traceback that says what happened."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    errors = [line for line in lines if "Error:" in line or "Error(" in line]
    return (errors or lines or ["no reason given"])[-1]
