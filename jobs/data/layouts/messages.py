"""The entries of a conversation, as any trainer or server writes them, as messages in one shape.

OpenAI's shape: `role` (system, developer, user, assistant, tool), `content`, and of the assistant `thinking` (text),
`tool_calls` and `weight: 0` where it is context and not learned. Knows the table of keys, no files and no layouts.
Called by `jobs.data.layouts.dialogue`.
"""

from collections.abc import Mapping
from string import whitespace
from typing import Any

from configs.errors import DataError
from jobs.data.layouts import keys, markup, parts, tools, values
from jobs.data.layouts.keys import RowNotes

ASKS = tuple(name for name, key in keys.COLUMNS.items() if key.fate == "read" and key.about == "prompt")
ANSWERS = tuple(name for name, key in keys.COLUMNS.items() if key.fate == "read" and key.about == "completion")

NOTHING = ("nan", "none", "null", "n/a")
"""What programs write for no text; in a table it is not an answer, elsewhere it may be meant."""

Message = dict[str, Any]


def read(entries: list[Any], notes: RowNotes, *, keep_tokens: bool = False) -> list[Message]:
    """With `keep_tokens` tags in the assistant's text stay text. Raises DataError that names the message at fault."""
    if len(entries) > 1 and all(isinstance(entry, str) for entry in entries):
        notes.remarks.append("texts without a speaker were taken in turns, the first as the user's")
        entries = [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(entries)]
    reader = _Reader(notes, keep_tokens)
    for number, entry in enumerate(entries, 1):
        for each in _spread(entry):
            reader.add(each, f"message {number}")
    return reader.done()


def _spread(entry: Any) -> list[Any]:
    """An entry that holds a question and its answer, as two; any other as itself."""
    if isinstance(entry, list) and len(entry) == 2:
        return [{"role": role, "content": text} for role, text in zip(("user", "assistant"), entry, strict=True)]
    if not isinstance(entry, Mapping) or keys.speaker(entry):
        return [entry]
    asks, answers = (
        [name for name in (*some, *more) if name in entry] for some, more in ((ASKS, ("input",)), (ANSWERS, ()))
    )
    if len(asks) != 1 or len(answers) != 1:
        return [entry]
    rest = {key: value for key, value in entry.items() if key not in (asks[0], answers[0], "system")}
    system = [{"role": "system", "content": entry["system"]}] if not values.empty(entry.get("system")) else []
    question = [] if values.empty(entry[asks[0]]) else [{"role": "user", "content": entry[asks[0]]}]
    return [*system, *question, {"role": "assistant", "content": entry[answers[0]], **rest}]


class _Reader:
    """Messages so far, and what the assistant thought and said before the entry that comes next."""

    def __init__(self, notes: RowNotes, keep_tokens: bool) -> None:
        self.notes, self.keep_tokens = notes, keep_tokens
        self.messages: list[Message] = []
        self.thoughts: list[str] = []
        self.words = ""

    def add(self, entry: Any, where: str) -> None:
        role = keys.role_of(speaker := keys.speaker(entry) if isinstance(entry, Mapping) else entry)
        if role is None:
            known = "system, developer, user, assistant, tool, or what other trainers call them"
            raise DataError(f"{where}: role {values.short(speaker)} is none of {known}")
        given, taught = _given(entry, where, self.notes)
        rest, calls, results = tools.blocks(given.get("content"))
        if calls or results:
            given |= {"content": rest} | ({"tool_calls": calls} if calls else {})
        for result in results:
            self._other("tool", {key: value for key, value in result.items() if value is not None}, None, where)
        if role in ("assistant", "call", "thought"):
            self._assistant(role, given, taught, where)
        elif rest or not results:
            self._other(role, given, taught, where)

    def _other(self, role: str, given: dict[str, Any], taught: bool | None, where: str) -> None:
        """A message that is not the assistant's."""
        if self.thoughts or self.words:
            raise DataError(f"{where}: the assistant's reasoning stands before words of the {role}")
        if taught:
            self.notes.remarks.append("words that are not the assistant's are marked as learned, and are not")
        if given.get("tool_calls"):
            raise DataError(f"{where}: only the assistant calls tools")
        if "content" not in given:
            raise DataError(f"{where}: no `content`")
        text = parts.read(given["content"], f"{where}: `content`", self.notes, of_tool=role == "tool").text
        if role == "tool":
            about = {key: given[key] for key in ("tool_call_id", "name") if key in given}
            texts = [text] if self.keep_tokens else markup.results(text, self.notes)
            self.messages += ({"role": role, "content": each, **about} for each in texts)
            return
        unused = [key for key in ("thinking", "channel", "recipient", "name", "tool_call_id") if key in given]
        self.notes.unused += (f"key `{key}`" for key in unused)
        if role == "user" or text.strip():  # an instruction without words is none
            self.messages.append({"role": role, "content": text})

    def done(self) -> list[Message]:
        if self.thoughts or self.words:
            raise DataError("the last reasoning has no answer behind it")
        return tools.with_results(self.messages)

    def _assistant(self, role: str, given: dict[str, Any], taught: bool | None, where: str) -> None:
        content = parts.read(given.get("content", ""), f"{where}: `content`", self.notes)
        if "thinking" in given:
            thought = parts.read(given["thinking"], f"{where}: `thinking`", self.notes)
            self._think(thought.text or thought.thinking, where)
        self._think(content.thinking, where)
        channel, recipient = given.get("channel"), str(given.get("recipient") or "")
        calls = [*given.get("tool_calls", ())]
        if "name" in given:
            self.notes.unused.append("key `name`")
        if role == "thought" or (channel == "analysis" and not recipient):
            self._think(content.text, where)
        elif role == "call":
            found = values.unpacked(content.text, f"{where}: a call") if content.text.strip() else []
            self._call([*calls, *(found if isinstance(found, list) else [found])], taught, where)
        elif recipient.startswith("functions."):
            self._call([{"name": recipient.removeprefix("functions."), "arguments": content.text}], taught, where)
        elif channel == "commentary" and not calls:
            self.words += content.text
        else:
            self._say(content.text, calls, taught, where, spoken="content" in given)

    def _think(self, text: str, where: str) -> None:
        if not text.strip():
            return
        text = markup.thought(text, f"{where}: `thinking`") if not self.keep_tokens else text
        if text.strip() not in [each.strip() for each in self.thoughts]:
            self.thoughts.append(text)

    def _call(self, calls: list[Any], taught: bool | None, where: str) -> None:
        """Calls that follow each other are parallel, so that the results after them find theirs by order."""
        made = tools.calls(calls, where)
        if not made:
            raise DataError(f"{where}: no call")
        last = self.messages[-1] if self.messages else {}
        if last.get("tool_calls") and not self.thoughts and not self.words and ("weight" in last) == (taught is False):
            last["tool_calls"] += made
        else:
            self._append({"content": self.words} if self.words.strip() else {}, taught, where, tool_calls=made)

    def _say(self, text: str, given: list[Any], taught: bool | None, where: str, *, spoken: bool) -> None:
        said = markup.AssistantText(text)
        if not self.keep_tokens:
            said = markup.said(text, f"{where}: `content`", self.notes)
            self._think(said.thinking, where)
        if given and said.calls:
            raise DataError(f"{where}: calls in `content` and in `tool_calls`")
        made = tools.calls(given or said.calls, where)
        words = "\n\n".join(filter(str.strip, (self.words, said.content)))
        if not made and not spoken and not words:
            raise DataError(f"{where}: neither `content` nor `tool_calls`")
        if not made and _silent(words) and taught is not False:
            reasoning = "; there is reasoning, but nothing is said" if self.thoughts else ""
            raise DataError(f"{where}: an empty answer, `content` is {values.short(text)}{reasoning}")
        if words.strip().lower() in NOTHING:
            self.notes.remarks.append(f"an answer says only `{words.strip()}`")
        if said.content[:1].isspace() and not made:
            self.notes.remarks.append("an answer begins with white space, which is learned")
        content = {"content": words if self.words else said.content} if words or not made else {}
        self._append(content, taught, where, **({"tool_calls": made} if made else {}))

    def _append(self, content: dict[str, str], taught: bool | None, where: str, **calls: list[Any]) -> None:
        if len(self.thoughts) > 1:
            raise DataError(f"{where}: two different thoughts before one message; put them into one `thinking`")
        thinking = {"thinking": self.thoughts[0]} if self.thoughts else {}
        weight = {"weight": 0} if taught is False else {}
        self.messages.append({"role": "assistant", **content, **thinking, **calls, **weight})
        self.thoughts, self.words = [], ""


def _silent(text: str) -> bool:
    """Whether a reader would see nothing."""
    return not text.strip(f"{whitespace}\u00a0\u200b\u200c\u200d\u2060\ufeff")


def _given(entry: Mapping[str, Any], where: str, notes: RowNotes) -> tuple[dict[str, Any], bool | None]:
    """What the entry says under our names, and whether it is to be learned; None where it does not say."""
    given: dict[str, Any] = {}
    taught: bool | None = None
    for name, value in entry.items():
        key = keys.MESSAGE.get(name)
        if values.nothing(value) or (key and key.about == "role" and value == keys.speaker(entry)):
            continue
        if why := keys.refusal(keys.MESSAGE, name, value):
            raise DataError(f"{where}: {why}")
        if key is None or key.fate == "ignore" or key.about == "role":
            notes.unused.append(f"key `{values.one_line(str(name), values.MAX_NAME)}`")
        elif key.fate == "read":
            _take(given, key.about, [value] if name == "function_call" else value, name, where)
        elif key.fate in ("learn", "unlearn"):
            flag = _flag(name, value, where) is (key.fate == "learn")
            if taught not in (None, flag):
                raise DataError(f"{where}: `{name}` contradicts another key that says what is learned")
            taught = flag
    if taught is False:
        notes.remarks.append("a message is marked as context and is not learned")
    return given, taught


def _take(given: dict[str, Any], ours: str, value: Any, name: str, where: str) -> None:
    """Two keys of one meaning may agree, as `reasoning` and `reasoning_content` of a server do."""
    if ours == "tool_calls" and isinstance(value, str):
        value = values.unpacked(value, f"{where}: `{name}`") if value.strip() else []
    if ours == "tool_calls" and not isinstance(value, list):
        raise DataError(f"{where}: `{name}` is not a list")
    known = given.get(ours)
    if values.empty(known):
        given[ours] = value
    elif not values.empty(value) and _bare(known) != _bare(value):
        raise DataError(f"{where}: `{name}` and another key both hold its {ours}, and differ")


def _bare(value: Any) -> Any:
    """Text to compare; a list of parts as the text that it holds."""
    if isinstance(value, list) and all(isinstance(each, Mapping) for each in value):
        return "".join(str(each.get("text") or each.get("thinking") or "") for each in value).strip()
    return value.strip() if isinstance(value, str) else value


def _flag(name: str, value: Any, where: str) -> bool:
    told = value.strip().lower() if isinstance(value, str) else value
    if told in (True, "true", "1", "1.0", "yes"):
        return True
    if told in (False, "false", "0", "0.0", "no"):
        return False
    raise DataError(f"{where}: `{name}` is {values.short(value)}: a message is learned (1, true) or not (0, false)")
