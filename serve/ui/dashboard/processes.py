"""Actors and replicas: every process that Tandem needs, red where one is dead or missing."""

from serve.ui.dashboard.markup import part, template
from serve.ui.dashboard.reading import Look

_TABLE = template("""
{% if processes %}
<div class="scroll"><table>
  <thead><tr><th>Process</th><th>State</th><th class="n">Pid</th><th class="n">Restarts</th><th class="n">Age</th>
    <th class="n wide">CPU</th><th class="n wide">Memory</th></tr></thead>
  <tbody>
  {% for process in processes %}
    <tr class="{{ '' if process.is_up else 'bad' }}" data-process="{{ process.name }}">
      <td><b>{{ process.name }}</b></td><td>{{ badge(process.state, process.message) }}</td>
      <td class="n">{{ process.pid or nothing }}</td>
      <td class="n {{ 'warn' if process.restarts }}">{{ process.restarts }}</td>
      <td class="n">{{ process.started | ago(now) }}</td>
      <td class="n wide">{{ (rate.cpu.get(process.pid) if rate else none) | percent }}</td>
      <td class="n wide">{{ process.memory_bytes | size }}</td>
    </tr>
    {% if process.message %}<tr class="bad"><td colspan="7" class="message">{{ process.message }}</td></tr>{% endif %}
  {% endfor %}
  </tbody>
</table></div>
{% else %}<p class="empty">No process runs: the cluster is down.</p>{% endif %}
""")


def html(look: Look) -> str:
    seen = look.overview
    dead = sum(not process.is_up for process in seen.processes)
    aside = f"{dead} of {len(seen.processes)} not up" if dead else f"{len(seen.processes)} up" if seen.processes else ""
    return part(
        "processes", "Actors and replicas", _TABLE, aside, processes=seen.processes, now=seen.at, rate=look.rate
    )
