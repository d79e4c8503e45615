"""The dashboard's tab: its components, the beat that keeps them live, and what a click does.

The page asks, not the server: the pulse beats only while its tab is shown, in a window that is seen, and says what it
shows already, so that only parts that changed travel.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import gradio as gr

from configs.errors import RequestError, TandemError
from serve.ui.conversation import display
from serve.ui.dashboard import actions, adapters, events, head, processes, requests, runs, slots
from serve.ui.dashboard.actions import Action
from serve.ui.dashboard.curves import Curve
from serve.ui.dashboard.markup import loading
from serve.ui.dashboard.reading import ROWS, PageData, SharedReading

PERIOD_MS = 2000
SAID_MS = 10_000
"""How long it is said that something was done; an error stays until the next action."""

PULSE = f"""
const beat = () => {{
  if (document.hidden || !element.checkVisibility()) return;
  const seen = {{}};
  for (const part of document.querySelectorAll('#board [data-digest]')) seen[part.dataset.part] = part.dataset.digest;
  const done = document.querySelector('#said .done');
  if (done) done.dataset.since ??= Date.now();
  if (done && Date.now() - done.dataset.since > {SAID_MS}) done.classList.add('gone');
  trigger('tick', {{seen}});
}};
setInterval(beat, {PERIOD_MS});
document.addEventListener('visibilitychange', beat);
new IntersectionObserver(beat).observe(element.parentElement);
"""
"""Beats while somebody looks, and at once when somebody begins to."""

CLICKS = """
element.addEventListener('click', (event) => {
  const wish = event.target.closest('[data-do]');
  if (wish?.dataset.do === 'theme') document.querySelector('#theme').click();
  else if (wish) trigger('select', {kind: wish.dataset.do, what: wish.dataset.what ?? ''});
});
"""

READOUT = """
const read = (event) => {
  const plot = event.target.closest('.curve');
  if (!plot) return;
  const box = plot.getBoundingClientRect(), x = 100 * (event.clientX - box.left) / box.width;
  const {low, high, scale} = plot.dataset, said = [];
  const [begin, end] = [Number(plot.dataset.begin), Number(plot.dataset.end)];
  const loss = (y) => scale === 'log' ? high * (low / high) ** (y / 100) : high - y / 100 * (high - low);
  for (const [kind, name] of [['train', 'loss'], ['held-out', 'held out']]) {
    const points = [...(plot.querySelector(`polyline.${kind}`)?.points ?? [])];
    if (!points.length) continue;
    const near = points.reduce((a, b) => Math.abs(b.x - x) < Math.abs(a.x - x) ? b : a);
    if (!said.length) said.push(`step ${Math.round(begin + near.x / 100 * (end - begin))}`);
    said.push(`${name} ${loss(near.y).toPrecision(3)}`);
  }
  plot.querySelector('output').textContent = said.join(' · ');
};
element.addEventListener('pointermove', read);
element.addEventListener('pointerdown', read);
"""
"""What the curve says where the pointer is."""

_PARTS = {"slots": slots.html, "requests": requests.html, "adapters": adapters.html}
_PARTS |= {"processes": processes.html, "events": events.html}


class DashboardTab:
    """Components and handlers. What a window looks at, the run and the number of rows, is its own."""

    def __init__(self, looks: SharedReading) -> None:
        self._looks = looks
        self.chosen, self.rows, self.asked = gr.State(""), gr.State(ROWS), gr.State(None)
        with gr.Column(elem_id="board"):
            self.pulse = gr.HTML("", elem_id="pulse", js_on_load=PULSE)
            self.parts = {"head": self._part("head", CLICKS)}
            with gr.Column(visible=False, elem_id="ask") as self.asking:
                self.question = gr.HTML(elem_id="ask-question", js_on_load=None)
                with gr.Row():
                    self.really = gr.Button("Do it", variant="primary", size="sm", elem_id="ask-really")
                    self.leave = gr.Button("Leave it", size="sm", elem_id="ask-leave")
            self.said = gr.HTML(elem_id="said", js_on_load=None)
            for name, script in (("slots", None), ("run", CLICKS + READOUT), ("requests", None), ("runs", CLICKS)):
                self.parts[name] = self._part(name, script)
            for name, script in (("adapters", CLICKS), ("processes", None), ("events", None)):
                self.parts[name] = self._part(name, script)

    @staticmethod
    def _part(name: str, script: str | None) -> gr.HTML:
        return gr.HTML(loading(name), elem_id=f"part-{name}", js_on_load=script, apply_default_css=False)

    def listen(self) -> None:
        """Connect the handlers. A beat goes past Gradio's queue, which would cost ten times as much."""
        parts, seen = list(self.parts.values()), [self.chosen, self.rows]
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        self.pulse.tick(self.beat, seen, parts, queue=False, trigger_mode="once", **quiet)
        asking = [self.asked, self.asking, self.question, self.really, self.said]
        for part in parts:
            part.select(self.wish, seen, [*seen, *asking, *parts], queue=False, **quiet)
        self.leave.click(lambda: gr.Column(visible=False), None, self.asking, queue=False, **quiet)
        self.really.click(self.carry_out, [self.asked, *seen], [self.asking, self.said, *parts], **quiet)

    # Handlers

    async def beat(self, event: gr.EventData, chosen: str, rows: int) -> list[Any]:
        """The parts that are not as the page shows them."""
        shown = event._data.get("seen", {}) if isinstance(event._data, dict) else {}
        drawn = await self._draw(await self._looks.now(rows), chosen, rows)
        return [gr.skip() if f'data-digest="{shown.get(name)}"' in html[:200] else html for name, html in drawn.items()]

    async def wish(self, event: gr.EventData, chosen: str, rows: int) -> dict[Any, Any]:
        """A click on something: another run, more runs, or an action, which is asked about first."""
        data = event._data if isinstance(event._data, dict) else {}
        kind, what = str(data.get("kind")), str(data.get("what", ""))
        if kind not in ("show", "more"):
            return await self._ask(kind, what)
        chosen, rows = (what, rows) if kind == "show" else (chosen, rows + ROWS)
        drawn = await self._draw(await self._looks.now(rows), chosen, rows)
        return {self.chosen: chosen, self.rows: rows} | {self.parts[name]: html for name, html in drawn.items()}

    async def carry_out(self, asked: tuple[str, str], chosen: str, rows: int) -> AsyncIterator[dict[Any, Any]]:
        """What was asked about and confirmed; then what came of it, and the parts as they are after it."""
        action = Action(*asked)
        yield {self.asking: gr.Column(visible=False), self.said: display.notice(action.busy)}
        try:
            said = f'<div class="done">{display.notice(await actions.do(self._looks.home, action))}</div>'
        except TandemError as error:
            said = display.problem(error)
        drawn = await self._draw(await self._looks.now(rows, anew=True), chosen, rows)
        yield {self.said: said} | {self.parts[name]: html for name, html in drawn.items()}

    # What they have in common

    async def _ask(self, kind: str, what: str) -> dict[Any, Any]:
        try:
            action = Action(kind, what)
        except RequestError as error:
            return {self.said: display.problem(error)}
        seen = (await self._looks.now()).overview
        doubts = next((each.manifest.doubts for each in seen.adapters if each.manifest.version == what), "")
        question = action.question(seen.aliases.get("prod") or "base", doubts)
        return {
            self.asked: (kind, what),
            self.asking: gr.Column(visible=True),
            self.question: display.notice(question),
            self.really: gr.Button(action.verb),
            self.said: "",
        }

    async def _draw(self, look: PageData, chosen: str, rows: int) -> dict[str, str]:
        """Every part's HTML by name, in the order of `parts`."""
        return await asyncio.to_thread(self._drawn, look, chosen, rows)

    def _drawn(self, look: PageData, chosen: str, rows: int) -> dict[str, str]:
        reading, curve, bill, trouble = runs.find(look, chosen), Curve(), None, ""
        if reading:
            chosen = reading.run.id
            bill = self._looks.energy(chosen)
            try:
                curve = self._looks.curves.of(chosen)
            except OSError as error:
                trouble = f"Its losses cannot be read: {error}"
        drawn = {name: part(look) for name, part in _PARTS.items()}
        drawn |= {"head": head.html(look), "runs": runs.table(look, chosen, rows, ROWS)}
        drawn["run"] = runs.detail(look, reading, curve, bill, trouble)
        return {name: drawn[name] for name in self.parts}
