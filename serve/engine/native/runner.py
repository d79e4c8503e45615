"""The model on its device: turns scheduled parts into a launched step."""

from collections.abc import Sequence as Sequence_
from dataclasses import dataclass

import torch

from serve.engine.native.adapters import AdapterSlots
from serve.engine.native.batch import build
from serve.engine.native.kv_cache import BLOCK_SIZE, KvCache
from serve.engine.native.lora import LoraShape, LoraWeights
from serve.engine.native.model import GptOss, Sizes, Weights, rope_tables
from serve.engine.native.operations import Operations, TorchOperations
from serve.engine.native.scheduler import Part
from serve.engine.native.sequence import Sequence
from serve.engine.sampling import INVALID, choose


@dataclass
class Flight:
    """A launched step."""

    parts: Sequence_[Part]
    gaining: list[Sequence]
    """Sequences that gain a token"""
    gained_logits: torch.Tensor
    """[gaining, vocabulary]; of a captured step only until the next one is launched"""
    chosen: torch.Tensor
    """[gaining] int64 on the host, once `ready`"""
    scored: list[tuple[Part, torch.Tensor]]
    """Parts whose logits [count, vocabulary] are all wanted"""
    ready: torch.cuda.Event | None = None
    """None if it is ready already"""

    @property
    def wants_host(self) -> bool:
        """What some sequence gains next depends on its tokens in ways that only the host knows."""
        return bool(self.scored) or any(
            sequence.sampler.needs_history or sequence.request.logprobs is not None for sequence in self.gaining
        )

    @torch.inference_mode()
    def tokens(self) -> list[int]:
        """The gained tokens, recorded by their samplers; INVALID where logits are not numbers or a grammar fails."""
        if self.ready:
            self.ready.synchronize()
        tokens: list[int] = self.chosen.tolist()
        for sequence, token in zip(self.gaining, tokens, strict=True):
            sequence.sampler.record(token)
        return [
            INVALID if sequence.sampler.fault else token for sequence, token in zip(self.gaining, tokens, strict=True)
        ]


def lora_shape(sizes: Sizes) -> LoraShape:
    heads, kv = sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
    hidden, width = sizes.hidden, sizes.expert_width
    return LoraShape(
        sizes.layers,
        sizes.experts,
        {"q_proj": (hidden, heads), "k_proj": (hidden, kv), "v_proj": (hidden, kv), "o_proj": (heads, hidden)},
        {"gate_up_proj": (hidden, 2 * width), "down_proj": (width, hidden)},
    )


class Runner:
    """gpt-oss in plain PyTorch on a CPU, or on a GPU for weights that no kernel reads. `blocks` is the KV cache's size.

    `adapter_slots` adapters of ranks up to `max_lora_rank` may be in one batch.
    """

    overlaps = False
    """Whether a launched step runs while the host goes on."""

    def __init__(
        self,
        sizes: Sizes,
        weights: Weights,
        *,
        blocks: int,
        max_batch: int = 24,
        adapter_slots: int = 8,
        max_lora_rank: int = 32,
    ) -> None:
        self.sizes, self.blocks, self.max_batch = sizes, blocks, max_batch
        self.device, dtype = weights.embedding.device, weights.embedding.dtype
        self.adapters = AdapterSlots(
            lora_shape(sizes), slots=adapter_slots, rank=max_lora_rank, dtype=dtype, device=self.device
        )
        shape = (sizes.group_layers, 2, blocks, BLOCK_SIZE, sizes.kv_heads, sizes.head_dim)
        kv = torch.zeros(shape, dtype=dtype, device=self.device)
        cos, sin = (table.to(self.device) for table in rope_tables(sizes, sizes.longest))
        self.model = GptOss(sizes, weights, self._operations(kv, (cos, sin)))
        self._newest = torch.zeros(max_batch + 1, dtype=torch.int64, device=self.device)
        """[rows + 1]: each running sequence's newest token; the last row is nobody's"""

    def _operations(self, kv: torch.Tensor, rope: tuple[torch.Tensor, torch.Tensor]) -> Operations:
        sizes = self.sizes
        return TorchOperations(
            kv, sizes.groups, rope, self.adapters, heads=sizes.heads, top_k=sizes.top_k, epsilon=sizes.epsilon
        )

    @torch.inference_mode()
    def launch(self, parts: Sequence_[Part], cache: KvCache) -> Flight:
        """Compute the parts and choose what their sequences gain."""
        batch = build(parts, self._newest, cache, self.adapters.expert_slots)
        logits = self.model.forward(batch)
        at = 0
        rows: list[int] = []
        gaining: list[Sequence] = []
        scored: list[tuple[Part, torch.Tensor]] = []
        for part in parts:
            sequence = part.sequence
            if sequence.scored:
                scored.append((part, logits[at : at + part.count]))
                at += part.count
            elif part.complete:
                at += 1
            if part.complete and not sequence.request.prompt_only:
                gaining.append(sequence)
                rows.append(at - 1)
        return self._choose(parts, gaining, rows, scored, logits)

    def _choose(
        self,
        parts: Sequence_[Part],
        gaining: list[Sequence],
        rows: list[int],
        scored: list[tuple[Part, torch.Tensor]],
        logits: torch.Tensor,
    ) -> Flight:
        """A token for each of `gaining`, whose logits are those `rows` of `logits`."""
        if rows != list(range(len(logits))):
            logits = logits[torch.tensor(rows, dtype=torch.int64).to(self.device)]
        chosen = torch.empty(0, dtype=torch.int64, device=self.device)
        if gaining:
            chosen = choose(logits, [sequence.sampler for sequence in gaining])
            # A row of NaN has no token, and what is launched before the host knows must not fail on it.
            self._newest[torch.tensor([sequence.row for sequence in gaining]).to(self.device)] = chosen.clamp(min=0)
        return self._flight(parts, gaining, logits, chosen, scored)

    def _flight(
        self,
        parts: Sequence_[Part],
        gaining: list[Sequence],
        logits: torch.Tensor,
        chosen: torch.Tensor,
        scored: list[tuple[Part, torch.Tensor]],
    ) -> Flight:
        return Flight(parts, gaining, logits, chosen, scored)

    def pinned(self, weights: LoraWeights) -> LoraWeights:
        """The adapter in host memory that the device can copy from while it computes."""
        return weights

    def close(self) -> None:
        """Let go of all tensors."""
        del self.model, self._newest, self.adapters
