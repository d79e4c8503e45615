"""The chat tab: what happens when a person sends, stops, retries, edits. The conversation itself is on disk.

A handler loads the conversation by its id, changes it and saves it, so a reload, another tab or the terminal go on from
the same state. `serve.ui.library` lists and opens them.
"""

from collections.abc import AsyncIterator
from typing import Any

import gradio as gr

from configs.errors import NotFoundError, TandemError
from serve.client.conversation import Conversation, Conversations, Statistics
from serve.client.endpoint import Endpoint
from serve.ui import display
from serve.ui.answering import Answer, Answers
from serve.ui.controls import Controls, settings

EMPTY = "### What would you like to know?\nEnter sends, Shift+Enter makes a new line."
KEPT = "Your question is in the box again"
CUT_IN_THINKING = "The answer ended at its token limit while thinking: raise Max tokens, or lower the reasoning effort"


class ChatTab:
    """Components and handlers. `changed` are the components that every handler may update."""

    def __init__(self, endpoint: Endpoint, store: Conversations, answers: Answers, controls: Controls) -> None:
        self._endpoint, self._store, self._answers, self._controls = endpoint, store, answers, controls
        self.current = gr.Textbox(visible="hidden", elem_id="current")
        self.log = gr.Chatbot(
            elem_id="log", show_label=False, height="100%", layout="bubble", editable="user", buttons=["copy"],
            allow_tags=False, placeholder=EMPTY, feedback_options=None, scale=1, autoscroll=True,
            latex_delimiters=display.LATEX,
        )  # fmt: skip
        self.notice = gr.HTML(elem_id="notice", js_on_load=None)
        self.question = gr.Textbox(
            placeholder="Ask anything", lines=1, max_lines=10, show_label=False, submit_btn=True, autofocus=True,
            elem_id="question", max_length=None, container=True,
        )  # fmt: skip
        self.statistics = gr.HTML(elem_id="statistics", js_on_load=None)
        self.changed = [self.log, self.notice, self.question, self.statistics]

    def listen(self, refresh: Any, shown: list[Any]) -> None:
        """Connect the handlers; `refresh` is (function, inputs, outputs), run after each answer.

        `shown` is all that `leave` may be given to show.
        """
        asking = {"inputs": [self.current, *self._controls.inputs], "outputs": shown, "show_progress": "hidden"}
        with_text = asking | {"inputs": [self.question, *asking["inputs"]]}
        events = [
            self.question.submit(self.send, **with_text),
            self.log.retry(self.retry, **asking),
            self.log.edit(self.edit, **asking),
        ]
        for event in events:
            event.then(*refresh, show_progress="hidden")
        self.question.stop(self.stop, self.current, show_progress="hidden")
        self._controls.thinking.input(
            self.redraw, [self.current, self._controls.thinking], [self.log], show_progress="hidden"
        )

    # Handlers

    async def send(self, request: gr.Request, question: str, current: str, *values: Any) -> AsyncIterator[dict]:
        """A new question in this conversation."""
        if not question.strip() or not current:  # without an id, the page is still being opened
            yield {self.notice: ""}
            return
        before, now = self._begin(current, values)
        now.ask(question)
        async for update in self._answer(before, now, values[-1], question, request.session_hash):
            yield update

    async def retry(self, request: gr.Request, current: str, *values: Any) -> AsyncIterator[dict]:
        """The last question again; its answer is replaced."""
        before, now = self._begin(current, values)
        while now.turns and now.turns[-1].role == "assistant":
            now.turns.pop()
        if not now.turns:
            yield {self.notice: display.notice("There is no question to ask again")}
            return
        async for update in self._answer(before, now, values[-1], None, request.session_hash):
            yield update

    async def edit(self, request: gr.Request, change: gr.EditData, current: str, *values: Any) -> AsyncIterator[dict]:
        """An earlier question in other words; what came after it is dropped."""
        before, now = self._begin(current, values)
        question = display.unescaped(change.value)
        place = display.turn_at(before, change.index, thinking=values[-1])
        if not question.strip():
            yield {self.log: display.messages(before, thinking=values[-1])}
            return
        del now.turns[place:]
        now.ask(question)
        async for update in self._answer(before, now, values[-1], question, request.session_hash):
            yield update

    def stop(self, request: gr.Request, current: str) -> None:
        self._answers.stop(request.session_hash, current)

    def gone(self, request: gr.Request) -> None:
        """The window was closed or loaded anew."""
        self._answers.stop(request.session_hash)

    def leave(self, request: gr.Request, current: str, update: dict) -> dict:
        """Show `update` instead of the conversation `current`, at once or, if an answer to it is coming, at its end."""
        for answer in self._answers.stop(request.session_hash, current):
            answer.after = update
            return {self.notice: ""}
        return update

    def redraw(self, current: str, thinking: bool) -> list[dict]:
        return display.messages(self.load(current), thinking=thinking)

    def load(self, current: str) -> Conversation:
        """The conversation of this id, as it is on disk; a new one where there is none."""
        try:
            return self._store.load(current)
        except NotFoundError:
            return Conversation(id=current)

    # An answer, from question to what is kept of it

    def _begin(self, current: str, values: tuple) -> tuple[Conversation, Conversation]:
        """The conversation as it is, and a copy with what the controls say, to be asked."""
        before = self.load(current)
        now = before.model_copy(deep=True)
        now.settings = settings(*values[: len(self._controls.generation)])
        now.system = values[-2]
        return before, now

    async def _answer(
        self, before: Conversation, now: Conversation, thinking: bool, typed: str | None, session: str
    ) -> AsyncIterator[dict]:
        """Ask the last question of `now` and show what comes. With nothing, `before` and the box are as they were."""
        trouble = ""
        replies = self._endpoint.reply(now.messages(), now.settings)
        try:
            answer = self._answers.begin(now.id, session, replies)
        except TandemError as error:
            yield self._idle(before, thinking, typed) | {self.notice: display.problem(error, then=typed and KEPT)}
            return
        try:
            self._store.save(now)
            yield self._busy(now, thinking, answer)
            async for reply in answer.states():
                shown = display.messages(now, thinking=thinking, reply=reply)
                yield {self.log: shown, self.statistics: display.statistics(reply.version, Statistics.of(reply))}
        except TandemError as error:
            trouble = display.problem(error, then="" if answer.reply.text or answer.reply.thinking else KEPT)
        finally:
            self._answers.end(now.id)
            came = self._keep(before, now, answer)
        if came and not trouble and answer.reply.cut and not answer.reply.text:
            trouble = display.notice(CUT_IN_THINKING)
        kept = now if came else before
        idle = self._idle(kept, thinking, None if came else typed) | {self.notice: trouble}
        yield idle | (answer.after or {})

    def _keep(self, before: Conversation, now: Conversation, answer: Answer) -> bool:
        """Save what came of the answer, or what was there before; whether anything came."""
        reply = answer.reply
        if reply.text or reply.thinking or reply.finish_reason:
            now.answer(reply, cut=reply.finish_reason is None)
            self._store.save(now)
            return True
        if before.turns:
            self._store.save(before)
        else:
            self._store.delete(now.id)
        return False

    def _busy(self, now: Conversation, thinking: bool, answer: Answer) -> dict:
        return {
            self.log: display.messages(now, thinking=thinking, reply=answer.reply),
            self.question: gr.Textbox(value="", submit_btn=False, stop_btn=True),
            self.notice: "",
            self.statistics: "",
        }

    def _idle(self, conversation: Conversation, thinking: bool, typed: str | None) -> dict:
        box = gr.Textbox(submit_btn=True, stop_btn=False, **({} if typed is None else {"value": typed}))
        return {
            self.log: display.messages(conversation, thinking=thinking),
            self.question: box,
            self.statistics: self.last_statistics(conversation),
        }

    @staticmethod
    def last_statistics(conversation: Conversation) -> str:
        """The statistics of the conversation's last answer."""
        answered = [turn for turn in conversation.turns if turn.statistics]
        return display.statistics(answered[-1].version, answered[-1].statistics) if answered else ""
