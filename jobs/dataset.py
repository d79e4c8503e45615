"""From a data set's name to token ids and labels, with a report of what will be learned.

`read` needs no tokenizer and says which line of a file is wrong; `prepare` renders through the model's own template.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from configs import paths
from configs.errors import DataError, RequestError, TrainingError
from configs.schema import DataConfig
from jobs import masking
from models import harmony

BUNDLED = {"tiny-demo": paths.TINY_DATASET}
ROLES = ("system", "developer", "user", "assistant", "tool")
SHOWN_PROBLEMS = 5
FILE_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".txt", ".arrow", ".gz")
"""What makes a name a file's; other dots are part of a hub name, as in owner/data-v1.5."""


@dataclass(frozen=True)
class Dialogue:
    """One row: OpenAI-shaped messages (assistant messages may carry `thinking`) and where they came from."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    where: str
    """`file:line`, or `name[row]` for a hub data set."""


@dataclass(frozen=True)
class Report:
    """What a run will learn from, counted in rows and tokens."""

    rows: int
    tokens: int
    learned_tokens: int
    longest_row: int
    """Tokens, before cutting."""
    cut_rows: int
    """Rows longer than max_seq_length, which lose their end and their stop token."""
    empty_rows: int
    """Rows in which nothing is learned."""

    def __str__(self) -> str:
        share = 100 * self.learned_tokens / self.tokens
        text = f"{self.rows} rows, {self.tokens} tokens, {self.learned_tokens} of them learned ({share:.0f} %)"
        if self.cut_rows:
            text += f"; {self.cut_rows} rows lose their end (the longest has {self.longest_row} tokens)"
        if self.empty_rows:
            text += f"; {self.empty_rows} rows teach nothing"
        return text


@dataclass(frozen=True)
class Prepared:
    """Rows ready for training: `{"input_ids": [...], "labels": [...]}` each, equally long lists of int."""

    rows: list[dict[str, list[int]]]
    report: Report


def locate(name: str) -> Path | None:
    """The local file or folder that a data set's name means; None for a hub name. Raises DataError if it is missing."""
    if name in BUNDLED:
        return BUNDLED[name]
    path = Path(name).expanduser()
    if path.exists():
        return path.absolute()
    if path.suffix in FILE_SUFFIXES or path.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        known = ", ".join(BUNDLED)
        raise DataError(
            f"no data set '{name}'", hint=f"a .jsonl file, a folder, a hub name like owner/name, or {known}"
        )
    return None


def read(name: str, split: str = "train") -> list[Dialogue]:
    """All dialogues of a data set. Raises DataError naming the file, the line and the reason of what is wrong."""
    path = locate(name)
    if path is None:
        rows = _hub_rows(name, split)
    elif path.is_dir():
        rows = _folder_rows(path, split)
    elif path.suffix == ".jsonl":
        rows = _jsonl_rows(path)
    else:
        raise DataError(f"{path} is not a .jsonl file", hint="one JSON object with `messages` per line")
    dialogues, problems = [], []
    for where, row in rows:
        try:
            dialogues.append(_dialogue(row, where))
        except DataError as error:
            problems.append(error.message)
    if problems:
        raise DataError("; ".join(problems[:SHOWN_PROBLEMS]) + _more(problems), hint="mend or remove these rows")
    if not dialogues:
        raise DataError(f"data set '{name}' is empty", hint="it needs at least one dialogue")
    return dialogues


def prepare(dialogues: Iterable[Dialogue], tokenizer, config: DataConfig, max_seq_length: int) -> Prepared:
    """Render, cut and label every dialogue.

    Raises DataError for a dialogue that the template refuses, TrainingError if nothing at all would be learned.
    """
    marks = masking.Marks.of(tokenizer)
    day = date.fromisoformat(config.current_date)
    rows, cut, empty, longest = [], 0, 0, 0
    for dialogue in dialogues:
        ids = _render(dialogue, tokenizer, config, day)
        longest, cut = max(longest, len(ids)), cut + (len(ids) > max_seq_length)
        ids = ids[:max_seq_length]
        labels = masking.labels(ids, masking.spans(ids, tokenizer, marks), config.mask, marks)
        empty += all(label == masking.IGNORED for label in labels)
        rows.append({"input_ids": ids, "labels": labels})
    report = Report(
        rows=len(rows),
        tokens=sum(len(row["input_ids"]) for row in rows),
        learned_tokens=sum(label != masking.IGNORED for row in rows for label in row["labels"]),
        longest_row=longest,
        cut_rows=cut,
        empty_rows=empty,
    )
    if report.learned_tokens == 0:
        raise TrainingError(
            f"nothing would be learned: all labels of {report.rows} rows are {masking.IGNORED}",
            hint="the data has no assistant message, or max_seq_length cuts before the first one",
        )
    return Prepared(rows, report)


def _render(dialogue: Dialogue, tokenizer, config: DataConfig, day: date) -> list[int]:
    try:
        return harmony.render(
            tokenizer,
            dialogue.messages,
            tools=dialogue.tools,
            reasoning_effort=config.reasoning_effort,
            current_date=day,
            add_generation_prompt=False,
        )
    except RequestError as error:
        raise DataError(f"{dialogue.where}: {error.message}", hint="mend or remove this row") from None


def _jsonl_rows(path: Path) -> Iterable[tuple[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # splitlines would cut at U+2028, which JSON allows
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}", hint="it must be UTF-8 text") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield f"{path.name}:{number}", json.loads(line)
            except json.JSONDecodeError as error:
                yield f"{path.name}:{number}", DataError(f"not JSON: {error.msg} at column {error.colno}")


def _folder_rows(path: Path, split: str) -> Iterable[tuple[str, Any]]:
    from datasets import DatasetDict, load_from_disk  # imports pyarrow and pandas

    try:
        data = load_from_disk(str(path))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not a folder made by datasets: {error}", hint="save it with save_to_disk") from None
    if isinstance(data, DatasetDict):
        if split not in data:
            raise DataError(f"{path} has no split '{split}'", hint=f"splits: {', '.join(data)}")
        data = data[split]
    return ((f"{path.name}[{index}]", row) for index, row in enumerate(data))


def _hub_rows(name: str, split: str) -> Iterable[tuple[str, Any]]:
    from datasets import load_dataset

    try:
        data = load_dataset(name, split=split)
    except Exception as error:  # the hub client, pyarrow and datasets each raise their own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"cannot load data set '{name}' ({split}): {reason}", hint="check the name and the network"
        ) from None
    return ((f"{name}[{index}]", row) for index, row in enumerate(data))


def _dialogue(row: Any, where: str) -> Dialogue:
    if isinstance(row, DataError):
        raise DataError(f"{where}: {row.message}")
    if not isinstance(row, Mapping) or not isinstance(row.get("messages"), list) or not row["messages"]:
        raise DataError(f"{where}: no list `messages`")
    messages = [_message(message, f"{where}: message {index}") for index, message in enumerate(row["messages"], 1)]
    if not any(message["role"] == "assistant" for message in messages):
        raise DataError(f"{where}: no assistant message, so nothing to learn")
    tools = row.get("tools") or None
    if tools is not None and not isinstance(tools, list):
        raise DataError(f"{where}: `tools` is not a list")
    return Dialogue(messages, tools, where)


def _message(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping) or message.get("role") not in ROLES:
        role = message.get("role") if isinstance(message, Mapping) else message
        raise DataError(f"{where}: role {role!r} is none of {', '.join(ROLES)}")
    message = {key: value for key, value in message.items() if value is not None}  # Arrow fills absent keys with None
    if not isinstance(message.get("content", ""), str) or not isinstance(message.get("thinking", ""), str):
        raise DataError(f"{where}: `content` and `thinking` must be text")
    if "content" not in message and not message.get("tool_calls"):
        raise DataError(f"{where}: neither `content` nor `tool_calls`")
    return message


def _more(problems: list[str]) -> str:
    return f"; and {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
