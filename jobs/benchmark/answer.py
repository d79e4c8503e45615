"""An answer as its bytes arrive, streamed or whole, written into a Timing. Knows OpenAI's chat format, no addresses."""

import json
import time
from typing import Any

import aiohttp

from configs import http_errors
from jobs.benchmark.timing import Failure, Timing

SHOWN_MESSAGE = 300
TEXTS = ("content", "reasoning_content", "reasoning", "tool_calls")
"""Fields of a delta that hold what the model wrote."""


async def read_events(stream: aiohttp.StreamReader, timing: Timing) -> None:
    """Server-sent events up to `[DONE]`. What arrives together has one time."""
    left, done = b"", False
    while data := await stream.readany():
        now = time.perf_counter()
        *lines, left = (left + data).split(b"\n")
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            text = line[5:].strip()
            if text == b"[DONE]":
                done = True
            else:
                _take_event(text, now, timing)
    if timing.failure is None and not done and timing.finish_reason is None:
        timing.failure = Failure("broken_off", "the stream ended in the middle of an answer")


def _take_event(text: bytes, now: float, timing: Timing) -> None:
    try:
        event = json.loads(text)
        if event.get("error"):
            timing.failure = Failure("error_event", said(text.decode(errors="replace")))
            return
        _take_counts(event, timing)
        for choice in event.get("choices") or ():
            delta = choice.get("delta") or {}
            if any(delta.get(name) for name in TEXTS):
                timing.arrivals.append(now)
            timing.finish_reason = choice.get("finish_reason") or timing.finish_reason
    except (ValueError, AttributeError, TypeError):
        timing.failure = Failure("not_a_completion", f"the stream has an event that is not a chunk: {text[:80]!r}")


def read_whole(text: str, timing: Timing) -> None:
    """An answer that was not streamed."""
    timing.streamed = False
    try:
        answer = json.loads(text)
        choice = answer["choices"][0]
        message = choice["message"]
    except (ValueError, KeyError, TypeError, IndexError):
        timing.failure = Failure("not_a_completion", f"the answer is not a completion: {text[:80]!r}")
        return
    _take_counts(answer, timing)
    timing.finish_reason = choice.get("finish_reason")
    if any(message.get(name) for name in TEXTS):
        timing.arrivals.append(time.perf_counter())


def _take_counts(body: dict[str, Any], timing: Timing) -> None:
    if usage := body.get("usage"):
        timing.prompt_tokens, timing.completion_tokens = usage.get("prompt_tokens"), usage.get("completion_tokens")
    timing.fingerprint = body.get("system_fingerprint") or timing.fingerprint


def said(text: str) -> str:
    """The message of an error body on one line, or the text itself."""
    found = http_errors.fields(text).get("message", text)
    return " ".join(found.split())[:SHOWN_MESSAGE] or "no reason given"
