"""How the next token is chosen, and where text has to end. Engine-neutral: tensors in, ids out; no model, no cache.

Engines keep one `Sampler` per request and call `sample` once per step for all rows of a batch. `StopStrings` works on
text, after the chat format has been parsed, and belongs to whoever writes the answer out.
"""

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from configs.errors import RequestError
from serve.engine.grammar import mask

if TYPE_CHECKING:
    import torch

    from serve.engine.grammar import Matcher

MOST_STOP_STRINGS = 16
MOST_STOP_TOKENS = 1024
GREEDY_BELOW = 1e-5
"""Temperatures below this count as 0, as in vLLM: float32 cannot divide by much smaller ones."""
INVALID = -1
"""What `sample` returns for a row whose logits are not numbers."""


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """One request's wishes, named and bounded as in OpenAI's API, with vLLM's `top_k`, `min_p`, `repetition_penalty`,
    `min_tokens`.

    Raises RequestError, with `param` naming the field, for a value out of bounds.
    """

    temperature: float = 1.0
    """0 to 2; 0 takes the most likely token, and so does all below GREEDY_BELOW."""
    top_p: float = 1.0
    """Keep the most likely tokens whose probabilities add up to this, above 0 to 1; 1 keeps all."""
    top_k: int = 0
    """Keep this many of the most likely tokens; 0, -1 and more than there are keep all."""
    min_p: float = 0.0
    """Drop tokens less likely than this times the most likely one, 0 to 1; 0 keeps all."""
    presence_penalty: float = 0.0
    """-2 to 2, taken once from the logit of every token generated before."""
    frequency_penalty: float = 0.0
    """-2 to 2, taken from a token's logit once per time that it was generated before."""
    repetition_penalty: float = 1.0
    """0.01 to 100. Logits of tokens of the prompt or the answer are divided by it if positive, else multiplied."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Token ids and what is added to their logits, -100 to 100."""
    seed: int | None = None
    """Makes the request's tokens repeatable, whatever runs beside it; None draws a fresh one."""
    max_tokens: int | None = None
    """Most tokens to generate, from 1; None is what the context has left."""
    stop: tuple[str, ...] = ()
    """Texts that end the final answer and are not part of it; engines leave them to `StopStrings`."""
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end the generation and are part of it."""
    ignored_stop_ids: tuple[int, ...] = ()
    """Tokens that end other generations of this model, and are tokens like any other in this one."""
    allowed_token_ids: tuple[int, ...] | None = None
    """The only tokens that may come; None allows all."""
    bad_words: tuple[tuple[int, ...], ...] = ()
    """Tokens that may not come in a row."""
    min_tokens: int = 0
    """So many tokens come before one of `stop_token_ids` or `ignored_stop_ids` may."""

    def __post_init__(self) -> None:
        _require(0 <= self.temperature <= 2, "temperature", self.temperature, "0 to 2")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 to 1")
        _require(self.top_k >= -1, "top_k", self.top_k, "-1 or more")
        _require(0 <= self.min_p <= 1, "min_p", self.min_p, "0 to 1")
        _require(-2 <= self.presence_penalty <= 2, "presence_penalty", self.presence_penalty, "-2 to 2")
        _require(-2 <= self.frequency_penalty <= 2, "frequency_penalty", self.frequency_penalty, "-2 to 2")
        _require(0.01 <= self.repetition_penalty <= 100, "repetition_penalty", self.repetition_penalty, "0.01 to 100")
        for _, bias in self.logit_bias:
            _require(-100 <= bias <= 100, "logit_bias", bias, "-100 to 100")
        _require(self.max_tokens is None or self.max_tokens >= 1, "max_tokens", self.max_tokens, "1 or more")
        _require(self.min_tokens >= 0, "min_tokens", self.min_tokens, "0 or more")
        _require(len(self.stop) <= MOST_STOP_STRINGS, "stop", len(self.stop), f"at most {MOST_STOP_STRINGS} strings")
        _require(all(self.stop), "stop", "", "strings of at least one character")
        stops = len(self.stop_token_ids)
        _require(stops <= MOST_STOP_TOKENS, "stop_token_ids", stops, f"at most {MOST_STOP_TOKENS} ids")

    @property
    def greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW

    @property
    def penalised(self) -> bool:
        return self.presence_penalty != 0 or self.frequency_penalty != 0 or self.repetition_penalty != 1

    @property
    def filtered(self) -> bool:
        """Needs the vocabulary in order of likelihood."""
        return not self.greedy and (self.top_p < 1 or self.top_k > 0)


def _require(holds: bool, param: str, value: object, allowed: str) -> None:
    if not holds:
        raise RequestError(f"{param} is {value!r}, allowed is {allowed}", param=param)


class Sampler:
    """One request's side of sampling: its random stream, its grammar and, as far as needed, what it has generated."""

    def __init__(self, params: SamplingParams, prompt_ids: Sequence[int], matcher: "Matcher | None" = None) -> None:
        self.params = params
        self.matcher = matcher
        self._random = random.Random(params.seed)
        self._prompt_ids = prompt_ids
        self._bias: tuple[torch.Tensor, torch.Tensor] | None = None
        self._count = 0
        self._withheld: torch.Tensor | None = None
        self._refused: torch.Tensor | None = None
        self._recent: deque[int] = deque(maxlen=max((len(word) - 1 for word in params.bad_words), default=0))
        self._counted: tuple[torch.Tensor, torch.Tensor] | None = None
        """How often each token was generated, and whether it was or stands in the prompt; both [V]."""

    def uniform(self) -> float:
        """The next number of this request's own stream, from 0 to below 1: one per generated token."""
        return self._random.random()

    @property
    def complete(self) -> bool:
        """The grammar allows nothing more."""
        return self.matcher is not None and self.matcher.complete

    @property
    def fault(self) -> str | None:
        """Why the grammar cannot go on."""
        return self.matcher.fault if self.matcher else None

    def bias(self, logits: "torch.Tensor") -> None:
        """Add `logit_bias` to this request's logits [V], in place."""
        import torch

        if self._bias is None:
            ids, values = zip(*self.params.logit_bias, strict=True)
            self._bias = torch.tensor(ids, device=logits.device), torch.tensor(values, device=logits.device)
        ids, values = self._bias
        logits[ids] += values

    @property
    def needs_history(self) -> bool:
        """What may come next depends on the tokens before, beyond what the model makes of them."""
        params = self.params
        return bool(self.matcher or params.penalised or params.bad_words or self.withholding)

    @property
    def takes_likeliest(self) -> bool:
        """The next token is the likeliest, whatever came before."""
        params = self.params
        plain = params.greedy and not params.logit_bias and params.allowed_token_ids is None
        return plain and not self.needs_history

    @property
    def withholding(self) -> bool:
        """Stop tokens may not come yet."""
        return self._count < self.params.min_tokens

    def withhold(self, logits: "torch.Tensor") -> None:
        """Set every stop token of this request's logits [V] to -inf, in place."""
        import torch

        if self._withheld is None:
            stops = (*self.params.stop_token_ids, *self.params.ignored_stop_ids)
            self._withheld = torch.tensor(stops, dtype=torch.long, device=logits.device)
        logits[self._withheld] = float("-inf")

    def allow(self, logits: "torch.Tensor") -> None:
        """Set all but `allowed_token_ids` of this request's logits [V] to -inf, in place."""
        import torch

        if self._refused is None:
            self._refused = torch.ones_like(logits, dtype=torch.bool)
            self._refused[torch.tensor(self.params.allowed_token_ids, device=logits.device)] = False
        logits.masked_fill_(self._refused, float("-inf"))

    def forbid(self, logits: "torch.Tensor") -> None:
        """Set every token that would complete one of `bad_words` to -inf in this request's logits [V], in place."""
        recent = tuple(self._recent)
        for *begun, last in self.params.bad_words:
            if not begun or recent[-len(begun) :] == tuple(begun):
                logits[last] = float("-inf")

    def penalise(self, logits: "torch.Tensor") -> None:
        """Apply the penalties to this request's logits [V], in place."""
        import torch

        if self._counted is None:
            seen = torch.zeros_like(logits, dtype=torch.bool)
            seen[torch.tensor(list(set(self._prompt_ids)), dtype=torch.long, device=logits.device)] = True
            self._counted = torch.zeros_like(logits), seen
        generated, seen = self._counted
        if self.params.repetition_penalty != 1:
            penalty = self.params.repetition_penalty
            repeated = torch.where(logits > 0, logits / penalty, logits * penalty)
            logits.copy_(torch.where(seen, repeated, logits))
        logits -= self.params.frequency_penalty * generated
        logits -= self.params.presence_penalty * (generated > 0)

    def record(self, token_id: int) -> None:
        """Count a generated token and move on in the grammar."""
        self._count += 1
        if self.matcher and token_id >= 0:
            self.matcher.advance(token_id)
        self._recent.append(token_id)
        if self._counted is not None and token_id >= 0:
            generated, seen = self._counted
            generated[token_id] += 1
            seen[token_id] = True


def sample(logits: "torch.Tensor", samplers: Sequence[Sampler]) -> list[int]:
    """The next token of every row: `logits` [B, V] of any float type, one Sampler per row, which records the token.

    Rows of NaN, and rows whose grammar fails, give INVALID. `choose` says how.
    """
    out: list[int] = choose(logits, samplers).tolist()
    for sampler, token_id in zip(samplers, out, strict=True):
        sampler.record(token_id)
    return [INVALID if sampler.fault else token_id for sampler, token_id in zip(samplers, out, strict=True)]


def choose(logits: "torch.Tensor", samplers: Sequence[Sampler]) -> "torch.Tensor":
    """Ids [B], int64, on the device of `logits` [B, V], of any float type; INVALID for a row of NaN. Not recorded.

    Order: bias, penalties, `min_tokens`, allowed tokens and bad words, grammar, temperature, top_k, top_p (of what
    top_k left), min_p, then the inverse of the cumulative distribution in vocabulary order at the row's own random
    number. So a row's token depends on its own logits and seed only; logits themselves may differ in the last bits with
    the batch around them.
    """
    import torch

    logits = logits.to(torch.float32, copy=True)
    broken = logits.isnan().any(-1)
    for row, sampler in enumerate(samplers):
        if sampler.params.logit_bias:
            sampler.bias(logits[row])
        if sampler.params.penalised:
            sampler.penalise(logits[row])
        if sampler.withholding:
            sampler.withhold(logits[row])
        if sampler.params.allowed_token_ids is not None:
            sampler.allow(logits[row])
        if sampler.params.bad_words:
            sampler.forbid(logits[row])
    matchers = {row: sampler.matcher for row, sampler in enumerate(samplers) if sampler.matcher}
    if matchers:
        mask(logits, matchers)
    ids = logits.argmax(-1)
    drawn = [row for row, sampler in enumerate(samplers) if not sampler.params.greedy]
    if drawn:
        rows = torch.tensor(drawn, device=logits.device)
        ids[rows] = _draw(logits[rows], [samplers[row] for row in drawn])
    return torch.where(broken, INVALID, ids)


def _draw(logits: "torch.Tensor", samplers: Sequence[Sampler]) -> "torch.Tensor":
    """Ids [B] drawn from logits [B, V], float32, by each row's parameters."""
    import torch

    def column(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, device=logits.device)[:, None]

    params = [sampler.params for sampler in samplers]
    logits = (logits - logits.amax(-1, keepdim=True)) / column([p.temperature for p in params])
    filtered = [row for row, p in enumerate(params) if p.filtered]
    if filtered:
        rows = torch.tensor(filtered, device=logits.device)
        logits[rows] = _most_likely(logits[rows], [params[row] for row in filtered])
    weights = logits.exp()
    weights = weights.masked_fill(weights < column([p.min_p for p in params]), 0.0)
    # In float32 a running sum over 201,088 tokens loses the unlikely ones.
    cumulative = weights.to(torch.float64).cumsum(-1)
    total = cumulative[:, -1:]
    # u < 1 and right=True skip tokens of weight 0; the clamp is for u * total rounding up to total.
    points = torch.tensor([s.uniform() for s in samplers], dtype=torch.float64, device=logits.device)[:, None] * total
    last = (cumulative < total).sum(-1)
    return torch.minimum(torch.searchsorted(cumulative, points, right=True)[:, 0], last)


def _most_likely(logits: "torch.Tensor", params: Sequence[SamplingParams]) -> "torch.Tensor":
    """logits [B, V] with -inf wherever top_k, then top_p, drop the token; of equal ones the lower id stays."""
    import torch

    size = logits.shape[-1]
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    keep = torch.tensor([[min(p.top_k, size) if p.top_k > 0 else size] for p in params], device=logits.device)
    ordered = ordered.masked_fill(torch.arange(size, device=logits.device) >= keep, float("-inf"))
    probabilities = ordered.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    top_p = torch.tensor([[p.top_p] for p in params], device=logits.device)
    drop = (before >= top_p) & (top_p < 1)
    drop[:, 0] = False
    return torch.empty_like(logits).scatter_(-1, order, ordered.masked_fill(drop, float("-inf")))


class StopStrings:
    """Incremental search for stop strings in a text that arrives in pieces.

    Holds back only what may still become a stop string. The one that is complete first wins, of several complete at
    once the longest; the result does not depend on how the text is cut.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.matched: str | None = None
        """The stop string that ended the text."""

    def feed(self, text: str) -> str:
        """What can be written out now. Once `matched` is set, nothing more comes."""
        if self.matched is not None:
            return ""
        self._held += text
        found = [(at + len(stop), at, stop) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            _, at, self.matched = min(found)
            out, self._held = self._held[:at], ""
            return out
        keep = self._possible_start()
        out, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return out

    def flush(self) -> str:
        """What was held back when the text ended by itself."""
        out, self._held = self._held, ""
        return out

    def _possible_start(self) -> int:
        """Characters at the end that begin a stop string."""
        longest = min(len(self._held), max(map(len, self._stops), default=1) - 1)
        for size in range(longest, 0, -1):
            if any(stop.startswith(self._held[-size:]) for stop in self._stops):
                return size
        return 0
