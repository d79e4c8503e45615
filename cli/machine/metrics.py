"""`tandem metrics`: an exporter on its own port that outlives the cluster."""

import threading

import click

from cli import output
from configs.paths import MONITORING, home


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), default=9464, show_default=True, help="Port on loopback.")
def metrics(port: int) -> None:
    """Serve Prometheus metrics until Ctrl-C: GPUs, slots, queue, runs, adapters, and the gateway's while it is up.

    \b
      /metrics  what docs/metrics.md lists; `tandem_up 0` while the cluster is down
      /ray      where Ray's own metrics are, for Prometheus's http_sd_configs

    \b
    Shipped in configs/monitoring:
      prometheus.yml       scrapes this exporter and Ray, and watches the alerts
      alerts.yml           alert rules; alerts_test.yml tests them with promtool
      grafana/tandem.json  a dashboard: in Grafana, Dashboards > New > Import

    \b
    Examples:
      tandem metrics
      tandem metrics --port 9465
      prometheus --config.file configs/monitoring/prometheus.yml --web.listen-address 127.0.0.1:9090
    """
    from cli.machine.metrics_server import Exporter  # prometheus_client, psutil and NVML: too much for --help

    with Exporter(home(), port) as exporter:
        output.say(f"metrics at {exporter.url}/metrics, Ctrl-C ends; for Prometheus: {MONITORING / 'prometheus.yml'}")
        thread = threading.Thread(target=exporter.serve_forever, daemon=True)
        thread.start()
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            exporter.shutdown()
            thread.join()
