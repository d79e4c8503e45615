"""`tandem ask`: one question to an endpoint, one answer on stdout."""

import asyncio
import io
import os
import stat
import sys
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import click

from cli import output
from cli.chat import options
from cli.printable import sendable
from configs.errors import ConfigError, TandemError

if TYPE_CHECKING:
    from cli.chat.screen import Screen
    from serve.client.endpoint import Endpoint, Reply, Settings


@click.command()
@click.argument("question", required=False)
@options.asking
@click.option("--show-thinking", "thinking", is_flag=True, help="Show the model's thinking; on stderr in a pipe.")
@click.option("--plain", is_flag=True, help="No colours and no redrawing, as into a pipe.")
@output.json_option
def ask(
    question: str | None,
    model: str | None,
    effort: str | None,
    system: str | None,
    url: str | None,
    thinking: bool,
    plain: bool,
    as_json: bool,
    **sampling: Any,
) -> None:
    """Ask one question; the answer streams as it comes, the likeliest one unless --temperature is given.

    Piped text is the question, or follows the one that is given.

    \b
    Examples:
      tandem ask "What is Tandem?"
      tandem ask "What is Tandem?" --model base --json
      tandem ask "Summarise this." --low < notes.txt
    """
    text = "\n\n".join(part for part in (sendable(question or ""), _piped()) if part.strip())
    if not text and question is not None:
        raise ConfigError("the question is empty", hint='`tandem ask "What is Tandem?"`')
    if not text:
        raise click.MissingParameter(param_hint="'QUESTION'", param_type="argument", ctx=click.get_current_context())
    endpoint = options.endpoint(url)
    from cli.chat.screen import Screen
    from serve.client.endpoint import Settings

    settings = Settings(**{"temperature": 0} | options.chosen(model, effort, **sampling))
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": text})
    screen = Screen.of_process(plain=plain, thinking=thinking)
    choose = url is not None and model is None
    reply = asyncio.run(_answer(endpoint, messages, settings, None if as_json else screen, choose=choose))
    if as_json:
        output.print_json(_as_json(reply, settings.model))
    if not (reply.text.strip() or reply.tool_calls):
        raise _empty(reply)
    if reply.cut:
        output.say("(cut: the token limit was reached)")


def _piped() -> str:
    """All of stdin if it is a pipe, a file or a socket. Bytes that are not UTF-8 become U+FFFD."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (AttributeError, OSError, io.UnsupportedOperation):  # closed, or a test's
        return ""
    if not (stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)):
        return ""
    return sys.stdin.buffer.read().decode("utf-8", "replace").strip("\n")


async def _answer(
    endpoint: "Endpoint", messages: list, settings: "Settings", screen: "Screen | None", *, choose: bool
) -> "Reply":
    """The whole answer, shown on `screen` while it comes; `choose` a model that the endpoint has."""
    async with endpoint:
        if choose:
            settings.model = options.default_model(await endpoint.models())
        async with aclosing(endpoint.reply(messages, settings)) as growing:
            if screen is None:
                return [reply async for reply in growing][-1]
            async with screen.answer() as view:
                async for reply in growing:
                    view.show(reply)
    return reply


def _empty(reply: "Reply") -> TandemError:
    if reply.cut:
        return TandemError(
            "the answer is empty: the token limit was reached", hint="a higher --max-tokens, or --low, leaves room"
        )
    return TandemError("the answer is empty", hint="--show-thinking shows what the model thought")


def _as_json(reply: "Reply", model: str) -> dict[str, Any]:
    return {
        "model": model,
        "version": reply.version,
        "answer": reply.text,
        "thinking": reply.thinking,
        "tool_calls": reply.tool_calls,
        "finish_reason": reply.finish_reason,
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "first_token_s": reply.first_token_s,
        "tokens_per_s": reply.tokens_per_s,
    }
