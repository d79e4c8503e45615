"""Made-up Overviews, and text as a terminal of some width shows it; for machines that no test runs on."""

import io
from dataclasses import replace

from rich.console import Console, RenderableType

from actors.hardware.gpus import GpuReading, HostReading
from actors.status.overview import Overview, SlotReading
from actors.status.processes import ProcessReading

GIB = 2**30
NOW = 1_800_000_000.0
TRAINING = GpuReading(
    0, "GPU-a", "NVIDIA GeForce RTX 3090", 24 * GIB, 18 * GIB, 0.98, 84.0, 348.0, 350.0, 1.695e9, 2.1e9, 0.85
)
SERVING = replace(TRAINING, index=1, uuid="GPU-b", memory_used=6 * GIB, utilization=0.25, temperature=51.0, power=140.0)
STATS = {"running": 2, "waiting": 1, "kv_tokens": 12_288, "kv_capacity": 49_152, "adapters": {"v1": 2}}
STATS |= {"generated_tokens": 9, "device": "cuda", "memory_bytes": 12 * GIB}
ALL_WELL = Overview(
    at=NOW,
    home="/home/me/.tandem",
    up=True,
    http="http://127.0.0.1:8000",
    dashboard="http://127.0.0.1:8265",
    control=True,
    base="gpt-oss-20b",
    slots=(
        SlotReading("0", 0, "GPU-a", ("train",), "train", None, None, None, None),
        SlotReading("1", 1, "GPU-b", ("serve",), "serve", "engine_1", 4242, NOW - 7200, None),
    ),
    quarantines={},
    gpus=(TRAINING, SERVING),
    host=HostReading(16, 0.5, 64 * GIB, 16 * GIB),
    processes=(
        ProcessReading("head", "head", "ALIVE", 4000, 0, NOW - 7200, 200 * 2**20, 5.0),
        ProcessReading("engine_1", "engine", "RUNNING", 4242, 1, NOW - 60, 12 * GIB, 50.0),
    ),
    engines={"engine_1": STATS},
    holds=(),
    runs=(),
    run_counts={},
    aliases={"prod": "v1", "previous": None},
    adapters=(),
    swaps=(),
    traffic=None,
    events=(),
    problems=(),
)
DOWN = replace(
    ALL_WELL, up=False, http=None, dashboard=None, control=None, base=None, slots=(), processes=(), engines={}
)


def lines(drawn: RenderableType, width: int = 80, height: int = 200) -> list[str]:
    """What a terminal of this size shows, without colours and without spaces at the ends."""
    out = io.StringIO()
    Console(file=out, width=width, height=height, highlight=False).print(drawn)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def coloured(drawn: RenderableType, width: int = 80) -> str:
    """The same with ANSI colours."""
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=True, color_system="standard", highlight=False).print(drawn)
    return out.getvalue()
