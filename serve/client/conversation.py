"""A conversation as people keep it: turns, settings, title; as JSON and as Markdown, one file each on disk.

Terminal and browser share the folder, so that what begins in one goes on in the other. Knows no HTTP.
"""

import re
import reprlib
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from configs import durable
from configs.errors import DataError, NotFoundError
from serve.client.endpoint import Reply, Settings

FORMAT = 1
LAST_MOMENT = 4e9
"""Unix seconds, in the year 2096."""
TITLE_LENGTH = 60
MOST_NAMED = 5
LONGEST_NAME = 200
"""Bytes of a file's name; file systems raise OSError for one of more than 255."""
_MARK = re.compile(r"^<!-- tandem:(user|assistant|thinking|system) -->$", re.MULTILINE)
_LIKE_A_MARK = re.compile(r"^\\*<!-- tandem:\w+ -->$", re.MULTILINE)
_HEADING = {"system": "System", "user": "You", "assistant": "Answer", "thinking": "Thinking"}


def _new_id() -> str:
    return uuid.uuid4().hex[:12]


class Statistics(BaseModel):
    """What one answer cost; counted by the server where it says so."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    first_token_s: float | None = None
    tokens_per_s: float | None = None

    @classmethod
    def of(cls, reply: Reply) -> Self:
        return cls(
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens,
            first_token_s=reply.first_token_s,
            tokens_per_s=reply.tokens_per_s,
        )


class Turn(BaseModel):
    """One message of a person or of the model."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["user", "assistant"]
    content: str
    thinking: str = ""
    version: str | None = None
    """The adapter version that answered, or `base`."""
    cut: bool = False
    """The answer was stopped, lost or ended at the token limit."""
    statistics: Statistics | None = None


class Conversation(BaseModel):
    """Turns in order, with the settings that the next answer uses."""

    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = FORMAT
    id: str = Field(default_factory=_new_id, pattern=r"^[\w.-]{1,64}$")
    title: str = ""
    created: float = Field(default_factory=time.time, ge=0, le=LAST_MOMENT)
    """Unix seconds."""
    updated: float = Field(default_factory=time.time, ge=0, le=LAST_MOMENT)
    system: str = ""
    """Instructions that every question of this conversation carries."""
    settings: Settings = Field(default_factory=Settings)
    turns: list[Turn] = []
    _on_disk: float | None = PrivateAttr(None)
    """`updated` of what was read or saved as last; a file that says otherwise is somebody else's work."""

    def ask(self, question: str) -> None:
        """Add a person's turn; the first one names the conversation."""
        self.turns.append(Turn(role="user", content=question))
        self.title = self.title or _title(question)
        self.updated = time.time()

    def answer(self, reply: Reply, *, cut: bool = False) -> None:
        """Add the model's turn; `cut` says that it was stopped or lost."""
        self.turns.append(
            Turn(
                role="assistant",
                content=reply.text,
                thinking=reply.thinking,
                version=reply.version,
                cut=cut or reply.cut,
                statistics=Statistics.of(reply),
            )
        )
        self.updated = time.time()

    @property
    def questions(self) -> int:
        """How often something was asked."""
        return sum(turn.role == "user" for turn in self.turns)

    def messages(self) -> list[dict[str, Any]]:
        """What the endpoint is sent: instructions and turns. Earlier thinking is left out, as gpt-oss wants it."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return system + [{"role": turn.role, "content": turn.content} for turn in self.turns]

    def replaces(self, other: Self) -> None:
        """Saved next, this takes the place of `other`, a version of it that was saved."""
        self._on_disk = other._on_disk

    def to_json(self) -> str:
        return self.model_dump_json(indent=1)

    @classmethod
    def from_json(cls, text: str, *, source: str) -> Self:
        """Raises DataError, naming `source` and the first thing that is wrong."""
        try:
            conversation = cls.model_validate_json(text)
        except ValidationError as error:
            raise DataError(
                f"{source} is not a saved conversation: {_wrong(error)}",
                hint="it must be a JSON file that Tandem saved or exported",
            ) from None
        conversation._on_disk = conversation.updated
        return conversation

    def to_markdown(self) -> str:
        """For people to read and for `from_markdown` to read back; only texts, title and instructions survive."""
        made = datetime.fromtimestamp(self.created, UTC).strftime("%Y-%m-%d %H:%M UTC")
        parts = [f"# {self.title or 'Conversation'}", f"*{made}, {self.settings.model}*"]
        for kind, text in self._sections():
            parts += [f"<!-- tandem:{kind} -->", f"## {_HEADING[kind]}", _LIKE_A_MARK.sub(r"\\\g<0>", text)]
        return "\n\n".join(parts) + "\n"

    def _sections(self) -> list[tuple[str, str]]:
        found = [("system", self.system)] if self.system else []
        for turn in self.turns:
            found += [("thinking", turn.thinking)] if turn.thinking else []
            found.append((turn.role, turn.content))
        return found

    @classmethod
    def from_markdown(cls, text: str, *, source: str) -> Self:
        """Raises DataError if `text` is none of `to_markdown`'s."""
        head, *rest = _MARK.split(text + "\n")
        title = re.match(r"# (.*)", head)
        conversation, thinking = cls(title=title[1].strip() if title else ""), ""
        for kind, section in zip(rest[::2], rest[1::2], strict=True):
            content = re.sub(rf"^\s*## {_HEADING[kind]}\n\n", "", section).removesuffix("\n\n")
            content = _LIKE_A_MARK.sub(lambda found: found[0].removeprefix("\\"), content)
            if kind == "system":
                conversation.system = content
            elif kind == "thinking":
                thinking = content
            else:
                conversation.turns.append(Turn(role=kind, content=content, thinking=thinking))
                thinking = ""
        if not conversation.turns:
            raise DataError(
                f"{source} is not a conversation that Tandem exported: it has no lines such as <!-- tandem:user -->",
                hint="export it again, as Markdown or as JSON",
            )
        return conversation


class Conversations:
    """All saved conversations: `<id>.json` in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, conversation: Conversation) -> bool:
        """Replace the saved conversation of this id, whole or not at all.

        False if another program changed that one since `conversation` was read: both stay, this one under a new id.
        """
        durable.private_folder(self.folder)
        path = self._path(conversation.id)
        found = self._readable(path)
        alone = found.updated == conversation._on_disk if found else not path.exists()
        if not alone:
            conversation.id = _new_id()
        durable.write_text(self._path(conversation.id), conversation.to_json())
        conversation._on_disk = conversation.updated
        return alone

    def read(self, conversation_id: str) -> Conversation:
        """Raises NotFoundError, DataError for a broken file."""
        return self._read(self._file(conversation_id))

    def load(self, name: str) -> Conversation:
        """By id, or by title where no id is that. Raises NotFoundError, DataError for a broken file."""
        try:
            return self.read(name)
        except NotFoundError as error:
            for conversation in self.saved():
                if conversation.title == name:
                    return conversation
            raise NotFoundError(error.message, hint=unreadable(self.broken())) from None

    def saved(self) -> list[Conversation]:
        """The readable ones, newest first; `broken` has the others."""
        found = [conversation for path in self._files() if (conversation := self._readable(path))]
        return sorted(found, key=lambda conversation: conversation.updated, reverse=True)

    def broken(self) -> list[Path]:
        """Files that are not conversations; they are left where they are."""
        return [path for path in self._files() if self._readable(path) is None]

    def delete(self, conversation_id: str) -> None:
        """Raises NotFoundError."""
        self._file(conversation_id).unlink()

    def _file(self, conversation_id: str) -> Path:
        path = self._path(conversation_id)
        if len(path.name.encode()) > LONGEST_NAME or not path.is_file():
            raise NotFoundError(f"no conversation {conversation_id!r} in {self.folder}")
        return path

    def _path(self, name: str) -> Path:
        safe = re.sub(r"[^\w.-]", "_", name)
        return self.folder / f"{safe}.json"

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("[!.]*.json"))

    def _readable(self, path: Path) -> Conversation | None:
        try:
            return self._read(path)
        except DataError:
            return None

    def _read(self, path: Path) -> Conversation:
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path} cannot be read: {error}") from None
        return Conversation.from_json(text, source=str(path))


def unreadable(files: list[Path]) -> str:
    """A sentence about saved conversations that are broken; empty if none is."""
    if not files:
        return ""
    names = ", ".join(path.name for path in files[:MOST_NAMED])
    more = f" and {len(files) - MOST_NAMED} more" if len(files) > MOST_NAMED else ""
    kept = "1 conversation" if len(files) == 1 else f"{len(files)} conversations"
    return f"{kept} saved in {files[0].parent} cannot be read: {names}{more}"


def _wrong(error: ValidationError) -> str:
    """The first thing that is wrong, and where."""
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(map(str, first["loc"]))
    match first["type"]:
        case "json_invalid":
            return "it is not complete JSON"
        case "missing":
            return f"{where} is missing"
        case "extra_forbidden":
            return f"{where} is nothing that a conversation has"
    return f"{where or 'a conversation'} cannot be {reprlib.repr(first['input'])}"


def _title(question: str) -> str:
    line = " ".join(question.split())
    return line if len(line) <= TITLE_LENGTH else line[: TITLE_LENGTH - 1].rstrip() + "…"
