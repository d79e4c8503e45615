"""The top of the dashboard: whether Tandem runs, what `prod` answers with, where Ray's dashboard is, what is wrong."""

from pathlib import Path

from configs.paths import Home
from serve.ui.dashboard.markup import digest, template
from serve.ui.dashboard.reading import PageData

_HEAD = template("""
<div class="state">
  <span class="lamp {{ lamp }}"></span>
  <b>{{ words }}</b>
  {% if seen.up %}
  <span class="quiet">{{ seen.http }}{% if seen.base %} · {{ seen.base }}{% endif %}</span>
  {% else %}
  <span class="quiet">Start it with <code>tandem up</code>; this page comes alive by itself.</span>
  {% endif %}
</div>
<nav>
  {% if "prod" in seen.aliases %}
  <span class="prod"><span class="quiet">prod</span> <b>{{ seen.aliases.prod or "base" }}</b></span>
  {% endif %}
  {% if seen.up %}
  <a href="{{ seen.dashboard }}" target="_blank" rel="noopener">Ray's dashboard ↗</a>
  <span class="quiet">(its token is in <code>{{ token }}</code>)</span>
  <a href="{{ seen.http }}/docs" target="_blank" rel="noopener">API ↗</a>
  {% endif %}
  <button data-do="theme">Light / dark</button>
</nav>
{% if seen.problems %}
<ul class="problems" role="alert">
  {% for problem in seen.problems %}<li>{{ problem | words }}</li>{% endfor %}
</ul>
{% endif %}
""")


def html(look: PageData) -> str:
    """Not a card: the line above all cards, with the problems below it."""
    seen = look.overview
    if not seen.up:
        lamp, words = "off", "Tandem is not running"
    elif seen.starting:
        lamp, words = "warn", "Tandem is starting"
    elif seen.problems:
        count = len(seen.problems)
        lamp, words = "bad", "Something is wrong" if count == 1 else f"{count} things are wrong"
    else:
        lamp, words = "good", "All is well"
    content = _HEAD.render(seen=seen, lamp=lamp, words=words, token=Home(Path(seen.home)).token)
    return f'<section class="head" data-part="head" data-digest="{digest(content)}">{content}</section>'
