"""`tandem metrics`: an exporter on its own port that outlives the cluster."""

import threading

import click

from cli import output
from configs.errors import ClusterError
from configs.paths import home


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), default=9464, show_default=True, help="Port on loopback.")
def metrics(port: int) -> None:
    """Serve Prometheus metrics until Ctrl-C: GPUs, slots, queue, runs, adapters, and the gateway's while it is up.

    \b
    Example:
      tandem metrics --port 9464
    """
    from prometheus_client import CollectorRegistry, start_http_server

    from actors.cluster import LOOPBACK
    from actors.metrics import ClusterCollector, GatewayCollector

    registry = CollectorRegistry()
    registry.register(ClusterCollector(home()))
    registry.register(GatewayCollector(home()))
    try:
        server, thread = start_http_server(port, addr=LOOPBACK, registry=registry)
    except OSError:
        raise ClusterError(f"port {port} is in use", hint="tandem metrics --port <another>") from None
    output.say(f"metrics at http://{LOOPBACK}:{port}/metrics, Ctrl-C ends")
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        server.shutdown()
        thread.join()
