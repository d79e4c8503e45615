"""Small pictures of numbers for a terminal: bars, coloured by load, and what stands beside them. Knows only numbers."""

from collections.abc import Sequence

from rich.text import Text

from actors.runs.pace import Eta
from cli import output
from configs import units

_EIGHTHS = " ▏▎▍▌▋▊▉"
_TRACK = "grey30"
CALM, BUSY, FULL = "green", "yellow", "red"


def load_colour(part: float, busy: float = 0.7, full: float = 0.9) -> str:
    """The colour of a part, 0 to 1, of what there is."""
    return CALM if part < busy else BUSY if part < full else FULL


def bar(part: float | None, width: int, colour: str | None = None) -> Text:
    """`width` columns of which this part, 0 to 1, is filled; coloured by load unless told. None is not known."""
    if part is None:
        return Text("·" * width, _TRACK)
    part = min(1.0, max(0.0, part))
    eighths = round(part * width * 8)
    full, rest = divmod(eighths, 8)
    drawn = "█" * full + (_EIGHTHS[rest] if rest else "")
    return Text.assemble((drawn, colour or load_colour(part)), ("░" * (width - len(drawn)), _TRACK))


def percent(part: float | None) -> str:
    return "-" if part is None else f"{part:.0%}"


def gib(used: float | None, total: float | None) -> str:
    """`18.2/24.0 GiB`."""
    if used is None or total is None:
        return "-"
    return f"{used / 2**30:.1f}/{total / 2**30:.1f} GiB"


def celsius(value: float | None) -> Text:
    if value is None:
        return Text("-", "dim")
    return Text(f"{value:.0f} °C", load_colour(value / 100, busy=0.7, full=0.83))


def watts(value: float | None, limit: float | None) -> Text:
    if value is None:
        return Text("-", "dim")
    if not limit:
        return Text(f"{value:.0f} W")
    return Text(f"{value:.0f}/{limit:.0f} W", load_colour(value / limit, busy=0.85, full=1.0))


def megahertz(value: float | None) -> str:
    return "-" if value is None else f"{value / 1e6:.0f} MHz"


def remaining(eta: Eta | None) -> str:
    """`4.2m left (3.9m to 5.0m)`; the range only where it says something."""
    if eta is None:
        return ""
    low, middle, high = map(units.short_duration, (eta.low, eta.seconds, eta.high))
    return f"{middle} left" + (f" ({low} to {high})" if low != high else "")


def curve(values: Sequence[float], width: int) -> Text:
    return Text(output.sparkline(values, width), "cyan")
