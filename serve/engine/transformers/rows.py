"""A KV cache whose rows are of different lengths, and the masks that go with it. Knows no requests and no adapters.

Transformers' own caches advance all rows together. Here every forward pass names its rows and the position of each
of its tokens; the cache writes there and hands back the rows from position 0 on, and the masks hide what is not a
token's past. Sliding layers keep their whole past too: the mask cuts the window.
"""

import torch
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache, CacheLayerMixin

from configs.errors import ConfigError

SMALLEST = 256
"""Positions per row at first; doubled whenever a row outgrows them."""


class RowCache(Cache):
    """Keys and values of `rows` independent sequences of at most `max_length` tokens, allocated as they grow."""

    def __init__(self, layers: int, rows: int, max_length: int) -> None:
        self.rows = rows
        self.max_length = max_length
        self.capacity = min(SMALLEST, max_length)
        super().__init__(layers=[_RowLayer(self) for _ in range(layers)])

    def begin(self, rows: torch.Tensor, positions: torch.Tensor, length: int) -> None:
        """Say which rows [B] and positions [B, Q], both int64, the next forward pass is about.

        `length` is the largest of the positions plus one; the pass gets keys and values of that many positions.
        """
        self.step_rows, self.step_positions, self.step_length = rows, positions, length
        while self.capacity < length:
            self.capacity = min(2 * self.capacity, self.max_length)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0


class _RowLayer(CacheLayerMixin):
    """One layer's keys and values, [rows, key/value heads, capacity, head width]; see RowCache."""

    is_sliding = False

    def __init__(self, cache: RowCache) -> None:
        super().__init__()
        self._cache = cache

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.keys = self._grown(key_states, None)
        self.values = self._grown(value_states, None)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write [B, heads, Q, width] at the rows and positions of `begin`; returns [B, heads, L, width] of each."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if self.keys.shape[2] < self._cache.step_length:
            self.keys = self._grown(key_states, self.keys)
            self.values = self._grown(value_states, self.values)
        rows, length = self._cache.step_rows, self._cache.step_length
        at = (rows[:, None], slice(None), self._cache.step_positions)
        self.keys[at] = key_states.transpose(1, 2)
        self.values[at] = value_states.transpose(1, 2)
        return self.keys[:, :, :length].index_select(0, rows), self.values[:, :, :length].index_select(0, rows)

    def _grown(self, like: torch.Tensor, old: torch.Tensor | None) -> torch.Tensor:
        _, heads, _, width = like.shape
        new = like.new_zeros(self._cache.rows, heads, self._cache.capacity, width)
        if old is not None:
            new[:, :, : old.shape[2]] = old
        return new

    def get_seq_length(self) -> int:
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._cache.step_length, 0

    def get_max_length(self) -> int:
        return self._cache.max_length


def attention_windows(config: PreTrainedConfig) -> dict[str, int | None]:
    """Attention kinds of a model's layers and the window of each in tokens, None for the whole past.

    Raises ConfigError for layers that are not attention over a row's own past.
    """
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ["sliding_attention" if window else "full_attention"])
    unknown = kinds - {"full_attention", "sliding_attention"}
    if unknown:
        raise ConfigError(
            f"{config.model_type} has {', '.join(sorted(unknown))} layers; this engine knows full and sliding attention"
        )
    return {kind: window if kind == "sliding_attention" else None for kind in sorted(kinds)}


def attention_masks(
    windows: dict[str, int | None], positions: torch.Tensor, length: int, dtype: torch.dtype
) -> torch.Tensor | dict[str, torch.Tensor]:
    """Additive masks [B, 1, Q, length] of `dtype` for queries at `positions` [B, Q] over keys at 0 to length - 1.

    A model with one attention kind takes the tensor, one with several a dict by kind. Positions of a row beyond its
    own query are hidden, so it does not matter what an earlier sequence left there.
    """
    keys = torch.arange(length, device=positions.device)
    queries = positions[:, None, :, None]
    masks = {}
    for kind, window in windows.items():
        visible = keys <= queries if window is None else (keys <= queries) & (keys > queries - window)
        masks[kind] = torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)
    return masks if len(masks) > 1 else next(iter(masks.values()))
