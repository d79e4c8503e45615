"""Votes between two answers, kept as preference data: one JSON line per vote, in TRL's conversational format.

`prompt`, `chosen` and `rejected` are lists of messages. A tie (`vote` is `tie` or `both_bad`) is kept too, with
`tie` true and A as `chosen`: filter it out where only preferences count. Knows no Gradio.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from configs import durable
from serve.client.endpoint import Reply, Settings

Choice = Literal["a", "b", "tie", "both_bad"]


@dataclass
class Side:
    """One of the two answers, with the name that was asked for it."""

    model: str
    reply: Reply


@dataclass
class Duel:
    """One prompt and its two answers, in the order in which a person saw them."""

    prompt: list[dict[str, Any]]
    """OpenAI's messages, instructions included."""
    settings: Settings
    blind: bool
    a: Side
    b: Side

    def line(self, choice: Choice) -> dict[str, Any]:
        """The vote as it is kept."""
        chosen, rejected = (self.b, self.a) if choice == "b" else (self.a, self.b)
        return {
            "prompt": self.prompt,
            "chosen": [_message(chosen.reply)],
            "rejected": [_message(rejected.reply)],
            "vote": choice,
            "tie": choice in ("tie", "both_bad"),
            "chosen_model": chosen.model,
            "chosen_version": chosen.reply.version,
            "rejected_model": rejected.model,
            "rejected_version": rejected.reply.version,
            "chosen_finish_reason": chosen.reply.finish_reason,
            "rejected_finish_reason": rejected.reply.finish_reason,
            "blind": self.blind,
            "time": time.time(),
            "settings": self.settings.model_dump(exclude={"model"}),
        }


def _message(reply: Reply) -> dict[str, str]:
    # gpt-oss's template writes an empty analysis for an empty `thinking`, and none where the key is not there.
    return {"role": "assistant", "content": reply.text} | ({"thinking": reply.thinking} if reply.thinking else {})


class Votes:
    """`votes.jsonl` of one folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "votes.jsonl"

    def add(self, duel: Duel, choice: Choice) -> None:
        """Append one line, on the disk when this returns."""
        durable.private_folder(self.path.parent)
        durable.append_line(self.path, json.dumps(duel.line(choice), ensure_ascii=False))
