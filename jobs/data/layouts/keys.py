"""Every column of a row and key of a message that trainers and servers are known to write, and what becomes of it.

    read      it means something here, under one of our names
    learn     it says of a message that it is learned (true, 1) or context (false, 0); `unlearn` the other way round
    refuse    its value asks for what cannot be done, or marks what must not be learned
    ignore    it has no effect here; the report counts it, with the reason

What is in neither table is counted as well. docs/data.md shows both. Pure data with the few questions asked of it;
called by everything that reads rows.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from jobs.data.layouts import values


@dataclass(frozen=True)
class Key:
    """What becomes of one column or key."""

    fate: Literal["read", "learn", "unlearn", "refuse", "ignore"]
    about: str = ""
    """Our name of what is read; of the others the reason, which follows the name in a sentence."""
    when: Callable[[Any], bool] = lambda value: not values.empty(value)
    """Which values are refused; others have no effect."""


@dataclass
class RowNotes:
    """What reading a row did besides taking it as it stands: said in the report, with the number of rows."""

    remarks: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    """Columns and keys that have no effect, as "column `x`" and "key `x`"."""


def _no(value: Any) -> bool:
    return value is False or (isinstance(value, str) and value.strip().lower() == "false")


def _other_than_user(value: Any) -> bool:
    return not values.empty(value) and str(value).strip().lower() not in ("user", "human", "system")


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value)


_PICTURES = Key("refuse", "is not text, and only text is learned: take these rows out, or the column")
_PER_TOKEN = Key("refuse", "marks single tokens; say it for whole messages: `train: false`", _is_list)
_UNWANTED = Key("refuse", "false marks an answer that is not wanted: take these rows out", _no)
_PREFERENCE = Key("ignore", "is for preference training, and here one answer is learned")
_OF_REQUEST = Key("ignore", "is an option of a request, not of what is said")
_OF_TRAINER = Key("ignore", "is an option of another trainer")

SPEAKER = ("role", "from", "sender", "speaker", "author")
"""Keys of a message that say who speaks."""

MESSAGE: dict[str, Key] = {
    **dict.fromkeys(SPEAKER, Key("read", "role")),
    **dict.fromkeys(("content", "value", "text", "parts"), Key("read", "content")),
    **dict.fromkeys(
        ("thinking", "reasoning", "reasoning_content", "reasoning_text", "thought", "thoughts", "think", "cot",
         "analysis", "reasoning_details", "thinking_blocks"),
        Key("read", "thinking"),
    ),
    "tool_calls": Key("read", "tool_calls"),
    "function_call": Key("read", "tool_calls"),
    "tool_call_id": Key("read", "tool_call_id"),
    "name": Key("read", "name"),
    "channel": Key("read", "channel"),
    "recipient": Key("read", "recipient"),
    **dict.fromkeys(
        ("weight", "loss_weight", "loss_scale", "train", "training", "trainable", "is_trainable", "train_on_turn",
         "loss", "loss_mask", "learn"),
        Key("learn"),
    ),
    **dict.fromkeys(("masked", "is_masked", "no_loss"), Key("unlearn")),
    "mask": Key("refuse", "means learned to some trainers and left out to others: write `train: true` or `false`",
                lambda value: not values.nothing(value)),
    **dict.fromkeys(("train_detail", "training_detail"), Key("refuse", "marks single characters")),
    **dict.fromkeys(("images", "image", "videos", "video", "audios", "audio", "input_audio", "files"), _PICTURES),
    "refusal": Key("refuse", "holds what was said: write it as `content` to learn it"),
    **dict.fromkeys(("input_ids", "token_ids", "tokens"), Key("refuse", "holds tokens: give text", _is_list)),
    **dict.fromkeys(("prefix", "partial"), Key("ignore", "asks a server to go on with the message")),
    "label": Key("ignore", "scores an answer, and here it is learned as it stands"),
    "content_type": Key("ignore", "is written by the run's own template"),
    **dict.fromkeys(("annotations", "citations"), Key("ignore", "is not text of the message")),
    **dict.fromkeys(("logprobs", "finish_reason", "stop_reason", "usage", "model", "cache_control", "end_turn"),
                    Key("ignore", "is about how a server answered")),
    "tools": Key("refuse", "belongs beside `messages`, not inside a message"),
    "functions": Key("refuse", "belongs beside `messages`, not inside a message"),
}  # fmt: skip

COLUMNS: dict[str, Key] = {
    **dict.fromkeys(("messages", "conversations", "conversation", "dialogue", "dialog", "contents", "turns", "chat"),
                    Key("read", "messages")),
    **dict.fromkeys(("prompt", "instruction", "question", "query", "problem", "user", "human"), Key("read", "prompt")),
    **dict.fromkeys(("completion", "output", "response", "answer", "solution", "assistant", "final"),
                    Key("read", "completion")),
    **dict.fromkeys(("input", "context"), Key("read", "input")),
    **dict.fromkeys(("system", "system_prompt", "system_message", "system_instruction"), Key("read", "system")),
    "developer": Key("read", "developer"),
    **dict.fromkeys(("thinking", "reasoning", "reasoning_content", "thought", "thoughts", "think", "cot",
                     "complex_cot", "chain_of_thought", "analysis"), Key("read", "thinking")),
    **dict.fromkeys(("tools", "functions"), Key("read", "tools")),
    "history": Key("read", "history"),
    "text": Key("read", "text"),
    "expect": Key("read", "expect"),
    **dict.fromkeys(("images", "image", "videos", "video", "audios", "audio"), _PICTURES),
    **dict.fromkeys(("label", "kto_tag"), _UNWANTED),
    "mask": Key("refuse", "names a speaker whose words are left out; only the assistant's are ever learned",
                _other_than_user),
    **dict.fromkeys(("loss_mask", "assistant_masks", "train_on_turn", "completion_mask"), _PER_TOKEN),
    **dict.fromkeys(
        ("chosen", "rejected", "rejected_response", "rejected_messages", "score_chosen", "score_rejected",
         "chosen_rating", "rejected_rating"), _PREFERENCE,
    ),
    **dict.fromkeys(("parallel_tool_calls", "tool_choice", "function_call", "response_format", "temperature", "top_p",
                     "max_tokens", "stream", "model", "n", "stop", "seed", "store", "metadata"), _OF_REQUEST),
    "reasoning_effort": Key("ignore", "of a row has no effect: data.reasoning_effort is the run's"),
    **dict.fromkeys(("enable_thinking", "chat_template_kwargs"), Key("ignore", "has no effect on the run's template")),
    **dict.fromkeys(("channel", "objects", "reward_model", "ability", "data_source", "extra_info",
                     "reward_spec", "env_class", "task_name", "loss_scale"), _OF_TRAINER),
    "weight": Key("ignore", "of a row has no effect: every row counts once"),
}  # fmt: skip

UNNAMED = "a column without a name"
"""What a table's columns are called whose header is empty; pandas writes its index so."""

ROLES: dict[str, str] = {
    "system": "system", "developer": "developer",
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bing", "bard", "bot", "chatbot", "ai", "model"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function", "tool_response", "tool_result", "tool_output", "ipython",
                     "function_response"), "tool"),
    **dict.fromkeys(("function_call", "tool_call", "tool_calls"), "call"),
    **dict.fromkeys(("thought", "thinking", "think", "reasoning"), "thought"),
}  # fmt: skip
"""Who speaks, in small letters, to a role; `call` and `thought` are what the assistant does before it answers."""

NO_LAYOUT = {
    "chosen": "preference data (DPO){to_chosen}",
    "rejected": "preference data (DPO): one column has to hold the answer to learn",
    "segments": "axolotl's template-free form: give `messages`",
    "input_ids": "tokens of some tokenizer: give the text they were made of",
    "mapping": "a conversation tree as ChatGPT exports it: write each branch as `messages`",
    "parent_id": "a tree of messages: write each branch as one row with `messages`",
    "reward_model": "prompts to be rewarded, without an answer to learn",
    "reward_spec": "prompts to be rewarded, without an answer to learn",
    "chosen_response": "preference data (DPO): one column has to hold the answer to learn",
}
"""Columns of rows that hold no answer to learn in any layout, and what such rows are."""


@lru_cache(maxsize=1024)  # asked for every column of every row
def folded(name: Any) -> str:
    """A name as the tables have it: `Question`, `systemInstruction` and `system prompt` are known columns."""
    return re.sub(r"[\s\-]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", "_", str(name).strip())).lower()


def column(name: Any) -> Key | None:
    return COLUMNS.get(folded(name))


def is_column(name: Any) -> bool:
    """Whether a column of this name is read."""
    return (key := column(name)) is not None and key.fate == "read"


def is_entry(value: Any) -> bool:
    """Whether this can be a message, and is not a row: an object that names who speaks."""
    return (
        isinstance(value, Mapping)
        and (role_of(speaker(value)) is not None or (("role" in value or "from" in value) and _says(value)))
        and not any((key := column(name)) and key.about == "messages" for name in value)
    )


def _says(entry: Mapping[str, Any]) -> bool:
    return any(key.about == "content" and name in entry for name, key in MESSAGE.items())


def speaker(entry: Mapping[str, Any]) -> Any:
    """Who speaks, by the first of the keys that say it; None where none does."""
    for name in SPEAKER:
        if name in entry and not values.empty(entry[name]):
            return entry[name]
    return None


def role_of(speaker: Any) -> str | None:
    """None for somebody unknown."""
    return ROLES.get(folded(speaker)) if isinstance(speaker, str) else None


def refusal(table: Mapping[str, Key], name: str, value: Any) -> str | None:
    """Why a row with this column or key must not be learned; None if it may."""
    key = table.get(name)
    if key is None or key.fate != "refuse" or not key.when(value):
        return None
    return f"`{values.one_line(str(name), values.MAX_NAME)}` {key.about}"


def reason(kind: str, name: str) -> str:
    """Why an unused column or key has no effect; empty for one that nobody knows."""
    key = column(name) if kind == "column" else MESSAGE.get(name)
    return key.about if key and key.fate == "ignore" else ""
