"""A benchmark: wait until the endpoint is ready, learn how it counts, then one load after the other, warmed up.

The main path of `tandem benchmark`. Gives a Benchmark, whole or partial; knows neither the command line nor files.
"""

import asyncio
import os
import platform
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from jobs.benchmark import prompts
from jobs.benchmark.endpoint import Endpoint
from jobs.benchmark.figures import Figures, figures
from jobs.benchmark.load import CellLimit, Level, Run
from jobs.benchmark.prompts import Prompts, Questions

FORMAT = 1
OPEN_WARMUP = 2
"""Warm-up requests of an open loop, which has no number of users."""
FEWEST_REQUESTS = 4

Tell = Callable[[str, float], None]
"""Hears what is going on, and which share of it is done."""


@dataclass(frozen=True)
class Settings:
    """What to measure. A cell is one level of load with one kind of prompt."""

    levels: tuple[Level, ...]
    prompt_tokens: tuple[int, ...]
    """Empty where a data set has the prompts."""
    output_tokens: int
    amount: CellLimit | None
    """Per cell; None is two requests per user, at least FEWEST_REQUESTS."""
    seed: int
    warmup: int | None = None
    """Requests before each cell that are not counted; None is one per user."""
    goodput: dict[str, float] = field(default_factory=dict)
    """Limits in milliseconds."""
    wait_s: float = 0.0
    """How long nobody may listen at all."""

    def amount_of(self, level: Level) -> CellLimit:
        return self.amount or CellLimit(max(FEWEST_REQUESTS, 2 * (level.concurrency or 0)))

    def warmup_of(self, level: Level) -> int:
        return (level.concurrency or OPEN_WARMUP) if self.warmup is None else self.warmup


@dataclass
class Benchmark:
    """What was found, so far."""

    settings: dict[str, Any]
    created_at: float = field(default_factory=time.time)
    """Unix seconds."""
    server: dict[str, Any] = field(default_factory=dict)
    client: dict[str, Any] = field(default_factory=lambda: _client())
    cells: list[Figures] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What a reader has to know to judge the figures."""
    stopped: str = ""
    """Why it is partial; empty for a whole one."""

    @property
    def failed(self) -> bool:
        """Nothing at all was answered."""
        return not any(cell.completed for cell in self.cells)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "created_at": self.created_at,
            "partial": bool(self.stopped),
            "stopped": self.stopped,
            "settings": self.settings,
            "server": self.server,
            "client": self.client,
            "notes": self.notes,
            "cells": [cell.to_json() for cell in self.cells],
        }


async def measure(
    endpoint: Endpoint,
    settings: Settings,
    found: Benchmark,
    questions: Questions | None = None,
    tell: Tell = lambda text, share: None,
) -> None:
    """Fill `found`, cell by cell. `questions` take the place of synthetic prompts.

    Cancelled while it measures, it closes all connections, keeps what it has, marked as partial, and returns. Raises
    TandemError if the endpoint is not there, or refuses what every request would ask.
    """
    tell("waiting for the endpoint", 0)
    found.server = await endpoint.wait_ready(settings.wait_s)
    tell("learning how it counts", 0)
    kinds = [questions] if questions else await _synthetic(endpoint, settings, found)
    if questions:
        await endpoint.probe(next(questions.prompts("probe")), 1)
    found.settings["dialect"] = vars(endpoint.dialect)
    cells = [(level, kind) for kind in kinds for level in settings.levels]
    for number, (level, kind) in enumerate(cells):
        name = f"{_named(level, kind)} ({number + 1} of {len(cells)})"
        await _cell(endpoint, settings, level, kind, found, lambda share, name=name: tell(name, share))
        if found.stopped:
            break
    found.notes += _judged(found, endpoint)
    if questions and any(cell.sent > len(questions.messages) for cell in found.cells):
        found.notes.append(f"the data set's {len(questions.messages)} questions were asked again: caches know them")


async def _synthetic(endpoint: Endpoint, settings: Settings, found: Benchmark) -> list[Prompts]:
    """Prompts of every wanted length, each tried once. Raises RequestError for one that the server refuses."""
    vocabulary = await prompts.calibrate(endpoint)
    kinds = [vocabulary.prompts(tokens, settings.seed) for tokens in settings.prompt_tokens]
    for kind in kinds:
        counted = (await endpoint.probe(next(kind.prompts("probe")), 1)).prompt_tokens
        if counted is None:
            continue
        if counted != kind.tokens:
            found.notes.append(f"a prompt of {kind.tokens} tokens is {counted} to this server: see input_tokens")
    if not vocabulary.exact:
        found.notes.append("the server's tokens could not be learned: prompt lengths are words")
    return kinds


async def _cell(
    endpoint: Endpoint, settings: Settings, level: Level, kind: Prompts, found: Benchmark, tell: Callable[[float], None]
) -> None:
    """Warm up, load, and add what came of it."""
    amount, started = settings.amount_of(level), time.monotonic()

    def share(run: Run) -> None:
        elapsed = time.monotonic() - started
        tell(len(run.timings) / amount.requests if amount.requests else min(1.0, elapsed / (amount.duration_s or 1)))

    tell(0)
    warm = Run(_sender(endpoint, settings, kind, "warm-up", level), CellLimit(settings.warmup_of(level)))
    run = Run(_sender(endpoint, settings, kind, "measured", level), amount, share)
    draw = random.Random(f"{settings.seed} arrivals")
    try:
        await warm.go(Level(concurrency=level.concurrency or OPEN_WARMUP), draw)
        started = time.monotonic()
        await run.go(level, draw)
    except asyncio.CancelledError:
        found.stopped = "interrupted"
    if run.lost or warm.lost:
        found.stopped = "the endpoint went away"
    if run.timings or not found.stopped:
        found.cells.append(figures(run, level, kind.tokens, settings.goodput))


def _sender(endpoint: Endpoint, settings: Settings, kind: Prompts, part: str, level: Level):
    """What sends the next prompt of this cell."""
    prompts: Iterator = kind.prompts(f"{part} {level}")
    return lambda: endpoint.ask(next(prompts), settings.output_tokens)


def _named(level: Level, kind: Prompts) -> str:
    load = f"{level.request_rate:g} requests/s" if level.request_rate else f"concurrency {level.concurrency}"
    return f"{load}, {kind.tokens} prompt tokens" if kind.tokens else f"{load}, data set"


def _judged(found: Benchmark, endpoint: Endpoint) -> list[str]:
    """What of the results is not what one would take it for."""
    cells = [cell for cell in found.cells if cell.completed]
    notes = []
    if any(not cell.streamed for cell in cells):
        notes.append("the endpoint does not stream: no TTFT, ITL or TPOT, only whole answers are timed")
    if any(cell.tokens_counted_by == "chunks" for cell in cells):
        notes.append("the endpoint sends no usage: tokens are the chunks that had text, which may be fewer or more")
    if any(len(cell.fingerprints) > 1 for cell in cells):
        notes.append("several versions answered: the model was swapped while it was measured")
    if any(cell.client_was_busy for cell in cells):
        notes.append(
            "this machine was busy, so the endpoint may be faster than shown: "
            "run it from another machine, or when this one is quiet"
        )
    if endpoint.dialect.limit == "max_tokens":
        notes.append("the endpoint takes max_tokens, not max_completion_tokens")
    return notes


def _client() -> dict[str, Any]:
    return {
        "tandem": metadata.version("tandem"),
        "aiohttp": metadata.version("aiohttp"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
    }
