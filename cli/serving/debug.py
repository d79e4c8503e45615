"""`tandem debug`: what the model really reads and writes, for when a template goes wrong."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from cli import output
from cli.chat import options
from cli.printable import printable
from configs.errors import ConfigError
from models import harmony
from models.base import checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from serve.client.endpoint import Endpoint, Generation, Settings

MOST_TOKENS = 512


@click.group()
def debug() -> None:
    """Look at what the model really reads and writes.

    \b
    Examples:
      tandem debug channels "What is Tandem?"
    """


@debug.command()
@click.argument("question")
@options.asking_at_most(f"{MOST_TOKENS}")
@click.option("--base", metavar="B", help="Base model whose tokenizer it is. [default: what the cluster serves]")
@output.json_option
def channels(
    question: str,
    model: str | None,
    effort: str | None,
    temperature: float | None,
    max_tokens: int | None,
    system: str | None,
    url: str | None,
    base: str | None,
    as_json: bool,
) -> None:
    """Every token of a prompt and of its answer, with its id, and where messages and channels begin and end.

    The ids are the server's: the prompt as it rendered it, and what the model generated, stop token
    included. They are read here, with the base's own tokenizer.

    \b
    Examples:
      tandem debug channels "What is Tandem?"
      tandem debug channels "What is Tandem?" --model base --low --json
    """
    if not question.strip():
        raise ConfigError("the question is empty", hint='`tandem debug channels "What is Tandem?"`')
    endpoint = options.endpoint(url)
    if url and not base:
        raise ConfigError("--url needs --base: whose tokens does it speak?", hint="--base unsloth/gpt-oss-20b")
    from cli.api import Api
    from serve.client.endpoint import Settings

    tokenizer = checkpoint.tokenizer_of(base or Api().get("/readyz")["base"])
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": question})
    settings = Settings(
        **options.chosen(model, effort, temperature=temperature or 0, max_tokens=max_tokens or MOST_TOKENS)
    )
    choose = url is not None and model is None
    generation = asyncio.run(_generate(endpoint, messages, settings, choose=choose))
    found = {
        "model": settings.model,
        "version": generation.version,
        "finish_reason": generation.finish_reason,
        "prompt": prompt_tokens(tokenizer, generation.prompt_ids),
        "generated": generated_tokens(tokenizer, generation.ids),
        "messages": [vars(message) for message in harmony.parse(tokenizer, generation.ids)],
    }
    output.print_json(found) if as_json else _show(found)


async def _generate(
    endpoint: "Endpoint", messages: list[dict[str, Any]], settings: "Settings", *, choose: bool
) -> "Generation":
    async with endpoint:
        if choose:
            settings.model = options.default_model(await endpoint.models())
        return await endpoint.generate(messages, settings)


def prompt_tokens(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> list[dict[str, Any]]:
    """Each token of a rendered prompt, with the number of its message and that message's header, such as `user`."""
    found: list[dict[str, Any]] = []
    headers: list[str] = []
    in_header = False
    for token in map(partial(harmony.describe, tokenizer), ids):
        if token.special and token.text == harmony.START:
            headers.append("")
        elif in_header and not (token.special and token.text == harmony.MESSAGE):
            headers[-1] += token.text
        in_header = bool(headers) and token.text != harmony.MESSAGE if token.special else in_header
        found.append(vars(token) | {"message": len(headers) - 1})
    return [token | {"header": headers[token["message"]] if headers else ""} for token in found]


def generated_tokens(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> list[dict[str, Any]]:
    """Each generated token, with what the parser makes of it: the number, channel and recipient of the message that it
    adds text to, or None for all three in a header; `ends` says that it ends that message."""
    parser = harmony.StreamParser(tokenizer)
    found = []
    for index in ids:
        gained = parser.feed([index])
        last = gained[-1] if gained else None
        found.append(
            vars(harmony.describe(tokenizer, index))
            | {
                "message": last and last.message,
                "channel": last and last.channel,
                "recipient": last and last.recipient,
                "ends": bool(last and last.ended),
            }
        )
    return found


def _show(found: dict[str, Any]) -> None:
    """Tables of the prompt, of what was generated, and of the messages that the parser found in it."""
    output.print_table(
        ("AT", "ID", "PROMPT", "MESSAGE"),
        [
            (str(at), str(token["id"]), _text(token), f"{token['message']} {token['header']}")
            for at, token in enumerate(found["prompt"])
        ],
        empty="the prompt is empty",
    )
    click.echo("")
    output.print_table(
        ("AT", "ID", "GENERATED", "MESSAGE"),
        [(str(at), str(token["id"]), _text(token), _place(token)) for at, token in enumerate(found["generated"])],
        empty="nothing was generated",
    )
    click.echo("")
    output.print_table(
        ("MESSAGE", "CHANNEL", "TO", "WHOLE", "TEXT"),
        [
            (str(at), message["channel"], message["recipient"] or "user", _whole(message), repr(message["text"]))
            for at, message in enumerate(found["messages"])
        ],
        empty="no message was found",
    )
    click.echo(printable(f"\nended by {found['finish_reason']}, answered by {found['version']}"))


def _text(token: dict[str, Any]) -> Text:
    return Text(printable(token["text"]), style="bold magenta") if token["special"] else Text(repr(token["text"]))


def _place(token: dict[str, Any]) -> str:
    if token["message"] is None:
        return ""
    to = f" to={token['recipient']}" if token["recipient"] else ""
    return f"{token['message']} {token['channel']}{to}{', its end' if token['ends'] else ''}"


def _whole(message: dict[str, Any]) -> str:
    return "yes" if message["ended"] else "no"
