"""Requests: rates of the last seconds, and latencies; the first token's is split into parts where they are measured."""

from actors.status.request_stats import Latency
from serve.ui.dashboard.markup import NOTHING, latency, part, template
from serve.ui.dashboard.reading import PageData

PARTS = ("gateway", "queue", "prefill")
"""What a first token waits for, as `tandem_time_to_first_token_part_seconds` names it."""

_REQUESTS = template("""
{% if traffic %}
<div class="figures">
  {% for name, value, unit in figures %}
  <div><b>{{ value }}</b> <span class="quiet">{{ unit }}</span><span class="name">{{ name }}</span></div>
  {% endfor %}
</div>
<table class="latencies">
  <thead><tr><th>{{ since }}</th><th class="n">Median</th><th class="n">95 %</th><th class="n">Mean</th></tr></thead>
  <tbody>
  {% for name, values, inner in rows %}
    <tr class="{{ 'inner' if inner }}"><td>{{ name }}</td>
      {% for value in values %}<td class="n">{{ value }}</td>{% endfor %}</tr>
  {% endfor %}
  </tbody>
</table>
{% for name, stats in engines.items() %}
<p class="engine"><b>{{ name }}</b>
  {% if "error" in stats %}<span class="bad">{{ stats.error }}</span>
  {% else %}
  <span class="quiet">{{ stats.get("running", 0) }} running · {{ stats.get("waiting", 0) }} waiting · KV cache</span>
  {% set used = stats.get("kv_tokens", 0) / (stats.get("kv_capacity", 0) or 1) %}{{ bar(used) }}
  <span class="quiet">{{ used | percent }}</span>
  {% endif %}</p>
{% endfor %}
<p class="quiet small">{{ traffic.answered }} answered since the gateway started ·
  {{ traffic.errors }} with an error · {{ traffic.abandoned }} disconnected</p>
{% elif up %}<p class="empty">The gateway says nothing of its requests.</p>
{% else %}<p class="empty">No gateway: the cluster is down.</p>
{% endif %}
""")


def html(look: PageData) -> str:
    seen, rate = look.overview, look.rate
    traffic = seen.traffic
    figures = [
        ("requests", _figure(rate and rate.requests_per_s), "/s"),
        ("being answered", str(traffic.active if traffic else 0), "now"),
        ("output tokens", _figure(rate and rate.output_tokens_per_s), "/s"),
        ("prompt tokens", _figure(rate and rate.prompt_tokens_per_s), "/s"),
        ("errors", _figure(rate and rate.errors_per_s), "/s"),
    ]
    recent = bool(rate and "time_to_first_token" in rate.latencies)
    found = rate.latencies if recent else traffic.latencies if traffic else {}
    values = {"traffic": traffic, "figures": figures, "engines": seen.engines, "up": seen.up}
    since = f"last {rate.seconds:.0f} s" if recent else "since its start"
    return part("requests", "Requests", _REQUESTS, "", **values, rows=_rows(found), since=since)


def _rows(found) -> list[tuple[str, list[str], bool]]:
    rows = [("First token", _values(found.get("time_to_first_token")), False)]
    parts = [(name, found.get(f"time_to_first_token_part_{name}")) for name in PARTS]
    rows += [(name, _values(each), True) for name, each in parts if each and each.count]
    rows.append(("Between tokens", _values(found.get("inter_token_latency")), False))
    rows.append(("Whole answer", _values(found.get("request_duration")), False))
    return rows


def _values(found: Latency | None) -> list[str]:
    if not found or not found.count:
        return [NOTHING] * 3
    return [found.told(0.5, latency) or NOTHING, found.told(0.95, latency) or NOTHING, latency(found.mean)]


def _figure(value: float | None) -> str:
    if not value:
        return "0"
    return f"{value:.2f}" if value < 9.995 else f"{value:,.0f}"
