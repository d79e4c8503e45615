"""A benchmark as a picture: throughput and latencies against load, and how latencies are distributed."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from configs.errors import ConfigError
from jobs.benchmark.benchmark import Benchmark
from jobs.benchmark.figures import Distribution, Figures
from jobs.reports.plots import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Groups = dict[str, list[Figures]]
"""Cells by kind of prompt, each at rising load."""


def png(found: Benchmark, file: Path) -> None:
    """Write the plot, 1440 x 1050 pixels. Raises ConfigError if the file cannot be written."""
    from matplotlib.figure import Figure  # without pyplot: no display and no global state

    groups: Groups = {}
    for cell in sorted(filter(lambda cell: cell.completed, found.cells), key=_load):
        groups.setdefault(_prompt(cell), []).append(cell)
    figure = Figure(figsize=(9.6, 7), dpi=150, layout="constrained")
    throughput, first, between, whole = figure.subplots(2, 2).flat
    _against_load(throughput, groups, lambda cell: cell.output_throughput)
    throughput.set_title("output tokens/s", loc="left", fontsize=10)
    _spread_against_load(first, groups, lambda cell: cell.ttft_ms)
    first.set_title("time to first token, ms: median, and p99 dashed", loc="left", fontsize=10)
    _spread_against_load(between, groups, lambda cell: cell.itl_ms)
    between.set_title("inter-token latency, ms: median, and p99 dashed", loc="left", fontsize=10)
    _distribution(whole, groups)
    whole.set_title("share of requests answered within, ms", loc="left", fontsize=10)
    for axes in (throughput, first, between, whole):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylim(bottom=0)
    for axes in (throughput, first, between):
        axes.set_xlabel(_axis(found))
        loads = sorted({_load(cell) for cells in groups.values() for cell in cells})
        if len(loads) > 1 and loads[-1] / loads[0] >= 8:
            axes.set_xscale("log", base=2)
        axes.set_xticks(loads, [f"{load:g}" for load in loads], minor=False)
        axes.minorticks_off()
    partial = ", partial" if found.stopped else ""
    figure.suptitle(f"{found.settings['model']} at {found.settings['url']}{partial}", x=0.02, ha="left", fontsize=11)
    throughput.legend(frameon=False, fontsize=8)
    if whole.get_legend_handles_labels()[0]:
        whole.legend(frameon=False, fontsize=8, loc="lower right")
    try:
        figure.savefig(file, format="png")
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror}", hint="name another file") from None


def _against_load(axes: "Axes", groups: Groups, value: Callable[[Figures], float | None], style: str = "-") -> None:
    for number, (name, cells) in enumerate(groups.items()):
        points = [(_load(cell), found) for cell in cells if (found := value(cell)) is not None]
        if points:
            loads, values = zip(*points, strict=True)
            axes.plot(loads, values, style, color=_colour(number), marker="o", markersize=4, label=name)


def _spread_against_load(axes: "Axes", groups: Groups, spread: Callable[[Figures], Distribution | None]) -> None:
    _against_load(axes, groups, lambda cell: (found := spread(cell)) and found.p50)
    _against_load(axes, groups, lambda cell: (found := spread(cell)) and found.p99, "--")


def _distribution(axes: "Axes", groups: Groups) -> None:
    """End-to-end latencies of every cell, as rising shares; fainter at a lighter load."""
    for number, (name, cells) in enumerate(groups.items()):
        for place, cell in enumerate(cells, start=1):
            latencies = sorted(row["e2e_ms"] for row in cell.requests)
            label = f"{name}, {cell.level.name}" if len(groups) * len(cells) <= 8 else None
            strength = 0.25 + 0.75 * place / len(cells)
            axes.ecdf(latencies, color=_colour(number), alpha=strength, linewidth=1.6, label=label)


def _load(cell: Figures) -> float:
    return cell.level.request_rate or cell.level.concurrency or 0


def _axis(found: Benchmark) -> str:
    return "requests/s asked" if found.cells[0].level.request_rate else "concurrency"


def _prompt(cell: Figures) -> str:
    return f"{cell.prompt_tokens} prompt tokens" if cell.prompt_tokens else "data set"


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)][1]
