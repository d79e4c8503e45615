"""Bytes, durations and latencies as people read them: the one place that decides units and digits.

Pure text. Where a figure is missing, `nothing` stands: a hyphen in a terminal, a dash on a page.
"""


def size(number: float | None, *, nothing: str = "-") -> str:
    """Bytes in binary units: `512 B`, `1.5 KiB`, `11.7 GiB`."""
    if number is None:
        return nothing
    for unit in ("B", "KiB", "MiB"):
        if abs(number) < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"


def duration(seconds: float | None, *, nothing: str = "-") -> str:
    """In the largest unit that makes sense, as sentences and pages have it: `42 s`, `7 min`, `1.5 h`, `12 d`."""
    if seconds is None:
        return nothing
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            count = seconds / length
            return f"{count:.0f} {unit}" if count >= 10 or unit == "min" else f"{count:.1f} {unit}"
    return f"{seconds:.0f} s"


def short_duration(seconds: float | None, *, nothing: str = "-") -> str:
    """The same for a column of a terminal: `42s`, `7.3m`, `1.5h`, `12.0d`."""
    if seconds is None:
        return nothing
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f}{unit}"
    return f"{seconds:.0f}s"


def latency(seconds: float | None, *, nothing: str = "-") -> str:
    """Three digits that matter, in milliseconds below one second: `< 1 ms`, `34.5 ms`, `1.2 s`."""
    if seconds is None:
        return nothing
    if seconds < 0.001:
        return "< 1 ms"
    return f"{seconds * 1000:.3g} ms" if seconds < 0.9995 else f"{seconds:.3g} s"
