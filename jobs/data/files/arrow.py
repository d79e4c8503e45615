"""Rows that Arrow holds: Parquet and Arrow files, what `datasets` saved, and data sets of the hub.

Places are `name[row]`, counted from 0. Imports pyarrow and datasets inside the functions: they take a second. Called by
`jobs.data.files.rows`.
"""

import io
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from configs.errors import DataError
from jobs.data.files import content
from jobs.data.layouts import values
from models.base.hub import host, is_reachable, offline

Rows = Iterator[tuple[str, Any]]

SAVED = ("state.json", "dataset_dict.json")
"""What tells a folder that `save_to_disk` of `datasets` wrote."""
_BATCH = 256


def parquet(path: Path, name: str) -> Rows:
    from pyarrow import parquet as arrow

    def batches(source) -> Iterator:
        with arrow.ParquetFile(source) as file:
            yield from file.iter_batches(batch_size=_BATCH)

    return _batched(path, name, batches, "Parquet")


def arrow(path: Path, name: str) -> Rows:
    """Arrow's file format, also called Feather, or its stream format, which `datasets` writes."""
    from pyarrow import ipc

    def batches(source) -> Iterator:
        with ipc.open_file(source) if content.head(path).startswith(b"ARROW1") else ipc.open_stream(source) as reader:
            if isinstance(reader, ipc.RecordBatchFileReader):
                yield from (reader.get_batch(index) for index in range(reader.num_record_batches))
            else:
                yield from reader

    return _batched(path, name, batches, "Arrow")


def folder(path: Path, split: str) -> Rows:
    """What `save_to_disk` wrote. Raises DataError if it cannot be read or has no such split."""
    from datasets import DatasetDict, load_from_disk

    try:
        data = load_from_disk(str(path))
    except Exception as error:  # pyarrow, json and datasets each raise their own for a broken folder
        raise DataError(
            f"{path} is a folder of datasets and cannot be read: {_reason(error)}",
            hint="save it anew with save_to_disk",
        ) from None
    if isinstance(data, DatasetDict):
        if split not in data:
            raise DataError(f"{path} has no split '{split}'", hint=splits(data, split))
        data = data[split]
    return _each(data, path.name)


def hub(name: str, split: str) -> Rows:
    """From the hub, or where it cannot be reached from the local cache. Raises DataError if it cannot be had."""
    from datasets import load_dataset
    from huggingface_hub.constants import is_offline_mode

    reached = is_offline_mode() or is_reachable()
    try:
        with nullcontext() if reached else offline():
            data = load_dataset(name, split=split)
    except Exception as error:  # the hub client, pyarrow and datasets each raise their own
        if not reached:
            raise DataError(
                f"data set '{name}' ({split}) is not in the local cache, and {host()} cannot be reached",
                hint="files and folders of yours need no network: --dataset my_chats.jsonl",
            ) from None
        raise DataError(
            f"cannot load data set '{name}' ({split}): {_reason(error)}", hint="check the name and the network"
        ) from None
    return _each(data, name)


def splits(found: Iterable[str], wanted: str) -> str:
    """The next step for somebody who wants a split that is not there."""
    found = list(found)
    likely = next((name for name in found if name.startswith(wanted)), found[0])
    return f"splits: {values.names(found)}; choose one: --set data.split={values.one_line(likely, 60)}"


def _batched(path: Path, name: str, batches, kind: str) -> Rows:
    index = 0
    try:
        source = io.BytesIO(content.unpacked(path)) if content.is_packed(path) else str(path)
        for batch in batches(source):
            for position in range(batch.num_rows):
                yield f"{name}[{index}]", _row(batch, position)
                index += 1
    except DataError:
        raise
    except Exception as error:  # Arrow's own, OSError, EOFError and, for a column's broken name, UnicodeDecodeError
        raise DataError(
            f"{name}[{index}]: not readable as {kind}: {_reason(error)}", hint=f"the file is cut off or no {kind}"
        ) from None


def _row(batch, position: int) -> Any:
    try:
        return batch.slice(position, 1).to_pylist()[0]
    except (UnicodeDecodeError, ValueError, OverflowError) as error:
        return DataError(f"not readable: {_reason(error)}")


def _each(data: Iterable[Any], name: str) -> Rows:
    index = 0
    try:
        for index, row in enumerate(data):
            yield f"{name}[{index}]", row
    except Exception as error:  # a broken Arrow file shows itself only here, as one of many errors
        raise DataError(
            f"{name}[{index}]: not readable: {_reason(error)}", hint="make or fetch the data anew"
        ) from None


def _reason(error: BaseException) -> str:
    return values.one_line(next(iter(str(error).splitlines()), ""), 300) or type(error).__name__
