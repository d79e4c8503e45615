"""A benchmark's file, and what changed since an older one."""

import json

import pytest
from matplotlib.figure import Figure

from configs.errors import ConfigError
from jobs.benchmark import figures, plot, report
from jobs.benchmark.benchmark import Benchmark
from jobs.benchmark.load import Level
from tests.unit.jobs.benchmark.test_figures import done, run_of


def test_changes_are_told_for_loads_that_both_have():
    def measured(*cells: tuple[int, float]) -> dict:
        found = Benchmark({})
        for level, seconds in cells:
            run = run_of(done(0.0, seconds / 2, seconds, tokens=10))
            found.cells.append(figures.figures(run, Level(concurrency=level), 128, {}))
        return json.loads(json.dumps(found.to_json()))

    found = report.changes(measured((1, 2.0), (4, 1.0)), measured((1, 1.0), (16, 1.0)))
    assert {each["load"] for each in found} == {"1 at once"}
    change = {each["figure"]: each["change"] for each in found}
    assert change["output_throughput"] == pytest.approx(1.0)
    assert change["ttft_ms p50"] == change["e2e_ms p50"] == pytest.approx(-0.5)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1, "cells": [{}]}', '{"format": 99, "cells": []}'])
def test_a_file_that_is_no_benchmark_is_refused(tmp_path, text):
    file = tmp_path / "old.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"old\.json"):
        report.load(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        report.load(tmp_path / "missing.json")


def test_the_plots_legend_says_what_each_load_is():
    axes, cells = Figure().subplots(), []
    for level in (Level(concurrency=1), Level(concurrency=4)):
        cells.append(figures.figures(run_of(done(0.0, 0.5, 1.0, tokens=10)), level, 32, {}))
    plot._distribution(axes, {"32 prompt tokens": cells})
    assert axes.get_legend_handles_labels()[1] == ["32 prompt tokens, 1 at once", "32 prompt tokens, 4 at once"]
    assert Level(request_rate=2.5).name == "2.5 req/s"
