"""From the standard library's loggers to an actor's file, beside whatever logs: a bounded queue and one thread.

Nobody who logs ever waits or fails for it. What cannot be formatted, queued or written is dropped and counted, and the
next line that can be written says how many. Every process of the cluster calls `begin` once.
"""

import logging
import os
import queue
import threading
from collections.abc import Iterable

from actors import cluster
from actors.logs.record import encode
from actors.logs.rotation import RotatingFile
from configs.errors import TandemError
from configs.paths import Home
from configs.schema import LogsConfig

OWN = ("actors", "jobs", "models", "serve")
"""Our own loggers. The root's handler also gets warnings of everybody else."""

WAITING = 10_000
"""Lines that may wait for the disk."""
BATCH = 100
FLUSH_S = 2.0


def begin(home: Home, actor: str, *, run: str | None = None, names: Iterable[str] = ("",)) -> "JsonHandler":
    """Log what the loggers `names` get to HOME/logs/<actor>.jsonl from now on; without any, everything from warnings
    up and all of our own from the level of the settings up. Called again for `actor`, it replaces the first handler.
    """
    config = _config(home)
    file = RotatingFile(home.logs / f"{actor}.jsonl", config.max_mb * 10**6, config.files)
    handler = JsonHandler(actor, file, run)
    for name in OWN:
        logging.getLogger(name).setLevel(config.level.upper())
    for logger in map(logging.getLogger, names):
        for old in [each for each in logger.handlers if isinstance(each, JsonHandler)]:
            logger.removeHandler(old)
            old.close()
        logger.addHandler(handler)
        logger.propagate = False
    return handler


def flush() -> None:
    """Wait until everything that was logged is written, at most FLUSH_S."""
    for logger in map(logging.getLogger, ("", *OWN)):
        for handler in logger.handlers:
            handler.flush()


def _config(home: Home) -> LogsConfig:
    """The cluster's settings; the defaults where they cannot be read."""
    try:
        found = cluster.find(home)
    except TandemError:
        found = None
    return found.config.logs if found else LogsConfig()


class JsonHandler(logging.Handler):
    """Writes records as lines of `file`. `dropped` counts the lines that were lost."""

    def __init__(self, actor: str, file: RotatingFile, run: str | None = None, waiting: int = WAITING) -> None:
        super().__init__()
        self.dropped = 0
        self._actor, self._file, self._run, self._bound = actor, file, run, waiting
        self._counting = threading.Lock()
        self._untold = 0
        self._why = ""
        self._start()

    def emit(self, record: logging.LogRecord) -> None:
        """Swallows everything: a log must not break what logs."""
        try:
            if self._pid != os.getpid():  # a fork has the queue and not the thread
                self._start()
            self._waiting.put_nowait(encode(record, self._actor, self._run))
        except Exception as error:
            self._lose(1, type(error).__name__)

    def flush(self) -> None:
        waiting = self._waiting
        if self._pid == os.getpid():
            with waiting.all_tasks_done:
                waiting.all_tasks_done.wait_for(lambda: not waiting.unfinished_tasks, FLUSH_S)

    def _start(self) -> None:
        self._pid = os.getpid()
        self._waiting: queue.Queue[bytes] = queue.Queue(self._bound)
        threading.Thread(target=self._write_forever, args=(self._waiting,), name="logs", daemon=True).start()

    def _write_forever(self, waiting: "queue.Queue[bytes]") -> None:
        while True:
            batch = [waiting.get()]
            while len(batch) < BATCH and not waiting.empty():
                batch.append(waiting.get_nowait())
            self._write(batch)
            for _ in batch:
                waiting.task_done()

    def _write(self, batch: list[bytes]) -> None:
        told = self._untold
        try:
            self._file.append((self._confession(told) if told else b"") + b"".join(batch))
            with self._counting:
                self._untold -= told
        except Exception as error:  # nothing may end the thread
            self._lose(len(batch), str(error))

    def _lose(self, count: int, why: str) -> None:
        with self._counting:
            self.dropped += count
            self._untold += count
            self._why = why

    def _confession(self, count: int) -> bytes:
        text = f"{count} lines were dropped: {self._why}"
        told = logging.LogRecord("actors.logs", logging.WARNING, "", 0, text, None, None)
        return encode(told, self._actor, self._run)
