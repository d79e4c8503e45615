"""The chat format of gpt-oss: `render` turns a conversation into prompt ids, `StreamParser` turns generated ids back.

Knows a tokenizer and its chat template, neither engines nor HTTP. Serving renders and parses, training renders, the
engines' adapter checks render their probes. The format is OpenAI's: https://github.com/openai/harmony
(docs/format.md). A generation starts right after `<|start|>assistant`:

    <|channel|>analysis<|message|>TEXT<|end|>
    <|start|>assistant<|channel|>final<|message|>TEXT<|return|>
    <|start|>assistant to=functions.NAME<|channel|>commentary json<|message|>ARGUMENTS<|call|>
    <|start|>assistant<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>ARGUMENTS<|call|>
"""

import codecs
import json
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from configs.errors import CheckpointError, RequestError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

START, END, MESSAGE, CHANNEL, CONSTRAIN = "<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>"
RETURN, CALL = "<|return|>", "<|call|>"

STOP_TOKENS = (RETURN, CALL)
"""What ends a generation. `<|end|>` only ends a message: stopping there cuts the answer off after its reasoning."""

ANALYSIS, COMMENTARY, FINAL = "analysis", "commentary", "final"
REASONING_EFFORTS = ("low", "medium", "high")


def stop_token_ids(tokenizer: "PreTrainedTokenizerBase") -> tuple[int, ...]:
    """Ids of STOP_TOKENS, in that order.

    Raises CheckpointError if the tokenizer lacks one, because then nothing would end a generation.
    """
    specials = _vocabulary(tokenizer).specials
    missing = [token for token in STOP_TOKENS if token not in specials]
    if missing:
        raise CheckpointError(
            f"the tokenizer has no {' and no '.join(missing)}; it does not speak harmony",
            hint="serve a gpt-oss checkpoint with its own tokenizer",
        )
    return tuple(specials[token] for token in STOP_TOKENS)


def render(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    reasoning_effort: str = "medium",
    response_format: str | None = None,
    current_date: date | None = None,
    add_generation_prompt: bool = True,
) -> list[int]:
    """Token ids of an OpenAI-shaped conversation, by the tokenizer's own chat template.

    `current_date` reaches templates that read a `current_date` variable and those that call `strftime_now`; None
    leaves the date to the template, and OpenAI's own then states today's: pass one wherever the ids have to be the
    same tomorrow. `response_format`, from `describe_format`, goes to the end of the developer message. Text that
    spells a special token inside a message, a tool description or tool arguments is encoded as plain text and never
    becomes that token. With `add_generation_prompt` the ids end in `<|start|>assistant`, which is where StreamParser
    begins.

    Raises RequestError, with `param` "messages" or "tools", for a conversation that the template cannot express.
    """
    pinned = {"current_date": current_date.isoformat(), "strftime_now": current_date.strftime} if current_date else {}
    vocabulary = _vocabulary(tokenizer)
    shield = secrets.token_hex(8)
    conversation = _template_messages(messages)
    declared = [_template_tool(index, tool) for index, tool in enumerate(tools or ())]
    try:
        text = tokenizer.apply_chat_template(
            vocabulary.shielded(conversation, shield),
            tools=vocabulary.shielded(declared, shield) or None,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            reasoning_effort=reasoning_effort,
            **pinned,
        )
    except Exception as error:
        raise RequestError(f"the chat template refused the conversation: {error}", param="messages") from error
    if response_format:
        text = _with_format(text, vocabulary.shielded(response_format, shield))
    return vocabulary.encode(text, shield)


def describe_format(name: str, description: str, schema: Mapping[str, Any]) -> str:
    """How harmony tells the model what its final message has to be: a JSON Schema under a name."""
    comment = f"// {description}\n" if description else ""
    return f"# Response Formats\n\n## {name}\n\n{comment}{json.dumps(schema, ensure_ascii=False)}"


def token_bytes(tokenizer: "PreTrainedTokenizerBase", token_id: int) -> bytes:
    """What one token adds to a text; a special token its name."""
    return _vocabulary(tokenizer).piece(token_id)


def _with_format(text: str, response_format: str) -> str:
    """A rendered conversation with one more section in the developer message; the template knows no such section."""
    before, developer, after = text.partition(f"{START}developer{MESSAGE}")
    if not developer:
        system, end, after = text.partition(END)
        return f"{system}{end}{START}developer{MESSAGE}{response_format}{END}{after}"
    body, end, after = after.partition(END)
    return f"{before}{developer}{body.rstrip()}\n\n{response_format}{end}{after}"


@dataclass(frozen=True)
class Token:
    """One token as people read it."""

    id: int
    text: str
    """Bytes that are no UTF-8 by themselves appear as `\\xNN`."""
    special: bool


def describe(tokenizer: "PreTrainedTokenizerBase", token_id: int) -> Token:
    """What `token_id` stands for; U+FFFD for an id that the tokenizer does not know."""
    text = token_bytes(tokenizer, token_id).decode("utf-8", "backslashreplace")
    return Token(token_id, text, token_id in _vocabulary(tokenizer).special_names)


class _Vocabulary:
    """One tokenizer seen from both sides: text with special tokens to ids, and an id to the bytes it stands for."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        from tokenizers import Tokenizer
        from transformers.convert_slow_tokenizer import bytes_to_unicode

        self._tokenizer = tokenizer
        # A copy of its own: the flag is state of the tokenizer, which other threads use with its default.
        self._plain = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._plain.encode_special_tokens = True
        self._byte_of = {character: value for value, character in bytes_to_unicode().items()}
        added = tokenizer.added_tokens_decoder
        self._added = {index: token.content for index, token in added.items() if not token.special}
        self.special_names = {index: token.content for index, token in added.items() if token.special}
        self.specials = {name: index for index, name in self.special_names.items()}
        longest_first = sorted(map(re.escape, self.specials), key=len, reverse=True)
        self._special = re.compile(f"({'|'.join(longest_first)})" if longest_first else r"(?!)()")

    def shielded(self, value: Any, shield: str) -> Any:
        """A copy of nested lists, dicts and strings in which no string contains a special token's text.

        `shield` goes in after the first character of each occurrence; `encode` takes it out again.
        """
        if isinstance(value, str):
            return self._special.sub(lambda found: found[0][0] + shield + found[0][1:], value)
        if isinstance(value, Mapping):
            return {self.shielded(key, shield): self.shielded(item, shield) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.shielded(item, shield) for item in value]
        return value

    def encode(self, text: str, shield: str) -> list[int]:
        """Ids of a rendered template: special tokens outside a shield by id, all else as ordinary text.

        Half a surrogate pair, which JSON can spell and UTF-8 cannot, becomes U+FFFD.
        """
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        ids: list[int] = []
        for index, part in enumerate(self._special.split(text)):
            if index % 2:
                ids.append(self.specials[part])
            elif part:
                ids.extend(self._plain.encode(part.replace(shield, ""), add_special_tokens=False).ids)
        return ids

    def piece(self, token_id: int) -> bytes:
        """Bytes of an ordinary token; U+FFFD in UTF-8 for an id that the tokenizer does not know."""
        if token_id in self._added:
            return self._added[token_id].encode()
        token = self._tokenizer.convert_ids_to_tokens(token_id) if 0 <= token_id < 2**31 else None
        if token is None:
            return "\ufffd".encode()
        try:
            return bytes(self._byte_of[character] for character in token)
        except KeyError:
            return token.encode()


@lru_cache(maxsize=8)
def _vocabulary(tokenizer: "PreTrainedTokenizerBase") -> _Vocabulary:
    return _Vocabulary(tokenizer)


def _template_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The conversation as the template wants it: one instruction message, one call per message, text as strings."""
    if not messages:
        raise RequestError("messages is empty", param="messages")
    instructions, rest = _leading_instructions(messages)
    out = [{"role": "developer", "content": "\n\n".join(instructions)}] if instructions else []
    index = rest
    while index < len(messages):
        message = messages[index]
        match message.get("role"):
            case "user":
                out.append({"role": "user", "content": _text(message.get("content"), f"messages[{index}]")})
            case "assistant" if message.get("tool_calls"):
                answers = _answers(messages, index)
                out.extend(_calls(message, index, answers))
                index += len(answers)
            case "assistant":
                out.append(_assistant(message, index))
            case "tool":
                raise _refused(index, "a tool message without a preceding assistant message with tool_calls")
            case "system" | "developer":
                raise _refused(index, "system and developer messages have to come first")
            case role:
                raise _refused(index, f"role {role!r} is not one of system, developer, user, assistant, tool")
        index += 1
    return out


def _leading_instructions(messages: Sequence[Mapping[str, Any]]) -> tuple[list[str], int]:
    """Texts of the system and developer messages that open the conversation, and the index of the first other one."""
    texts: list[str] = []
    for index, message in enumerate(messages):
        if message.get("role") not in ("system", "developer"):
            return [text for text in texts if text], index
        texts.append(_text(message.get("content"), f"messages[{index}]"))
    return [text for text in texts if text], len(messages)


def _assistant(message: Mapping[str, Any], index: int) -> dict[str, Any]:
    plain = {"role": "assistant", "content": _text(message.get("content"), f"messages[{index}]")}
    thinking = _thinking(message, index)
    return {**plain, "thinking": thinking} if thinking else plain


def _thinking(message: Mapping[str, Any], index: int) -> str:
    return _text(message.get("thinking") or message.get("reasoning_content"), f"messages[{index}]")


def _answers(messages: Sequence[Mapping[str, Any]], index: int) -> list[tuple[int, Mapping[str, Any]]]:
    """The tool messages that directly follow message `index`, each with its own index."""
    found = []
    for later in range(index + 1, len(messages)):
        if messages[later].get("role") != "tool":
            break
        found.append((later, messages[later]))
    return found


def _calls(
    message: Mapping[str, Any], index: int, answers: list[tuple[int, Mapping[str, Any]]]
) -> list[dict[str, Any]]:
    """One assistant message per call, each followed by its answer; the template renders a message's first call only.

    Answers are matched by `tool_call_id`, those without one by order. Text beside the calls joins the reasoning:
    that is how the template itself renders the content of a message with calls.
    """
    left = list(answers)
    thinking = "\n\n".join(
        part for part in (_thinking(message, index), _text(message.get("content"), f"messages[{index}]")) if part
    )
    out: list[dict[str, Any]] = []
    calls = message["tool_calls"]
    if not isinstance(calls, list | tuple) or not all(isinstance(call, Mapping) for call in calls):
        raise _refused(index, "tool_calls is not a list of calls")
    for position, call in enumerate(calls):
        function = _template_call(call, f"messages[{index}].tool_calls[{position}]")
        out.append({"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]})
        if thinking and position == 0:
            out[0]["thinking"] = thinking
        answer = next((item for item in left if item[1].get("tool_call_id") in (None, call.get("id"))), None)
        if answer:
            left.remove(answer)
            out.append({"role": "tool", "content": _text(answer[1].get("content"), f"messages[{answer[0]}]")})
    if left:
        wrong, answer = left[0]
        raise _refused(wrong, f"tool_call_id {answer.get('tool_call_id')!r} matches no call of messages[{index}]")
    return out


def _template_call(call: Mapping[str, Any], where: str) -> dict[str, Any]:
    function = call.get("function")
    if call.get("type", "function") != "function" or not isinstance(function, Mapping):
        raise RequestError(f"{where}: only calls of type 'function' are supported", param="messages")
    arguments = function.get("arguments") or "{}"
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError as error:
            raise RequestError(f"{where}.function.arguments is not JSON: {error}", param="messages") from error
    return {"name": _name(function.get("name"), f"{where}.function", "messages"), "arguments": arguments}


def _template_tool(index: int, tool: Mapping[str, Any]) -> dict[str, Any]:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping) or tool.get("type") != "function":
        raise RequestError(f"tools[{index}]: only tools of type 'function' are supported", param="tools")
    name = _name(function.get("name"), f"tools[{index}].function", "tools")
    return {
        "type": "function",
        "function": {**function, "name": name, "description": function.get("description") or ""},
    }


def _name(name: Any, where: str, param: str) -> str:
    """A function name that survives as a recipient in a message header."""
    if not isinstance(name, str) or not re.fullmatch(r"[\w.\-]{1,64}", name, re.ASCII):
        raise RequestError(f"{where}.name {name!r} is not 1 to 64 letters, digits, '_', '-' or '.'", param=param)
    return name


def _text(content: Any, where: str) -> str:
    """Message content as one string: text parts are joined, None is empty."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list | tuple):
        raise RequestError(f"{where}.content is neither text nor a list of parts", param="messages")
    for index, part in enumerate(content):
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise RequestError(
                f"{where}.content[{index}]: {kind!r} parts are not supported, only text", param="messages"
            )
    return "".join(part["text"] for part in content)


def _refused(index: int, reason: str) -> RequestError:
    return RequestError(f"messages[{index}]: {reason}", param="messages")


@dataclass(frozen=True)
class Delta:
    """Text that one message of a generation gained."""

    message: int
    """Index of the message within this generation, from 0."""
    channel: str
    """`analysis`, `commentary`, `final`, or whatever else the model wrote."""
    recipient: str | None
    """Whom the message is for, such as `functions.get_weather`; None is the user."""
    text: str
    ended: bool = False
    """The message is complete; absent on a message that the generation's end cut off."""


@dataclass(frozen=True)
class Message:
    """One whole message of a generation; the fields are Delta's."""

    channel: str
    recipient: str | None
    text: str
    ended: bool


_IMPLIED_ROLE = re.compile(r"\s*(?:assistant)?\s*(?:to=(?P<recipient>[\w.\-]*))?\s*")
_ROLE = re.compile(r"\s*(?P<role>[\w.\-]*)(?:\s+to=(?P<recipient>[\w.\-]*))?\s*")
_CHANNEL = re.compile(r"\s*(?P<channel>[\w\-]*)(?:\s+to=(?P<recipient>[\w.\-]*))?(?:\s+(?P<type>[\w/+\-]+))?\s*")
_CONTENT_TYPE = re.compile(r"\s*[\w/+\-]*\s*")


class StreamParser:
    """Incremental parser over generated token ids, starting right after the prompt's `<|start|>assistant`.

    Works on ids, so a `<|end|>` spelled in ordinary tokens is text. Malformed output neither raises nor loses text:
    text where a header should be, or a header without `<|message|>`, becomes the message's text, of channel `final`
    unless the header named another; special tokens out of place are dropped; whatever follows a stop token is
    ignored. The result does not depend on how the ids are cut into `feed` calls. UTF-8 sequences that span tokens
    are held until complete; broken ones come out as U+FFFD.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._vocabulary = _vocabulary(tokenizer)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._message = -1
        self._stopped = False
        self.message: tuple[str, str | None] | None = None
        """Channel and recipient of the message whose text the last token belongs to; None if it was no text."""
        self.reasoning_tokens = 0
        """Tokens of the text of analysis messages so far."""
        self._out: list[Delta] = []
        self._begin_header(explicit=False)

    @property
    def stopped(self) -> bool:
        """A stop token has been seen."""
        return self._stopped

    def feed(self, ids: Iterable[int]) -> list[Delta]:
        """What these ids add, in order; neighbouring gains of one message come as one Delta."""
        for token_id in ids:
            if self._stopped:
                break
            special = self._vocabulary.special_names.get(token_id)
            if special is None:
                self._take_text(self._decoder.decode(self._vocabulary.piece(token_id)))
                self.message = self._fields if self._section == "body" else None
                self.reasoning_tokens += self.message is not None and self.message[0] == ANALYSIS
            else:
                self._take_text(self._decoder.decode(b"", final=True))
                self._take_special(special)
                self.message = None
        return self._taken()

    def close(self) -> list[Delta]:
        """What was held back when the generation ended without a stop token."""
        if not self._stopped:
            self._take_text(self._decoder.decode(b"", final=True))
            self._give_up_header()
            self._stopped = True
        return self._taken()

    def _taken(self) -> list[Delta]:
        out, self._out = self._out, []
        return out

    def _take_text(self, text: str) -> None:
        if self._section == "body":
            self._emit(text)
        elif text:
            self._header[self._section] += text
            self._end_header_at_text()

    def _take_special(self, special: str) -> None:
        if special in STOP_TOKENS or special == END:
            self._end_message()
            self._stopped = special in STOP_TOKENS
        elif special == START:
            self._end_message()
            self._begin_header(explicit=True)
        elif special == CHANNEL:
            if self._section != "role":
                self._end_message()
            self._section = "channel"
        elif special == CONSTRAIN and self._section != "body":
            self._section = "type"
        elif special == MESSAGE and self._section != "body":
            self._open(self._channel_fields())

    def _begin_header(self, *, explicit: bool) -> None:
        self._section = "role"
        self._explicit = explicit
        self._header = {"role": "", "channel": "", "type": ""}

    def _channel_fields(self) -> tuple[str, str | None]:
        """Channel and recipient that the header so far stands for."""
        role = (_ROLE if self._explicit else _IMPLIED_ROLE).match(self._header["role"])
        channel = _CHANNEL.match(self._header["channel"])
        recipient = channel["recipient"] or role["recipient"] or None
        if channel["channel"]:
            return channel["channel"], recipient
        author = role["role"] if self._explicit else "assistant"
        if author not in ("", "assistant"):
            return author, recipient
        return (COMMENTARY if recipient else FINAL), recipient

    def _end_header_at_text(self) -> None:
        """If what stands in the header's place cannot be a header, open a message with it as text."""
        text = self._header[self._section]
        if self._section == "role":
            found = (_ROLE if self._explicit else _IMPLIED_ROLE).match(text)
            rest = text[found.end() :]
            if "to".startswith(rest) or (not self._explicit and "assistant".startswith(text.strip())):
                return
            if found["recipient"] or (self._explicit and found["role"] == "assistant"):
                self._header["role"] = text[: found.end()]
            else:
                self._header["role"], rest = "", text
        elif self._section == "channel":
            found = _CHANNEL.match(text)
            if found.end() == len(text):
                return
            start = found.start("type") if found["type"] not in (None, "json") else found.end()
            rest = text[start:]
            self._header["channel"] = text[:start]
        else:
            rest = text[_CONTENT_TYPE.match(text).end() :]
            if not rest:
                return
        self._open(self._channel_fields())
        self._emit(rest)

    def _give_up_header(self, *, complete: bool = False) -> None:
        """The header ends without `<|message|>`: keep what may have been meant as text.

        `complete` says that a token ended the message, so that a bare recipient is a call without arguments.
        """
        if self._section == "body":
            return
        text = ""
        channel, recipient = self._channel_fields()
        if self._section == "role" and not self._explicit and recipient is None:
            text = self._header["role"] if self._header["role"].strip() else ""
        elif self._section == "channel":
            word = _CHANNEL.match(self._header["channel"])["type"] or ""
            text = "" if "json".startswith(word) or "to".startswith(word) else word
        if text or (complete and recipient):
            self._open((channel, recipient))
            self._emit(text)

    def _open(self, fields: tuple[str, str | None]) -> None:
        self._message += 1
        self._fields = fields
        self._section = "body"

    def _end_message(self) -> None:
        self._give_up_header(complete=True)
        if self._section == "body":
            self._emit("", ended=True)
        self._begin_header(explicit=False)

    def _emit(self, text: str, *, ended: bool = False) -> None:
        if not text and not ended:
            return
        last = self._out[-1] if self._out else None
        if last and last.message == self._message:
            self._out[-1] = replace(last, text=last.text + text, ended=ended)
        else:
            self._out.append(Delta(self._message, *self._fields, text, ended))


class TextStream:
    """The text of token ids as they come, without looking for messages; the same as decoding all of them at once.

    Special tokens are left out or written by name. UTF-8 sequences that span tokens are held until complete.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", *, skip_special_tokens: bool = True) -> None:
        self._vocabulary = _vocabulary(tokenizer)
        self._skip = skip_special_tokens
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, ids: Iterable[int]) -> str:
        return "".join(map(self._one, ids))

    def close(self) -> str:
        """What was held when the tokens ended."""
        return self._decoder.decode(b"", final=True)

    def _one(self, token_id: int) -> str:
        special = self._vocabulary.special_names.get(token_id)
        if special is None:
            return self._decoder.decode(self._vocabulary.piece(token_id))
        return "" if self._skip else self.close() + special


def parse(tokenizer: "PreTrainedTokenizerBase", ids: Iterable[int]) -> list[Message]:
    """The messages of a whole generation, in order; see StreamParser for what `ids` start at."""
    parser = StreamParser(tokenizer)
    messages: dict[int, Message] = {}
    for delta in [*parser.feed(ids), *parser.close()]:
        so_far = messages.get(delta.message)
        text = (so_far.text if so_far else "") + delta.text
        messages[delta.message] = Message(delta.channel, delta.recipient, text, delta.ended)
    return list(messages.values())
