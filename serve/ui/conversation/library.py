"""The saved conversations beside the chat: list, open, new, rename, delete, export, import."""

import json
import time
import uuid
from collections import Counter
from datetime import datetime
from pathlib import Path

import gradio as gr

from configs.errors import DataError, TandemError
from serve.client.conversation import Conversation, Conversations, unreadable
from serve.ui.conversation import display
from serve.ui.conversation.chat import TO_THE_BOX, ChatTab
from serve.ui.conversation.controls import Controls
from serve.ui.conversation.draft import KEEP

MOST_LISTED = 200
LARGEST_IMPORT_BYTES = 20 * 2**20

REMEMBER = """(id, saved) => {
  const here = new URL(location);
  if (id && id === saved) here.searchParams.set('c', id);
  else here.searchParams.delete('c');
  history.replaceState(null, '', here);
}"""
"""The address names the open conversation once it is saved, so that a reload opens it again, each tab its own."""

CLOSE_ON_A_PHONE = """() => {
  if (innerWidth < 768) document.querySelector('#library.open .toggle-button')?.click();
}"""

SHOW_CHAT = """() => {
  document.querySelector('#tabs [data-tab-id=chat]')?.click();
}"""

CHOSEN_SHOWS_CHAT = """() => {
  const show = SHOW_CHAT;
  document.querySelector('#conversations').addEventListener('click', show);
}""".replace("SHOW_CHAT", SHOW_CHAT)
"""A click, because Gradio tells of no choice that was chosen before."""

ASK_IN_SIGHT = """() => {
  const show = () => {
    const keep = document.querySelector('#keep');
    if (!keep?.offsetParent) return requestAnimationFrame(show);
    keep.scrollIntoView({block: 'center'});
    keep.focus();
  };
  show();
}"""
"""Gradio makes the buttons some frames after it is told to show them."""

MINUTE, SECOND = "%d %b %H:%M", "%d %b %H:%M:%S"

DOWNLOAD = """(file) => {
  const {name, type, text} = JSON.parse(file);
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([text], {type}));
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}"""


class Library:
    """Components of the side bar, and what they do to the chat."""

    def __init__(self, store: Conversations) -> None:
        self._store = store
        self.new = gr.Button("New chat", elem_id="new-chat", size="md")
        self.list = gr.Radio([], label="Conversations", show_label=False, container=False, elem_id="conversations")
        with gr.Accordion("This conversation", open=False, elem_id="manage"):
            self.title = gr.Textbox(label="Title", elem_id="title", max_length=200, lines=1, max_lines=1)
            self.name = gr.Button("Rename", size="sm", elem_id="rename")
            with gr.Row():
                self.as_json = gr.Button("Export JSON", size="sm", elem_id="export-json", interactive=False)
                self.as_markdown = gr.Button("Export Markdown", size="sm", elem_id="export-markdown", interactive=False)
            with gr.Row() as self.unasked:
                self.delete = gr.Button("Delete", size="sm", elem_id="delete", interactive=False)
            with gr.Group(visible=False, elem_id="confirm") as self.confirm:
                gr.HTML("Delete this conversation for good?", js_on_load=None, padding=True)
                with gr.Row():
                    self.really = gr.Button("Delete", size="sm", variant="stop", elem_id="really-delete")
                    self.keep = gr.Button("Keep", size="sm", elem_id="keep")
        self._of_saved = [self.as_json, self.as_markdown, self.delete]
        self.file = gr.UploadButton("Import", size="sm", file_types=[".json", ".md"], elem_id="import")
        self._download = gr.Textbox(visible="hidden", elem_id="download")

    def listen(self, page: gr.Blocks, chat: ChatTab, controls: Controls) -> None:
        """Connect the handlers, the chat's too. Leaving a conversation stops the answer to it."""
        self._chat, self._controls = chat, controls
        listed = [self.list, self.title, *self._of_saved]
        shown = [chat.current, *chat.changed, *controls.inputs[:-1], *listed, self.unasked, self.confirm]
        chat.listen((self._listed, [chat.current], listed), shown)
        opening = {"outputs": shown, "show_progress": "hidden"}
        kept = {"inputs": [chat.current, controls.thinking]} | opening
        asked = [controls.model, controls.max_tokens]
        page.load(self.arrive, [controls.thinking], **opening).then(
            controls.first, asked, asked, show_progress="hidden"
        )
        page.load(None, js=KEEP)
        page.unload(chat.gone)
        self.new.click(self.renew, [chat.current], **opening)
        self.list.input(self.open, [self.list, *kept["inputs"]], **opening)
        self.really.click(self.remove, **kept)
        self.file.upload(self.bring, [self.file, *kept["inputs"]], **opening)
        for named in (self.title.submit, self.name.click):
            named(self.rename, [self.title, chat.current], [*listed, chat.notice])
        confirming = {"outputs": [self.unasked, self.confirm], "show_progress": "hidden"}
        self.delete.click(lambda: self._asks(True), **confirming).then(None, js=ASK_IN_SIGHT)
        self.keep.click(lambda: self._asks(False), **confirming)
        page.load(None, js=CHOSEN_SHOWS_CHAT)
        for elsewhere in (self.new.click, self.file.upload):
            elsewhere(None, js=SHOW_CHAT)
        for button, suffix in ((self.as_json, "json"), (self.as_markdown, "md")):
            exported = button.click(lambda current, to=suffix: self.export(current, to), chat.current, self._download)
            exported.then(None, self._download, js=DOWNLOAD)
        remembered = {"fn": None, "inputs": [chat.current, chat.saved], "js": REMEMBER}
        chat.current.change(**remembered)
        # The list beside it on the same change made the address late for 3 of 12 reloads (Gradio 6.31).
        chat.saved.change(**remembered).then(self._begun, chat.saved, listed, show_progress="hidden")
        for arrived in (CLOSE_ON_A_PHONE, TO_THE_BOX):
            chat.current.change(None, js=arrived)
        controls.model.focus(controls.choices, None, controls.model, show_progress="hidden")

    # Handlers

    def arrive(self, thinking: bool, request: gr.Request) -> dict:
        """A page was opened: show the conversation that its address names, or a new one. What is typed stays."""
        wanted = request.query_params.get("c")
        broken = unreadable(self._store.broken())
        said = display.notice(f"{broken} → fix or remove what is named; the others are listed" if broken else "")
        try:
            shown = self._show(self._store.read(wanted), thinking) if wanted else self.begin()
        except TandemError as error:
            shown, said = self.begin(), display.problem(error, then="This is a new one")
        return shown | {self._chat.question: gr.skip(), self._chat.notice: said}

    def begin(self) -> dict:
        """A new conversation, with the settings that are set."""
        fresh = Conversation()
        unchanged = {control: gr.skip() for control in self._controls.inputs[:-1]}
        return self._show(fresh, True) | unchanged | {self._chat.saved: ""}

    def renew(self, request: gr.Request, current: str) -> dict:
        return self._chat.leave(request, current, self.begin())

    def open(self, request: gr.Request, wanted: str, current: str, thinking: bool) -> dict:
        try:
            return self._chat.leave(request, current, self._show(self._store.read(wanted), thinking))
        except TandemError as error:
            return self._list(None) | {self._chat.notice: display.problem(error)}

    def remove(self, request: gr.Request, current: str, thinking: bool) -> dict:
        stopped = {self._chat.notice: display.notice("An answer was still being written; it is stopped. Delete again")}
        if self._chat.leave(request, current, stopped) is not stopped:
            return self._asks(False)
        try:
            self._store.delete(current)
        except TandemError:  # nothing was asked in it yet, or another tab was quicker
            return self.begin()
        return self.begin() | {self._chat.notice: display.notice("Deleted")}

    def rename(self, title: str, current: str) -> dict:
        conversation = self._chat.load(current)
        if not conversation.turns:
            return {self._chat.notice: display.notice("A conversation gets its title with its first question")}
        conversation.title = " ".join(title.split()) or conversation.title
        self._store.save(conversation)
        return self._list(conversation) | {self._chat.notice: ""}

    def bring(self, request: gr.Request, path: str, current: str, thinking: bool) -> dict:
        """Add the conversation in an uploaded file, as a new one."""
        try:
            conversation = imported(Path(path))
        except DataError as error:
            return {self._chat.notice: display.problem(error, then="Nothing was imported")}
        finally:
            Path(path).unlink(missing_ok=True)
        self._store.save(conversation)
        return self._chat.leave(request, current, self._show(conversation, thinking))

    def export(self, current: str, suffix: str) -> str:
        conversation = self._chat.load(current)
        text = conversation.to_json() if suffix == "json" else conversation.to_markdown()
        kind = "application/json" if suffix == "json" else "text/markdown"
        return json.dumps({"name": f"{file_name(conversation)}.{suffix}", "type": kind, "text": text})

    # What they have in common

    def _show(self, conversation: Conversation, thinking: bool) -> dict:
        return {
            self._chat.current: conversation.id,
            self._chat.saved: conversation.id,
            self._chat.log: display.messages(conversation, thinking=thinking),
            self._chat.notice: "",
            self._chat.question: gr.Textbox(value="", submit_btn=True, stop_btn=False),
            self._chat.statistics: self._chat.last_statistics(conversation),
        } | self._controls.show(conversation) | self._list(conversation) | self._asks(False)  # fmt: skip

    def _list(self, conversation: Conversation | None) -> dict:
        current = conversation.id if conversation else None
        listed = [each for at, each in enumerate(self._store.saved()) if at < MOST_LISTED or each.id == current]
        here = current in [each.id for each in listed]
        return {
            self.list: gr.Radio(choices=labelled(listed), value=current if here else None),
            self.title: conversation.title if conversation else gr.skip(),
        } | {button: gr.Button(interactive=here) for button in self._of_saved if conversation}

    def _listed(self, current: str) -> dict:
        return self._list(self._chat.load(current))

    def _begun(self, saved: str) -> dict:
        """The list with a conversation whose first question was just asked."""
        begun = saved and len(self._chat.load(saved).turns) == 1
        return self._listed(saved) if begun else {self.list: gr.skip()}

    def _asks(self, asking: bool) -> dict:
        """The question whether to delete, in the place of the button that leads to it."""
        return {self.unasked: gr.Row(visible=not asking), self.confirm: gr.Group(visible=asking)}


def labelled(conversations: list[Conversation]) -> list[tuple[str, str]]:
    """Title and id of each; with the time of the last turn where several have one title, to the second if need be."""
    labels = [each.title or "Untitled" for each in conversations]
    for form in (MINUTE, SECOND):
        often = Counter(labels)
        pairs = zip(conversations, labels, strict=True)
        labels = [label if often[label] == 1 else _dated(each, form) for each, label in pairs]
    return [(label, each.id) for each, label in zip(conversations, labels, strict=True)]


def _dated(conversation: Conversation, form: str) -> str:
    return f"{conversation.title or 'Untitled'} · {datetime.fromtimestamp(conversation.updated):{form}}"


def imported(path: Path) -> Conversation:
    """The conversation in a JSON or Markdown file, under a new id. Raises DataError."""
    if path.stat().st_size > LARGEST_IMPORT_BYTES:
        raise DataError(
            f"{path.name} is larger than {LARGEST_IMPORT_BYTES // 2**20} MiB", hint="it is not a conversation"
        )
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError:
        raise DataError(f"{path.name} is not text", hint="import a .json or .md file that Tandem exported") from None
    read = Conversation.from_markdown if path.suffix.lower() == ".md" else Conversation.from_json
    conversation = read(text, source=path.name)
    return conversation.model_copy(update={"id": uuid.uuid4().hex[:12], "updated": time.time()})


def file_name(conversation: Conversation) -> str:
    """The title, without what a file system or a shell would mind."""
    safe = "".join(letter if letter.isalnum() else "-" for letter in conversation.title)
    return "-".join(part for part in safe.split("-") if part)[:60] or "conversation"
