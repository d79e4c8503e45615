"""Continuous batching over a Transformers model: the reference, for any causal LM that Transformers loads.

Per step, waiting requests take free rows, the prompts that came first prefill `prefill_chunk` tokens among them (those
to be scored after the others, in smaller parts), and all rows that are past their prompt decode one token, together per
adapter version.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel

from configs.errors import ConfigError, NotFoundError, TandemError
from serve.engine.adapter_files import AdapterFiles, read_adapter
from serve.engine.batching import BatchingEngine, largest, memory_bytes
from serve.engine.generation import Generation
from serve.engine.protocol import EngineStats, TokenLogprob
from serve.engine.sampling import sample
from serve.engine.scoring import SCORED_CHUNK, score, score_sampled
from serve.engine.transformers.adapters import AdapterSet
from serve.engine.transformers.rows import RowCache, attention_masks, attention_windows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(eq=False)
class Row(Generation):
    """A generation and its row of the KV cache."""

    row: int = -1
    cached: int = 0
    """Tokens of the request in the KV cache."""

    @property
    def prefilling(self) -> bool:
        return self.cached < len(self.request.prompt_ids)

    @property
    def scored(self) -> bool:
        """Its prompt is scored, and not yet to its end."""
        return self.request.prompt_logprobs is not None and self.prefilling


class TransformersEngine(BatchingEngine[Row, AdapterFiles]):
    """See `serve.engine.protocol.Engine`. Takes the model over: nobody else may call or change it until `close`.

    `max_context` is by default what the model was made for; the KV cache grows towards `max_batch` rows of it. Raises
    ConfigError for a model with other than full and sliding attention.
    """

    generation = Row

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
        super().__init__(
            tokenizer,
            vocabulary=model.get_input_embeddings().num_embeddings,
            max_batch=max_batch,
            max_context=max_context or longest,
            max_waiting=max_waiting,
        )
        self._model = model.eval().requires_grad_(False)
        self._prefill_chunk = prefill_chunk
        self._windows = attention_windows(config)
        self._cache = RowCache(config.num_hidden_layers, max_batch, self._max_context)
        self._adapter_set = AdapterSet(model)
        self._rows: list[Row | None] = [None] * max_batch
        self._thread.start()

    def stats(self) -> EngineStats:
        with self._changed:
            return EngineStats(
                running=len(self._running()),
                waiting=len(self._waiting),
                kv_tokens=sum(generation.cached for generation in self._running()),
                kv_capacity=len(self._rows) * self._max_context,
                adapters={version: loaded.requests for version, loaded in self._adapters.items()},
                generated_tokens=self._generated,
                device=str(self._model.device),
                memory_bytes=memory_bytes(self._model.device),
            )

    def _running(self) -> list[Row]:
        return [generation for generation in self._rows if generation]

    def _free(self, generation: Row) -> None:
        self._rows[generation.row] = None

    def _read(self, path: Path) -> AdapterFiles:
        return read_adapter(path)

    def _load_adapter(self, version: str, files: AdapterFiles) -> None:
        self._adapter_set.load(version, files)

    def _unload_adapter(self, version: str) -> None:
        self._adapter_set.unload(version)

    def _close(self) -> None:
        del self._cache

    async def _compare(self, version: str, probes: list[list[int]]) -> tuple[float, float, float]:
        found = [await self._on_thread(partial(self._compare_one, version, ids)) for ids in probes]
        differences, repeats = zip(*found, strict=True)
        return largest(differences), largest(repeats), 0.0

    @torch.inference_mode()
    def _compare_one(self, version: str, ids: list[int]) -> tuple[float, float]:
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

    def _advance(self) -> None:
        self._admit()
        self._prefill()
        self._decode()

    def _admit(self) -> None:
        with self._changed:
            for row, occupant in enumerate(self._rows):
                if occupant is None and self._waiting:
                    self._rows[row] = generation = self._waiting.popleft()
                    generation.row = row
                    generation.admit()

    def _prefill(self) -> None:
        """At most `prefill_chunk` tokens of the prompts that came first, those to be scored after all others.

        A prompt's last part gives its first token.
        """
        with self._changed:
            prefilling = [g for g in self._requests.values() if g.row >= 0 and g.prefilling]
        room = self._prefill_chunk
        for generation in sorted(prefilling, key=lambda generation: generation.scored):
            room = min(room, SCORED_CHUNK) if generation.scored else room
            part = generation.request.prompt_ids[generation.cached : generation.cached + room]
            self._forward_group([generation], [part])
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
            self._forward_group(group, [[generation.generated[-1]] for generation in group])

    def _forward_group(self, group: list[Row], ids: list[list[int]]) -> None:
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
        self, group: Sequence[Row], logits: torch.Tensor, rows: list[int]
    ) -> tuple[list[int], list[dict[int, TokenLogprob] | None]]:
        """A token for each of `rows` of logits [B, vocabulary], and its log-probabilities where asked for."""
        if not rows:
            return [], []
        chosen, logits = [group[row] for row in rows], logits[rows]
        tokens = sample(logits, [generation.sampler for generation in chosen])
        return tokens, score_sampled(logits, tokens, [generation.request.logprobs for generation in chosen])

    @torch.inference_mode()
    def _score(self, generation: Row, logits: torch.Tensor) -> None:
        """Score the prompt tokens that follow the last positions of the row, whose logits are [Q, vocabulary]."""
        first, likeliest = generation.cached + 1, generation.request.prompt_logprobs
        if likeliest is not None:
            tokens = generation.request.prompt_ids[first : first + len(logits)]
            generation.scores += score(logits, tokens, likeliest)

    @torch.inference_mode()
    def _forward(self, group: Sequence[Row], ids: list[list[int]], keep: int) -> torch.Tensor:
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
