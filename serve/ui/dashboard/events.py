"""The ledger's events as a log that people read, newest first.

Colours are by severity, which `actors.runs.event` decides.
"""

from actors.runs.event import Event, Severity
from serve.ui.dashboard.markup import part, template
from serve.ui.dashboard.reading import PageData

SHOWN = 80
_TONES = {Severity.SUCCESS: "good", Severity.WARNING: "warn", Severity.FAILURE: "bad", Severity.INFO: "calm"}

_LOG = template("""
{% if events %}
<ol class="log" tabindex="0">
{% for event in events %}
  <li><time>{{ event.at | clock }}</time><span class="kind {{ tone(event) }}">{{ event.kind }}</span>
    <span class="text words">{% if event.run_id %}<b>{{ event.run_id }}</b> {% endif %}{{ event.text | words }}</span>
  </li>
{% endfor %}
</ol>
{% else %}<p class="empty">Nothing has happened yet. Runs, swaps and leases leave their events here.</p>{% endif %}
""")


def html(look: PageData) -> str:
    """The panel, with at most `SHOWN` events."""
    return part("events", "Events", _LOG, events=look.overview.events[:SHOWN], tone=_tone)


def _tone(event: Event) -> str:
    return _TONES[event.severity]
