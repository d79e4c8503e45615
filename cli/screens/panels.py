"""What the board's sections say: parts of an Overview as text and tables, at most so many columns wide.

Draws what it is given and decides nothing about what fits; `cli.screens.board` does.
"""

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from actors.hardware.gpus import GpuReading
from actors.status.overview import Overview, RunReading, SlotReading, age
from actors.status.processes import ProcessReading
from actors.status.rates import Rate
from actors.status.request_stats import Latency
from cli import output
from cli.output import HangingIndent
from cli.screens import meter
from configs import units

WIDE = 110
LONGEST_NAME = 14
GAP = 2
GOES_ON = "goes on after `tandem up`"


def _table(*columns: str | tuple[str, str], header: bool = True) -> Table:
    """For the machine's bars, which are as long as the rest leaves."""
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), show_header=header, header_style="dim")
    for index, column in enumerate(columns):
        title, justify = column if isinstance(column, tuple) else (column, "left")
        table.add_column(title, justify=justify, overflow="fold", no_wrap=index == 0 or justify == "right")
    return table


def _fill(table: Table, rows: Iterable[Sequence[Any]]) -> Table:
    for row in _cells(rows):
        table.add_row(*row)
    return table


def _cells(rows: Iterable[Sequence[Any]]) -> list[list[Text]]:
    return [
        [cell if isinstance(cell, Text) else Text("-" if cell is None else str(cell)) for cell in row] for row in rows
    ]


def _ago(moment: float | None, overview: Overview) -> str:
    return units.short_duration(age(moment, overview.at))


# Head


def head(overview: Overview) -> RenderableType:
    if not overview.up:
        return Text.assemble(("Tandem is not running", "bold red"), f" (home: {overview.home})", overflow="fold")
    head = next((process for process in overview.processes if process.kind == "head"), None)
    since = f"up {_ago(head.started, overview)}" if head else "up"
    well = ("well", "green") if not overview.problems else (f"{len(overview.problems)} to look at", "bold red")
    well = ("starting", "yellow") if overview.starting else well
    first = Text.assemble(("Tandem ", "bold"), overview.http or "", f"  {since}  ", well)
    if overview.base:
        first.append(f"  base {overview.base}")
    return HangingIndent([first, Text(f"Ray's dashboard {overview.dashboard}  home {overview.home}", "dim")])


def problems(problems: Sequence[str]) -> HangingIndent:
    lines = [Text.assemble(("! ", "bold red"), (problem, "red")) for problem in problems[:8]]
    if len(problems) > 8:
        lines.append(Text(f"! and {len(problems) - 8} more", "bold red"))
    return HangingIndent(lines)


# Machine and slots


def machine(overview: Overview, width: int) -> Table:
    """A row per GPU and one for the host; the two bars of each get what the rest leaves of the width."""
    wide = width >= WIDE
    host = overview.host
    rows = [_gpu(gpu, wide) for gpu in overview.gpus]
    rows.append(
        (f"CPU {host.cpu_count} cores", host.memory_used / host.memory_total)
        + (meter.gib(host.memory_used, host.memory_total), host.cpu_utilization, meter.percent(host.cpu_utilization))
    )
    columns = ("", "memory", ("", "right"), "load", ("", "right"))
    if overview.gpus:
        columns += (("heat", "right"), ("power", "right"), *((("clock", "right"), ("fan", "right")) if wide else ()))
    cells = [[cell for index, cell in enumerate(row) if index not in (1, 3)] for row in rows]
    taken = sum(max(map(len, map(str, column))) for column in zip_longest(*cells, fillvalue="")) + GAP * len(columns)
    bars = min(40, max(4, (width - taken) // 2))
    drawn = [
        (name, meter.bar(held, bars), size, meter.bar(load, bars), *rest) for name, held, size, load, *rest in rows
    ]
    gone = [
        (Text(f"{slot.gpu} {_missing(overview)}", "bold red"), Text(slot.uuid or "", "red"))
        for slot in _vanished(overview)
    ]
    return _fill(_table(*columns), [*drawn[:-1], *gone, drawn[-1]])


def _gpu(gpu: GpuReading, wide: bool) -> tuple:
    name = gpu.name.removeprefix("NVIDIA ").removeprefix("GeForce ")
    shown = name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
    row = (
        f"{gpu.index} {shown}",
        gpu.memory_used / (gpu.memory_total or 1),
        meter.gib(gpu.memory_used, gpu.memory_total),
    )
    row += (gpu.utilization, meter.percent(gpu.utilization), meter.celsius(gpu.temperature))
    row += (meter.watts(gpu.power, gpu.power_limit),)
    return row + ((meter.megahertz(gpu.clock), meter.percent(gpu.fan)) if wide else ())


def _missing(overview: Overview) -> str:
    return "not known" if overview.driver_fault else "gone"


def _vanished(overview: Overview) -> list[SlotReading]:
    seen = {gpu.uuid for gpu in overview.gpus}
    slots = {slot.name: slot for slot in overview.slots if slot.gpu is not None and slot.uuid not in seen}
    return list(slots.values())


def slots(overview: Overview, width: int) -> RenderableType:
    rows = []
    vanished = {slot.name for slot in _vanished(overview)}
    for slot in overview.slots:
        device = Text("CPU") if slot.gpu is None else Text(f"GPU {slot.gpu}")
        if slot.name in vanished:
            device.append(f" {_missing(overview)}", "bold red")
        holder = Text(slot.holder, "green") if slot.holder else Text("free", "dim")
        if slot.quarantine:
            holder = Text.assemble(f"{slot.holder}, " if slot.holder else "", ("quarantined", "bold white on red"))
        rows.append((slot.name, slot.role, device, holder, _ago(slot.since, overview), slot.pid))
    columns = ("slot", "role", "on", "holder", ("for", "right"), ("process", "right"))
    return output.table(columns, _cells(rows), width, titles="dim", folds=columns.index("holder"))


def processes(overview: Overview, rate: Rate | None, width: int) -> RenderableType:
    rows = []
    for one in overview.processes:
        state = Text(one.word, "green" if one.is_up else "yellow" if one.on_its_way else "bold red")
        cpu = rate.cpu.get(one.pid) if rate and one.pid else None
        restarts = Text(str(one.restarts), "yellow" if one.restarts else "dim")
        memory = units.size(one.memory_bytes)
        row = (_short(one), state, one.pid, _ago(one.started, overview), restarts, memory)
        rows.append((*row, meter.percent(cpu)) if rate else row)
    columns = ("process", "state", ("pid", "right"), ("age", "right"), ("restarts", "right"), ("memory", "right"))
    columns += (("cpu", "right"),) if rate else ()
    return output.table(columns, _cells(rows), width, titles="dim")


def _short(process: ProcessReading) -> str:
    """Its name; of a run's process the end of the run's id is enough to tell it."""
    if process.kind not in ("trainer", "driver") or len(process.name) <= 24:
        return process.name
    return f"{process.kind} …{process.name[-14:]}"


# Serving


def serving(overview: Overview, rate: Rate | None, width: int) -> HangingIndent:
    lines = [Text.assemble(name, " -> ", (version or "base", "green")) for name, version in overview.aliases.items()]
    if overview.up:
        lines += [line for name, stats in overview.engines.items() for line in _engine(name, stats, width)]
        lines += _requests(overview, rate)
        if not overview.engines:
            lines.append(Text("no engine answers yet", "yellow"))
    return HangingIndent(lines or [Text("no alias yet", "dim")])


def _engine(name: str, stats: dict[str, Any], width: int) -> list[Text]:
    """One line, or another for each adapter where their names are too long for it."""
    if "error" in stats:
        return [Text.assemble((f"{name} ", "bold"), (str(stats["error"]), "red"))]
    part = stats["kv_tokens"] / stats["kv_capacity"] if stats.get("kv_capacity") else None
    line = Text.assemble((f"{name}  ", "bold"), "KV ", meter.bar(part, 8 if width < WIDE else 20))
    line.append(f" {meter.percent(part)}  {stats.get('running')} running  {stats.get('waiting')} waiting")
    line.append(f"  {units.size(stats.get('memory_bytes'))} {stats.get('device', '')}")
    adapters = list(stats.get("adapters") or ["none"])
    if line.cell_len + len(said := f"  adapters {', '.join(adapters)}") <= width:
        return [line.append(said, "dim")]
    return [line, *(Text(f"  adapter {adapter}", "dim") for adapter in adapters)]


def _requests(overview: Overview, rate: Rate | None) -> list[Text]:
    traffic = overview.traffic
    if traffic is None:
        return []
    line = Text(f"requests  {traffic.answered:,} answered  {traffic.active} now")
    line.append(f"  {traffic.errors} errors", "bold red" if traffic.errors else "dim")
    line.append(f"  {traffic.abandoned} disconnected", "dim")
    line.append(f"  {traffic.output_tokens:,} tokens written")
    if rate is None or not traffic.answered:
        return [line, *_latencies("since the start", traffic.latencies)]
    line = line.append(f"  {rate.requests_per_s:.1f}/s  {rate.output_tokens_per_s:,.0f} tok/s", "bold")
    return [line, *_latencies(f"last {rate.seconds:.0f} s", rate.latencies)]


_LATENCIES = {
    "time_to_first_token": "TTFT",
    "inter_token_latency": "ITL",
    "request_duration": "whole",
}


def _latencies(when: str, latencies: dict[str, Latency]) -> list[Text]:
    """One line, if there is anything to say."""
    known = [(words, latencies[name]) for name, words in _LATENCIES.items() if name in latencies]
    shown = [f"{words} {_latency(one)}" for words, one in known if one.count]
    return [Text(f"{when}  {'  '.join(shown)}", "dim")] if shown else []


def _latency(one: Latency) -> str:
    """Median and 95th percentile, or of few requests the mean."""
    median = one.told(0.5, units.latency)
    return f"{median} (p95 {one.told(0.95, units.latency)})" if median else f"{units.latency(one.mean)} (mean)"


# Runs, adapters, events


def runs_title(overview: Overview) -> str:
    counts = {state.lower(): number for state, number in overview.run_counts.items() if number}
    return "runs" + (f": {', '.join(f'{number} {state}' for state, number in counts.items())}" if counts else "")


def runs(overview: Overview, width: int, ended: int = 3) -> HangingIndent:
    active = [reading for reading in overview.ordered if not reading.run.state.is_terminal]
    lines = [line for reading in active for line in _run(reading, overview, width)]
    if not active:
        lines.append(Text("no active runs", "dim"))
    others = [reading for reading in overview.ordered if reading.run.state.is_terminal]
    lines += [_ended(reading, overview) for reading in others[:ended]]
    return HangingIndent(lines)


def _run(reading: RunReading, overview: Overview, width: int) -> list[Text]:
    run = reading.run
    head = Text.assemble((run.id, "bold"), "  ", output.state(run.state))
    if reading.position is not None:
        waits = f"  {_ordinal(reading.position)} in the queue  {_ago(run.created_at, overview)}"
        head.append(f"{waits}{f'  priority {run.priority}' if run.priority else ''}")
        return [head, Text(f"{run.id} waits: {reading.waits_for}", "yellow")] if reading.waits_for else [head]
    if not run.state.holds_slot:
        return [head.append(f"  {run.reason}")]
    head.append(f"  {run.stage}" if run.stage else "", "yellow")
    head.append(f"  slot {run.slot}  {_ago(run.started_at, overview)}")
    if run.attempt > 1:
        head.append(f"  attempt {run.attempt}", "yellow")
    bars = max(10, min(40, width - 62))
    way = Text.assemble("  ", meter.bar(reading.progress, bars, "blue"), f" {run.step}/{run.max_steps or '?'}")
    way.append(f" {meter.percent(reading.progress)}  {meter.remaining(reading.eta) if overview.up else GOES_ON}")
    figures = Text("  ")
    if run.loss is not None:
        figures.append(f"loss {run.loss:.4f} ").append_text(meter.curve(reading.losses, max(10, min(60, width - 44))))
    if run.tokens_per_s is not None and overview.up:
        figures.append(f"  {run.tokens_per_s:,.0f} tok/s")
    return [head, way, figures] if figures.plain.strip() else [head, way]


def _ended(reading: RunReading, overview: Overview) -> Text:
    run = reading.run
    suspect = {adapter.manifest.version for adapter in overview.adapters if adapter.manifest.suspect}
    what = f"{run.adapter} (suspect)" if run.adapter in suspect else run.adapter or run.reason
    line = Text.assemble((run.id, "dim"), "  ", output.state(run.state), f"  {_ago(run.ended_at, overview)} ago")
    return line.append(f"  {what}", "dim")


def _ordinal(number: int) -> str:
    return "next" if number == 1 else f"{number}."


def adapters(overview: Overview, width: int, most: int = 5) -> RenderableType:
    rows = []
    for reading in overview.adapters[:most]:
        manifest = reading.manifest
        loss = manifest.metrics.get("loss")
        where = ", ".join(reading.aliases) or ("loaded" if reading.loaded else "")
        rows.append(
            (manifest.version, output.adapter_state(reading.state, manifest.suspect), where)
            + ("" if loss is None else f"{loss:.4f}", _ago(manifest.created_at, overview))
        )
    columns = ("adapter", "state", "answers as", ("loss", "right"), ("age", "right"))
    return output.table(columns, _cells(rows), width, titles="dim", folds=columns.index("answers as"))


def events(overview: Overview, width: int, most: int = 8) -> Text:
    """Newest first, a line each."""
    lines, shown = [], overview.events[:most]
    kinds = output.kinds_width(event.kind for event in shown)
    for event in shown:
        line = Text.assemble((f"{_ago(event.at, overview):>6} ", "dim"), (f"{event.kind:{kinds}} ", "cyan"))
        line.append(" ".join(f"{f'{event.run_id}: ' if event.run_id else ''}{event.text}".split()))
        line.truncate(width, overflow="ellipsis")
        lines.append(line)
    return Text("\n").join(lines)
