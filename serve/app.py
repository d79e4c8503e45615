"""Builds the Serve application: one engine deployment per serving slot, one gateway in front of them.

`serve deploy configs/serve.yaml` and `tandem up` both end here; `deployment_config` is that file with this cluster's
port and settings.
"""

from pathlib import Path
from typing import Any

import yaml
from ray import serve as ray_serve

from actors import client
from actors.hardware.placement import actor_options, default_base
from configs import load, paths
from configs.paths import home
from configs.schema import ServeConfig, Slot
from models.base import checkpoint
from serve.engine.replica import EngineReplica
from serve.gateway import Gateway

OPEN_REQUESTS = 1000
"""What Serve lets through to a replica at once; the engines' own limits answer 429 long before."""


def build(args: dict[str, Any]) -> ray_serve.Application:
    """The application from `ServeConfig`'s keys. Called by Serve inside the cluster.

    Raises ConfigError for a bad key, CheckpointError if the base is not on disk, NotFoundError without control actor.
    """
    config = load.validate(ServeConfig, args, source="the application's args in serve.yaml")
    base = checkpoint.resolve(config.base if config.base != "auto" else default_base())
    checkpoint.inspect(base)
    slots = client.BlockingClient().slots()
    serving = [slot for slot in slots if "serve" in slot.roles]
    engines = {slot.name: _engine(config, base, slot, len(slots)) for slot in serving}
    return _gateway().bind(config, base, engines)


def deployment_config(http_port: int, serving: ServeConfig) -> dict[str, Any]:
    """serve.yaml as Serve's REST API takes it, with this cluster's port and the application's arguments."""
    config = yaml.safe_load(paths.SERVE_CONFIG.read_text())
    config["http_options"]["port"] = http_port
    config["applications"][0]["args"] = serving.model_dump(mode="json")
    return config


def _engine(config: ServeConfig, base: Path, slot: Slot, neighbours: int) -> ray_serve.Application:
    deployment = ray_serve.deployment(
        EngineReplica,
        name=f"engine_{slot.name}",
        ray_actor_options=actor_options(slot, "serve", neighbours=neighbours, cache=home().cache),
        max_ongoing_requests=OPEN_REQUESTS,
        health_check_period_s=2,
        health_check_timeout_s=30,
        graceful_shutdown_timeout_s=2,
        graceful_shutdown_wait_loop_s=0.2,
        logging_config={"enable_access_log": False},  # the gateway's has the requests; here is a line per second
    )
    return deployment.bind(config, base, slot)


def _gateway() -> ray_serve.Deployment:
    return ray_serve.deployment(
        ray_serve.ingress()(Gateway),
        name="gateway",
        num_replicas=1,  # it keeps the responses: another one would not find them
        ray_actor_options={"num_cpus": 0, "runtime_env": {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}}},
        max_ongoing_requests=OPEN_REQUESTS,
        health_check_period_s=2,
        graceful_shutdown_timeout_s=2,
        graceful_shutdown_wait_loop_s=0.2,
    )
