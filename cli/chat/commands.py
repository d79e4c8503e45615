"""The commands of the chat: what begins with a slash. One table gives help, completion and what is done.

A command takes the Chat and the rest of its line. Raises TandemError, with what may be written instead.
"""

import difflib
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from inspect import isawaitable
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from cli import output
from configs import durable, foreign_names, guess, units
from configs.errors import ConfigError, DataError, NotFoundError
from configs.foreign_names import squash
from models.harmony import REASONING_EFFORTS
from serve.client.conversation import Conversation
from serve.client.endpoint import Settings

if TYPE_CHECKING:
    from cli.chat.session import Chat


@dataclass(frozen=True)
class Command:
    name: str
    arguments: str
    help: str
    run: "Callable[[Chat, str], Awaitable[None] | None]"
    words: "Callable[[Chat], Iterable[str]]" = lambda chat: ()
    """What the argument may be; a dict has a note to each word, which may be typed in its place."""
    each: bool = False
    """Every word of the argument is one of `words`, not the argument as a whole."""


async def run(chat: "Chat", line: str) -> None:
    """Do what `line` says. Raises ConfigError for an unknown command."""
    name, _, argument = line[1:].strip().partition(" ")
    command = COMMANDS.get(ALIASES.get(name, name))
    if command is None:
        nearest = _nearest(name)
        raise ConfigError(
            f"no command /{name}",
            hint=f"did you mean /{nearest}?" if nearest else "/help; a space first makes it a message",
        )
    chat.editing = False
    result = command.run(chat, argument.strip())
    if isawaitable(result):
        await result


def _nearest(name: str) -> str:
    """The command that was meant. A wrong letter is likelier than missing ones: of about the same likeness the one as
    long as what was typed, so /exot is /exit and not /export."""
    close = difflib.get_close_matches(name, COMMANDS)
    ratios = {each: difflib.SequenceMatcher(None, each, name).ratio() for each in close}
    rivals = [each for each in close if ratios[each] > ratios[close[0]] - 0.1]
    return min(rivals, key=lambda each: abs(len(each) - len(name)), default="")


def complete(chat: "Chat", line: str) -> tuple[str, dict[str, str]]:
    """The unfinished end of a command line and what it may become, with a note to each."""
    name, space, argument = line[1:].partition(" ")
    if not space:
        return line, {f"/{each}": "" for each in COMMANDS if each.startswith(name)}
    command = COMMANDS.get(name)
    if command is None:
        return "", {}
    unfinished = argument.rpartition(" ")[2] if command.each else argument
    words = command.words(chat)
    noted = words if isinstance(words, dict) else dict.fromkeys(words, "")
    found = {word: note for word, note in noted.items() if word.startswith(unfinished) or note.startswith(unfinished)}
    return unfinished, {word: note for word, note in found.items() if word != unfinished}


# The conversation


def _clear(chat: "Chat", argument: str) -> None:
    old = chat.conversation
    chat.open(Conversation(system=old.system, settings=old.settings))
    chat.screen.say("a new conversation" + (f"; the old one is {old.title!r}" if old.turns else ""))


def _save(chat: "Chat", name: str) -> None:
    _require_turns(chat)
    if name and any(each.title == name and each.id != chat.conversation.id for each in chat.store.saved()):
        raise ConfigError(f"another conversation is called {name!r}", hint="choose another name")
    chat.conversation.title = name or chat.conversation.title
    chat.save()
    chat.screen.say(f"saved as {chat.conversation.title!r} (id {chat.conversation.id})")


def _require_turns(chat: "Chat") -> None:
    if not chat.conversation.turns:
        raise ConfigError("nothing to save yet", hint="ask something first")


def _delete(chat: "Chat", name: str) -> None:
    if not name:
        raise ConfigError("/delete needs a name", hint="/conversations lists them")
    doomed = _saved(chat, name)

    async def delete(reply: str) -> None:
        if reply.strip().lower() not in ("y", "yes"):
            chat.screen.say("nothing is deleted")
            return
        chat.store.delete(doomed.id)
        chat.screen.say(f"deleted: {doomed.title!r}")
        if doomed.id == chat.conversation.id:
            chat.open(Conversation(system=doomed.system, settings=doomed.settings))

    chat.instead = delete
    chat.screen.say(f"delete {doomed.title!r}, {_questions(doomed)}, id {doomed.id}? yes deletes it for good")


def _load(chat: "Chat", name: str) -> None:
    if not name:
        raise ConfigError("/load needs a name", hint="/conversations lists them")
    chat.open(load(chat, name))
    chat.screen.say(f"{chat.conversation.title!r}, {_questions(chat.conversation)}")
    chat.screen.conversation(chat.conversation)


def load(chat: "Chat", name: str) -> Conversation:
    """A saved conversation by name or id, or one exported to a file. Raises NotFoundError, DataError."""
    path = _file(name)
    if path is None or path.suffix not in READERS or not path.is_file():
        return _saved(chat, name)
    try:
        return READERS[path.suffix](path.read_text(), source=str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None


def _saved(chat: "Chat", name: str) -> Conversation:
    try:
        return chat.store.load(name)
    except NotFoundError as error:
        raise NotFoundError(error.message, hint=error.hint or "/conversations in a chat lists them") from None


def _file(name: str) -> Path | None:
    """None for a name that no file can have: too long, or below the home of nobody."""
    try:
        path = Path(name).expanduser()
        path.exists()
    except (OSError, RuntimeError):
        return None
    return path


def _export(chat: "Chat", name: str) -> None:
    _require_turns(chat)
    path = _file(name)
    if path is None or path.suffix not in READERS:
        raise ConfigError(f"/export writes .md or .json, not {name!r}", hint="/export chat.md")
    if path.exists():
        raise ConfigError(f"{path} exists already", hint="choose another name")
    text = chat.conversation.to_markdown() if path.suffix == ".md" else chat.conversation.to_json()
    try:
        durable.write_text(path, text, shared=True)
    except OSError as error:
        raise DataError(
            f"{path} cannot be written: {error.strerror}", hint="name a file in a folder of yours that is there"
        ) from None
    chat.screen.say(f"written: {path}")


def _conversations(chat: "Chat", argument: str) -> None:
    saved = chat.store.saved()
    if saved:
        rows = [(each.title, each.questions, output.age(each.updated), each.id) for each in saved]
        chat.screen.table(("NAME", "QUESTIONS", "AGE", "ID"), rows)
    else:
        chat.screen.say("no conversations yet")
    for path in chat.store.broken():
        chat.screen.say(f"not readable: {path}")


async def _retry(chat: "Chat", argument: str) -> None:
    await chat.retry()


async def _edit(chat: "Chat", text: str) -> None:
    question = chat.last_question().content
    chat.editing = True
    if text:
        await chat.ask(text)
    elif chat.prompt.interactive:
        chat.draft = question
    else:
        raise ConfigError("/edit needs the new text here", hint="/edit What is Rome?")


async def _compare(chat: "Chat", argument: str) -> None:
    first, second, question = ([*argument.split(maxsplit=2), "", "", ""])[:3]
    if not second:
        raise ConfigError("/compare needs two models", hint="/compare base prod, perhaps with a question behind them")
    await _require_models(chat, first, second)
    if question:
        await chat.compare((first, second), [*chat.conversation.messages(), _asked(question)])
    elif chat.conversation.turns:
        await chat.compare((first, second), chat.messages_to_last_question())
    else:
        chat.instead = lambda message: chat.compare((first, second), [*chat.conversation.messages(), _asked(message)])
        chat.screen.say(f"the next message goes to {first} and {second}; Enter alone gives it up")


def _asked(question: str) -> dict[str, str]:
    return {"role": "user", "content": question}


# Settings


async def _model(chat: "Chat", name: str) -> None:
    if not name:
        await chat.find_models()
        rows = [("*" if each == chat.conversation.settings.model else "", each) for each in chat.models]
        chat.screen.table(("", "MODEL"), rows)
        return
    await _require_models(chat, name)
    _set(chat, "model", name)


async def _require_models(chat: "Chat", *names: str) -> None:
    await chat.find_models()
    require_known(chat, *names)


def require_known(chat: "Chat", *names: str) -> None:
    """Raises NotFoundError for a name that the endpoint did not have when it was asked last."""
    for name in names:
        if name not in (*chat.models, "base"):
            raise NotFoundError(f"no model {name!r}", hint=f"models: {', '.join(chat.models)}")


def _reasoning(chat: "Chat", effort: str) -> None:
    _set(chat, "reasoning_effort", effort or chat.conversation.settings.reasoning_effort)


async def _settings(chat: "Chat", argument: str) -> None:
    name, value = [*argument.split(maxsplit=1), "", ""][:2]
    values = _values(chat)
    if name and name not in values:
        raise ConfigError(
            f"no setting {name!r}", hint=f"{_nearest_setting(name, [*values])}settings: {', '.join(values)}"
        )
    if value:
        await _change(chat, name, value)
    elif name:
        chat.screen.say(f"{name} {values[name]}")
    else:
        chat.screen.table(("", ""), values.items())


def _nearest_setting(name: str, known: list[str]) -> str:
    """The setting that was meant, also by the name that options and other servers have for it."""
    table = foreign_names.by_name(foreign_names.OPTIONS)
    theirs = {
        other: tuple(each for each in known if squash(each) in map(squash, ours)) for other, ours in table.items()
    }
    meant = guess.exact(name, known, theirs) or guess.near(name, known, theirs)
    return f"{guess.sentence([f'/settings {each}' for each in meant], name)} " if meant else ""


def _values(chat: "Chat") -> dict[str, object]:
    """Every setting as it is now."""
    values = chat.conversation.settings.model_dump() | {"thinking": "shown" if chat.screen.thinking else "hidden"}
    values |= {"system": chat.conversation.system or "none"}
    return {name: "default" if value is None else value for name, value in values.items()}


async def _change(chat: "Chat", name: str, value: str) -> None:
    if value in ("default", "none"):
        value = DEFAULTS[name]
    if name == "model":
        await _model(chat, value)
    elif name in WITH_COMMAND:
        WITH_COMMAND[name](chat, value)
    else:
        _set(chat, name, value)


def _set(chat: "Chat", name: str, value: str | None) -> None:
    try:
        setattr(chat.conversation.settings, name, value)
    except ValidationError as error:
        raise ConfigError(f"{name} cannot be {value!r}: {error.errors()[0]['msg']}") from None
    chat.screen.say(f"{name} {value or 'default'}")


def _system(chat: "Chat", text: str) -> None:
    if text:
        chat.conversation.system = "" if text == "off" else text
    chat.screen.say(f"instructions: {chat.conversation.system or 'none'}")


def _thinking(chat: "Chat", wanted: str) -> None:
    if wanted not in ("", "show", "hide"):
        raise ConfigError(f"/thinking cannot be {wanted!r}", hint="/thinking show, /thinking hide")
    chat.screen.thinking = wanted == "show" if wanted else not chat.screen.thinking
    turns = chat.conversation.turns
    if chat.screen.thinking and turns and turns[-1].thinking:
        chat.screen.say(turns[-1].thinking)
    chat.screen.say(f"thinking is {'shown' if chat.screen.thinking else 'hidden'}")


# The rest


def _stats(chat: "Chat", argument: str) -> None:
    counted = [turn.statistics for turn in chat.conversation.turns if turn.statistics]
    speeds = [each.tokens_per_s for each in counted if each.tokens_per_s]
    waits = [each.first_token_s for each in counted if each.first_token_s is not None]
    rows = [
        ("answers", len(counted)),
        ("tokens generated", f"{sum(each.completion_tokens for each in counted):,}"),
        ("tokens of prompts", f"{sum(each.prompt_tokens for each in counted):,}"),
        ("mean speed", f"{sum(speeds) / len(speeds):,.1f} tok/s" if speeds else "-"),
        ("mean TTFT", f"{sum(waits) / len(waits):.2f} s" if waits else "-"),
        ("open for", units.short_duration(time.monotonic() - chat.opened)),
    ]
    chat.screen.table(("", ""), rows)


def _help(chat: "Chat", argument: str) -> None:
    chat.screen.table(("", ""), [(f"/{each.name} {each.arguments}".strip(), each.help) for each in COMMANDS.values()])
    chat.screen.say("Alt-Enter or a backslash at the end: another line. Ctrl-C: stop the answer. Ctrl-D: leave.")


def _exit(chat: "Chat", argument: str) -> None:
    chat.leaving = True


def _questions(conversation: Conversation) -> str:
    return f"{conversation.questions} question{'' if conversation.questions == 1 else 's'}"


def _saved_names(chat: "Chat") -> dict[str, str]:
    """Titles, and the ids of those that have no title of their own."""
    saved, found = chat.store.saved(), {}
    titles = Counter(each.title for each in saved)
    for each in saved:
        about = f"{output.age(each.updated)} ago, {_questions(each)}"
        own = each.title and titles[each.title] == 1
        found |= {each.title: f"({about})"} if own else {each.id: f"{each.title or 'Untitled'}, {about}"}
    return found


def _setting_names(chat: "Chat") -> list[str]:
    return [*DEFAULTS]


def _models(chat: "Chat") -> list[str]:
    return chat.models


READERS = {".json": Conversation.from_json, ".md": Conversation.from_markdown}
WITH_COMMAND = {"reasoning_effort": _reasoning, "system": _system, "thinking": _thinking}
DEFAULTS = {name: field.default for name, field in Settings.model_fields.items()} | {
    "thinking": "show",
    "system": "off",
}
ALIASES = {"quit": "exit", "?": "help"}
COMMANDS = {
    command.name: command
    for command in (
        Command("help", "", "this list", _help),
        Command("model", "[NAME]", "the models, or answer with this one", _model, _models),
        Command("reasoning", "low|medium|high", "how long it thinks", _reasoning, lambda _: REASONING_EFFORTS),
        Command("settings", "[NAME [VALUE]]", "all settings, or show or change one", _settings, _setting_names),
        Command("system", "[TEXT|off]", "instructions for every answer", _system),
        Command("thinking", "[show|hide]", "show the model's thinking or not", _thinking, lambda _: ("show", "hide")),
        Command("retry", "", "another answer to the last question", _retry),
        Command("edit", "[TEXT]", "change the last question and ask again", _edit),
        Command("compare", "A B [QUESTION]", "two models' answers side by side", _compare, _models, each=True),
        Command("stats", "", "tokens and speed of this conversation", _stats),
        Command("clear", "", "begin a new conversation", _clear),
        Command("save", "[NAME]", "name this conversation; it is saved anyway", _save),
        Command("delete", "NAME", "delete a saved conversation, after asking", _delete, _saved_names),
        Command("load", "NAME|FILE", "go on with a saved or exported conversation", _load, _saved_names),
        Command("conversations", "", "list the saved ones", _conversations),
        Command("export", "FILE.md|FILE.json", "write this conversation to a file", _export),
        Command("exit", "", "leave", _exit),
    )
}
