"""One real Prometheus with the shipped configuration has Tandem's metrics and Ray's."""

import pytest

from tests.prometheus import exporting, running


def test_tandem_and_ray_are_scraped_by_one_prometheus(tandem, tmp_path):
    tandem.wait_ready()
    tandem.ask()
    with exporting(tandem.environment) as port, running(tmp_path, port) as prometheus:
        query = prometheus.query
        assert prometheus.wait(lambda: query('up{job="tandem"} == 1') != [])
        assert prometheus.wait(lambda: query('up{job="ray"} == 1') != []), "the exporter knows no target of Ray's"
        assert query('up{job="ray"} == 0') == []
        assert prometheus.wait(lambda: query('ray_actors{State="ALIVE"} > 0') != [])
        assert prometheus.wait(lambda: query("ray_serve_deployment_replica_starts_total > 0") != [])
        ((engine, one),) = query("tandem_engine_info")
        assert (engine["base"], engine["device"], one) == ("tiny", "cpu", 1)
        parts = dict.fromkeys(("gateway", "queue", "prefill"))
        for part in parts:
            ((_, parts[part]),) = query(f'tandem_time_to_first_token_part_seconds_sum{{part="{part}"}}')
        ((_, whole),) = query("sum(tandem_time_to_first_token_seconds_sum)")
        assert min(parts.values()) > 0
        assert sum(parts.values()) == pytest.approx(whole)
