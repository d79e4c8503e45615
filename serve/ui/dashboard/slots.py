"""GPUs and slots: a tile per GPU, or per slot without one, with its readings, its holder and what is wrong with it."""

from dataclasses import dataclass, field

from actors.hardware.gpus import GpuReading
from actors.status.overview import SlotReading
from serve.ui.dashboard.chart import sparkline
from serve.ui.dashboard.markup import part, template
from serve.ui.dashboard.reading import HISTORY, PageData

HOT_C = 85
"""NVIDIA's desktop cards lower their clocks in this neighbourhood."""

_TILES = template("""
<div class="tiles">
{% for tile in tiles %}
  <article class="tile {{ tile.tone }}" data-slot="{{ tile.slot }}">
    <header><h3>{{ tile.name }}</h3><span class="quiet">{{ tile.model }}</span></header>
    {% for what, why in tile.warnings %}<p class="warning"><b>{{ what }}</b> {{ why | words }}</p>{% endfor %}
    {% if tile.gpu %}
    <div class="big">
      <b>{{ tile.gpu.utilization | percent }}</b>{{ sparkline(look.busy.get(tile.gpu.uuid, ()), 1,
        label="utilisation of " ~ tile.name, length=history) }}
    </div>
    <dl>
      <dt>Memory</dt>
      <dd>{{ bar(tile.gpu.memory_used / (tile.gpu.memory_total or 1)) }}
        <span>{{ tile.gpu.memory_used | size }} <i>of {{ tile.gpu.memory_total | size }}</i></span></dd>
      <dt>Temperature</dt>
      <dd class="{{ 'hot' if (tile.gpu.temperature or 0) >= hot }}">
        {{ nothing if tile.gpu.temperature is none else "%.0f °C" % tile.gpu.temperature }}</dd>
      <dt>Power</dt>
      <dd>{{ nothing if tile.gpu.power is none else "%.0f W" % tile.gpu.power }}
        {% if tile.gpu.power_limit %}<i>of {{ "%.0f W" % tile.gpu.power_limit }}</i>{% endif %}</dd>
      <dt>Clock</dt>
      <dd>{{ nothing if tile.gpu.clock is none else "%.0f MHz" % (tile.gpu.clock / 1e6) }}</dd>
    </dl>
    {% endif %}
    {% for slot in tile.roles %}
    <p class="holder"><span class="role">{{ slot.role }}</span>
      {% if slot.holder %}<b>{{ slot.holder }}</b>
      <span class="quiet">{% if slot.pid %}pid {{ slot.pid }} · {% endif %}
        {{ slot.since | ago(look.overview.at) }}</span>
      {% else %}<span class="quiet">free</span>{% endif %}
    </p>
    {% endfor %}
    {% if not tile.roles %}<p class="holder quiet">in no slot</p>{% endif %}
  </article>
{% endfor %}
  <article class="tile host">
    <header><h3>Host</h3><span class="quiet">{{ host.cpu_count }} processors</span></header>
    <div class="big"><b>{{ host.cpu_utilization | percent }}</b>{{ sparkline(look.busy.get("host", ()), 1,
      label="utilisation of the processors", length=history) }}</div>
    <dl><dt>Memory</dt><dd>{{ bar(host.memory_used / (host.memory_total or 1)) }}
      <span>{{ host.memory_used | size }} <i>of {{ host.memory_total | size }}</i></span></dd></dl>
  </article>
</div>
{% if without %}<p class="empty">{{ without }}</p>{% endif %}
""")

WITHOUT = "No NVIDIA GPU answers here, so there is nothing to show of one: slots are shares of the processors."


@dataclass
class Tile:
    """One GPU, with the roles of its slot; or a slot whose GPU is a share of the processors, or gone."""

    name: str
    gpu: GpuReading | None = None
    driver_fault: str | None = None
    roles: list[SlotReading] = field(default_factory=list)

    @property
    def slot(self) -> str:
        return self.roles[0].name if self.roles else ""

    @property
    def model(self) -> str:
        if self.gpu:
            return self.gpu.name
        if self.is_missing:
            return "not known" if self.driver_fault else "gone"
        return "processors"

    @property
    def is_missing(self) -> bool:
        return self.gpu is None and any(slot.gpu is not None for slot in self.roles)

    @property
    def warnings(self) -> list[tuple[str, str]]:
        why = ("GPU gone:", "the driver does not show it any more.")
        if self.driver_fault:
            why = ("No readings:", f"the NVIDIA driver does not answer: {self.driver_fault}.")
        found = [why] if self.is_missing else []
        reasons = dict.fromkeys(slot.quarantine for slot in self.roles if slot.quarantine)
        release = f"Nobody gets it until `tandem slots release {self.slot}`."
        return found + [("Quarantined:", f"{reason}. {release}") for reason in reasons]

    @property
    def tone(self) -> str:
        return "bad" if self.warnings else ""


def tiles(look: PageData) -> list[Tile]:
    """Slots in their order, then the GPUs that are in none."""
    gpus = {gpu.uuid: gpu for gpu in look.overview.gpus}
    found: dict[str, Tile] = {}
    for slot in look.overview.slots:
        title = f"Slot {slot.name}" + ("" if slot.gpu is None else f" · GPU {slot.gpu}")
        found.setdefault(slot.name, Tile(title, gpus.get(slot.uuid), look.overview.driver_fault)).roles.append(slot)
    shown = {tile.gpu.uuid for tile in found.values() if tile.gpu}
    return [*found.values(), *(Tile(f"GPU {gpu.index}", gpu) for gpu in gpus.values() if gpu.uuid not in shown)]


def html(look: PageData) -> str:
    held = sum(slot.holder is not None for slot in look.overview.slots)
    aside = f"{held} of {len(look.overview.slots)} roles held" if look.overview.slots else ""
    values = {"look": look, "host": look.overview.host, "tiles": tiles(look), "hot": HOT_C}
    expected = look.overview.gpus or any(slot.gpu is not None for slot in look.overview.slots)
    values |= {"without": None if expected else WITHOUT}
    return part("slots", "GPUs and slots", _TILES, aside, **values, sparkline=sparkline, history=HISTORY)
