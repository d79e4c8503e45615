"""Bringing one notice to one place: a service by its Apprise URL, or a program. Blocking calls.

Knows no queue and no ledger. What an error says never holds a part of a URL, because URLs hold passwords. Called by
`actors.notify.queue` and `tandem notify test`.
"""

import contextlib
import json
import logging
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote

from actors.notify.messages import Notice
from configs.errors import ConfigError, DeliveryError
from configs.schema import NotifyConfig

LONGEST_ERROR = 200
"""Characters of what a service says."""
UNKNOWN = ("Unparseable URL", "Unsupported URL")
"""What Apprise 2.3 says of a URL with a scheme that it does not know; others it names by their service."""
SOCKET = "Socket Exception: "
"""Before what the network said, in Apprise's debug lines; its warnings say nothing but that there was an error."""


class FinalDeliveryError(DeliveryError):
    """Another try does not help, as with a URL of which no service can be made, or might tell twice."""


class Target(Protocol):
    """Somewhere a notice can go."""

    name: str
    """What people call it; no part of a URL but its scheme."""

    def send(self, notice: Notice) -> None:
        """Deliver it. Raises DeliveryError, FinalDeliveryError where it is not to be tried again."""


def targets(config: NotifyConfig) -> list[Target]:
    """Every place that the configuration names."""
    found: list[Target] = [
        Service(f"url {number} ({_scheme(url.get_secret_value())})", url.get_secret_value(), config.timeout_s)
        for number, url in enumerate(config.urls, start=1)
    ]
    if config.command:
        found.append(Command(f"command ({Path(config.command[0]).name})", config.command, config.timeout_s))
    return found


@dataclass(frozen=True)
class Service:
    """What Apprise reaches by a URL."""

    name: str
    url: str
    timeout_s: float

    def __repr__(self) -> str:
        return f"Service({self.name})"

    def send(self, notice: Notice) -> None:
        with _said_here() as lines:
            try:
                service = self._made(lines)
                service.socket_read_timeout = service.socket_connect_timeout = self.timeout_s
                arrived = service.notify(title=notice.title, body=notice.text, notify_type=notice.level)
            except DeliveryError:
                raise
            except Exception as error:  # of any of its services; the text may hold the URL
                raise DeliveryError(f"{type(error).__name__} in Apprise") from None
        if not arrived:
            raise self._failure(lines)

    def check(self) -> None:
        """Raises FinalDeliveryError if no service can be made of the URL. Sends nothing."""
        with _said_here() as lines:
            self._made(lines)

    def _made(self, lines: list[str]):
        import apprise  # 0.3 s with its services; only a process that sends pays for it

        service = apprise.Apprise.instantiate(self.url, suppress_exceptions=True)
        if service is None:
            if not lines or lines[0].startswith(UNKNOWN):
                raise FinalDeliveryError("not a URL that Apprise knows", hint="https://appriseit.com lists them")
            raise FinalDeliveryError(self._redacted(lines[0]), hint="https://appriseit.com shows what belongs into it")
        return service

    def _failure(self, lines: list[str]) -> DeliveryError:
        """Why it did not arrive. What was sent and not answered in time may have arrived."""
        network = next((line for line in lines if line.startswith(SOCKET)), "")
        if "Read timed out" in network:
            return FinalDeliveryError(f"no answer within {self.timeout_s:g} s; it may have arrived")
        if "refused" in network:
            return DeliveryError("nobody listens there: the connection was refused")
        if "NameResolution" in network:
            return DeliveryError("there is no such host")
        if "timed out" in network:
            return DeliveryError(f"no connection within {self.timeout_s:g} s")
        return DeliveryError(self._redacted(lines[0]) if lines else "the service refused it")

    def _redacted(self, text: str) -> str:
        """`text` without anything that the URL consists of, but for its scheme."""
        rest = self.url.partition("://")[2]
        parts = {part for whole in (rest, unquote(rest)) for part in re.split(r"[/:@?&=+#,;\s]", whole)}
        for part in sorted(parts, key=len, reverse=True):
            if len(part) >= 3:
                text = text.replace(part, "***")
        return text[:LONGEST_ERROR]


@contextlib.contextmanager
def _said_here() -> Iterator[list[str]]:
    """Apprise's warnings of this thread alone, and what the network said: `apprise.LogCapture` hears other threads'
    too, and their URLs."""
    lines: list[str] = []
    here, handler, apprise = threading.get_ident(), logging.Handler(), logging.getLogger("apprise")

    def hear(record: logging.LogRecord) -> None:
        text = record.getMessage().strip()
        if record.thread == here and (record.levelno >= logging.WARNING or text.startswith(SOCKET)):
            lines.extend(text.splitlines())

    handler.emit = hear
    apprise.setLevel(logging.DEBUG)
    apprise.propagate = False  # its lines may hold parts of a URL
    apprise.addHandler(handler)
    try:
        yield lines
    finally:
        apprise.removeHandler(handler)


@dataclass(frozen=True)
class Command:
    """A program that gets the notice as JSON on stdin and as TANDEM_NOTICE_KIND, _LEVEL, _TITLE, _TEXT, _RUN, _HOST."""

    name: str
    argv: tuple[str, ...]
    timeout_s: float

    def send(self, notice: Notice) -> None:
        values = {key: value for key, value in notice.as_json().items() if key != "at"}
        environment = os.environ | {f"TANDEM_NOTICE_{key.upper()}": str(value or "") for key, value in values.items()}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        try:
            program = subprocess.Popen(self.argv, env=environment, start_new_session=True, **pipes)
        except (OSError, ValueError) as error:
            raise DeliveryError(
                f"it cannot be started: {getattr(error, 'strerror', None) or 'bad arguments'}"
            ) from None
        try:
            program.communicate(json.dumps(notice.as_json()).encode(), timeout=self.timeout_s)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)
            program.wait()
            raise DeliveryError(f"it had not ended after {self.timeout_s:g} s and was killed") from None
        if program.returncode:
            raise DeliveryError(f"it ended with exit code {program.returncode}")


def check(config: NotifyConfig) -> None:
    """Raises ConfigError for a URL that can never be told anything. Sends nothing."""
    for target in targets(config):
        if isinstance(target, Service):
            try:
                target.check()
            except DeliveryError as error:
                raise ConfigError(f"notify.urls, {target.name}: {error.message}", hint=error.hint) from None


def _scheme(url: str) -> str:
    """`slack` of `slack://token`; nothing of a text that is not a URL, for it may be the secret itself."""
    scheme, mark, _ = url.partition("://")
    return scheme if mark and re.fullmatch(r"[a-z0-9]{1,20}", scheme) else "not a URL"
