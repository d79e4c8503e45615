"""The chat format of gpt-oss: `render` turns a conversation into prompt ids, `StreamParser` turns generated ids back.

Knows a tokenizer, neither engines nor HTTP. Serving renders and parses, training renders, the engines' adapter checks
render their probes. The format is OpenAI's: https://github.com/openai/harmony (docs/format.md). A generation starts
right after `<|start|>assistant`:

    <|channel|>analysis<|message|>TEXT<|end|>
    <|start|>assistant<|channel|>final<|message|>TEXT<|return|>
    <|start|>assistant to=functions.NAME<|channel|>commentary <|constrain|>json<|message|>ARGUMENTS<|call|>
    <|start|>assistant<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>ARGUMENTS<|call|>
"""

from models.harmony.parsing import Delta, Message, StreamParser, TextStream, parse
from models.harmony.rendering import REASONING_EFFORTS, describe_format, render
from models.harmony.tokens import (
    ANALYSIS,
    CALL,
    CHANNEL,
    COMMENTARY,
    CONSTRAIN,
    END,
    FINAL,
    MESSAGE,
    RETURN,
    START,
    STOP_TOKENS,
    Token,
    describe,
    stop_token_ids,
    token_bytes,
)

__all__ = [
    "ANALYSIS", "CALL", "CHANNEL", "COMMENTARY", "CONSTRAIN", "END", "FINAL", "MESSAGE", "REASONING_EFFORTS", "RETURN",
    "START", "STOP_TOKENS", "Delta", "Message", "StreamParser", "TextStream", "Token", "describe", "describe_format",
    "parse", "render", "stop_token_ids", "token_bytes",
]  # fmt: skip
