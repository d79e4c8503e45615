"""What engines share: requests come in from any loop, one thread steps the model, chunks go back.

Follows `serve.engine.protocol`; knows token ids, no text but that of its probe prompts, and no model. Everything that
touches the model runs on the engine's thread; what other threads share with it (`_waiting`, `_requests`, `_adapters`,
`_commands`) is guarded by `_changed`. An engine says what a step is and what a generation holds.
"""

import asyncio
import logging
import threading
from abc import ABC, abstractmethod
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch

from configs.errors import AdapterError, NotFoundError, OverloadError, PromptTooLongError, RequestError, TandemError
from models.harmony import render
from serve.engine.generation import Generation
from serve.engine.grammar import Grammars
from serve.engine.protocol import AdapterCheck, GenerationRequest, TokenChunk, TokenLogprob
from serve.engine.sampling import INVALID, Sampler

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBES = (
    "What is the capital of France?",
    "Write a function that adds two numbers, and say how you would test it.",
    "Who are you? Answer in one sentence.",
)
PROBE_DATE = date(2026, 1, 1)

MOST_FAILURES = 3
"""Forward passes that may fail in a row before the engine calls itself broken."""

log = logging.getLogger(__name__)

T = TypeVar("T")
G = TypeVar("G", bound=Generation)
F = TypeVar("F")


@dataclass
class Loaded:
    """An adapter version that requests may name."""

    requests: int = 0
    draining: bool = False


class BatchingEngine(ABC, Generic[G, F]):
    """The part of `serve.engine.protocol.Engine` that is the same whatever runs the model. G is the engine's kind of
    Generation, F what it makes of an adapter's files.

    `max_context` is in tokens, prompt and answer together; `max_batch` requests run together, `max_waiting` more wait.
    """

    generation: Callable[..., G]
    """Makes the engine's kind of Generation."""

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        *,
        vocabulary: int,
        max_batch: int,
        max_context: int,
        max_waiting: int,
    ) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._grammars = Grammars(tokenizer, vocabulary)
        self._max_batch, self._max_context, self._max_waiting = max_batch, max_context, max_waiting
        self._failures = 0
        self._generated = 0
        self._changed = threading.Condition()
        self._waiting: deque[G] = deque()
        self._requests: dict[str, G] = {}
        self._adapters: dict[str, Loaded] = {}
        self._commands: deque[tuple[Callable[[], object], Future[Any]]] = deque()
        self._fault: str | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=type(self).__name__, daemon=True)

    async def add_adapter(self, version: str, path: Path) -> None:
        self.check_health()
        if self._revived(version):
            return
        files = await asyncio.to_thread(self._read, Path(path))
        await self._on_thread(lambda: self._load(version, files))

    async def verify_adapter(self, version: str) -> AdapterCheck:
        if version not in self._adapters:
            raise NotFoundError(f"adapter {version} is not loaded", param="model")
        difference, repeat, noise = await self._compare(version, [self._probe_ids(question) for question in PROBES])
        # Written so that NaN fails too.
        if not difference < float("inf"):
            raise AdapterError(f"adapter {version} gives logits that are not finite", hint="train it again")
        if difference <= max(repeat, noise):
            raise AdapterError(
                f"adapter {version} has no effect: its logits differ from the base's by {difference:g} at "
                f"most, the base's from their own repetition by {repeat:g}",
                hint="check what was trained: all of lora_B may be zero",
            )
        return AdapterCheck(version, difference, repeat)

    def remove_adapter(self, version: str) -> None:
        with self._changed:
            if version not in self._adapters:
                raise NotFoundError(f"adapter {version} is not loaded", param="model")
            self._adapters[version].draining = True
            self._changed.notify()

    def adapters(self) -> tuple[str, ...]:
        with self._changed:
            return tuple(version for version, loaded in self._adapters.items() if not loaded.draining)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenChunk, None]:
        matcher = await self._grammars.matcher(request.constraint) if request.constraint else None
        await self._prepare(request)
        limit = self._limit(request)
        sampler = Sampler(request.sampling, request.prompt_ids, matcher)
        generation = self.generation(request, asyncio.get_running_loop(), limit, sampler)
        self._submit(generation)
        try:
            while True:
                chunk = await generation.next_chunk()
                yield chunk
                if chunk.finish_reason:
                    return
        finally:
            self._abort(generation)

    def abort(self, request_id: str) -> None:
        with self._changed:
            generation = self._requests.get(request_id)
        if generation:
            self._abort(generation)

    def check_health(self) -> None:
        if self._fault:
            raise TandemError(self._fault, hint="start the engine again")

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _limit(self, request: GenerationRequest) -> int:
        """Most tokens that the request may generate. Raises what `generate` says of requests that cannot be."""
        prompt, room = request.prompt_ids, self._max_context - len(request.prompt_ids)
        if room < (0 if request.prompt_only else 1):
            asked = 0 if request.prompt_only else request.sampling.max_tokens or 1
            raise PromptTooLongError.of(len(prompt), self._max_context, answer=asked)
        if not prompt or not 0 <= min(prompt) <= max(prompt) < self._vocabulary:
            raise RequestError(f"the prompt is empty or has ids outside 0 to {self._vocabulary - 1}", param="prompt")
        named = {
            "logit_bias": [token for token, _ in request.sampling.logit_bias],
            "stop_token_ids": request.sampling.stop_token_ids,
            "allowed_token_ids": request.sampling.allowed_token_ids,
        }
        for param, ids in named.items():
            if ids and not 0 <= min(ids) <= max(ids) < self._vocabulary:
                raise RequestError(f"{param} has ids outside 0 to {self._vocabulary - 1}", param=param)
        limit, least = min(room, request.sampling.max_tokens or room), request.sampling.min_tokens
        if least > limit:
            text = f"min_tokens is {least}, and a prompt of {len(prompt)} tokens leaves {limit} of {self._max_context}"
            raise RequestError(text, hint="ask for fewer tokens", param="min_tokens")
        return limit

    async def _prepare(self, request: GenerationRequest) -> None:
        """Whatever has to be awaited before a request can be taken."""

    def _submit(self, generation: G, *, first: bool = False) -> None:
        """Let the generation wait for its turn; `first` before all others, however many they are."""
        version, request_id = generation.request.adapter, generation.request.request_id
        with self._changed:
            self.check_health()
            loaded = self._adapters.get(version) if version is not None else None
            if version is not None and (loaded is None or loaded.draining):
                raise NotFoundError(f"adapter {version} is not loaded", param="model")
            if request_id in self._requests:
                raise RequestError(f"request {request_id} is being served already", param="request_id")
            if not first and len(self._waiting) >= self._max_waiting + self._max_batch - len(self._running()):
                raise OverloadError(
                    f"{len(self._waiting)} requests wait for {self._max_batch} rows", hint="try again in a moment"
                )
            if loaded:
                loaded.requests += 1
            self._requests[request_id] = generation
            self._waiting.insert(0 if first else len(self._waiting), generation)
            self._changed.notify()

    def _abort(self, generation: G) -> None:
        with self._changed:
            if self._requests.get(generation.request.request_id) is generation:
                generation.aborted = True
                self._changed.notify()

    def _revived(self, version: str) -> bool:
        with self._changed:
            loaded = self._adapters.get(version)
            if loaded:
                loaded.draining = False
            return loaded is not None

    async def _on_thread(self, command: Callable[[], T]) -> T:
        """Run `command` on the engine's thread between two steps and return what it returns."""
        future: Future[T] = Future()
        with self._changed:
            self.check_health()
            self._commands.append((command, future))
            self._changed.notify()
        return await asyncio.wrap_future(future)

    def _probe_ids(self, question: str) -> list[int]:
        if not self._tokenizer.chat_template:
            return self._tokenizer.encode(question)
        return render(self._tokenizer, [{"role": "user", "content": question}], current_date=PROBE_DATE)

    # What an engine says for itself; all but `_compare` and `_running` on its thread.

    @abstractmethod
    def _advance(self) -> None:
        """One step of whatever waits or runs; ends in `_append`, `_finish` or `_fail`."""

    @abstractmethod
    def _running(self) -> Sequence[G]:
        """Generations that hold a part of the KV cache."""

    @abstractmethod
    def _free(self, generation: G) -> None:
        """Give back what a running generation holds; under `_changed`."""

    @abstractmethod
    def _read(self, path: Path) -> F:
        """An adapter's folder as `_load_adapter` takes it; on a thread of its own. Raises AdapterError."""

    @abstractmethod
    def _load_adapter(self, version: str, files: F) -> None: ...

    @abstractmethod
    def _unload_adapter(self, version: str) -> None: ...

    @abstractmethod
    async def _compare(self, version: str, probes: list[list[int]]) -> tuple[float, float, float]:
        """Largest |adapter - base| and |base - base again| over all logits of the probes, and what rounding may be."""

    # From here on: the engine's thread.

    def _run(self) -> None:
        fault = "the engine is closed"
        try:
            while self._wait_for_work():
                self._run_commands()
                self._drop_aborted()
                self._advance()
                self._unload_drained()
        except Exception as error:
            log.exception("the engine stops")
            fault = f"the engine stopped: {type(error).__name__}: {error}"
        self._stop(fault)

    def _wait_for_work(self) -> bool:
        """Sleep until a step has something to do; False if the engine is to end."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closing or self._commands or self._requests or any(self._drained_versions())
            )
            return not self._closing

    def _run_commands(self) -> None:
        while self._commands:
            command, future = self._commands.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(command())
            except Exception as error:
                future.set_exception(error)

    def _drop_aborted(self) -> None:
        with self._changed:
            aborted = [generation for generation in self._requests.values() if generation.aborted]
        if aborted:
            self._finish((generation, generation.chunk([], "abort")) for generation in aborted)

    def _append(
        self, group: Sequence[G], tokens: Sequence[int], logprobs: Sequence[dict[int, TokenLogprob] | None]
    ) -> None:
        """Give each generation its token; end those whose token or length says so."""
        running: list[tuple[G, TokenChunk]] = []
        ended: list[tuple[G, TokenChunk | Exception]] = []
        for generation, token, scores in zip(group, tokens, logprobs, strict=True):
            if token == INVALID:
                fault = generation.sampler.fault or "the model's logits are not numbers"
                ended.append((generation, TandemError(fault)))
                continue
            self._generated += 1
            chunk = generation.gain(token, scores)
            if chunk.finish_reason:
                ended.append((generation, chunk))
            else:
                running.append((generation, chunk))
        self._finish(ended, running)

    def _finish(
        self, ended: Iterable[tuple[G, TokenChunk | Exception]], running: Iterable[tuple[G, TokenChunk]] = ()
    ) -> None:
        """Free what the ended generations hold, then hand all events to their loops."""
        ended = list(ended)
        with self._changed:
            for generation, _ in ended:
                self._release(generation)
        self._deliver([*running, *ended])

    def _release(self, generation: G) -> None:
        del self._requests[generation.request.request_id]
        if generation.request.adapter is not None:
            self._adapters[generation.request.adapter].requests -= 1
        if generation in self._waiting:
            self._waiting.remove(generation)
        else:
            self._free(generation)

    def _deliver(self, events: list[tuple[G, TokenChunk | Exception]]) -> None:
        """One wake-up per loop. A loop that has ended takes its requests with it."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[G, TokenChunk | Exception]]] = defaultdict(list)
        for generation, event in events:
            by_loop[generation.loop].append((generation, event))
        for loop, own in by_loop.items():
            try:
                loop.call_soon_threadsafe(_put, own)
            except RuntimeError:
                for generation, _ in own:
                    self._abort(generation)

    def _fail(self, group: Sequence[G], error: Exception) -> None:
        """End the group with the error; give the engine up if the device is lost or nothing succeeds any more."""
        requests = [generation.request.request_id for generation in group]
        log.error("a step of %d requests failed", len(group), exc_info=error, extra={"requests": requests})
        reason = f"the engine failed while generating: {type(error).__name__}: {error}"
        self._finish((generation, TandemError(reason)) for generation in group)
        self._failures += 1
        lost = isinstance(error, torch.AcceleratorError) and not isinstance(error, torch.OutOfMemoryError)
        if lost or self._failures >= MOST_FAILURES:
            raise error

    def _stop(self, fault: str) -> None:
        """Refuse everything from now on and fail what is left."""
        with self._changed:
            self._fault = fault
            left = list(self._requests.values())
            commands, self._commands = list(self._commands), deque()
        self._finish((generation, TandemError(fault)) for generation in left)
        for _, future in commands:
            if future.set_running_or_notify_cancel():
                future.set_exception(TandemError(fault))
        self._close()

    def _close(self) -> None:
        """Let go of the model's memory."""

    def _load(self, version: str, files: F) -> None:
        if self._revived(version):
            return
        self._load_adapter(version, files)
        with self._changed:
            self._adapters[version] = Loaded()

    def _drained_versions(self) -> list[str]:
        return [version for version, loaded in self._adapters.items() if loaded.draining and not loaded.requests]

    def _unload_drained(self) -> None:
        with self._changed:
            drained = self._drained_versions()
            for version in drained:
                del self._adapters[version]
        for version in drained:
            self._unload_adapter(version)


def _put(events: Sequence[tuple[Generation, TokenChunk | Exception]]) -> None:
    for generation, event in events:
        generation.events.put_nowait(event)


def largest(values: Iterable[float]) -> float:
    """The maximum, NaN if any is; Python's own `max` depends on the order then."""
    return torch.tensor(list(values)).max().item()


def memory_bytes(device: torch.device) -> int:
    """Held by tensors of this process on a GPU; resident memory on a CPU."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    import psutil

    return psutil.Process().memory_info().rss
