"""HTML of the dashboard's parts: templates in which every value is escaped, and figures as people read them."""

import hashlib
import re
import time
from datetime import datetime
from functools import partial
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup, escape

from configs import units

TONES = {
    "QUEUED": "calm", "STARTING": "busy", "RUNNING": "good", "STOPPING": "busy", "INTERRUPTED": "warn",
    "SUCCEEDED": "good", "FAILED": "bad", "STOPPED": "calm",
    "PUBLISHED": "calm", "LOADING": "busy", "VERIFYING": "busy", "LIVE": "good", "RETIRED": "calm", "REFUSED": "bad",
    "ALIVE": "good", "MISSING": "bad", "GONE": "bad", "DEAD": "bad",
    "RESTARTING": "warn", "PENDING_CREATION": "busy", "DEPENDENCIES_UNREADY": "busy", "UPDATING": "busy",
}  # fmt: skip
"""Colour of a state's badge; a state that is not named here is `warn`."""


NOTHING = "\N{EN DASH}"
"""Where there is no figure."""
size = partial(units.size, nothing=NOTHING)
duration = partial(units.duration, nothing=NOTHING)
latency = partial(units.latency, nothing=NOTHING)


def left(seconds: float) -> str:
    """A time that is measured, with a decimal below ten minutes."""
    return f"{seconds / 60:.1f} min" if 60 <= seconds < 600 else duration(seconds)


def ago(moment: float | None, now: float) -> str:
    """Between then and `now`, in the largest unit; a clock that was set back gives `0 s`."""
    return NOTHING if moment is None else duration(max(0.0, now - moment))


def clock(moment: float) -> str:
    """Time of day, with the date unless it is today's."""
    try:
        at = datetime.fromtimestamp(moment)
    except (OverflowError, OSError, ValueError):
        return "?"
    return f"{at:%H:%M:%S}" if at.date() == datetime.fromtimestamp(time.time()).date() else f"{at:%d %b %H:%M}"


def words(text: str) -> Markup:
    """A sentence; what stands in backticks is code."""
    return Markup(re.sub(r"`([^`\n]+)`", r"<code>\1</code>", str(escape(text))))


def number(value: float | None, digits: int = 3) -> str:
    """With so many significant digits, thousands apart."""
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:#.{digits}g}".rstrip(".")


_ENVIRONMENT = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
_ENVIRONMENT.filters |= {
    "size": size, "duration": duration, "latency": latency, "ago": ago, "clock": clock, "number": number,
    "words": words,
    "percent": lambda part: NOTHING if part is None else f"{part:.0%}",
    "tone": lambda state: TONES.get(str(state), "warn"),
}  # fmt: skip
_ENVIRONMENT.globals["nothing"] = NOTHING
_MACROS = """
{% macro badge(state, title="") -%}
<span class="badge {{ state | tone }}" title="{{ title }}">{{ state | lower }}</span>
{%- endmacro %}
{% macro bar(part, tone="") -%}
<span class="bar {{ tone }}"><i style="width: {{ '%.1f' % (100 * ([[part or 0, 0] | max, 1] | min)) }}%"></i></span>
{%- endmacro %}
"""


def template(source: str) -> Template:
    """A template with the filters above and the macros `badge(state)` and `bar(part)`."""
    return _ENVIRONMENT.from_string(_MACROS + source)


def part(name: str, title: str, content: Template, aside: str = "", **values: Any) -> str:
    """One part as a card; its digest lets the page say what it shows already."""
    html = content.render(**values)
    return _CARD.render(name=name, title=title, aside=aside, content=html, digest=digest(title + aside + html))


def loading(name: str) -> str:
    """What stands in a part's place until it is read."""
    return _CARD.render(name=name, title="", aside="", content='<p class="empty">Reading …</p>', digest="")


def digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


_CARD = _ENVIRONMENT.from_string(
    '<section class="card" data-part="{{ name }}" data-digest="{{ digest }}">'
    '<header><h2>{{ title }}</h2><span class="aside">{{ aside }}</span></header>{{ content | safe }}</section>'
)
