"""The steps of a forward pass as Triton kernels over NF4 weights. See `operations.Operations` for what each means."""

import torch
import torch.nn.functional as F

from serve.engine.native.adapters import AdapterSlots
from serve.engine.native.batch import Batch
from serve.engine.native.kernels import attention, elementwise, experts, lora
from serve.engine.native.kernels.linear import linear
from serve.engine.native.operations import Expert, Linear, Routes, Update


class TritonOperations:
    """See Operations. `kv` is [shares, 2, blocks, BLOCK_SIZE, kv heads, head width], bfloat16."""

    def __init__(
        self,
        kv: torch.Tensor,
        windows: tuple[int | None, ...],
        rope: tuple[torch.Tensor, torch.Tensor],
        adapters: AdapterSlots,
        *,
        top_k: int,
        epsilon: float,
    ) -> None:
        self._kv, self._windows, self._rope, self._adapters = kv, windows, rope, adapters
        self._top_k, self._epsilon = top_k, epsilon
        self._scale = kv.shape[-1] ** -0.5

    def add_norm(self, x: torch.Tensor, update: Update | None, weight: torch.Tensor) -> torch.Tensor:
        parts, shares = update if isinstance(update, tuple) else (update, None)
        return elementwise.add_rms_norm(x, parts, weight, self._epsilon, shares)

    def linear(self, x: torch.Tensor, layer_linear: Linear, batch: Batch, layer: int, name: str) -> torch.Tensor:
        out = linear(x, layer_linear.weight, layer_linear.bias)
        if batch.slots:
            buffer = self._adapters.linear(name)
            between = lora.shrink(x, buffer.a[layer], batch.adapters)
            lora.expand_add(out, between, buffer.b[layer], batch.adapters, tuple(end for _, end, _ in buffer.segments))
        return out

    def rope_and_store(self, qkv: torch.Tensor, batch: Batch, group: int, share: int) -> torch.Tensor:
        (cos, sin), (keys, values) = self._rope, self._kv[share]
        return elementwise.rope_store(qkv, batch.positions, cos, sin, keys, values, batch.stores[group])

    def attend(self, q: torch.Tensor, sinks: torch.Tensor, batch: Batch, group: int, share: int) -> torch.Tensor:
        (keys, values), window, first = self._kv[share], self._windows[group] or 0, batch.decoding
        tables = batch.tables[group]
        common = {"sinks": sinks, "window": window, "scale": self._scale}
        if first == len(batch.counts):
            return attention.decode_attention(q, keys, values, tables, batch.lengths, **common)
        starts = batch.memo.setdefault("starts", (batch.lengths - batch.offsets.diff())[first:].contiguous())
        offsets = batch.memo.setdefault("offsets", (batch.offsets[first:] - first).contiguous())
        longest = max(batch.counts[first:])
        prefilled = attention.prefill_attention(
            q[first:], keys, values, tables[first:], starts, offsets, longest, **common
        )
        if not first:
            return prefilled
        decoded = attention.decode_attention(q[:first], keys, values, tables[:first], batch.lengths[:first], **common)
        return torch.cat((decoded, prefilled))

    def add_norm_route(
        self, x: torch.Tensor, update: Update, weight: torch.Tensor, router: torch.Tensor, bias: torch.Tensor
    ) -> tuple[torch.Tensor, Routes]:
        h, chosen, shares = elementwise.add_rms_norm_route(x, update, weight, self._epsilon, router, bias, self._top_k)
        block = experts.tile_rows(len(x), self._top_k, len(router))
        return h, Routes(chosen, shares, experts.group(chosen, len(router), block) if block > 1 else None)

    def gate_up(self, x: torch.Tensor, expert: Expert, routes: Routes, batch: Batch, layer: int) -> torch.Tensor:
        delta = self._delta(x, routes, batch, layer, "gate_up")
        return experts.gate_up(x, expert.weight, expert.bias, routes.experts, routes.groups, delta)

    def down(self, x: torch.Tensor, expert: Expert, routes: Routes, batch: Batch, layer: int) -> Update:
        delta = self._delta(x, routes, batch, layer, "down")
        answers = experts.down(x, expert.weight, expert.bias, routes.experts, routes.groups, delta)
        return answers.view(*routes.shares.shape, -1), routes.shares

    def last_norm(
        self, x: torch.Tensor, update: Update, weight: torch.Tensor, wanted: torch.Tensor | None
    ) -> torch.Tensor:
        answers, shares = update
        if wanted is not None:
            x, answers, shares = x[wanted], answers[wanted], shares[wanted]
        return self.add_norm(x, (answers, shares), weight)

    def head(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.linear(x, weight)

    def _delta(self, x: torch.Tensor, routes: Routes, batch: Batch, layer: int, name: str) -> torch.Tensor | None:
        """What adapters add to each chosen expert's projection, [T * top_k, out]."""
        if not batch.experts:
            return None
        buffer = self._adapters.expert(name)
        between = lora.expert_shrink(x, buffer.a[layer], batch.adapters, routes.experts)
        return lora.expert_expand(between, buffer.b[layer], batch.adapters, routes.experts)
