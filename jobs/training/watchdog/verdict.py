"""What a whole run came to, judged before it is published: the reasons for which its adapter is suspect.

Every reason is a sentence with its figures. Reads the run's curve, so a resumed run is judged like one that was never
interrupted. Called by `jobs.training.sft`; what becomes of a suspect is `watchdog.on_doubt`.
"""

import math
from statistics import fmean, stdev

from actors.runs.curve import MetricsLog
from jobs.data.gate import Report

WORSE, WORSE_BY = 1.02, 0.01
"""A loss on the same rows so many times the base's, and so many nats per token above it, is worse. Both are exact, so
the difference only has to be more than rounding in bfloat16 makes, and to matter where the base knew the rows."""
SAME = 1e-5
"""Part of the base's loss below which a difference is none. One step of the embedded model at a tenth of its usual rate
makes a difference of 2e-3."""
FEWEST, SURE = 5, 4.0
"""Without a measured base: steps at either end whose means are compared, and standard errors beyond chance."""


def doubts(log: MetricsLog, taken: int, data: Report) -> tuple[str, ...]:
    """Why what was trained until step `taken` on `data` is suspect; empty for a sound result."""
    base, loss = log.base_loss(), log.loss_at(taken)
    found = [_one_row(data)]
    if base is None or loss is None:
        found.append(_worse_than_before([line["loss"] for line in log.losses() if line["step"] <= taken]))
    else:
        found.append(_worse_than_base(base, loss, "held-out" if data.held_out_rows else "trained"))
    return tuple(reason for reason in found if reason)


def _worse_than_base(base: float, loss: float, rows: str) -> str:
    if not math.isfinite(loss):
        return f"its loss on the {rows} rows is {loss}, the base's is {base:.4g}"
    if loss > WORSE * base and loss > base + WORSE_BY:
        return f"its loss on the {rows} rows is {loss:.4g}, worse than the base's {base:.4g}"
    if abs(loss - base) <= SAME * base:
        return f"it learned nothing: its loss on the {rows} rows is {loss:.4g}, as the base's"
    return ""


def _worse_than_before(losses: list[float]) -> str:
    """Single steps scatter, so the means have to differ by more than that explains."""
    count = min(FEWEST, len(losses) // 2)
    if count < 2:
        return ""
    first, last = losses[:count], losses[-count:]
    scatter = math.sqrt((stdev(first) ** 2 + stdev(last) ** 2) / count)
    if fmean(last) - fmean(first) <= SURE * scatter:
        return ""
    return (
        f"its training loss ended worse than it began: {fmean(last):.4g} over the last {count} steps, "
        f"{fmean(first):.4g} over the first"
    )


def _one_row(data: Report) -> str:
    if data.training_rows > 1 and data.rows - data.duplicates == 1:
        return f"all {data.training_rows} rows that it was trained on are the same one"
    return ""
