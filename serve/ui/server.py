"""What listens for browsers: Gradio's server behind our guard, open to others only with a password."""

import asyncio
import hmac
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass

from configs import durable
from configs.errors import ClusterError, ConfigError
from configs.paths import Home
from serve.client.conversation import Conversations
from serve.client.endpoint import Endpoint
from serve.ui.conversation.votes import Votes

LOOPBACK = ("127.0.0.1", "localhost", "::1")
SHORTEST_PASSWORD = 8
LARGEST_UPLOAD = "20mb"
WRONG_PASSWORD_S = 1.0
"""What a wrong password costs whoever sent it, and everyone who logs in at that moment."""


@dataclass(frozen=True)
class Access:
    """Where the page listens and who may open it."""

    server_name: str = "127.0.0.1"
    port: int = 7860
    share: bool = False
    password: str = ""

    def check(self) -> None:
        """Raises ConfigError where others could open the page without a password."""
        if self.password and len(self.password) < SHORTEST_PASSWORD:
            raise ConfigError(f"the password has {len(self.password)} characters", hint=f"at least {SHORTEST_PASSWORD}")
        if self.password or (self.server_name in LOOPBACK and not self.share):
            return
        what = "--share" if self.share else f"--server-name {self.server_name}"
        raise ConfigError(
            f"{what} lets others open the page, so it needs a password",
            hint="TANDEM_UI_PASSWORD=... in the environment, or --password",
        )


class Server:
    """The page on a port, from `start` to `close`. `url` is where; `share_url` is the public address, if asked for."""

    def __init__(
        self,
        endpoint: str,
        home: Home,
        access: Access,
        *,
        api_key: str = "none",
        address: Callable[[], str | None] | None = None,
        tab: str = "chat",
    ) -> None:
        """`endpoint` is its base URL, `address` as `Endpoint` has it, `tab` what the page opens at.

        Raises ConfigError as `Access.check` does.
        """
        access.check()
        self._tab = tab
        self._endpoint, self._home, self._access = Endpoint(endpoint, api_key=api_key, address=address), home, access
        self._judging = asyncio.Lock()

    def start(self) -> None:
        """Returns once it answers. Raises ClusterError if the port is taken or no public address can be had."""
        # Read by Gradio when it is imported or launched: no telemetry, and uploads below our own folder.
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        durable.private_folder(self._home.cache / "ui")
        os.environ["GRADIO_TEMP_DIR"] = str(self._home.cache / "ui")
        from starlette.middleware import Middleware

        from serve.http.middleware import ANY, OwnPagesOnly
        from serve.ui import page
        from serve.ui.dashboard.reading import SharedReading
        from serve.ui.guard import Guard

        access = self._access
        open_to_others = access.share or access.server_name not in LOOPBACK
        own = Middleware(OwnPagesOnly, allowed_hosts=[ANY] if open_to_others else [])
        middleware = [Middleware(Guard), own]
        store, votes = Conversations(self._home.conversations), Votes(self._home.preferences)
        self._page = page.build(self._endpoint, store, votes, SharedReading(self._home), first=self._tab)
        try:
            _, self.url, self.share_url = self._page.launch(
                server_name=access.server_name, server_port=access.port, share=access.share, quiet=True,
                prevent_thread_lock=True, auth=self._admits if access.password else None, inbrowser=False,
                theme=page.theme(), css_paths=page.STYLES, footer_links=[], run_history=False, show_error=False,
                max_file_size=LARGEST_UPLOAD, enable_monitoring=False, ssr_mode=False, pwa=False, mcp_server=False,
                app_kwargs={"middleware": middleware, "docs_url": None, "redoc_url": None},
                _frontend=False,  # Gradio 6.31 then leaves out a check that a busy machine fails: an answer within 3 s
            )  # fmt: skip
        except OSError:
            raise ClusterError(f"port {access.port} is in use", hint="--port <another>") from None
        if access.share and not self.share_url:
            self.close()
            raise ClusterError("no public address was assigned", hint="look at the connection, or leave out --share")

    def wait(self) -> None:
        """Until Ctrl-C."""
        threading.Event().wait()

    def close(self) -> None:
        self._page.close(verbose=False)

    async def _admits(self, name: str, password: str) -> bool:
        """Any name will do; the password is what counts. One attempt is judged at a time, and a wrong one takes long:
        however many are sent at once, few can be tried."""
        async with self._judging:
            right = hmac.compare_digest(password.encode(), self._access.password.encode())
            if not right:
                await asyncio.sleep(WRONG_PASSWORD_S)
        return right
