"""Bringing one notice to one place: a service by its Apprise URL, or a program. Blocking calls.

Knows no queue and no ledger. What an error says never holds a part of a URL, because URLs hold passwords. Called by
`actors.notifier` and `tandem notify test`.
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

from actors.notices import Notice
from configs.errors import DeliveryError
from configs.schema import NotifyConfig

LONGEST_ERROR = 200
"""Characters of what a service says."""


class UnknownServiceError(DeliveryError):
    """No service can be made of the URL; trying again does not help."""


class Target(Protocol):
    """Somewhere a notice can go."""

    name: str
    """What people call it; no part of a URL but its scheme."""

    def send(self, notice: Notice) -> None:
        """Deliver it. Raises DeliveryError, UnknownServiceError where another try makes no sense."""


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
        import apprise  # 0.3 s with its services; only a process that sends pays for it

        logging.getLogger("apprise").propagate = False  # its lines may hold parts of a URL
        with _said_here() as lines:
            try:
                service = apprise.Apprise.instantiate(self.url, suppress_exceptions=True)
                if service is None:
                    raise UnknownServiceError("not a URL that Apprise knows", hint="https://appriseit.com lists them")
                service.socket_read_timeout = service.socket_connect_timeout = self.timeout_s
                arrived = service.notify(title=notice.title, body=notice.text, notify_type=notice.level)
            except DeliveryError:
                raise
            except Exception as error:  # of any of its services; the text may hold the URL
                raise DeliveryError(f"{type(error).__name__} in Apprise") from None
        if not arrived:
            raise DeliveryError(self._redacted(lines[0]) if lines else "the service refused it")

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
    """Apprise's warnings of this thread alone: `apprise.LogCapture` hears other threads' too, and their URLs."""
    lines: list[str] = []
    here, handler = threading.get_ident(), logging.Handler(logging.WARNING)
    handler.addFilter(lambda record: record.thread == here)
    handler.emit = lambda record: lines.extend(record.getMessage().strip().splitlines())
    logging.getLogger("apprise").addHandler(handler)
    try:
        yield lines
    finally:
        logging.getLogger("apprise").removeHandler(handler)


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


def _scheme(url: str) -> str:
    """`slack` of `slack://token`; nothing of a text that is no URL, for it may be the secret itself."""
    scheme, mark, _ = url.partition("://")
    return scheme if mark and re.fullmatch(r"[a-z0-9]{1,20}", scheme) else "not a URL"
