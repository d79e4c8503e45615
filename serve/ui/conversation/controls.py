"""How answers are generated, as a person sets it: adapter, effort, sliders, instructions. Shared by the page's tabs."""

from typing import Any

import gradio as gr

from configs.errors import TandemError
from serve.client.conversation import Conversation
from serve.client.endpoint import Endpoint, Settings

LONGEST_ANSWER = 32768
"""Tokens, where the server does not say what its context takes."""
MOST_TOP_K = 500
USUAL = (1.0, 1.0, 0)
"""Temperature, top-p and top-k that change nothing."""


class Controls:
    """The components, in the order in which event handlers get their values (`inputs`)."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._longest = LONGEST_ANSWER
        self.model = gr.Dropdown([], label="Adapter", value="prod", allow_custom_value=True, elem_id="model")
        self.effort = gr.Radio(["low", "medium", "high"], label="Reasoning effort", value="medium", elem_id="effort")
        self.thinking = gr.Checkbox(True, label="Show thinking", elem_id="show-thinking")
        self.system = gr.Textbox(
            label="Instructions", lines=2, max_lines=8, placeholder="How to answer, in every question", elem_id="system"
        )
        self.own = gr.Checkbox(True, label="Sample as the model says", elem_id="own-sampling")
        with gr.Group(visible=False) as sampling:
            self.temperature = gr.Slider(0, 2, 1, step=0.05, label="Temperature", elem_id="temperature")
            self.top_p = gr.Slider(0.01, 1, 1, step=0.01, label="Top-p", elem_id="top-p")
            self.top_k = gr.Slider(0, MOST_TOP_K, 0, step=1, label="Top-k", info="0 keeps all tokens", elem_id="top-k")
        self.own.change(lambda own: gr.Group(visible=not own), self.own, sampling, show_progress="hidden")
        self.max_tokens = gr.Slider(
            0,
            LONGEST_ANSWER,
            0,
            step=16,
            label="Max tokens",
            info="0 is what the context has left",
            elem_id="max-tokens",
        )
        sampled = [self.own, self.temperature, self.top_p, self.top_k]
        self.generation = [self.model, self.effort, *sampled, self.max_tokens]
        self.inputs = [*self.generation, self.system, self.thinking]

    async def choices(self) -> Any:
        """An adapter menu with what the endpoint has now; unchanged while nothing answers."""
        try:
            return gr.Dropdown(choices=await self._endpoint.models())
        except TandemError:
            return gr.skip()

    async def first(self, wanted: str, max_tokens: int) -> tuple[Any, Any]:
        """The menu for a page just opened, and the slider up to what the endpoint's context takes. An endpoint of other
        people's has no `prod`, so its first name stands in."""
        try:
            served = await self._endpoint.contexts()
        except TandemError:
            return gr.skip(), gr.skip()
        names, stands_in = [*served], wanted == "prod" and served and wanted not in served
        self._longest = max(filter(None, served.values()), default=LONGEST_ANSWER)
        slider = gr.Slider(value=min(max_tokens, self._longest), maximum=self._longest)
        return gr.Dropdown(choices=names, value=names[0] if stands_in else wanted), slider

    def show(self, conversation: Conversation) -> dict[Any, Any]:
        """What the components show for a conversation that is opened; within the sliders' ends."""
        settings = conversation.settings
        sampling = (settings.temperature, settings.top_p, settings.top_k)
        temperature, top_p, top_k = (usual if own is None else own for own, usual in zip(sampling, USUAL, strict=True))
        return {
            self.model: settings.model,
            self.effort: settings.reasoning_effort,
            self.own: all(each is None for each in sampling),
            self.temperature: temperature,
            self.top_p: max(top_p, 0.01),
            self.top_k: min(top_k, MOST_TOP_K),
            self.max_tokens: gr.Slider(value=min(settings.max_tokens or 0, self._longest), maximum=self._longest),
            self.system: conversation.system,
        }


def settings(
    model: str, effort: str, own: bool, temperature: float, top_p: float, top_k: int, max_tokens: int
) -> Settings:
    """The values of `Controls.generation` as settings; with `own` the sampling is left to the server."""
    sampling = {} if own else {"temperature": temperature, "top_p": top_p, "top_k": top_k}
    return Settings(
        model=(model or "").strip() or "prod",
        reasoning_effort=effort,
        max_tokens=max_tokens or None,
        **sampling,
    )
