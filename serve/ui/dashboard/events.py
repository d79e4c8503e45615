"""The ledger's events as a log that people read, newest first."""

from actors.runs.ledger import Event
from serve.ui.dashboard.markup import part, template
from serve.ui.dashboard.reading import Look

SHOWN = 80
_TONES = {
    "failed": "bad", "interrupted": "warn", "watchdog": "warn", "suspect": "warn", "rollback": "warn",
    "quarantine": "bad", "succeeded": "good", "published": "good", "swap": "busy", "running": "good",
}  # fmt: skip

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


def html(look: Look) -> str:
    return part("events", "Events", _LOG, events=look.overview.events[:SHOWN], tone=_tone)


def _tone(event: Event) -> str:
    if event.kind == "watchdog" and event.text.startswith("good: "):
        return "good"
    return _TONES.get(event.kind, "calm")
