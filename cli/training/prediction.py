"""A run's prediction as people read it: lines for stderr, a table for --dry-run, and against what was measured."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cli import output
from configs import units
from jobs.prediction import earlier
from jobs.prediction.costs import Range
from jobs.prediction.estimate import Prediction


def tell(prediction: Prediction) -> None:
    """Two or three short lines, and the warnings."""
    for name, value in _facts(prediction):
        output.say(f"{name}: {value}")
    for warning in prediction.warnings:
        output.say(f"warning: {warning}")


def table(prediction: Prediction) -> None:
    """Everything, with its uncertainty."""
    rows = [(f"memory: {name}", *_three(part, units.size)) for name, part in (prediction.parts or {}).items()]
    for name, figure, words in (
        ("memory", prediction.memory, units.size),
        ("disk", prediction.disk, units.size),
        ("start", prediction.start_s, seconds),
        ("step", prediction.step_s, seconds),
        ("whole run", prediction.total_s, seconds),
    ):
        if figure is not None:
            rows.append((name, *_three(figure, words)))
    output.print_table(("PREDICTION", "LOW", "LIKELY", "HIGH"), rows, empty=prediction.basis)


def as_json(prediction: Prediction) -> dict[str, Any]:
    return asdict(prediction)


def against_measured(folder: Path, took_s: float | None) -> list[tuple[str, str]]:
    """(name, predicted and measured) of an ended run's time and memory, as far as both are known."""
    predicted = earlier.prediction(folder) or {}
    rows = []
    for name, key, measured, words in (
        ("time", "total_s", took_s, seconds),
        ("memory", "memory", earlier.peak_bytes(folder), units.size),
    ):
        if measured is not None and predicted.get(key):
            figure = Range(**predicted[key])
            hit = "as predicted" if figure.low <= measured <= figure.high else "outside the prediction"
            rows.append((f"{name} measured", f"{words(measured)}, {hit}: {_span(figure, words)}"))
    return rows


def seconds(value: float) -> str:
    return f"{value:.2f}s" if value < 10 else units.short_duration(value)


def _facts(prediction: Prediction) -> Iterator[tuple[str, str]]:
    if prediction.memory is None:
        yield "prediction", prediction.basis
        return
    of = f"of {units.size(prediction.budget)} on {prediction.device}"
    yield "memory", f"{_span(prediction.memory, units.size)} {of}, micro-batch {prediction.micro_batch}"
    yield "disk", f"{_span(prediction.disk, units.size)} of {units.size(prediction.disk_free)} free"
    step = f"{_span(prediction.step_s, seconds)} a step"
    if prediction.total_s is None:
        yield "time", f"{step}, of how many is unknown before the data is here; from {prediction.basis}"
    else:
        whole = f"{_span(prediction.total_s, seconds)} for {prediction.steps} steps"
        yield "time", f"{whole}, {step}; from {prediction.basis}"


def _span(figure: Range, words) -> str:
    return f"{words(figure.likely)} ({words(figure.low)} to {words(figure.high)})"


def _three(figure: Range, words) -> tuple[str, str, str]:
    return words(figure.low), words(figure.likely), words(figure.high)
