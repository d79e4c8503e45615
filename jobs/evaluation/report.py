"""An evaluation on disk: report.json for machines and report.html for people, one self-contained page.

The page loads nothing and follows the reader's light or dark setting. Answers are a model's words and are escaped.
"""

import io
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs import durable
from configs.paths import Home
from jobs.evaluation.judge import ADAPTER, BASE, LEARNED, Evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TEMPLATE = Path(__file__).with_name("report.html.jinja")
JSON, HTML = "report.json", "report.html"

# Colours that matplotlib writes and the page replaces by its own, which differ between light and dark.
_COLOURS = {"#010101": "currentColor", "#020202": "var(--adapter)", "#030303": "var(--base)", "#040404": "var(--line)"}
_INK, _ADAPTER, _BASE, _LINE = _COLOURS


@dataclass(frozen=True)
class Saved:
    json: Path
    html: Path


def folder_of(home: Home, evaluation: Evaluation) -> Path:
    """Where an evaluation is kept: TANDEM_HOME/evaluations/<version>/<time>."""
    moment = time.strftime("%Y%m%d-%H%M%S", time.gmtime(evaluation.created_at))
    return home.evaluations / evaluation.adapter / moment


def save(evaluation: Evaluation, folder: Path, *, shared: bool = False) -> Saved:
    """Write both files into `folder`, which is made; `shared` is one outside TANDEM_HOME, as in `durable`."""
    if shared:
        folder.mkdir(parents=True, exist_ok=True)
    else:
        durable.private_folder(folder)
    saved = Saved(folder / JSON, folder / HTML)
    durable.write_text(saved.html, page(evaluation), shared=shared)
    durable.write_text(saved.json, json.dumps(evaluation.to_json(), indent=1), shared=shared)
    return saved


def newest(home: Home, version: str) -> dict[str, Any] | None:
    """The newest evaluation's JSON report of an adapter; None if it was never evaluated."""
    for file in sorted((home.evaluations / version).glob(f"*/{JSON}"), reverse=True):
        try:
            return json.loads(file.read_text())
        except (OSError, ValueError):
            continue
    return None


def headline(report: Mapping[str, Any]) -> str:
    """One line about a JSON report: the loss on learned tokens, the base's, and on how many rows."""
    loss = {name: losses[LEARNED]["loss"] for name, losses in report["losses"].items()}
    base = f" (base {loss[BASE]:.4f})" if BASE in loss else ""
    when = time.strftime("%F %H:%M", time.localtime(report["created_at"]))
    return f"loss {loss[ADAPTER]:.4f}{base} on {report['rows']} rows of {report['dataset']}, {when}"


def page(evaluation: Evaluation) -> str:
    """The HTML page."""
    from jinja2 import Environment  # nobody else on the command line needs a template engine

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text())
    plots = [_plot(_by_channel, evaluation)]
    if BASE in evaluation.losses:
        plots.append(_plot(_differences, evaluation))
    return template.render(
        e=evaluation,
        models=[name for name in (ADAPTER, BASE) if name in evaluation.losses],
        parts=list(evaluation.losses[ADAPTER]),
        plots=plots,
        differences=differences(evaluation),
        when=time.strftime("%F %H:%M", time.localtime(evaluation.created_at)),
        headline=headline(evaluation.to_json()),
    )


def differences(evaluation: Evaluation) -> list[float]:
    """By row, the adapter's loss less the base's: below 0 the adapter is better. Empty without the base."""
    if BASE not in evaluation.losses:
        return []
    return [row.losses[ADAPTER] - row.losses[BASE] for row in evaluation.row_losses]


def _plot(draw: Callable[["Axes", Evaluation], None], evaluation: Evaluation) -> Any:
    """A drawing as SVG that may stand in HTML, in the page's colours."""
    from markupsafe import Markup
    from matplotlib import rc_context
    from matplotlib.figure import Figure  # without pyplot: no display and no global state

    style = {
        "svg.fonttype": "none", "svg.hashsalt": draw.__name__, "font.size": 11, "font.family": "sans-serif",
        "text.color": _INK, "axes.labelcolor": _INK, "xtick.color": _INK, "ytick.color": _INK, "axes.edgecolor": _LINE,
        "grid.color": _LINE, "axes.spines.top": False, "axes.spines.right": False,
    }  # fmt: skip
    with rc_context(style):
        figure = Figure(figsize=(6.4, 3.4), layout="constrained")
        draw(figure.subplots(), evaluation)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = out.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r"font: (\S+) [^;\"]*", r"font: \1 inherit", svg)
    for written, ours in _COLOURS.items():
        svg = svg.replace(written, ours)
    return Markup(svg)  # numbers and names of ours only


def _by_channel(axes: "Axes", evaluation: Evaluation) -> None:
    parts = list(evaluation.losses[ADAPTER])
    models = [name for name in (ADAPTER, BASE) if name in evaluation.losses]
    width = 0.8 / len(models)
    for number, name in enumerate(models):
        places = [at + (number - (len(models) - 1) / 2) * width for at in range(len(parts))]
        heights = [evaluation.losses[name][part].loss for part in parts]
        bars = axes.bar(places, heights, width * 0.94, color=_ADAPTER if name == ADAPTER else _BASE, label=name)
        axes.bar_label(bars, fmt="%.2f", padding=2, fontsize=9)
    axes.set_xticks(range(len(parts)), [part.replace("_", " ") for part in parts])
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel("loss per token")
    axes.margins(y=0.15)
    axes.grid(axis="y", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.set_title("Loss by channel", loc="left", fontsize=12)
    if len(models) > 1:
        axes.legend(frameon=False, fontsize=10, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0, ncols=2)


def _differences(axes: "Axes", evaluation: Evaluation) -> None:
    found = differences(evaluation)
    axes.hist(found, bins=min(30, max(5, len(found) // 2)), color=_ADAPTER, rwidth=0.96)
    axes.axvline(0, color=_INK, linewidth=1, linestyle="--")
    axes.set_xlabel("adapter's loss less the base's; left of the line the adapter is better")
    axes.set_ylabel("rows")
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.grid(axis="y", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.set_title("Difference by row", loc="left", fontsize=12)
