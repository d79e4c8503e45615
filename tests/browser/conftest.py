"""One Chromium for all tests, one page server and gateway per module, a fresh window and scripted answers per test."""

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from configs.paths import Home
from serve.client.conversation import Conversation, Conversations
from tests.gateway_server import Server as Gateway
from tests.gateway_server import tokens

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WAIT_MS = 10_000


def pytest_collection_modifyitems(items: list) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("browser")


def script(answer: str, thinking: str = "") -> list[int]:
    """Tokens of a harmony answer."""
    thought = f"<|channel|>analysis<|message|>{thinking}<|end|><|start|>assistant" if thinking else ""
    return tokens(f"{thought}<|channel|>final<|message|>{answer}<|return|>")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def chromium() -> Iterator:
    if CHROMIUM is None:
        if os.environ.get("CI"):
            pytest.fail("no Chromium: apt-get install chromium")
        pytest.skip("no Chromium here: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Stage:
    """A gateway with an engine that recites, and the page before it. `store` is what the page keeps."""

    def __init__(self, home: Home) -> None:
        from serve.ui.server import Access, Server

        self.home, self.store = home, Conversations(home.conversations)
        self.gateway = Gateway(home)
        self.gateway.start()
        self.page = Server(f"{self.gateway.url}/v1", home, Access(port=free_port()))
        self.page.start()

    @property
    def engine(self):
        return self.gateway.engine

    def recite(self, answer: str, thinking: str = "", *, delay: float = 0.0) -> None:
        self.engine.script, self.engine.delay = script(answer, thinking), delay

    def reset(self) -> None:
        self.recite("Hello there.", "Greet them.")
        self.engine.requests.clear()
        shutil.rmtree(self.home.conversations, ignore_errors=True)
        shutil.rmtree(self.home.preferences, ignore_errors=True)

    def saved(self) -> Conversation:
        """The only conversation on disk."""
        (conversation,) = self.store.saved()
        return conversation

    def close(self) -> None:
        self.page.close()
        self.gateway.stop()


@pytest.fixture(scope="module")
def shared(tmp_path_factory, chromium) -> Iterator[Stage]:
    running = Stage(Home(tmp_path_factory.mktemp("ui")))
    yield running
    running.close()


@pytest.fixture
def stage(shared) -> Stage:
    shared.reset()
    return shared


class Window:
    """A browser window with the page in it, and what it did besides: dialogs, outside requests, errors."""

    def __init__(self, browser, url: str, **how) -> None:
        self.context = browser.new_context(accept_downloads=True, **{"viewport": {"width": 1200, "height": 800}} | how)
        self.context.set_default_timeout(WAIT_MS)
        self.outside: list[str] = []
        self.dialogs: list[str] = []
        self.context.on("request", lambda request: self._seen(request.url, url))
        self.page = self.open(url)

    def _seen(self, asked: str, ours: str) -> None:
        if not asked.startswith((ours, "data:", "blob:")):
            self.outside.append(asked)

    def open(self, url: str):
        page = self.context.new_page()
        page.on("dialog", self._refuse)
        page.goto(url)
        page.locator("#question textarea").wait_for()
        page.wait_for_function("location.search.includes('c=')")
        return page

    def _refuse(self, dialog) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()


@pytest.fixture
def window(chromium, stage) -> Iterator[Callable[..., Window]]:
    opened: list[Window] = []

    def open_window(**how) -> Window:
        opened.append(Window(chromium, stage.page.url, **how))
        return opened[-1]

    yield open_window
    for each in opened:
        each.context.close()
        assert each.outside == [], "the page asked somebody else"
        assert each.dialogs == []
