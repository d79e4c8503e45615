"""`tandem chat`: puts endpoint, prompt, screen and conversation together and starts the session."""

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import click

from cli.chat import options
from configs import durable, paths
from configs.errors import DataError, NotFoundError
from configs.paths import Home

if TYPE_CHECKING:
    from cli.chat.session import Chat
    from serve.client.endpoint import Endpoint


@click.command()
@options.asking
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), help="Take tokens from this share of probability.")
@click.option("--top-k", type=click.IntRange(min=0), help="Take tokens from so many likeliest; 0 from all.")
@click.option("--show-thinking/--hide-thinking", "thinking", default=True, help="Show the model's thinking, dim.")
@click.option("--continue", "resume", is_flag=True, help="Go on with the newest conversation.")
@click.option("--load", "name", metavar="NAME", help="Go on with this conversation, by name, id or exported file.")
@click.option("--plain", is_flag=True, help="No colours and no redrawing, as into a pipe.")
def chat(
    model: str | None,
    effort: str | None,
    system: str | None,
    url: str | None,
    thinking: bool,
    resume: bool,
    name: str | None,
    plain: bool,
    **sampling: Any,
) -> int:
    """Chat with the running endpoint. /help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves.

    Every conversation is kept below TANDEM_HOME at each question and answer. Into a pipe, answers go to stdout and all
    else to stderr.

    \b
    Examples:
      tandem chat
      tandem chat --model base --high --temperature 0.8
      tandem chat --continue
      printf 'What is Tandem?\\n/exit\\n' | tandem chat
    """
    if resume and name:
        raise click.UsageError("--continue and --load exclude each other")
    endpoint, home = options.endpoint(url), paths.home()
    chat = _assembled(endpoint, home, plain=plain, thinking=thinking)
    _open(chat, resume=resume, name=name)
    return asyncio.run(_run(chat, options.chosen(model, effort, **sampling), system))


def _assembled(endpoint: "Endpoint", home: Home, *, plain: bool, thinking: bool) -> "Chat":
    from cli.chat import commands
    from cli.chat.prompt import EditedPrompt, PlainPrompt
    from cli.chat.screen import Screen, is_capable
    from cli.chat.session import Chat
    from serve.client.conversation import Conversation, Conversations

    screen = Screen.of_process(plain=plain, thinking=thinking)
    if screen.live and is_capable(sys.stdin):
        durable.private_folder(home.root)
        prompt = EditedPrompt(home.chat_history, lambda text: commands.complete(chat, text))
    else:
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")
        prompt = PlainPrompt(sys.stdin)
    chat = Chat(endpoint, prompt, screen, Conversations(home.conversations), Conversation())
    return chat


def _open(chat: "Chat", *, resume: bool, name: str | None) -> None:
    from cli.chat import commands
    from serve.client.conversation import unreadable

    if name:
        chat.conversation = commands.load(chat, name)
    elif resume:
        saved = chat.store.saved()
        broken = unreadable(chat.store.broken())
        if broken and not saved:
            raise DataError(f"no conversation to go on with: {broken}", hint="`tandem chat` begins a new one")
        if not saved:
            raise NotFoundError(f"no conversation in {chat.store.folder} yet", hint="`tandem chat` begins one")
        if broken:
            chat.screen.say(f"({broken})")
        chat.conversation = saved[0]


async def _run(chat: "Chat", chosen: dict[str, Any], system: str | None) -> int:
    """The exit code: 1 if a question was not answered and nobody was there to see it, 130 if a signal ended it."""
    async with chat.endpoint as endpoint:
        await chat.find_models()
        settings = chat.conversation.settings
        if not chat.conversation.turns:
            chosen = {"model": options.default_model(chat.models)} | chosen
        chat.conversation.settings = settings.model_validate(settings.model_dump() | chosen)
        chat.conversation.system = system or chat.conversation.system
        settings = chat.conversation.settings
        chat.screen.say(
            f"{settings.model} at {endpoint.url}, reasoning {settings.reasoning_effort}; /help, Ctrl-D leaves"
        )
        _complain_of_the_model(chat)
        if chat.conversation.turns:
            chat.screen.conversation(chat.conversation)
        await chat.run()
    if chat.terminated:
        return 130
    return int(chat.failed and not chat.prompt.interactive)


def _complain_of_the_model(chat: "Chat") -> None:
    """Say at the start what the first question would be refused for."""
    from cli.chat import commands

    try:
        commands.require_known(chat, chat.conversation.settings.model)
    except NotFoundError as error:
        chat.screen.complain(error)
