"""Where a person's lines come from: an editable prompt on a terminal, or plain lines of a pipe.

Both give one message per `read`, raise EOFError when there is no more and KeyboardInterrupt for Ctrl-C at the prompt.
Knows nothing of what the lines mean; completion is asked of whoever made the prompt.
"""

import asyncio
import contextlib
import os
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, TextIO

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import FileHistory, InMemoryHistory
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import Output
from rich.cells import cell_len

from cli.printable import printable, sendable

MARK = "> "
SHOWN_DRAFT = 1000
"""Characters of a draft that are shown where it cannot be edited."""
Complete = Callable[[str], tuple[str, dict[str, str]]]
"""From the text before the cursor to its unfinished end and what that may become, with a note to each."""


class Prompt(Protocol):
    interactive: bool
    """A person is there to decide what to do about a lost connection."""

    async def read(self, draft: str = "") -> str: ...
    def holds(self, draft: str) -> bool: ...
    def interrupt(self) -> None: ...
    def quiet(self) -> contextlib.AbstractContextManager[None]: ...


class EditedPrompt:
    """A line editor with history and completion. Enter sends; Alt-Enter or a trailing backslash begin a new line.

    A slash typed behind a draft that was left as it is begins a command in its place; the history has the draft.
    """

    interactive = True

    def __init__(
        self, history: Path | None, complete: Complete, *, input: Input | None = None, output: Output | None = None
    ) -> None:
        self._session: PromptSession[str] = PromptSession(
            MARK,
            multiline=True,
            prompt_continuation=lambda width, number, wrapped: "" if wrapped else "  ",
            history=_History(history) if history else InMemoryHistory(),
            completer=_Words(complete),
            complete_while_typing=True,
            key_bindings=_keys(lambda: self._draft),
            enable_open_in_editor=True,
            tempfile_suffix=".md",
            reserve_space_for_menu=4,
            input=input,
            output=output,
        )

    async def read(self, draft: str = "") -> str:
        self._draft = draft
        return sendable(await self._session.prompt_async(default=draft, handle_sigint=False))

    def holds(self, draft: str) -> bool:
        """Whether it leaves half of the window to what was said about it; else it becomes the newest of the history."""
        size = self._session.output.get_size()
        rows = sum(1 + (len(MARK) + cell_len(printable(line))) // size.columns for line in draft.split("\n"))
        if rows <= size.rows // 2:
            return True
        strings = self._session.history.get_strings()
        if not strings or strings[-1] != draft:
            self._session.history.append_string(draft)
        return False

    def interrupt(self) -> None:
        """A signal, where the key alone would have been enough."""
        app = self._session.app
        if app.is_running and app.future and not app.future.done():
            app.exit(exception=KeyboardInterrupt())

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """What is typed between prompts is not echoed into what is shown; it comes up at the next prompt.

        Around all of them: a Ctrl-D in a moment of line mode between two would be lost.
        """
        try:
            number = self._session.input.fileno()
            before = termios.tcgetattr(number)
        except (NotImplementedError, OSError, termios.error):  # a test's pipe
            yield
            return
        keys = before[3] & ~(termios.ECHO | termios.ICANON) | termios.NOFLSH  # Ctrl-C would discard what was typed
        termios.tcsetattr(number, termios.TCSANOW, [before[0] & ~termios.ICRNL, *before[1:3], keys, *before[4:]])
        try:
            yield
        finally:
            with contextlib.suppress(termios.error):  # the terminal was closed
                termios.tcsetattr(number, termios.TCSANOW, before)


class PlainPrompt:
    """Lines of a stream. A trailing backslash joins the next line; there is no editing.

    On a terminal a draft is shown, and an empty line sends it.
    """

    def __init__(self, stream: TextIO) -> None:
        self.interactive = stream.isatty()
        self._stream = stream
        self._lines: asyncio.Queue[str | type[BaseException]] = asyncio.Queue()
        self._reading: threading.Thread | None = None

    async def read(self, draft: str = "") -> str:
        self._start()
        if self.interactive and draft:
            sys.stderr.write(f"{_beginning(draft)}\n(Enter sends this; a space and Enter drop it)\n")
        message = await self._message()
        return draft if self.interactive and not message else message

    async def _message(self) -> str:
        message = ""
        while True:
            if self.interactive:
                sys.stderr.write(MARK)
                sys.stderr.flush()
            line = await self._lines.get()
            if isinstance(line, type):
                raise line
            if not line.endswith("\\\n"):
                return sendable(message + line.removesuffix("\n"))
            message += line[:-2] + "\n"

    def holds(self, draft: str) -> bool:
        """Always: of a long one only the beginning is shown, and that scrolls."""
        return True

    def interrupt(self) -> None:
        self._lines.put_nowait(KeyboardInterrupt)

    def quiet(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def _start(self) -> None:
        """A thread of its own, because a regular file cannot be polled and reading a terminal cannot be cancelled."""
        if self._reading is None:
            loop = asyncio.get_running_loop()
            self._reading = threading.Thread(target=self._read_all, args=(loop,), daemon=True)
            self._reading.start()

    def _read_all(self, loop: asyncio.AbstractEventLoop) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the chat has ended
            for line in self._stream:
                loop.call_soon_threadsafe(self._lines.put_nowait, line)
            loop.call_soon_threadsafe(self._lines.put_nowait, EOFError)


def _beginning(text: str) -> str:
    more = f" ... ({len(text):,} characters)" if len(text) > SHOWN_DRAFT else ""
    return printable(text[:SHOWN_DRAFT]) + more


class _Words(Completer):
    """Completes commands and their words; ordinary messages are left alone."""

    def __init__(self, complete: Complete) -> None:
        self._complete = complete

    def get_completions(self, document: Document, event: CompleteEvent) -> Iterator[Completion]:
        before = document.text_before_cursor
        if not before.startswith("/") or "\n" in before:
            return
        unfinished, words = self._complete(before)
        for word, note in words.items():
            yield Completion(word, start_position=-len(unfinished), display_meta=printable(note))


class _History(FileHistory):
    """Readable by its owner only. A file that cannot be written is no reason to lose the message."""

    def store_string(self, string: str) -> None:
        with contextlib.suppress(OSError):
            os.close(os.open(self.filename, os.O_CREAT | os.O_WRONLY, 0o600))
            super().store_string(sendable(string))


def _is_at_end_of(draft: str) -> bool:
    return bool(draft) and get_app().current_buffer.document.text_before_cursor == draft


def _keys(draft: Callable[[], str]) -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.text_before_cursor.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("/", filter=Condition(lambda: _is_at_end_of(draft())))
    def command(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        buffer.append_to_history()
        buffer.save_to_undo_stack()
        buffer.text = ""
        buffer.insert_text("/")

    return keys
