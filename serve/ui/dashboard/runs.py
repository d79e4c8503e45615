"""Queue and runs: a table, and the run that is looked at, with its loss curve and the watchdog's lines."""

from urllib.parse import quote

from actors.energy.cost import EnergyCost, money, watt_hours
from actors.runs.pace import Eta
from actors.runs.run import Run, RunState
from actors.status.overview import RunReading
from configs.schema import WatchdogConfig
from serve.ui.dashboard.chart import Level, loss_curve
from serve.ui.dashboard.curves import Curve
from serve.ui.dashboard.markup import NOTHING, duration, left, number, part, template
from serve.ui.dashboard.reading import PageData

_STOPPABLE = (RunState.QUEUED, RunState.STARTING, RunState.RUNNING, RunState.INTERRUPTED)

_TABLE = template("""
{% if rows %}
<div class="scroll"><table class="runs stack">
  <thead><tr><th>Run</th><th>State</th><th>Progress</th><th class="n">Loss</th><th class="n">Tokens/s</th>
    <th class="n">Left or took</th><th class="n">Created</th></tr></thead>
  <tbody>
  {% for reading in rows %}{% set run = reading.run %}
    <tr class="{{ 'chosen' if run.id == chosen }}" data-run="{{ run.id }}">
      <td><button data-do="show" data-what="{{ run.id }}"><b>{{ run.id }}</b></button></td>
      <td>{% if waits(run) %}<span class="badge calm">waits for tandem up</span>
        {% else %}{{ badge(run.state, run.reason) }}{% endif %}
        {% if run.stage and not waits(run) %} <span class="quiet small">{{ run.stage }}</span>{% endif %}
        {% if reading.position %} <span class="quiet">#{{ reading.position }}</span>{% endif %}</td>
      <td class="progress">{{ bar(reading.progress, "calm" if waits(run) else run.state | tone) }}
        <span class="quiet">{{ run.step }}{% if run.max_steps %}/{{ run.max_steps }}{% endif %}</span></td>
      {% set speed = none if waits(run) else run.tokens_per_s %}{% set time, label = span(reading) %}
      <td class="n {{ 'none' if run.loss is none }}" data-label="loss">{{ run.loss | number }}</td>
      <td class="n {{ 'none' if speed is none }}" data-label="tokens/s">{{ speed | number }}</td>
      <td class="n {{ 'none' if time == nothing }}" data-label="{{ label }}">{{ time }}</td>
      <td class="n quiet" data-label="created">{{ run.created_at | ago(now) }}</td>
    </tr>
  {% endfor %}
  </tbody>
</table></div>
{% if left > 0 %}
<p class="more"><button data-do="more">Show {{ [left, more] | min }} more of {{ left }}</button></p>
{% endif %}
{% else %}<p class="empty">No run yet. <code>tandem train --profile tiny</code> begins one.</p>{% endif %}
""")

_RUN = template("""
{% if reading %}{% set run = reading.run %}
<div class="run" data-shown="{{ run.id }}" data-points="{{ curve.train | length }}">
  <p class="facts">{% if waits(run) %}
    <span class="badge calm">waits for tandem up</span>
    <span class="reason">It goes on after <code>tandem up</code>.</span>
    {% else %}{{ badge(run.state) }} <span class="reason words">{{ run.stage or run.reason | words }}</span>{% endif %}
    {% if job %}<a href="{{ job }}" target="_blank" rel="noopener">its job in Ray ↗</a>{% endif %}
    {% if stoppable %}<button class="act" data-do="stop" data-what="{{ run.id }}">Stop</button>{% endif %}</p>
  <div class="figures">
    {% for name, value, unit in figures %}
    <div><b>{{ value }}</b> <span class="quiet">{{ unit }}</span><span class="name">{{ name }}</span></div>
    {% endfor %}
  </div>
  {% if trouble %}<p class="warning">{{ trouble }}</p>{% endif %}
  {% if drawn %}{{ drawn }}
  <p class="legend"><span class="key train">training loss</span>
    {% if curve.held_out %}<span class="key held-out">held-out loss</span>{% endif %}
    {% for level in levels %}<span class="key level {{ level.kind }}">{{ level.label }}</span>{% endfor %}
    {% if 'data-scale="log"' in drawn %}<span>the axis goes by powers of ten</span>{% endif %}</p>
  {% else %}<p class="empty curve-empty">{{ waiting }}</p>{% endif %}
</div>
{% else %}<p class="empty">The loss curve of a run is drawn here.</p>{% endif %}
""")


def table(look: PageData, chosen: str, rows: int, more: int) -> str:
    """The first `rows` runs; `more` is how many the button adds."""
    readings = look.overview.ordered[:rows]
    counts = {state: count for state, count in look.overview.run_counts.items() if count}
    aside = " · ".join(f"{count} {state.lower()}" for state, count in counts.items())
    values = {"rows": readings, "chosen": chosen, "now": look.overview.at, "span": lambda each: _span(each, look)}
    values |= {"waits": lambda run: _waits_for_up(run, look)}
    return part("runs", "Queue and runs", _TABLE, aside, **values, more=more, left=sum(counts.values()) - len(readings))


def find(look: PageData, wanted: str) -> RunReading | None:
    """The run of this id, or the one that computes now, or the newest."""
    readings = look.overview.ordered
    return next((each for each in readings if each.run.id == wanted), readings[0] if readings else None)


def detail(look: PageData, reading: RunReading | None, curve: Curve, bill: EnergyCost | None, trouble: str = "") -> str:
    """One run; `trouble` is why its curve cannot be read."""
    if reading is None:
        return part("run", "Loss", _RUN, reading=None)
    run = reading.run
    levels = _levels(run)
    label = f"loss of {run.id}, {len(curve.train)} steps"
    drawn = loss_curve(curve.train, curve.held_out, levels, last_step=run.max_steps, label=label)
    values = {
        "reading": reading,
        "curve": curve,
        "levels": levels,
        "drawn": drawn,
        "trouble": trouble or _unreadable(curve.unreadable),
    }
    values |= {"figures": _figures(reading, curve, bill, look), "waits": lambda run: _waits_for_up(run, look)}
    values |= {"job": _job(run, look)}
    values |= {"stoppable": look.overview.up and run.state in _STOPPABLE}
    return part("run", run.id, _RUN, _aside(run), **values, waiting=_waiting(run, reading.waits_for))


def _job(run: Run, look: PageData) -> str:
    """Where Ray's dashboard shows it; Ray forgets its jobs when the cluster ends."""
    head = next((process for process in look.overview.processes if process.kind == "head"), None)
    if not (look.overview.up and head and head.started and run.job_id and (run.started_at or 0) >= head.started):
        return ""
    return f"{look.overview.dashboard}/#/jobs/{quote(run.job_id, safe='')}"


def _unreadable(count: int) -> str:
    if not count:
        return ""
    lines, are = ("1 line", "is") if count == 1 else (f"{count} lines", "are")
    return f"{lines} of metrics.jsonl cannot be read and {are} left out"


def _waits_for_up(run: Run, look: PageData) -> bool:
    """It was at work when the cluster ended."""
    return not look.overview.up and (run.state.holds_slot or run.state is RunState.INTERRUPTED)


def _levels(run: Run) -> list[Level]:
    """The watchdog's lines, as the run's configuration has them."""
    limits = run.config.get("watchdog") or {}
    if "target_loss" not in limits:
        return []
    limits = WatchdogConfig.model_validate(limits)
    return [
        Level(limits.target_loss, f"target {limits.target_loss:g}", "target"),
        Level(limits.overfit_loss, f"overfit {limits.overfit_loss:g}", "overfit"),
    ]


def _aside(run: Run) -> str:
    attempt = f" · attempt {run.attempt}" if run.attempt > 1 else ""
    return f"{run.kind} · {run.profile}{f' · slot {run.slot}' if run.slot else ''}{attempt}"


def _waiting(run: Run, waits_for: str | None) -> str:
    if run.state is RunState.QUEUED:
        return f"{waits_for or 'It waits for its turn'}. Its curve begins with its first step."
    return "It left no losses." if run.state.is_terminal else "No step yet; the curve begins with the first."


def _figures(reading: RunReading, curve: Curve, bill: EnergyCost | None, look: PageData) -> list[tuple[str, str, str]]:
    run, eta = reading.run, reading.eta
    steps = f"of {run.max_steps}" if run.max_steps else ""
    figures = [("step", f"{run.step}", steps), ("loss", number(run.loss), "")]
    if curve.held_out:
        figures.append(("held-out loss", number(curve.held_out[-1][1]), ""))
    waits = _waits_for_up(run, look)
    if not waits:
        figures.append(("speed", number(run.tokens_per_s), "tokens/s"))
    if run.state.holds_slot and eta and not waits:
        figures.append(("left", left(eta.seconds), _range(eta)))
    elif run.started_at and not waits:
        figures.append(("took" if run.ended_at else "so far", _took(run, look.overview.at), ""))
    if bill and bill.joules is not None:
        figures.append(("energy", *watt_hours(bill.joules).split()))
    if bill and bill.cost is not None:
        figures.append(("cost", *money(bill.cost, bill.currency).split(" ", 1)))
    return figures


def _range(eta: Eta) -> str:
    low, high = left(eta.low), left(eta.high)
    return "" if low == high else f"{low} to {high}"


def _span(reading: RunReading, look: PageData) -> tuple[str, str]:
    """A time, and on a phone what it is."""
    run = reading.run
    if _waits_for_up(run, look) or not run.started_at:
        return NOTHING, ""
    if run.state.holds_slot and reading.eta:
        return f"{left(reading.eta.seconds)} left", ""
    return _took(run, look.overview.at), "took" if run.ended_at else "so far"


def _took(run: Run, now: float) -> str:
    return duration(max(0.0, (run.ended_at or now) - run.started_at))
