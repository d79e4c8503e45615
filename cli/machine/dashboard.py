"""`tandem dashboard`: the page of `tandem ui`, opened at its dashboard, whether the cluster is up or not."""

import click

from actors import cluster
from cli.chat import options
from cli.serving import ui
from configs.paths import home
from configs.schema import ClusterConfig


@click.command()
@ui.page_options
def dashboard(port: int, server_name: str, share: bool, password: str | None, open_: bool) -> None:
    """Show GPUs, processes, runs, adapters and requests live in the browser until Ctrl-C.

    While the cluster is down it shows what is on disk, and comes alive when `tandem up` is run.

    \b
    Examples:
      tandem dashboard --open
      TANDEM_UI_PASSWORD='long and secret' tandem dashboard --server-name 0.0.0.0 --port 7861
    """
    from serve.ui.server import Access, Server  # openai takes a second, Gradio two

    access = Access(server_name, port, share, password or "")
    access.check()
    usual = f"http://{cluster.LOOPBACK}:{ClusterConfig().http_port}/v1"
    server = Server(usual, home(), access, address=options.cluster_address, tab="dashboard")
    ui.run(server, share, open_)
