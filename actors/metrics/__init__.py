"""Every Prometheus name that Tandem exposes, in base units, with bounded labels. `docs/metrics.md` is the list.

`requests` counts in the process that answers requests. The rest is read at every scrape, so it works in any process of
the head node and while the cluster is down: `cluster` puts together what `hardware` and `runs` read, `gateway` passes
the gateway's own on and `ray_targets` says where Ray's are.
"""

from actors.metrics.cluster import ClusterCollector
from actors.metrics.gateway import GatewayCollector
from actors.metrics.ray_targets import ray_targets
from actors.metrics.requests import EngineMetrics, MetricsPart, RequestMetrics

__all__ = ["ClusterCollector", "EngineMetrics", "GatewayCollector", "MetricsPart", "RequestMetrics", "ray_targets"]
