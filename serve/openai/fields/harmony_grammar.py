"""What a whole harmony generation may be, as a grammar: the model thinks freely, then answers or calls as it was asked.

Special tokens are tokens of the grammar, so neither a channel nor a stop token can be wrong, and text cannot hold one.
The syntax is llguidance's Lark: https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md.
`serve.openai.chat.request` says what is asked for, an engine compiles it.
"""

import json
from collections.abc import Mapping
from typing import Any

from configs.errors import RequestError
from serve.openai.fields.answer_format import Held

NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}

WHITESPACE = r" |\n[ \t]{0,32}"
"""Between JSON's tokens, at most once: compact or indented. Without a bound some models never stop making space."""

RULES = """\
start: (thought <|start|> "assistant")* ending
thought: <|channel|> "analysis" <|message|> TEXT <|end|>
preamble: <|channel|> "commentary" <|message|> TEXT <|end|>
kind: (" json" | " "? <|constrain|> "json")?
final: <|channel|> "final" kind <|message|> answer <|return|>
TEXT: /(.|\\n)*/
"""


def harmony_grammar(
    *,
    answer: Held,
    calls: Mapping[str, Mapping[str, Any] | None],
    must_call: bool,
    param: str = "response_format",
    begun: bool = True,
) -> str:
    """A grammar for a generation that starts right after `<|start|>assistant`, or if not `begun` before that.

    `answer` is what the final message is held to, None leaves its text free; errors name `param` for it. `calls` are
    the functions that may be called, each with the schema of its arguments, None leaving them free. `must_call` allows
    no final message. A free answer may follow notes to the user; one that is held is the only content. Raises
    RequestError for a schema that is not JSON.
    """
    rules, endings = RULES, [] if must_call else ["final"]
    if not begun:
        rules = rules.replace("start: ", 'start: <|start|> "assistant" ')
    if isinstance(answer, str):
        rules = rules.replace('"final" kind', '"final"')
    if answer is None and not must_call:
        rules = rules.replace("(thought ", "((thought | preamble) ")
    rule_of: dict[str, str] = {}
    for index, (name, schema) in enumerate(calls.items()):
        recipient = json.dumps(f" to=functions.{name}")
        arguments = rule_of.setdefault(_text(schema, "tools"), f"arguments_{index}")
        endings.append(f"call_{index}")
        rules += f'call_{index}: {recipient} <|channel|> "commentary" kind <|message|> {arguments} <|call|>\n'
        rules += f'    | <|channel|> "commentary" {recipient} kind <|message|> {arguments} <|call|>\n'
    rules += "".join(f"{rule}: {text}\n" for text, rule in rule_of.items())
    rules += f"answer: {_text(None if must_call else answer, param)}\n"
    return rules + f"ending: {' | '.join(endings)}\n"


def text_grammar(answer: Held, param: str) -> str:
    """A grammar for a text that knows no messages, and ends as one does."""
    return f"start: answer <|return|>\nanswer: {_text(answer, param)}\n"


def _text(schema: Held, param: str) -> str:
    if schema is None:
        return "TEXT"
    if isinstance(schema, str):
        return schema
    try:
        return "%json " + json.dumps({**schema, "x-guidance": {"whitespace_pattern": WHITESPACE}}, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{param}: a schema is not JSON: {error}", param=param) from error
