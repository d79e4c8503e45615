"""What Ray 2.60 calls its own processes, pages and files, where Tandem looks at them. None of it is a promise of Ray's.

Called by `actors.cluster`, `actors.status` and `actors.metrics`.
"""

CHILDREN = ("gcs_server", "raylet")
"""Processes of the head without which there is no cluster."""
CLASSES = {"ServeController": "controller", "HAProxyManager": "front", "JobSupervisor": "driver"}
"""Actors of Ray's own, and what Tandem calls them."""
JOB_ACTOR = "_ray_internal_job_actor_"
"""What the name of a job's supervisor begins with; the job's id follows."""
HEALTH_CHECK = "A replica's health check failed"
"""How Serve begins what it says of a deployment whose replica's process died or hung."""

ACTORS_PAGE = "/api/v0/actors"
ACTORS = f"{ACTORS_PAGE}?detail=1&limit=1000&filter_keys=state&filter_predicates=!%3D&filter_values=DEAD"
"""The table of actors, without those that are dead: they are kept for as long as the head lives."""
SERVE = "/api/serve/applications/"

DISCOVERY = "prom_metrics_service_discovery.json"
"""Where Ray's metrics are; its head writes it into its temporary folder and leaves it there when it ends."""
