"""One Chromium, one page server and one gateway for all tests here; an empty home and scripted answers for each.

They end with this package: while Playwright runs, its event loop is the main thread's, so no other test could have one.
"""

import re
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from configs.paths import Home
from serve.client.conversation import Conversation, Conversations
from tests.chromium import launched
from tests.gateway_server import Server as Gateway
from tests.gateway_server import tokens

WAIT_MS = 15_000
expect.set_options(timeout=WAIT_MS)


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


@pytest.fixture(scope="package")
def chromium() -> Iterator:
    with launched() as browser:
        yield browser


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

    def swap(self, adapter: str) -> None:
        response = self.gateway.post("/api/aliases/prod", {"adapter": adapter})
        assert response.status_code == 200, response.text

    def reset(self) -> None:
        """The state in which every test begins: nothing saved, `prod` is the base."""
        if self.gateway.get("/api/status").json()["aliases"].get("prod") is not None:
            self.swap("base")
        self.recite("Hello there.", "Greet them.")
        self.engine.requests.clear()
        shutil.rmtree(self.home.conversations, ignore_errors=True)
        shutil.rmtree(self.home.preferences, ignore_errors=True)

    def saved(self) -> Conversation:
        """The only conversation on disk."""
        (conversation,) = self.store.saved()
        return conversation

    def away(self) -> None:
        """The endpoint is down: nothing listens on its port."""
        self.gateway.stop()

    def back(self) -> None:
        """It listens there again, as after a restart."""
        before = self.gateway
        self.gateway = Gateway(self.home, port=int(before.url.rpartition(":")[2]))
        self.gateway.start()

    def close(self) -> None:
        self.page.close()
        self.gateway.stop()


@pytest.fixture(scope="package")
def shared(tmp_path_factory, chromium) -> Iterator[Stage]:
    running = Stage(Home(tmp_path_factory.mktemp("ui")))
    yield running
    running.close()


@pytest.fixture
def stage(shared) -> Stage:
    shared.reset()
    return shared


class Window:
    """A browser window with the page in it, and what it did besides: dialogs, requests to others, sent or refused."""

    def __init__(self, context, url: str) -> None:
        self._url = url
        self._questions = 0
        self.context = context
        self.outside: list[str] = []
        self.refused: list[str] = []
        self.dialogs: list[str] = []
        self.page = self.open(url)

    def _seen(self, request) -> None:
        if not request.url.startswith((self._url, "data:", "blob:")):
            self.outside.append(request.url)

    def _failed(self, request) -> None:
        """Playwright tells even of requests that the content security policy kept inside the browser."""
        if request.failure == "csp":
            self.outside.remove(request.url)
            self.refused.append(request.url)

    def open(self, url: str):
        page = self.context.new_page()
        page.on("dialog", self._refuse)
        page.on("request", self._seen)
        page.on("requestfailed", self._failed)
        page.goto(url)
        self.loaded(page)
        return page

    def loaded(self, page) -> None:
        """Return once a person can do something with the page."""
        page.locator("#question textarea").wait_for()
        page.wait_for_function("document.querySelector('#current textarea')?.value")

    # What a person does and sees

    def ask(self, question: str) -> None:
        self._questions = self.page.locator("#log [data-testid=user]").count() + 1
        self.page.fill("#question textarea", question)
        self.page.press("#question textarea", "Enter")

    def paste(self, question: str) -> None:
        """As `ask`; Chromium takes seconds to type what it pastes at once."""
        box = self.page.locator("#question textarea")
        put = "(box, text) => { box.value = text; box.dispatchEvent(new Event('input', {bubbles: true})) }"
        box.evaluate(put, question)
        self._questions = self.page.locator("#log [data-testid=user]").count() + 1
        box.press("Enter")

    def answers(self, text: str) -> None:
        """Wait until the newest answer, to what was asked last, is `text` and the page is ready for a question."""
        if self._questions:
            expect(self.page.locator("#log [data-testid=user]")).to_have_count(self._questions)
            self._questions = 0
        expect(self.page.locator("#log [data-testid=bot]").last).to_have_text(text)
        self.ready()

    def ready(self) -> None:
        expect(self.page.locator("#question .submit-button")).to_be_visible()

    def notices(self, text: str) -> None:
        expect(self.page.locator("#notice .notice")).to_contain_text(text)

    def box(self) -> str:
        return self.page.input_value("#question textarea")

    def has_box(self, text: str) -> None:
        """Wait until the question's box has it."""
        expect(self.page.locator("#question textarea")).to_have_value(text)

    def settings(self) -> None:
        self.page.locator("#settings .toggle-button").click()
        expect(self.page.locator("#settings")).to_have_class(re.compile("open"))

    def tab(self, name: str) -> None:
        tab = self.page.get_by_role("tab", name=name)
        tab.click()
        expect(tab).to_have_attribute("aria-selected", "true")

    def shows_chat(self) -> None:
        expect(self.page.get_by_role("tab", name="Chat")).to_have_attribute("aria-selected", "true")
        expect(self.page.locator("#question textarea")).to_be_visible()

    def focused(self) -> None:
        """Wait until what is typed goes into the question's box."""
        expect(self.page.locator("#question textarea")).to_be_focused()

    def manage(self) -> None:
        self.page.locator("#manage .label-wrap").click()
        expect(self.page.locator("#title textarea, #title input")).to_be_visible()

    def _refuse(self, dialog) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()


@pytest.fixture(scope="package")
def profile(chromium):
    """What windows without wishes of their own share, so that the page's files are loaded and compiled once."""
    context = chromium.new_context(viewport={"width": 1200, "height": 800})
    context.set_default_timeout(WAIT_MS)
    return context


@pytest.fixture
def window(chromium, profile, stage) -> Iterator[Callable[..., Window]]:
    """Opens a window; one with wishes (`viewport`, `color_scheme`) gets a browser profile of its own."""
    opened: list[Window] = []

    def open_window(**wishes) -> Window:
        context = chromium.new_context(**wishes) if wishes else profile
        context.set_default_timeout(WAIT_MS)
        opened.append(Window(context, stage.page.url))
        return opened[-1]

    yield open_window
    for page in profile.pages:
        page.close()
    for each in opened:
        if each.context is not profile:
            each.context.close()
        assert each.outside == [], "the page asked somebody else"
        assert each.dialogs == []
