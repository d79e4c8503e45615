"""A conversation in OpenAI's shape as the ids of a prompt, token by token what OpenAI's `openai-harmony` 0.0.8 makes.

Training and serving render here. `conversation` reads the messages, `declarations` writes the tools; knows nothing of
generated tokens. The format is in https://github.com/openai/harmony (docs/format.md).
"""

import json
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from models.harmony import template
from models.harmony.conversation import ASSISTANT, DEVELOPER, PromptMessage, read
from models.harmony.declarations import declare
from models.harmony.tokens import (
    ANALYSIS,
    CALL,
    CHANNEL,
    CONSTRAIN,
    END,
    FINAL,
    MESSAGE,
    RETURN,
    START,
    Piece,
    vocabulary_of,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REASONING_EFFORTS = ("low", "medium", "high")

NEEDED = frozenset({START, CHANNEL, CONSTRAIN, MESSAGE, END, CALL, RETURN})
"""What a tokenizer has that speaks harmony."""


def render(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    reasoning_effort: str = "medium",
    response_format: str | None = None,
    current_date: date | None = None,
    add_generation_prompt: bool = True,
    most_tokens: int | None = None,
    answered: bool = False,
) -> list[int]:
    """Token ids of an OpenAI-shaped conversation; a tokenizer without harmony's tokens uses its own chat template.

    `current_date` None states the `current_date` of the tokenizer's configuration, which the embedded model has, or
    else today's: pass one wherever the ids have to be the same tomorrow. `response_format`, from `describe_format`,
    goes to the end of the developer message. Text that spells a special token inside a message, a tool description or
    tool arguments is encoded as plain text and never becomes that token. With `add_generation_prompt` the ids end in
    `<|start|>assistant`, which is where StreamParser begins; without, an answer at the end has its `<|return|>`. With
    `answered` every call needs the tool message that has its result.

    Raises RequestError, with `param` "messages" or "tools", for a conversation that the format cannot express, or that
    surely has more than `most_tokens`; one that may have fewer is not counted.
    """
    vocabulary = vocabulary_of(tokenizer)
    if not vocabulary.specials.keys() >= NEEDED:
        options = {"reasoning_effort": reasoning_effort, "add_generation_prompt": add_generation_prompt}
        return template.apply(tokenizer, messages, tools, current_date=current_date, most_tokens=most_tokens, **options)
    said = read(messages, answered=answered)
    instructions = said.pop(0).text if said and said[0].author == DEVELOPER else ""
    stated = current_date.isoformat() if current_date else tokenizer.init_kwargs.get("current_date")
    pieces = _head(_system(reasoning_effort, stated or date.today().isoformat(), with_tools=bool(tools)), "system")
    sections = [_headed(instructions), declare(tools) if tools else "", response_format or ""]
    if developer := "\n\n".join(filter(None, sections)):
        pieces += _head(developer, DEVELOPER)
    kept = _without_old_reasoning(said, answer_follows=add_generation_prompt)
    pieces += [piece for each in kept for piece in _message(each)]
    if add_generation_prompt:
        pieces += [("", START), (ASSISTANT, "")]
    elif kept and kept[-1].channel == FINAL:
        pieces[-1] = (kept[-1].text, RETURN)
    return vocabulary.join(pieces, most_tokens)


def describe_format(name: str, description: str, schema: Mapping[str, Any]) -> str:
    """How harmony tells the model what its final message has to be: a JSON Schema under a name."""
    comment = f"// {description}\n" if description else ""
    return f"# Response Formats\n\n## {name}\n\n{comment}{json.dumps(schema, ensure_ascii=False)}"


def _system(reasoning_effort: str, current_date: str, *, with_tools: bool) -> str:
    calls = "\nCalls to these tools must go to the commentary channel: 'functions'." if with_tools else ""
    return (
        "You are ChatGPT, a large language model trained by OpenAI.\nKnowledge cutoff: 2024-06\n"
        f"Current date: {current_date}\n\nReasoning: {reasoning_effort}\n\n# Valid channels: analysis, commentary, "
        f"final. Channel must be included for every message.{calls}"
    )


def _headed(instructions: str) -> str:
    return f"# Instructions\n\n{instructions}" if instructions else ""


def _without_old_reasoning(said: list[PromptMessage], *, answer_follows: bool) -> list[PromptMessage]:
    """What is left of a conversation whose last word from the assistant is an answer: no reasoning before its first.

    A row that is learned keeps the reasoning of the turn that it ends with, where `openai-harmony` would drop it.
    """
    first = next((at for at, each in enumerate(said) if each.channel == FINAL), None)
    last = next((at for at in reversed(range(len(said))) if said[at].author == ASSISTANT), None)
    if first is None or said[last].channel != FINAL:
        return said
    if not answer_follows and all(each.author == ASSISTANT for each in said[first:last]):
        return said
    return [each for at, each in enumerate(said) if at > first or each.channel != ANALYSIS]


def _head(text: str, author: str) -> list[Piece]:
    return [("", START), (author, MESSAGE), (text, END)]


def _message(said: PromptMessage) -> list[Piece]:
    if said.author == DEVELOPER:
        return _head(_headed(said.text), DEVELOPER)
    if said.channel is None:
        return _head(said.text, said.author)
    author = f"{said.author} to={said.recipient}" if said.recipient else said.author
    if said.is_call:
        header = [(author, CHANNEL), (f"{said.channel} ", CONSTRAIN), ("json", MESSAGE)]
    else:
        header = [(author, CHANNEL), (said.channel, MESSAGE)]
    return [("", START), *header, (said.text, CALL if said.is_call else END)]
