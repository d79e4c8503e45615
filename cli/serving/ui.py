"""`tandem ui`: the chat in the browser, in a process of its own. `tandem dashboard` shares `page_options` and `run`."""

import os
import webbrowser
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from actors import cluster
from cli import output
from cli.chat import options
from configs.address import base_url
from configs.paths import home

if TYPE_CHECKING:
    from serve.ui.server import Server

_OPTIONS = (
    click.option("--port", type=click.IntRange(1, 65535), default=7860, show_default=True, help="Port of the page."),
    click.option(
        "--server-name", default="127.0.0.1", show_default=True, help="Address; beyond loopback with a password."
    ),
    click.option("--share", is_flag=True, help="Also a public address, through Gradio's servers. Needs a password."),
    click.option(
        "--password", envvar="TANDEM_UI_PASSWORD", help="Ask for it. Better in TANDEM_UI_PASSWORD: `ps` shows this."
    ),
    click.option("--open", "open_", is_flag=True, help="Open the page in the browser."),
)


def page_options(command: Callable) -> Callable:
    """Where the page listens and who may open it."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command()
@page_options
@click.option(
    "--url", help="Any OpenAI-compatible endpoint, such as http://host:8000/v1. [default: the running cluster]"
)
def ui(port: int, server_name: str, url: str | None, share: bool, password: str | None, open_: bool) -> None:
    """Chat in the browser until Ctrl-C: conversations, settings, two adapters side by side.

    With --url, OPENAI_API_KEY is the key that is sent there.

    \b
    Examples:
      tandem ui --open
      tandem ui --port 7861 --url http://127.0.0.1:8001/v1
      TANDEM_UI_PASSWORD='long and secret' tandem ui --server-name 0.0.0.0
    """
    from serve.ui.server import Access, Server  # openai takes a second, Gradio two

    access = Access(server_name, port, share, password or "")
    access.check()
    key = os.environ.get("OPENAI_API_KEY", "none") if url else "none"
    address = None if url else options.cluster_address
    url = base_url(url) if url else f"{cluster.require(home()).http}/v1"
    server = Server(url, home(), access, api_key=key, address=address)
    run(server, share, open_)


def run(server: "Server", share: bool, open_: bool) -> None:
    """Start the page, say where it is, and serve it until Ctrl-C."""
    if share:
        output.say("--share: whoever has the address and the password can chat here, read every saved conversation,")
        output.say("swap adapters and stop runs, and all of it passes through Gradio's servers. Ctrl-C ends it.")
    server.start()
    try:
        click.echo(server.url)
        if server.share_url:
            click.echo(server.share_url)
        output.say("Ctrl-C ends it")
        if open_:
            webbrowser.open(server.url)
        server.wait()
    except KeyboardInterrupt:
        pass
    finally:
        server.close()
