"""One request inside the native engine: its tokens, how many of them are computed, and the blocks they are in."""

from dataclasses import dataclass, field

from serve.engine.generation import Generation


@dataclass(eq=False)
class Sequence(Generation):
    """`computed` tokens of `tokens` have keys and values in the cache; the rest are pending.

    Prefill, decode and the recomputation after a preemption are the same thing: computing pending tokens. Whoever has
    none left gains a token.
    """

    tokens: list[int] = field(init=False)
    """The prompt and what was generated so far."""
    computed: int = 0
    flying: int = 0
    """Tokens that a launched step will add, still unknown to the host: 0 or 1."""
    tables: list[list[int]] = field(default_factory=list)
    """Per cache group, the block of each `block_size` tokens; NO_BLOCK where a window has passed."""
    published: int = 0
    """Full blocks that the prefix cache knows."""
    hashes: list[bytes] = field(default_factory=list)
    """Of the full blocks of known tokens, each with its past."""
    prefix_hit: int = 0
    """Prompt tokens that were found in the cache when it was admitted."""
    row: int = -1
    """Its place in the device's table of newest tokens while it runs."""
    slot: int = -1
    """Its adapter's slot while it runs; -1 is the base."""
    ended: bool = False
    """It holds nothing any more; what a launched step still brings is dropped."""

    def __post_init__(self) -> None:
        self.tokens = list(self.request.prompt_ids)

    @property
    def pending(self) -> int:
        return len(self.tokens) + self.flying - self.computed

    @property
    def decoding(self) -> bool:
        """Only its newest token is pending, and its prompt is done."""
        return self.pending == 1 and self.computed >= len(self.request.prompt_ids)

    @property
    def scored(self) -> bool:
        """All logits of its prompt are wanted, and not all are there."""
        return self.request.prompt_logprobs is not None and self.computed < len(self.request.prompt_ids)

    @property
    def known(self) -> int:
        """Computed tokens whose ids the host knows."""
        return min(self.computed, len(self.tokens))

    @property
    def full(self) -> bool:
        """It has all tokens that it may get, those of the launched step included."""
        return len(self.generated) + self.flying >= self.limit
