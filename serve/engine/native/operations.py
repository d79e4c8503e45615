"""The steps of a forward pass in plain PyTorch: how a CPU computes them, and what they mean on any device."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

import torch
import torch.nn.functional as F

from serve.engine.native.adapters import AdapterSlots
from serve.engine.native.batch import Batch
from serve.engine.native.kv_cache import BLOCK_SIZE

if TYPE_CHECKING:
    from serve.engine.native.kernels.experts import Groups
    from serve.engine.native.kernels.nf4 import Nf4

SWIGLU_ALPHA, SWIGLU_LIMIT = 1.702, 7.0


@dataclass
class Linear:
    weight: "torch.Tensor | Nf4"
    """[out, in], or NF4"""
    bias: torch.Tensor
    """[out]"""


@dataclass
class Expert:
    weight: "torch.Tensor | Nf4"
    """[experts, in, out], or NF4 [experts, out, in]"""
    bias: torch.Tensor
    """[experts, out]"""


@dataclass
class Routes:
    """Which experts each token goes through."""

    experts: torch.Tensor
    """[T, top_k] int32"""
    shares: torch.Tensor
    """[T, top_k], what each expert's answer counts"""
    groups: "Groups | None" = None
    """Tokens by expert, where kernels want them so"""


Update: TypeAlias = torch.Tensor | tuple[torch.Tensor, torch.Tensor]
"""What a layer adds to the residual stream: [T, hidden], or experts' answers [T, top_k, hidden] and their shares."""


class Operations(Protocol):
    """Tensors are [T, width] with one row per token of the batch unless said otherwise."""

    def add_norm(self, x: torch.Tensor, update: Update | None, weight: torch.Tensor) -> torch.Tensor:
        """Add `update` to the residual stream `x` in place; returns its RMS norm."""
        ...

    def linear(self, x: torch.Tensor, linear: Linear, batch: Batch, layer: int, name: str) -> torch.Tensor:
        """The projection with each row's adapter; `name` is "qkv" or "o"."""
        ...

    def rope_and_store(self, qkv: torch.Tensor, batch: Batch, group: int, share: int) -> torch.Tensor:
        """Rotate queries and keys, write keys and values to the cache; returns queries [T, heads, head_dim]."""
        ...

    def attend(self, q: torch.Tensor, sinks: torch.Tensor, batch: Batch, group: int, share: int) -> torch.Tensor:
        """Attention of every token over its own sequence's past, [T, heads * head_dim]."""
        ...

    def add_norm_route(
        self, x: torch.Tensor, update: Update, weight: torch.Tensor, router: torch.Tensor, bias: torch.Tensor
    ) -> tuple[torch.Tensor, Routes]:
        """`add_norm`, and the experts that the router chooses for the result."""
        ...

    def gate_up(self, x: torch.Tensor, expert: Expert, routes: Routes, batch: Batch, layer: int) -> torch.Tensor:
        """[T * top_k, expert_width]: clamped SwiGLU of the first projection of each chosen expert."""
        ...

    def down(self, x: torch.Tensor, expert: Expert, routes: Routes, batch: Batch, layer: int) -> Update:
        """The chosen experts' answers."""
        ...

    def last_norm(
        self, x: torch.Tensor, update: Update, weight: torch.Tensor, wanted: torch.Tensor | None
    ) -> torch.Tensor:
        """`add_norm` of the rows `wanted` alone; None is all."""
        ...

    def head(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Logits [W, vocabulary]."""
        ...


class TorchOperations:
    """See Operations. `kv` is [shares, 2, blocks, BLOCK_SIZE, kv heads, head width]."""

    def __init__(
        self,
        kv: torch.Tensor,
        windows: tuple[int | None, ...],
        rope: tuple[torch.Tensor, torch.Tensor],
        adapters: AdapterSlots,
        *,
        heads: int,
        top_k: int,
        epsilon: float,
    ) -> None:
        self._kv, self._windows, self._rope, self._adapters = kv.flatten(2, 3), windows, rope, adapters
        self._heads, self._top_k, self._epsilon = heads, top_k, epsilon
        self._kv_heads, self._head_dim = kv.shape[-2:]

    def add_norm(self, x: torch.Tensor, update: Update | None, weight: torch.Tensor) -> torch.Tensor:
        if update is not None:
            x += update if isinstance(update, torch.Tensor) else (update[0] * update[1][..., None]).sum(1)
        wide = x.float()
        return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self._epsilon) * weight).to(x.dtype)

    def linear(self, x: torch.Tensor, linear: Linear, batch: Batch, layer: int, name: str) -> torch.Tensor:
        out = F.linear(x, dense(linear.weight), linear.bias)
        lora = self._adapters.linear(name)
        for slot in batch.slots:
            rows = self._rows(batch, slot)
            between = x[rows] @ lora.a[layer, slot].T
            for begin, end, ranks in lora.segments:
                out[rows, begin:end] += between[:, ranks] @ lora.b[layer, slot, begin:end].T
        return out

    def rope_and_store(self, qkv: torch.Tensor, batch: Batch, group: int, share: int) -> torch.Tensor:
        if "rope" not in batch.memo:
            batch.memo["rope"] = [table[batch.positions][:, None].to(qkv.dtype) for table in self._rope]
        cos, sin = batch.memo["rope"]
        heads = qkv.view(len(qkv), -1, self._head_dim)
        turned, v = heads.split([self._heads + self._kv_heads, self._kv_heads], 1)
        first, second = turned.chunk(2, -1)
        q, k = torch.cat((first * cos - second * sin, second * cos + first * sin), -1).split(
            [self._heads, self._kv_heads], 1
        )
        self._kv[share, 0, batch.stores[group]], self._kv[share, 1, batch.stores[group]] = k, v
        return q

    def attend(self, q: torch.Tensor, sinks: torch.Tensor, batch: Batch, group: int, share: int) -> torch.Tensor:
        k, v = self._kv[share]
        out = torch.empty(len(q), self._heads * self._head_dim, dtype=q.dtype, device=q.device)
        for rows, places, visible in self._views(batch, group):
            queries = q[rows].view(len(places), -1, self._kv_heads, self._heads // self._kv_heads, self._head_dim)
            scores = torch.einsum("bqhgd,blhd->bhgql", queries, k[places]) * self._head_dim**-0.5
            scores = scores.masked_fill(~visible[:, None, None], float("-inf"))
            sink = sinks.view(1, self._kv_heads, -1, 1, 1).expand(*scores.shape[:-1], 1).to(scores.dtype)
            shares = torch.cat((scores, sink), -1).softmax(-1)[..., :-1]
            # A place that is not visible may hold anything, and 0 * NaN is NaN.
            values = v[places].masked_fill(~visible.any(1)[:, :, None, None], 0)
            out[rows] = torch.einsum("bhgql,blhd->bqhgd", shares, values).reshape(-1, out.shape[1])
        return out

    def add_norm_route(
        self, x: torch.Tensor, update: Update, weight: torch.Tensor, router: torch.Tensor, bias: torch.Tensor
    ) -> tuple[torch.Tensor, Routes]:
        h = self.add_norm(x, update, weight)
        best, experts = F.linear(h, router, bias).topk(self._top_k)
        return h, Routes(experts, best.softmax(-1))

    def gate_up(self, x: torch.Tensor, expert: Expert, routes: Routes, batch: Batch, layer: int) -> torch.Tensor:
        wide = self._through(x.repeat_interleave(self._top_k, 0), expert, routes, batch, layer, "gate_up")
        gate, up = wide[:, ::2].clamp(max=SWIGLU_LIMIT), wide[:, 1::2].clamp(-SWIGLU_LIMIT, SWIGLU_LIMIT)
        return (up + 1) * gate * torch.sigmoid(SWIGLU_ALPHA * gate)

    def down(self, x: torch.Tensor, expert: Expert, routes: Routes, batch: Batch, layer: int) -> Update:
        return self._through(x, expert, routes, batch, layer, "down").view(*routes.shares.shape, -1), routes.shares

    def last_norm(
        self, x: torch.Tensor, update: Update, weight: torch.Tensor, wanted: torch.Tensor | None
    ) -> torch.Tensor:
        answers, shares = update
        rows = slice(None) if wanted is None else wanted
        return self.add_norm(x[rows], (answers[rows], shares[rows]), weight)

    def head(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.linear(x, weight)

    def _through(
        self, x: torch.Tensor, expert: Expert, routes: Routes, batch: Batch, layer: int, name: str
    ) -> torch.Tensor:
        """Row r of x [T * top_k, in] through its expert: [T * top_k, out]."""
        chosen, experts = routes.experts.flatten(), len(expert.bias)
        out = x.new_empty(len(x), expert.bias.shape[1])
        for index in range(experts):
            rows = (chosen == index).nonzero()[:, 0]
            if len(rows):
                out[rows] = torch.addmm(expert.bias[index], x[rows], dense(expert.weight)[index])
        if batch.experts:
            lora = self._adapters.expert(name)
            slots = batch.adapters.repeat_interleave(self._top_k)
            for slot in batch.slots:
                for index in range(experts):
                    rows = ((chosen == index) & (slots == slot)).nonzero()[:, 0]
                    out[rows] += x[rows] @ lora.a[layer, slot, index].T @ lora.b[layer, slot, index].T
        return out

    @staticmethod
    def _rows(batch: Batch, slot: int) -> torch.Tensor:
        key = "rows", slot
        if key not in batch.memo:
            batch.memo[key] = (batch.adapters == slot).nonzero()[:, 0]
        return batch.memo[key]

    def _views(self, batch: Batch, group: int) -> list[tuple[slice, torch.Tensor, torch.Tensor]]:
        """Rows of the batch, where their sequences' keys are [B, L], and which of them each sees [B, Q, L]."""
        key = "views", group
        if key not in batch.memo:
            first = batch.decoding
            spans = [(0, first, 1)] if first else []
            spans += [(index, index + 1, batch.counts[index]) for index in range(first, len(batch.counts))]
            begins = batch.offsets.tolist()
            batch.memo[key] = [
                (slice(begins[low], begins[high]), *self._view(batch, group, low, high, count))
                for low, high, count in spans
            ]
        return batch.memo[key]

    def _view(self, batch: Batch, group: int, low: int, high: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        window, lengths = self._windows[group], batch.lengths[low:high].long()
        seen = int(lengths.max())
        seen = seen if window is None else min(seen, window + count - 1)
        # The last `seen` positions of each sequence; negative where it is shorter.
        at = lengths[:, None] - seen + torch.arange(seen, device=lengths.device)
        queries = (lengths[:, None] - count + torch.arange(count, device=lengths.device))[:, :, None]
        visible = (at[:, None] >= 0) & (at[:, None] <= queries)
        if window is not None:
            visible &= at[:, None] > queries - window
        inside = at.clamp(min=0)
        blocks = batch.tables[group][low:high].long().gather(1, inside // BLOCK_SIZE)
        return blocks * BLOCK_SIZE + inside % BLOCK_SIZE, visible


def dense(weight: "torch.Tensor | Nf4") -> torch.Tensor:
    """Raises TypeError for one in NF4, which only kernels multiply."""
    if not isinstance(weight, torch.Tensor):
        raise TypeError("PyTorch's operations take dense weights; load them with `dense_weights`")
    return weight
