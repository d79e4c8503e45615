"""Actors and replicas: every process that Tandem needs, red where one is dead or missing."""

from collections.abc import Sequence

from actors.status.processes import ProcessReading
from serve.ui.dashboard.markup import part, template
from serve.ui.dashboard.reading import PageData

_TABLE = template("""
{% if processes %}
<div class="scroll"><table>
  <thead><tr><th>Process</th><th>State</th><th class="n">Pid</th><th class="n">Restarts</th><th class="n">Age</th>
    <th class="n wide">CPU</th><th class="n wide">Memory</th></tr></thead>
  <tbody>
  {% for process in processes %}
    <tr class="{{ 'bad' if process in dead }}" data-process="{{ process.name }}">
      <td><b>{% if process.actor %}<a href="{{ ray }}/#/actors/{{ process.actor }}" target="_blank" rel="noopener"
        title="in Ray's dashboard">{{ process.name }}</a>{% else %}{{ process.name }}{% endif %}</b></td>
      <td>{{ badge(process.word, process.message) }}</td>
      <td class="n">{{ process.pid or nothing }}</td>
      <td class="n {{ 'warn' if process.restarts }}">{{ process.restarts }}</td>
      <td class="n">{{ process.started | ago(now) }}</td>
      <td class="n wide">{{ (rate.cpu.get(process.pid) if rate else none) | percent }}</td>
      <td class="n wide">{{ process.memory_bytes | size }}</td>
    </tr>
    {% if process.message %}<tr class="{{ 'bad' if process in dead }}">
      <td colspan="7" class="message">{{ process.message | words }}</td></tr>{% endif %}
  {% endfor %}
  </tbody>
</table></div>
{% else %}<p class="empty">No process runs: the cluster is down.</p>{% endif %}
""")


def html(look: PageData) -> str:
    seen = look.overview
    dead = [process for process in seen.processes if not process.is_up and not process.on_its_way]
    values = {"processes": seen.processes, "dead": dead, "now": seen.at, "rate": look.rate, "ray": seen.dashboard}
    return part("processes", "Actors and replicas", _TABLE, _aside(seen.processes, len(dead)), **values)


def _aside(processes: Sequence[ProcessReading], dead: int) -> str:
    if dead:
        return f"{dead} of {len(processes)} not up"
    coming = sum(process.on_its_way for process in processes)
    counts = ((len(processes) - coming, "up"), (coming, "starting"))
    return " · ".join(f"{number} {word}" for number, word in counts if number)
