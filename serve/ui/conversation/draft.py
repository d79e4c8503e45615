"""A question that got no answer: back in its box, or, where a person has begun the next one there, in the notice.

Only the browser knows what is in the box at that moment, so it decides. It also keeps what is in the chat's box when
the page is loaded anew (`KEEP`), each tab its own.
"""

from typing import Any

import gradio as gr

KEPT = "Your question is in the box again"
GIVE_BACK = """(question, box, notice) => {
  if (!question || !box) return ['', box || question, notice];
  const said = document.createElement('span');
  said.textContent = `Your question was: ${question}`;
  return ['', box, notice.replace('KEPT', () => said.innerHTML)];
}""".replace("KEPT", KEPT)

KEEP = """() => {
  const box = () => document.querySelector('#question textarea');
  const typed = sessionStorage.getItem('tandem-typed');
  if (typed && box()?.value === '') {
    box().value = typed;
    box().dispatchEvent(new Event('input', {bubbles: true}));
  }
  addEventListener('pagehide', () => sessionStorage.setItem('tandem-typed', box()?.value ?? ''));
}"""


class Draft:
    """One beside each question's box. A handler sets `returned` and says KEPT in its notice."""

    def __init__(self) -> None:
        self.returned = gr.Textbox(visible="hidden")

    def follow(self, event: Any, question: gr.Textbox, notice: gr.HTML) -> Any:
        """After `event` give back what it returned; the event after that."""
        places = [self.returned, question, notice]
        return event.then(None, places, places, js=GIVE_BACK)
