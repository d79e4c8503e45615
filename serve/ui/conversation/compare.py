"""The side-by-side tab: one prompt to two adapters at once, then a vote. Blind, nobody knows who is A before it."""

import asyncio
import html
import random
from collections.abc import AsyncIterator
from typing import Any

import gradio as gr

from configs.errors import TandemError
from serve.client.conversation import Conversation, Statistics
from serve.client.endpoint import Endpoint, Reply
from serve.ui.conversation import display
from serve.ui.conversation.answering import PERIOD_S, Answer, Answers
from serve.ui.conversation.controls import Controls, settings
from serve.ui.conversation.draft import KEPT, Draft
from serve.ui.conversation.votes import Choice, Duel, Side, Votes

CHOICES: tuple[tuple[Choice, str], ...] = (
    ("a", "A is better"), ("tie", "Tie"), ("both_bad", "Both bad"), ("b", "B is better"),
)  # fmt: skip


class CompareTab:
    """Components and handlers. The answers wait in `duel`, one per browser session, until the vote."""

    def __init__(self, endpoint: Endpoint, votes: Votes, answers: Answers, controls: Controls) -> None:
        self._endpoint, self._votes, self._answers, self._controls = endpoint, votes, answers, controls
        self.duel = gr.State()
        with gr.Row(elem_id="contestants"):
            self.models = [
                gr.Dropdown([], label=label, value=value, allow_custom_value=True, elem_id=f"model-{side}", scale=3)
                for side, label, value in (("a", "One", "prod"), ("b", "Other", "base"))
            ]
            self.blind = gr.Checkbox(True, label="Blind", elem_id="blind", scale=1)
        with gr.Row(elem_id="sides", equal_height=True):
            sides = [self._side(side) for side in "ab"]
        self.names, self.logs, self.statistics = map(list, zip(*sides, strict=True))
        with gr.Row(elem_id="votes", visible=False) as self.voting:
            self.buttons = {choice: gr.Button(text, elem_id=f"vote-{choice}") for choice, text in CHOICES}
        self.notice = gr.HTML(elem_id="compare-notice", js_on_load=None)
        self.question = gr.Textbox(
            label="Question to both", placeholder="Ask both", lines=1, max_lines=10, show_label=False, submit_btn=True,
            elem_id="compare-question",
        )  # fmt: skip
        self.draft = Draft()
        self.changed = [
            self.duel, *self.names, *self.logs, *self.statistics, self.voting, self.notice, self.question,
            self.draft.returned,
        ]  # fmt: skip

    @staticmethod
    def _side(side: str) -> tuple[gr.HTML, gr.Chatbot, gr.HTML]:
        with gr.Column(min_width=240):
            name = gr.HTML(_name(side), elem_id=f"name-{side}", js_on_load=None)
            log = gr.Chatbot(
                elem_id=f"log-{side}", show_label=False, height="100%", buttons=["copy"], allow_tags=False,
                feedback_options=None, placeholder=" ", layout="bubble",
                latex_delimiters=display.LATEX,
            )  # fmt: skip
            return name, log, gr.HTML(elem_id=f"statistics-{side}", js_on_load=None)

    def listen(self) -> None:
        asked = self.question.submit(
            self.ask, [self.question, *self.models, self.blind, *self._controls.inputs], self.changed,
            show_progress="hidden",
        )  # fmt: skip
        self.draft.follow(asked, self.question, self.notice)
        self.question.stop(self.stop, show_progress="hidden")
        for choice, button in self.buttons.items():
            button.click(
                lambda duel, choice=choice: self.vote(duel, choice), self.duel, self.changed, show_progress="hidden"
            )
        for menu in self.models:
            menu.focus(self._controls.choices, None, menu, show_progress="hidden")

    # Handlers

    async def ask(
        self, request: gr.Request, question: str, one: str, other: str, blind: bool, *values: Any
    ) -> AsyncIterator[dict]:
        """Put `question` to both and show their answers as they grow."""
        if not question.strip():
            yield {self.notice: ""}
            return
        duel = self._duel(question, one, other, blind, values)
        thinking, session, troubles = values[-1], request.session_hash, []
        try:
            pair = [self._begin(duel, side, session) for side in (duel.a, duel.b)]
        except TandemError as error:
            yield {self.notice: display.problem(error)}
            return
        try:
            yield self._busy(duel)
            async for _ in both(pair):
                duel.a.reply, duel.b.reply = pair[0].reply, pair[1].reply
                yield self._shown(duel, thinking, named=not blind)
        except TandemError as error:
            troubles.append(error)
        finally:
            for side in (duel.a, duel.b):
                self._answers.end(_key(session, side))
        yield self._shown(duel, thinking, named=not blind, ended=True) | self._idle(duel, question, troubles)

    def stop(self, request: gr.Request) -> None:
        self._answers.stop(request.session_hash, f"{request.session_hash}/")

    def vote(self, duel: Duel, choice: Choice) -> dict:
        """Keep the vote, and say who was who."""
        self._votes.add(duel, choice)
        said = f"Thank you. Kept in {self._votes.path}"
        return self._revealed(duel) | {
            self.voting: gr.Row(visible=False),
            self.notice: display.notice(said),
            self.duel: None,
        }

    # One comparison

    def _duel(self, question: str, one: str, other: str, blind: bool, values: tuple) -> Duel:
        conversation = Conversation(system=values[-2])
        conversation.ask(question)
        sides = [Side((name or "").strip() or "prod", Reply()) for name in (one, other)]
        if blind:
            random.shuffle(sides)
        return Duel(conversation.messages(), settings(*values[: len(self._controls.generation)]), blind, *sides)

    def _begin(self, duel: Duel, side: Side, session: str) -> Answer:
        asked = duel.settings.model_copy(update={"model": side.model})
        return self._answers.begin(_key(session, side), session, self._endpoint.reply(duel.prompt, asked))

    def _busy(self, duel: Duel) -> dict:
        names = {} if duel.blind else self._revealed(duel)
        hidden = {name: _name(side) for name, side in zip(self.names, "ab", strict=True)}
        return hidden | names | {
            self.question: gr.Textbox(value="", submit_btn=False, stop_btn=True),
            self.voting: gr.Row(visible=False),
            self.notice: "",
            self.duel: None,
        }  # fmt: skip

    def _shown(self, duel: Duel, thinking: bool, *, named: bool, ended: bool = False) -> dict:
        asked = {"role": "user", "content": [{"type": "text", "text": display.escaped(duel.prompt[-1]["content"])}]}
        shown = {}
        for side, log, line in zip((duel.a, duel.b), self.logs, self.statistics, strict=True):
            shown[log] = [asked, *display.answer(side.reply, thinking=thinking, ended=ended)]
            shown[line] = display.statistics(side.reply.version if named else None, Statistics.of(side.reply))
        return shown

    def _idle(self, duel: Duel, question: str, troubles: list[TandemError]) -> dict:
        missing = _missing(duel)
        whole = not (troubles or missing)
        return {
            self.question: gr.Textbox(submit_btn=True, stop_btn=False),
            self.draft.returned: question if troubles else "",
            self.voting: gr.Row(visible=whole),
            self.notice: display.problem(troubles[0], then=KEPT) if troubles else display.notice(missing),
            self.duel: duel if whole else None,
        }

    def _revealed(self, duel: Duel) -> dict:
        names = {name: _name(*side) for name, *side in zip(self.names, "ab", (duel.a.model, duel.b.model), strict=True)}
        lines = {
            line: display.statistics(side.reply.version, Statistics.of(side.reply))
            for line, side in zip(self.statistics, (duel.a, duel.b), strict=True)
        }
        return names | lines


async def both(pair: list[Answer]) -> AsyncIterator[None]:
    """Whenever one of two answers may have grown, until both ended. What one of them raises stops the other."""
    reading = [asyncio.create_task(_drain(answer)) for answer in pair]
    try:
        waiting = set(reading)
        while waiting:
            done, waiting = await asyncio.wait(waiting, timeout=PERIOD_S)
            yield
            for task in done:
                task.result()
    finally:
        for answer in pair:
            answer.stop()
        await asyncio.wait(reading)


async def _drain(answer: Answer) -> None:
    async for _ in answer.states():
        pass


def _missing(duel: Duel) -> str:
    """Why there is nothing to vote on; empty if there is."""
    replies = duel.a.reply, duel.b.reply
    if not all(reply.finish_reason for reply in replies):
        return "Stopped: there is nothing to vote on. Ask again"
    if any(reply.cut and not reply.text for reply in replies):
        return f"{display.CUT_IN_THINKING}. There is nothing to vote on"
    return "" if all(reply.text for reply in replies) else "An empty answer: there is nothing to vote on. Ask again"


def _key(session: str, side: Side) -> str:
    return f"{session}/{id(side)}"


def _name(side: str, model: str = "") -> str:
    return f"<b>{side.upper()}</b>" + (f" <span>{html.escape(model)}</span>" if model else "")
