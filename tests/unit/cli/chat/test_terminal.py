"""`tandem chat` on a real pseudo-terminal: its own process, keys in, bytes out."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator

import pytest

from configs.paths import SOURCE, Home
from serve.client.conversation import Conversations
from tests.gateway_server import Server, tokens

WORDS = " ".join(f"word{number}" for number in range(400))
ESCAPES = re.compile(r"\x1b\[[?\d;]*[A-Za-z]")
START = "from cli.main import main; main()"


class Terminal:
    """A process on a terminal of 60 columns and 20 rows."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.master: int | None
        self.master, slave = pty.openpty()
        self.resize(60, 20)
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=SOURCE,
            env=os.environ | {"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"} | environment,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self.slave: int | None = slave
        self.seen = ""

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def see(self, pattern: str) -> str:
        """The text up to the end of the first match in what comes from now on, without escape sequences."""
        deadline = time.monotonic() + 30
        while not (found := re.search(pattern, self.seen)):
            assert time.monotonic() < deadline, f"never came: {pattern!r} in {self.seen[-2000:]!r}"
            if select.select([self.master], [], [], 0.1)[0]:
                self.seen = ESCAPES.sub("", self.seen + os.read(self.master, 65536).decode("utf-8", "replace"))
        before, self.seen = self.seen[: found.end()], self.seen[found.end() :]
        return before

    def rest(self) -> str:
        """All that an ended process has written since, escape sequences too; one read gives 4 KiB at most."""
        parts = []
        while select.select([self.master], [], [], 0.5)[0]:
            parts.append(os.read(self.master, 65536))
        return b"".join(parts).decode("utf-8", "replace")

    @property
    def echoes(self) -> bool:
        return bool(termios.tcgetattr(self.slave)[3] & termios.ECHO)

    def hang_up(self) -> None:
        """As a window that is closed does: its terminal is gone, and the kernel sends SIGHUP."""
        os.close(self.slave)
        os.close(self.master)
        self.master = self.slave = None

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        for descriptor in filter(None, (self.master, self.slave)):
            os.close(descriptor)


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    running = Server(Home(tmp_path_factory.mktemp("terminal")))
    running.engine.script = tokens(f"<|channel|>final<|message|>{WORDS}<|return|>")
    running.engine.delay = 0.01
    running.start()
    yield running
    running.stop()


@pytest.fixture
def chat(server, home) -> Iterator[Terminal]:
    terminal = Terminal("chat", "--url", f"{server.url}/v1", TANDEM_HOME=str(home.root))
    yield terminal
    terminal.close()


def test_an_answer_streams_ctrl_c_stops_it_and_the_chat_goes_on(chat, home):
    chat.see("prod at http")
    chat.see(">")
    chat.type("Hi\r")
    chat.see("word3")
    chat.type("typed ahead")
    chat.resize(40, 12)
    chat.see(r"word\d\d")
    chat.type("\x03")
    stopped = chat.see(r"stopped; what\s+came is kept\)")
    assert "word399" not in stopped
    assert "typed" not in stopped, "what is typed does not get into the answer"
    chat.see("typed ahead")
    chat.type("\x03")
    chat.see(r"Ctrl-D or\s+/exit\s+leaves")
    chat.type("/settings max_tokens 20\r")
    chat.see("max_tokens 20")
    chat.type("Again\r")
    chat.see(r"cut:\s+the\s+token\s+limit")
    chat.type("\x04")
    assert chat.process.wait(10) == 0
    assert chat.echoes
    (saved,) = home.conversations.glob("*.json")
    assert saved.read_text().count('"cut":true') + saved.read_text().count('"cut": true') == 2


def test_a_refused_paste_leaves_its_error_on_the_screen_and_up_brings_it_back(server, home):
    terminal = Terminal("chat", "--model", "nobody", "--url", f"{server.url}/v1", TANDEM_HOME=str(home.root))
    paste = "\r".join(f"pasted{number}" for number in range(30))
    terminal.see("nobody at http")
    terminal.see(">")
    terminal.type(f"\x1b[200~{paste}\x1b[201~\r")
    terminal.see(r"error: the model 'nobody' does not exist")
    after = terminal.see(r"Up\s+brings\s+the\s+text\s+back[^>]*>")
    assert "pasted" not in after
    terminal.type("\x1b[A")
    terminal.see("pasted29")
    terminal.close()


def test_a_window_closed_in_mid_answer_keeps_the_question_and_what_came(chat, home):
    chat.see("prod at http")
    chat.see(">")
    chat.type("Hi\r")
    chat.see("word3")
    chat.hang_up()
    assert chat.process.wait(10) != 0
    (saved,) = Conversations(home.conversations).saved()
    assert [(turn.role, turn.cut) for turn in saved.turns] == [("user", False), ("assistant", True)]
    assert saved.turns[1].content.startswith("word0 word1 word2")
    assert "word399" not in saved.turns[1].content


def test_a_pipe_works_line_by_line(server, home):
    done = subprocess.run(
        [sys.executable, "-c", START, "chat", "--url", f"{server.url}/v1", "--max-tokens", "30"],
        input=b"hi\n/nope\nho\n/exit\nnever read\n",
        capture_output=True,
        cwd=SOURCE,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().count("word0 word1") == 2
    assert b"\x1b" not in done.stdout + done.stderr
    assert b"no command /nope" in done.stderr
