"""Adapters: versions with their aliases, losses and evaluation, and the history of swaps."""

from serve.ui.dashboard.markup import part, template
from serve.ui.dashboard.reading import PageData

SWAPS = 12

_ADAPTERS = template("""
{% macro names(version) %}
{% for alias, target in seen.aliases.items() if (target or "base") == version %}
<span class="alias">{{ alias }}</span>
{% endfor %}
{% endmacro %}
{% macro act(version) %}
{% if seen.up and version != (seen.aliases.get("prod") or "base") %}
<button class="act" data-do="{{ doing(version) }}" data-what="{{ version }}">Swap</button>{% endif %}
{% endmacro %}
<div class="scroll"><table class="stack">
  <thead><tr><th>Adapter</th><th class="n">Loss</th><th class="n">Held out</th><th class="n">Evaluated</th>
    <th></th></tr></thead>
  <tbody>
    <tr data-adapter="base"><td><b>base</b> <span class="quiet">{{ seen.base or "" }}</span> {{ names("base") }}</td>
      <td class="none"></td><td class="none"></td><td class="none"></td><td class="n do">{{ act("base") }}</td></tr>
  {% for adapter in seen.adapters %}{% set manifest = adapter.manifest %}
    {% set found = evaluations.get(manifest.version, {}) %}
    <tr data-adapter="{{ manifest.version }}">
      <td><b>{{ manifest.version }}</b>
        <span class="quiet small">{{ names(manifest.version) }}{{ badge(adapter.state, adapter.reason) }}
          {% if manifest.suspect %}<span class="badge warn" title="{{ manifest.suspect | join('; ') }}">suspect</span>
          {% endif %}rank {{ manifest.rank }} · {{ manifest.bytes | size }} · {{ manifest.created_at | ago(seen.at) }}
          {{ " · in memory" if adapter.loaded }}</span></td>
      <td class="n" data-label="loss">{{ manifest.metrics.get("loss") | number }}</td>
      <td class="n" data-label="held out">{{ manifest.metrics.get("eval_loss") | number }}</td>
      <td class="n" data-label="evaluated">{% if "adapter" in found %}{{ found.adapter | number }}
        {% if "base" in found %}<span class="quiet small">base {{ found.base | number }}</span>{% endif %}
        {% else %}{{ nothing }}{% endif %}</td>
      <td class="n do">{{ act(manifest.version) }}</td>
    </tr>
  {% endfor %}
  </tbody>
</table></div>
{% if not seen.adapters %}
<p class="empty">No adapter is published yet: a training run publishes one when it succeeds.</p>
{% endif %}
<div class="swaps">
  <header><h3>Swaps</h3>{% if back %}
    <button class="act" data-do="{{ doing(back) }}" data-what="{{ back }}">Back to {{ back }}</button>
    {% endif %}</header>
  {% if swaps %}
  <ol class="log short">
  {% for swap in swaps %}
    <li data-swap="{{ swap.id }}"><time>{{ swap.at | clock }}</time>
      <span class="kind {{ 'good' if swap.outcome == 'done' else 'bad' }}">{{ swap.outcome }}</span>
      <span class="text">{{ swap.alias }}: {{ swap.old or "base" }} → <b>{{ swap.new or "base" }}</b>
        <span class="quiet">{{ swap.seconds | latency }}
          {% if swap.outcome != "done" %} · {{ swap.reason }}{% endif %}</span></span></li>
  {% endfor %}
  </ol>
  {% else %}<p class="empty">Nothing was swapped yet.</p>{% endif %}
</div>
""")


def html(look: PageData) -> str:
    seen = look.overview
    changed = "previous" in seen.aliases and seen.aliases["previous"] != seen.aliases.get("prod")
    back = (seen.aliases["previous"] or "base") if seen.up and changed else ""
    aside = f"{len(seen.adapters)} published" if seen.adapters else ""
    suspects = {adapter.manifest.version for adapter in seen.adapters if adapter.manifest.suspect}
    doing = lambda version: "force" if version in suspects else "swap"  # noqa: E731
    values = {"doing": doing, "seen": seen, "evaluations": look.evaluations, "swaps": seen.swaps[:SWAPS], "back": back}
    return part("adapters", "Adapters", _ADAPTERS, aside, **values)
