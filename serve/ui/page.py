"""The whole page, put together in one place: side bars, tabs, and what connects them. A further tab is added here."""

import json
from pathlib import Path

import gradio as gr

from serve.client.conversation import Conversations
from serve.client.endpoint import Endpoint
from serve.ui.conversation import display
from serve.ui.conversation.answering import Answers
from serve.ui.conversation.chat import ChatTab
from serve.ui.conversation.compare import CompareTab
from serve.ui.conversation.controls import Controls
from serve.ui.conversation.library import Library
from serve.ui.conversation.votes import Votes
from serve.ui.dashboard.reading import SharedReading
from serve.ui.dashboard.tab import DashboardTab

STYLES = [Path(__file__).with_name("style.css"), Path(__file__).parent / "dashboard" / "dashboard.css"]
SYSTEM_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "Liberation Sans", "sans-serif"]
SYSTEM_MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "DejaVu Sans Mono", "Liberation Mono", "monospace"]

UPLOADS_KEPT_S = (3600, 24 * 3600)
"""How often Gradio looks for uploaded files to delete, and how old they are then."""

NAMES = [
    ("#library .toggle-button", "Conversations"), ("#settings .toggle-button", "Settings"),
    ("#question textarea", "Question"), ("#compare-question textarea", "Question to both"),
]  # fmt: skip
"""For those who hear the page. Gradio gives both toggles one name, and a box that of the button in it, too."""

ON_LOAD = """() => {
  const wanted = localStorage.getItem('tandem-theme');
  if (wanted) document.body.classList.toggle('dark', wanted === 'dark');
  for (const [place, name] of NAMES) document.querySelector(place)?.setAttribute('aria-label', name);
}""".replace("NAMES", json.dumps(NAMES))
TOGGLE = """() => {
  const dark = document.body.classList.toggle('dark');
  localStorage.setItem('tandem-theme', dark ? 'dark' : 'light');
}"""


IDLE_S = 0.02
"""Between two looks of Gradio's queue at itself. Its own 1 ms is 2.3 % of a core with nobody there; this is 0.6 %."""


def build(
    endpoint: Endpoint, store: Conversations, votes: Votes, looks: SharedReading, *, first: str = "chat"
) -> gr.Blocks:
    """The page over one endpoint, opened at the tab `first`: chat, compare or dashboard.

    Conversations, votes and what the dashboard shows are this machine's, shared by everyone who may open it.
    """
    answers = Answers()
    how = {"fill_height": True, "fill_width": True, "analytics_enabled": False, "delete_cache": UPLOADS_KEPT_S}
    with gr.Blocks(title="Tandem", **how) as page:
        with gr.Sidebar(width=280, elem_id="library"):
            gr.HTML("<h1>Tandem</h1>", js_on_load=None)
            library = Library(store)
        with gr.Sidebar(width=300, position="right", open=False, elem_id="settings"):
            gr.HTML("<h2>Settings</h2>", js_on_load=None)
            controls = Controls(endpoint)
            theme = gr.Button("Light / dark", size="sm", elem_id="theme")
        with gr.Tabs(elem_id="tabs", selected=first):
            with gr.Tab("Chat", id="chat", scale=1):
                chat = ChatTab(endpoint, store, answers, controls)
            with gr.Tab("Side by side", id="compare", scale=1):
                compare = CompareTab(endpoint, votes, answers, controls)
            with gr.Tab("Dashboard", id="dashboard", elem_id="dashboard"):
                dashboard = DashboardTab(looks)
        clipboard = Clipboard()
        for log in (chat.log, *compare.logs):
            clipboard.follow(log)
        library.listen(page, chat, controls)
        compare.listen()
        dashboard.listen()
        theme.click(None, js=TOGGLE)
        page.load(None, js=ON_LOAD)
    # Gradio's default is one event of a kind at a time over all sessions: one answer would make all others wait.
    page.queue(default_concurrency_limit=None, api_open=False)
    page._queue.sleep_when_free = IDLE_S
    return page


def theme() -> gr.themes.Base:
    """Calm greys with one accent, in the fonts that the reader's system has."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.teal, neutral_hue=gr.themes.colors.zinc, radius_size="lg",
        font=SYSTEM_FONTS, font_mono=SYSTEM_MONO,
    )  # fmt: skip


WRITE = "(text) => { navigator.clipboard.writeText(text); }"


class Clipboard:
    """A copied message as it was said; one for the page, `follow` each Chatbot that has a copy button.

    The Chatbot copies what it was given, in which `display.escaped` put entities. Only the server undoes that exactly,
    so it is asked for the text, which then replaces the Chatbot's in the clipboard and goes nowhere else. Where a
    browser has no clipboard for pages (plain HTTP from another machine) nothing is replaced.
    """

    def __init__(self) -> None:
        self._said = gr.Textbox(visible="hidden", elem_id="clipboard")

    def follow(self, log: gr.Chatbot) -> None:
        log.copy(_said, None, self._said, show_progress="hidden").then(None, self._said, js=WRITE)


def _said(copy: gr.CopyData) -> str:
    return display.unescaped(copy.value)
