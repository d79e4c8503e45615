"""What energy costs, for all that shows energy: the running Tandem's settings, otherwise cluster.yaml's."""

from actors import cluster
from configs import load, paths
from configs.paths import Home
from configs.schema import EnergyConfig


def current(home: Home) -> EnergyConfig:
    """Raises ConfigError if cluster.yaml is wrong, ClusterError if the home's cluster.json is damaged."""
    running = cluster.find(home)
    if running is not None and running.is_alive:
        return running.config.energy
    return load.load_cluster(paths.CLUSTER_CONFIG).energy
