"""A dialogue as the trainer sees it: token ids, cut to length, with a label for each.

Knows a tokenizer and the mask, not where rows come from. Called by `jobs.data.dataset` for training and by whoever
shows or scores single rows.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from functools import cached_property

from configs.errors import DataError, RequestError
from configs.schema import DataConfig
from jobs.data import masking
from jobs.data.layouts.dialogue import Dialogue
from models import harmony

_CALL = {"id": "1", "type": "function", "function": {"name": "look", "arguments": {"at": "this"}}}
PROBE = Dialogue(
    messages=[
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "thinking": "One.", "content": "1."},
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": "Two?"},
        {"role": "assistant", "thinking": "Look.", "content": "Let me see.", "tool_calls": [_CALL]},
        {"role": "tool", "tool_call_id": "1", "content": "two"},
        {"role": "assistant", "thinking": "Two.", "content": "2."},
    ],
    tools=[
        {
            "type": "function",
            "function": {
                "name": "look",
                "description": "Looks.",
                "parameters": {"type": "object", "properties": {"at": {"type": "string", "default": "that"}}},
            },
        }
    ],
    where="probe",
)


@dataclass(frozen=True)
class Encoded:
    """One rendered row."""

    dialogue: Dialogue
    whole: list[int]
    """All token ids, before cutting."""
    spans: list[masking.Span]
    """The assistant's messages in `whole`."""
    input_ids: list[int]
    """`whole`, cut at the end to the maximum length."""
    labels: list[int]
    """As long as `input_ids`: what is learned there, or -100."""

    @property
    def cut(self) -> int:
        """Tokens lost at the end."""
        return len(self.whole) - len(self.input_ids)

    @cached_property
    def teaches(self) -> bool:
        return any(label != masking.IGNORED for label in self.labels)

    @property
    def row(self) -> dict[str, list[int]]:
        """What a trainer takes: lists of int of equal length."""
        return {"input_ids": self.input_ids, "labels": self.labels}


class Encoder:
    """`tokenizer`, its chat format and the mask of `config`, applied to dialogues."""

    def __init__(self, tokenizer, config: DataConfig, max_seq_length: int) -> None:
        """Raises CheckpointError if the tokenizer does not speak harmony."""
        self.tokenizer, self.config, self.max_seq_length = tokenizer, config, max_seq_length
        self.marks = masking.Marks.of(tokenizer)

    def encode(self, dialogue: Dialogue) -> Encoded:
        """Raises DataError, beginning with where the row is, for a dialogue that the format cannot express."""
        whole = self._render(dialogue)
        spans = masking.marked(masking.spans(whole, self.tokenizer, self.marks), dialogue.messages)
        ids = whole[: self.max_seq_length]
        labels = masking.labels(ids, spans, self.config.mask, self.marks)
        return Encoded(dialogue, whole, spans, ids, labels)

    def encode_all(self, dialogues: Iterable[Dialogue], bad: list[str]) -> Iterator[Encoded]:
        """Every dialogue that can be rendered; the reasons of the others go to `bad`."""
        for dialogue in dialogues:
            try:
                yield self.encode(dialogue)
            except DataError as error:
                bad.append(error.message)

    @property
    def fingerprint(self) -> str:
        """SHA-256 in hex of what decides the rendering besides the dialogue: format, date, reasoning effort, tokenizer.

        It is that of one dialogue with a message of each kind as it is rendered."""
        return hashlib.sha256(json.dumps(self._render(PROBE)).encode()).hexdigest()

    def _render(self, dialogue: Dialogue) -> list[int]:
        try:
            return harmony.render(
                self.tokenizer,
                dialogue.messages,
                tools=dialogue.tools,
                reasoning_effort=self.config.reasoning_effort,
                current_date=date.fromisoformat(self.config.current_date),
                add_generation_prompt=False,
            )
        except RequestError as error:
            raise DataError(f"{dialogue.where}: {' '.join(error.message.split())}") from None
