"""A benchmark on disk: JSON for machines, a plot for people, and what changed since an older one."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs import durable
from configs.errors import ConfigError
from jobs.benchmark import plot
from jobs.benchmark.benchmark import FORMAT, Benchmark

JSON, PNG = "benchmark.json", "benchmark.png"
COMPARED = (
    ("output_throughput", None), ("request_throughput", None), ("goodput", None),
    ("ttft_ms", "p50"), ("ttft_ms", "p99"), ("tpot_ms", "p50"), ("e2e_ms", "p50"),
)  # fmt: skip
"""Figures of a cell, with the place in their spread."""


@dataclass(frozen=True)
class ReportFiles:
    """Where a report goes; None is nowhere."""

    json: Path | None = None
    png: Path | None = None


def places(out: Path | None, png: Path | None) -> ReportFiles:
    """`out` is a .json file or a folder, which is made. Raises ConfigError for what cannot be written to.

    Called before the load: nobody wants to hear it after an hour.
    """
    if out is None:
        chosen = ReportFiles(None, png)
    elif out.suffix == ".json" and not out.is_dir():
        chosen = ReportFiles(out, png)
    else:
        chosen = ReportFiles(out / JSON, png or out / PNG)
    if png is not None and png.suffix.lower() != ".png":
        raise ConfigError(f"--plot {png}: a plot is a .png", hint="--plot benchmark.png")
    for file in (chosen.json, chosen.png):
        if file is not None:
            _prepare(file)
    return chosen


def _prepare(file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        trial = file.with_name(f".{file.name}.part")
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise ConfigError(
            f"{file} cannot be written: {error.strerror}", hint="name a file in a folder of yours"
        ) from None


def save(found: Benchmark, where: ReportFiles) -> Iterator[Path]:
    """Write, and give each file written."""
    if where.json:
        durable.write_text(where.json, json.dumps(found.to_json(), indent=1, default=str), shared=True)
        yield where.json
    if where.png and any(cell.completed for cell in found.cells):
        plot.png(found, where.png)
        yield where.png


def load(file: Path) -> dict[str, Any]:
    """An older benchmark's JSON. Raises ConfigError for any other file."""
    try:
        value = json.loads(file.read_text())
        if value["format"] != FORMAT:
            raise ConfigError(f"{file} has format {value['format']}, this version reads {FORMAT}")
        for cell in value["cells"]:
            _key(cell), [_figure(cell, *each) for each in COMPARED]
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(f"{file} is not a benchmark's JSON", hint="one that --out or --json wrote") from None
    return value


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[dict[str, Any]]:
    """For each cell in both, figure by figure: `old`, `new` and `change`, which is new / old - 1."""
    before = {_key(cell): cell for cell in old["cells"]}
    found = []
    for cell in new["cells"]:
        if _key(cell) not in before:
            continue
        for name, place in COMPARED:
            values = _figure(before[_key(cell)], name, place), _figure(cell, name, place)
            if all(values):
                rate = cell["request_rate"]
                found.append(
                    {
                        "load": f"{rate:g} req/s" if rate else f"{cell['concurrency']} at once",
                        "prompt_tokens": cell["prompt_tokens"],
                        "figure": f"{name} {place}" if place else name,
                        "old": values[0],
                        "new": values[1],
                        "change": values[1] / values[0] - 1,
                    }
                )
    return found


def _key(cell: dict[str, Any]) -> tuple:
    return cell["concurrency"], cell["request_rate"], cell["prompt_tokens"]


def _figure(cell: dict[str, Any], name: str, place: str | None) -> float | None:
    value = cell[name]
    return value[place] if place and value else value
