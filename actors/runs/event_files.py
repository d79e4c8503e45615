"""TensorBoard event files of runs, made from their `metrics.jsonl`, so that every run shows the same curves whatever
it reported to while it trained.

A copy is a folder that can be deleted at any time; it grows with its run. Called by `tandem tensorboard`, for copies
below the cache, and by a run that reports to TensorBoard, for one in its own folder. Writes the format itself, because
torch's writer takes seconds to import and a thread per run.
"""

import hashlib
import json
import math
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.runs import curve
from configs import durable

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event

TAGS = {
    "loss": "train/loss",
    "eval_loss": "eval/loss",
    "learning_rate": "train/learning_rate",
    "grad_norm": "train/grad_norm",
    "tokens_per_s": "train/tokens_per_s",
    "tokens": "train/tokens",
    "energy_joules": "train/energy_joules",
}
"""By the key of a line."""
STATE = "copied.json"


@dataclass(frozen=True)
class _Copied:
    """How much of a `metrics.jsonl` is in the event file."""

    size: int
    """Bytes, up to the end of a line."""
    sha256: str
    """Of these bytes: after a rollback or a kill a curve is another one from there on."""
    changed_ns: int
    """When the file that was copied was last changed."""
    file: str


def copy(metrics: Path, folder: Path) -> int:
    """Bring the event file in `folder` up to date with `metrics`; the number of lines that were new.

    A curve of which a part was taken back is written anew. Lines that are not metrics are left out.
    """
    copied = _read_state(folder)
    try:
        changed = metrics.stat().st_mtime_ns
        if copied is not None and copied.changed_ns == changed:
            return 0
        content = metrics.read_bytes()
    except FileNotFoundError:
        return 0
    whole = content[: content.rfind(b"\n") + 1]
    if not whole:
        return 0
    if copied is None or len(whole) < copied.size or _sha256(whole[: copied.size]) != copied.sha256:
        copied = _begin(folder)
    lines = list(_lines(whole[copied.size :]))
    _append(folder / copied.file, lines)
    state = _Copied(len(whole), _sha256(whole), changed, copied.file)
    durable.write_text(folder / STATE, json.dumps(asdict(state)))
    return len(lines)


def _read_state(folder: Path) -> _Copied | None:
    try:
        state = _Copied(**json.loads((folder / STATE).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return state if (folder / state.file).is_file() else None


def _begin(folder: Path) -> _Copied:
    """An empty event file instead of what was there. A TensorBoard that runs forgets what it read, from step 0 on."""
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    shutil.rmtree(folder, ignore_errors=True)
    durable.private_folder(folder)
    name = f"events.out.tfevents.{time.time_ns():020d}.tandem"
    restart = Event(wall_time=time.time(), step=0, session_log=SessionLog(status=SessionLog.START))
    _write(folder / name, [Event(wall_time=time.time(), file_version="brain.Event:2"), restart])
    return _Copied(0, _sha256(b""), 0, name)


def _append(file: Path, lines: list[dict[str, Any]]) -> None:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    def event(line: dict[str, Any]) -> Event:
        values = [Summary.Value(tag=TAGS[key], simple_value=line[key]) for key in TAGS if _is_number(line.get(key))]
        return Event(wall_time=line["at"], step=line["step"], summary=Summary(value=values))

    _write(file, map(event, lines))


def _write(file: Path, events: "Iterable[Event]") -> None:
    from tensorboard.summary.writer.record_writer import RecordWriter

    with open(file, "ab", opener=durable.private) as handle:
        writer = RecordWriter(handle)
        for event in events:
            writer.write(event.SerializeToString())
        writer.flush()


def _lines(content: bytes) -> Iterator[dict[str, Any]]:
    for text in content.splitlines():
        line = curve.parse(text)
        if line is not None and _is_number(line.get("at")):
            yield line


def _is_number(value: object) -> bool:
    return (found := curve.number(value)) is not None and not math.isinf(found)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
