"""Continuous batching over a Transformers model: one thread runs the model, requests come and go between its steps.

Follows `serve.engine.protocol`; knows token ids, no text but that of its probe prompts. Per step, waiting requests take
free rows, the prompts that came first prefill `prefill_chunk` tokens among them (those to be scored after the others,
in smaller parts), and all rows that are past their prompt decode one token, together per adapter version. Everything
that touches the model runs on the engine's thread; what other threads share with it (`_waiting`, `_adapters`,
`_commands`) is guarded by `_changed`.
"""

import asyncio
import logging
import threading
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from transformers import PreTrainedModel

from configs.errors import (
    AdapterError,
    ConfigError,
    NotFoundError,
    OverloadError,
    PromptTooLongError,
    RequestError,
    TandemError,
)
from models.harmony import render
from serve.engine.grammar import Grammars, Matcher
from serve.engine.protocol import AdapterCheck, EngineStats, GenerationRequest, TokenChunk, TokenLogprob
from serve.engine.sampling import INVALID, Sampler, sample
from serve.engine.scoring import score, score_sampled
from serve.engine.transformers.adapters import AdapterFiles, AdapterSet, read_adapter
from serve.engine.transformers.generation import Generation
from serve.engine.transformers.rows import RowCache, attention_masks, attention_windows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBES = (
    "What is the capital of France?",
    "Write a function that adds two numbers, and say how you would test it.",
    "Who are you? Answer in one sentence.",
)
PROBE_DATE = date(2026, 1, 1)

SCORED_CHUNK = 256
"""Prompt tokens whose logits are held together for scoring: 103 MB in bfloat16 with a vocabulary of 201,088."""

MOST_FAILURES = 3
"""Forward passes that may fail in a row before the engine calls itself broken."""

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass
class _Loaded:
    """An adapter version in the model."""

    requests: int = 0
    draining: bool = False


class TransformersEngine:
    """See `serve.engine.protocol.Engine`. Takes the model over: nobody else may call or change it until `close`.

    `max_context` is in tokens, prompt and answer together, by default what the model was made for; the KV cache grows
    towards `max_batch` rows of it. Raises ConfigError for a model with other than full and sliding attention.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: "PreTrainedTokenizerBase",
        *,
        max_batch: int = 16,
        max_context: int | None = None,
        max_waiting: int = 64,
        prefill_chunk: int = 512,
    ) -> None:
        config = model.config.get_text_config(decoder=True)
        longest = config.max_position_embeddings
        if max_context is not None and max_context > longest:
            raise ConfigError(f"max_context is {max_context}, the model's longest is {longest}")
        if model.config._attn_implementation not in ("eager", "sdpa"):
            # The others take no mask of four dimensions.
            model.set_attn_implementation("eager")
        self._model = model.eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._vocabulary = model.get_input_embeddings().num_embeddings
        self._grammars = Grammars(tokenizer, self._vocabulary)
        self._max_context, self._max_waiting, self._prefill_chunk = max_context or longest, max_waiting, prefill_chunk
        self._windows = attention_windows(config)
        self._cache = RowCache(config.num_hidden_layers, max_batch, self._max_context)
        self._adapter_set = AdapterSet(model)
        self._rows: list[Generation | None] = [None] * max_batch
        self._failures = 0
        self._generated = 0
        self._changed = threading.Condition()
        self._waiting: deque[Generation] = deque()
        self._requests: dict[str, Generation] = {}
        self._adapters: dict[str, _Loaded] = {}
        self._commands: deque[tuple[Callable[[], object], Future[Any]]] = deque()
        self._fault: str | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="transformers-engine", daemon=True)
        self._thread.start()

    async def add_adapter(self, version: str, path: Path) -> None:
        self.check_health()
        if self._revived(version):
            return
        files = await asyncio.to_thread(read_adapter, Path(path))
        await self._on_thread(lambda: self._load(version, files))

    async def verify_adapter(self, version: str) -> AdapterCheck:
        if version not in self._adapters:
            raise NotFoundError(f"adapter {version} is not loaded", param="model")
        probes = [self._probe_ids(question) for question in PROBES]
        found = [await self._on_thread(partial(self._compare, version, ids)) for ids in probes]
        differences, repeats = zip(*found, strict=True)
        check = AdapterCheck(version, _largest(differences), _largest(repeats))
        # Written so that NaN fails too.
        if not check.max_difference < float("inf"):
            raise AdapterError(f"adapter {version} gives logits that are not finite", hint="train it again")
        if check.max_difference <= check.repeat_difference:
            raise AdapterError(
                f"adapter {version} has no effect: its logits differ from the base's by {check.max_difference:g} at "
                f"most, the base's from their own repetition by {check.repeat_difference:g}",
                hint="check what was trained: all of lora_B may be zero",
            )
        return check

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
        generation = self._submit(request, matcher)
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

    def stats(self) -> EngineStats:
        with self._changed:
            return EngineStats(
                running=sum(generation is not None for generation in self._rows),
                waiting=len(self._waiting),
                kv_tokens=sum(generation.cached for generation in self._rows if generation),
                kv_capacity=len(self._rows) * self._max_context,
                adapters={version: loaded.requests for version, loaded in self._adapters.items()},
                generated_tokens=self._generated,
                device=str(self._model.device),
                memory_bytes=_memory_bytes(self._model.device),
            )

    def check_health(self) -> None:
        if self._fault:
            raise TandemError(self._fault, hint="start the engine again")

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _submit(self, request: GenerationRequest, matcher: Matcher | None) -> Generation:
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
        generation = Generation(request, asyncio.get_running_loop(), limit, Sampler(request.sampling, prompt, matcher))
        with self._changed:
            self.check_health()
            self._enqueue(generation)
            self._changed.notify()
        return generation

    def _enqueue(self, generation: Generation) -> None:
        version, request_id = generation.request.adapter, generation.request.request_id
        loaded = self._adapters.get(version) if version is not None else None
        if version is not None and (loaded is None or loaded.draining):
            raise NotFoundError(f"adapter {version} is not loaded", param="model")
        if request_id in self._requests:
            raise RequestError(f"request {request_id} is being served already", param="request_id")
        if len(self._waiting) >= self._max_waiting + self._rows.count(None):
            raise OverloadError(
                f"{len(self._waiting)} requests wait for {len(self._rows)} rows", hint="try again in a moment"
            )
        if loaded:
            loaded.requests += 1
        self._requests[request_id] = generation
        self._waiting.append(generation)

    def _abort(self, generation: Generation) -> None:
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

    # From here on: the engine's thread.

    def _run(self) -> None:
        fault = "the engine is closed"
        try:
            while self._wait_for_work():
                self._step()
        except Exception as error:
            log.exception("the engine stops")
            fault = f"the engine stopped: {type(error).__name__}: {error}"
        self._stop(fault)

    def _step(self) -> None:
        self._run_commands()
        self._drop_aborted()
        self._admit()
        self._prefill()
        self._decode()
        self._unload_drained()

    def _wait_for_work(self) -> bool:
        """Sleep until a step has something to do; False if the engine is to end."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._closing or self._commands or self._waiting or any(self._rows) or any(self._drained_versions())
                )
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
        self._finish((generation, generation.chunk([], "abort")) for generation in aborted)

    def _admit(self) -> None:
        with self._changed:
            for row, occupant in enumerate(self._rows):
                if occupant is None and self._waiting:
                    self._rows[row] = generation = self._waiting.popleft()
                    generation.admit(row)

    def _prefill(self) -> None:
        """At most `prefill_chunk` tokens of the prompts that came first, those to be scored after all others.

        A prompt's last part gives its first token.
        """
        with self._changed:
            prefilling = [g for g in self._requests.values() if g.row is not None and g.prefilling]
        room = self._prefill_chunk
        for generation in sorted(prefilling, key=lambda generation: generation.scored):
            room = min(room, SCORED_CHUNK) if generation.scored else room
            part = generation.request.prompt_ids[generation.cached : generation.cached + room]
            self._advance([generation], [part])
            room -= len(part)
            if room <= 0:
                return

    def _decode(self) -> None:
        """One token for every row past its prompt, one forward pass per adapter version."""
        groups = defaultdict(list)
        for generation in self._rows:
            if generation and generation.generated:
                groups[generation.request.adapter].append(generation)
        for group in groups.values():
            self._advance(group, [[generation.generated[-1]] for generation in group])

    def _advance(self, group: list[Generation], ids: list[list[int]]) -> None:
        """Run `ids`, as many per generation, through the model; those past their prompt gain a token."""
        scored = any(generation.scored for generation in group)
        try:
            logits = self._forward(group, ids, keep=len(ids[0]) if scored else 1)
            for row, generation in enumerate(group):
                if generation.scored:
                    self._score(generation, logits[row])
                generation.cached += len(ids[0])
            ready = [index for index, generation in enumerate(group) if not generation.prefilling]
            going_on = [index for index in ready if not group[index].request.prompt_only]
            tokens, logprobs = self._sample(group, logits[:, -1], going_on)
            self._failures = 0
        except TandemError as error:
            self._finish((generation, error) for generation in group)
            return
        except Exception as error:
            self._fail(group, error)
            return
        ended = [group[index] for index in ready if index not in going_on]
        self._finish((generation, generation.chunk([], "length")) for generation in ended)
        self._append([group[index] for index in going_on], tokens, logprobs)

    def _sample(
        self, group: list[Generation], logits: torch.Tensor, rows: list[int]
    ) -> tuple[list[int], list[dict[int, TokenLogprob] | None]]:
        """A token for each of `rows` of logits [B, vocabulary], and its log-probabilities where asked for."""
        if not rows:
            return [], []
        chosen, logits = [group[row] for row in rows], logits[rows]
        tokens = sample(logits, [generation.sampler for generation in chosen])
        return tokens, score_sampled(logits, tokens, [generation.request.logprobs for generation in chosen])

    @torch.inference_mode()
    def _score(self, generation: Generation, logits: torch.Tensor) -> None:
        """Score the prompt tokens that follow the last positions of the row, whose logits are [Q, vocabulary]."""
        first, likeliest = generation.cached + 1, generation.request.prompt_logprobs
        if likeliest is not None:
            tokens = generation.request.prompt_ids[first : first + len(logits)]
            generation.scores += score(logits, tokens, likeliest)

    @torch.inference_mode()
    def _forward(self, group: list[Generation], ids: list[list[int]], keep: int) -> torch.Tensor:
        """Logits [B, keep, vocabulary] after the last `keep` of `ids` [B, Q], which continue the group's rows in the
        cache."""
        device = self._model.device
        self._adapter_set.activate(group[0].request.adapter)
        rows = torch.tensor([generation.row for generation in group], device=device)
        start = torch.tensor([[generation.cached] for generation in group], device=device)
        positions = start + torch.arange(len(ids[0]), device=device)
        length = max(generation.cached for generation in group) + len(ids[0])
        self._cache.begin(rows, positions, length)
        return self._model(
            input_ids=torch.tensor(ids, device=device),
            position_ids=positions,
            attention_mask=attention_masks(self._windows, positions, length, self._model.dtype),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=keep,
        ).logits[:, -keep:]

    def _append(
        self, group: list[Generation], tokens: list[int], logprobs: list[dict[int, TokenLogprob] | None]
    ) -> None:
        """Give each generation its token; end those whose token or length says so."""
        running: list[tuple[Generation, TokenChunk]] = []
        ended: list[tuple[Generation, TokenChunk | Exception]] = []
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
        self,
        ended: Iterable[tuple[Generation, TokenChunk | Exception]],
        running: Iterable[tuple[Generation, TokenChunk]] = (),
    ) -> None:
        """Free what the ended generations hold, then hand all events to their loops."""
        ended = list(ended)
        with self._changed:
            for generation, _ in ended:
                self._release(generation)
        self._deliver([*running, *ended])

    def _release(self, generation: Generation) -> None:
        del self._requests[generation.request.request_id]
        if generation.request.adapter is not None:
            self._adapters[generation.request.adapter].requests -= 1
        if generation.row is None:
            self._waiting.remove(generation)
        else:
            self._rows[generation.row] = None

    def _deliver(self, events: list[tuple[Generation, TokenChunk | Exception]]) -> None:
        """One wake-up per loop. A loop that has ended takes its requests with it."""
        by_loop = defaultdict(list)
        for generation, event in events:
            by_loop[generation.loop].append((generation, event))
        for loop, own in by_loop.items():
            try:
                loop.call_soon_threadsafe(_put, own)
            except RuntimeError:
                for generation, _ in own:
                    self._abort(generation)

    def _fail(self, group: list[Generation], error: Exception) -> None:
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
        del self._cache

    def _load(self, version: str, files: AdapterFiles) -> None:
        if self._revived(version):
            return
        self._adapter_set.load(version, files)
        with self._changed:
            self._adapters[version] = _Loaded()

    def _drained_versions(self) -> list[str]:
        return [version for version, loaded in self._adapters.items() if loaded.draining and not loaded.requests]

    def _unload_drained(self) -> None:
        with self._changed:
            drained = self._drained_versions()
            for version in drained:
                del self._adapters[version]
        for version in drained:
            self._adapter_set.unload(version)

    @torch.inference_mode()
    def _compare(self, version: str, ids: list[int]) -> tuple[float, float]:
        """Largest |adapter - base| and |base - base again| over the logits of all positions of `ids`."""
        if version not in self._adapters:
            raise NotFoundError(f"adapter {version} is not loaded", param="model")
        inputs = torch.tensor([ids], device=self._model.device)
        outputs = []
        for adapter in (None, None, version):
            self._adapter_set.activate(adapter)
            outputs.append(self._model(input_ids=inputs, use_cache=False).logits.float())
        base, again, adapted = outputs
        return (adapted - base).abs().max().item(), (again - base).abs().max().item()


def _put(events: list[tuple[Generation, TokenChunk | Exception]]) -> None:
    for generation, event in events:
        generation.events.put_nowait(event)


def _largest(values: Iterable[float]) -> float:
    """The maximum, NaN if any is; Python's own `max` depends on the order then."""
    return torch.tensor(list(values)).max().item()


def _memory_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    import psutil

    return psutil.Process().memory_info().rss
