"""A copied message as it was said: the Chatbot copies what it was given, in which `display.escaped` put entities.

Only the server undoes that exactly, so it is asked for the text, which then replaces the Chatbot's in the clipboard and
goes nowhere else. Where a browser has no clipboard for pages (plain HTTP from another machine) nothing is replaced.
"""

import gradio as gr

from serve.ui import display

WRITE = "(text) => { navigator.clipboard.writeText(text); }"


class Clipboard:
    """One for the page; `follow` each Chatbot that has a copy button."""

    def __init__(self) -> None:
        self._said = gr.Textbox(visible="hidden", elem_id="clipboard")

    def follow(self, log: gr.Chatbot) -> None:
        log.copy(_said, None, self._said, show_progress="hidden").then(None, self._said, js=WRITE)


def _said(copy: gr.CopyData) -> str:
    return display.unescaped(copy.value)
