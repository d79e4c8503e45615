"""Curves as pictures: what is drawn is what was measured, and what cannot be drawn does no harm."""

import re

import pytest
from matplotlib import image

from configs.errors import ConfigError
from jobs.reports import plots
from jobs.reports.plots import Curve

NAN, INFINITE = float("nan"), float("inf")
FALLING = Curve("a", tuple(range(1, 61)), tuple(4 - step / 20 for step in range(1, 61)))


def canvas(text: str) -> list[str]:
    """The rows between the frame's sides, top first."""
    return [row for line in text.splitlines() for row in re.findall(r"[│┤](.*)│$", line)]


def inked(picture) -> set[tuple[int, int, int]]:
    """The colours of a PNG."""
    pixels = (picture[..., :3] * 255).round().astype(int).reshape(-1, 3)
    return set(map(tuple, pixels.tolist()))


def rgb(curve: Curve) -> tuple[int, int, int]:
    text = plots.COLOURS[curve.color][1].removeprefix("#")
    return tuple(bytes.fromhex(text))


def test_smoothing_is_the_mean_of_the_last_values():
    curve = Curve("a", (1, 2, 3, 4), (4.0, 2.0, 0.0, 6.0))
    assert curve.smoothed(1).values == (4.0, 2.0, 0.0, 6.0)
    assert curve.smoothed(2).values == (4.0, 3.0, 1.0, 3.0)
    assert curve.smoothed(100).values == (4.0, 3.0, 2.0, 3.0)
    assert curve.smoothed(2).steps == curve.steps


def test_what_is_no_number_is_left_out():
    curve = Curve("a", (1, 2, 3), (1.0, NAN, INFINITE))
    assert curve.finite() == Curve("a", (1,), (1.0,))
    assert curve.smoothed(3).values == (1.0,)
    assert plots.drawable([curve, Curve("b", (1,), (NAN,)), Curve("c", (), ())]) == [curve.finite()]


def test_a_falling_curve_falls_in_the_terminal():
    text = plots.terminal([FALLING], width=70, height=12, colorless=True)
    assert {len(line) for line in text.splitlines() if "│" in line} == {70}
    rows = canvas(text)
    assert rows[0].strip("⠀ ") != "", "the first step is at the top"
    columns = [min(i for i, character in enumerate(row) if character not in " ⠀") for row in rows]
    assert columns == sorted(columns), "the lower the row, the later the step"
    assert text.splitlines()[-2].split() == ["1", "10", "20", "30", "40", "50", "60"]


def test_curves_of_two_runs_have_their_colours_and_evaluations_are_marks():
    other = Curve("b", (1, 30), (2.0, 2.5), color=1)
    held_out = Curve("a, held out", (20, 40), (3.0, 2.5))
    text = plots.terminal([FALLING, other], [held_out], width=70)
    for color in (0, 1):
        assert f"38;5;{plots.COLOURS[color][0]}m" in text
    assert text.count("◆") == 2


@pytest.mark.parametrize("steps", [(1,), (1, 2), (7, 8, 9), (0, 12345)], ids=str)
def test_short_and_long_curves_have_whole_steps_below_them(steps):
    text = plots.terminal([Curve("a", steps, (1.0,) * len(steps))], colorless=True)
    ticks = [int(word) for word in text.splitlines()[-2].split()]
    assert (ticks[0], ticks[-1]) == (steps[0], steps[-1])
    assert ticks == sorted(set(ticks))


def test_nothing_to_draw_is_nothing():
    assert plots.terminal([Curve("a", (), ())]) == ""


def test_a_file_shows_every_curve_in_its_colour(tmp_path):
    other = Curve("b", (1, 30), (2.0, 2.5), color=1)
    plots.png([FALLING, other], [], tmp_path / "two", title="two")
    picture = image.imread(tmp_path / "two", format="png")
    assert picture.shape[:2] == (810, 1440)
    assert {rgb(FALLING), rgb(other)} <= inked(picture)
    plots.png([other], [], tmp_path / "one", title="one")
    assert rgb(FALLING) not in inked(image.imread(tmp_path / "one", format="png"))


def test_a_run_without_steps_gives_a_file_that_says_so(tmp_path):
    plots.png([Curve("a", (), ())], [], tmp_path / "none.png", title="none")
    assert image.imread(tmp_path / "none.png").shape[:2] == (810, 1440)


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none/a\.png cannot be written: No such file"):
        plots.png([FALLING], [], tmp_path / "none" / "a.png", title="a")
