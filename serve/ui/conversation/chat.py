"""The chat tab: what happens when a person sends, stops, retries, edits. The conversation itself is on disk.

A handler loads the conversation by its id, changes it and saves it, so a reload, another tab or the terminal go on from
the same state. `serve.ui.conversation.library` lists and opens them.
"""

from collections.abc import AsyncIterator
from typing import Any

import gradio as gr

from configs.errors import NotFoundError, StateError, TandemError
from serve.client.conversation import Conversation, Conversations, Statistics
from serve.client.endpoint import Endpoint
from serve.ui.conversation import display
from serve.ui.conversation.answering import Answer, Answers
from serve.ui.conversation.controls import Controls, settings
from serve.ui.conversation.draft import KEPT, Draft

EMPTY = "### What would you like to know?\nEnter sends, Shift+Enter makes a new line."
GONE = "This conversation was deleted meanwhile, and the answer with it"
DELETED = "This conversation was deleted elsewhere; what you see is no longer saved"
BEGINS_ANEW = "copy what you want to keep; a question sent now begins a new conversation"
APART = "This conversation was changed elsewhere meanwhile; both stay, and this one goes on by itself"

TO_THE_END = """() => {
  const log = document.querySelector('#log .bubble-wrap');
  log?.scrollTo(0, log.scrollHeight);
}"""
"""The Chatbot follows what comes only where its end is in sight."""

TO_THE_BOX = """() => {
  if (innerWidth >= 768) document.querySelector('#question textarea')?.focus();
}"""
"""On a phone the keyboard would come up."""


class ChatTab:
    """Components and handlers. `changed` are the components that every handler may update.

    `current` is the id of the conversation; `saved` is the same once it is on disk.
    """

    def __init__(self, endpoint: Endpoint, store: Conversations, answers: Answers, controls: Controls) -> None:
        self._endpoint, self._store, self._answers, self._controls = endpoint, store, answers, controls
        self.current = gr.Textbox(visible="hidden", elem_id="current")
        self.saved = gr.Textbox(visible="hidden")
        self.log = gr.Chatbot(
            elem_id="log", show_label=False, height="100%", layout="bubble", editable="user", buttons=["copy"],
            allow_tags=False, placeholder=EMPTY, feedback_options=None, scale=1, autoscroll=True,
            latex_delimiters=display.LATEX,
        )  # fmt: skip
        self.notice = gr.HTML(elem_id="notice", js_on_load=None)
        self.question = gr.Textbox(
            label="Question", placeholder="Ask anything", lines=1, max_lines=10, show_label=False, submit_btn=True,
            autofocus=True, elem_id="question", max_length=None, container=True,
        )  # fmt: skip
        self.draft = Draft()
        self.statistics = gr.HTML(elem_id="statistics", js_on_load=None)
        self.changed = [self.saved, self.log, self.notice, self.question, self.draft.returned, self.statistics]

    def listen(self, refresh: Any, shown: list[Any]) -> None:
        """Connect the handlers; `refresh` is (function, inputs, outputs), run after each answer.

        `shown` is all that `leave` may be given to show.
        """
        asking = {"inputs": [self.current, *self._controls.inputs], "outputs": shown, "show_progress": "hidden"}
        with_text = asking | {"inputs": [self.question, self.saved, *asking["inputs"]]}
        events = [
            self.question.submit(self.send, **with_text),
            self.log.retry(self.retry, **asking),
            self.log.edit(self.edit, **asking),
        ]
        for event in events:
            self.draft.follow(event, self.question, self.notice).then(*refresh, show_progress="hidden")
        for begun in (self.question.submit, self.log.retry, self.log.edit):
            begun(None, js=TO_THE_END)
        self.question.stop(self.stop, self.current, show_progress="hidden")
        self.question.stop(None, js=TO_THE_BOX)
        self._controls.thinking.input(
            self.redraw, [self.current, self._controls.thinking], [self.log], show_progress="hidden"
        )

    # Handlers

    async def send(
        self, request: gr.Request, question: str, saved: str, current: str, *values: Any
    ) -> AsyncIterator[dict]:
        """A new question in this conversation."""
        if not question.strip() or not current:  # without an id, the page is still being opened
            yield {self.notice: ""}
            return
        try:
            before, now = self._begin(current, values, new=saved != current)
        except TandemError as error:
            yield self._refused(error)
            return
        now.ask(question)
        async for update in self._answer(before, now, values[-1], question, request.session_hash):
            yield update

    async def retry(self, request: gr.Request, current: str, *values: Any) -> AsyncIterator[dict]:
        """The last question again; its answer is replaced."""
        try:
            before, now = self._begin(current, values)
        except TandemError as error:
            yield self._refused(error)
            return
        while now.turns and now.turns[-1].role == "assistant":
            now.turns.pop()
        if not now.turns:
            yield {self.notice: display.notice("There is no question to ask again")}
            return
        async for update in self._answer(before, now, values[-1], None, request.session_hash):
            yield update

    async def edit(self, request: gr.Request, change: gr.EditData, current: str, *values: Any) -> AsyncIterator[dict]:
        """An earlier question in other words; what came after it is dropped."""
        question = display.unescaped(change.value)
        try:
            before, now = self._begin(current, values)
        except TandemError as error:
            yield self._refused(error, question)
            return
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
            answer.after = update | {self.draft.returned: ""}
            return {self.notice: ""}
        return update

    def redraw(self, current: str, thinking: bool) -> list[dict]:
        return display.messages(self.load(current), thinking=thinking)

    def load(self, current: str) -> Conversation:
        """The conversation of this id, as it is on disk; a new one where there is none."""
        try:
            return self._store.read(current)
        except NotFoundError:
            return Conversation(id=current)

    # An answer, from question to what is kept of it

    def _begin(self, current: str, values: tuple, *, new: bool = False) -> tuple[Conversation, Conversation]:
        """The conversation as it is, and a copy with what the controls say, to be asked.

        Raises NotFoundError if it is not `new` and is not there any more, DataError for a broken file.
        """
        try:
            before = self.load(current) if new else self._store.read(current)
        except NotFoundError:
            raise NotFoundError(DELETED, hint=BEGINS_ANEW) from None
        now = before.model_copy(deep=True)
        now.settings = settings(*values[: len(self._controls.generation)])
        now.system = values[-2]
        return before, now

    async def _answer(
        self, before: Conversation, now: Conversation, thinking: bool, typed: str | None, session: str
    ) -> AsyncIterator[dict]:
        """Ask the last question of `now` and show what comes. With nothing, `before` stays and `typed` comes back."""
        trouble, key = "", now.id
        replies = self._endpoint.reply(now.messages(), now.settings)
        try:
            answer = self._answers.begin(key, session, replies)
        except StateError as error:  # what the page shows belongs to the answer that is coming
            yield {self.notice: display.problem(error)}
            return
        try:
            self._store.save(now)
            before.replaces(now)
            yield self._busy(now, thinking, answer)
            async for reply in answer.states():
                shown = display.messages(now, thinking=thinking, reply=reply)
                yield {self.log: shown, self.statistics: display.statistics(reply.version, Statistics.of(reply))}
        except TandemError as error:
            trouble = display.problem(error, then=KEPT if typed and not answer.reply.came else "")
        finally:
            self._answers.end(key)
            kept, said = self._keep(before, now, answer)
        if kept is now and answer.reply.cut and not answer.reply.text:
            said = said or display.CUT_IN_THINKING
        yield (
            self._idle(kept, thinking)
            | {self.notice: trouble or display.notice(said), self.draft.returned: "" if kept is now else typed or ""}
            | ({} if kept.id == key else {self.current: kept.id})
            | (answer.after or {})
        )

    def _keep(self, before: Conversation, now: Conversation, answer: Answer) -> tuple[Conversation, str]:
        """Save what came of the answer, or what was there before: what is there now, and what a person must know of it.

        A title that was given meanwhile stays, and so does what another program added; what was deleted stays deleted.
        """
        try:
            found = self._store.read(now.id)
        except TandemError:
            return Conversation(id=now.id), GONE
        before.title = now.title = found.title
        if answer.reply.came or answer.reply.finish_reason:
            now.answer(answer.reply, cut=answer.reply.finish_reason is None)
            return now, "" if self._store.save(now) else APART
        if found.updated != now.updated:
            return found, ""
        if before.turns:
            self._store.save(before)
        else:
            self._store.delete(now.id)
        return before, ""

    def _refused(self, error: TandemError, typed: str = "") -> dict:
        """What the page shows stays, and so does what is in the box; `typed`, from elsewhere, comes into it."""
        unsaved = {self.saved: ""} if isinstance(error, NotFoundError) else {}
        return unsaved | {
            self.notice: display.problem(error, then=KEPT if typed else ""),
            self.draft.returned: typed,
        }

    def _busy(self, now: Conversation, thinking: bool, answer: Answer) -> dict:
        return {
            self.saved: now.id,
            self.log: display.messages(now, thinking=thinking, reply=answer.reply),
            self.question: gr.Textbox(value="", submit_btn=False, stop_btn=True),
            self.notice: "",
            self.statistics: "",
        }

    def _idle(self, conversation: Conversation, thinking: bool) -> dict:
        return {
            self.saved: conversation.id if conversation.turns else "",
            self.log: display.messages(conversation, thinking=thinking),
            self.question: gr.Textbox(submit_btn=True, stop_btn=False),
            self.statistics: self.last_statistics(conversation),
        }

    @staticmethod
    def last_statistics(conversation: Conversation) -> str:
        """The statistics of the conversation's last answer."""
        answered = [turn for turn in conversation.turns if turn.statistics]
        return display.statistics(answered[-1].version, answered[-1].statistics) if answered else ""
