"""Constrained decoding: a grammar that says, before every token, which tokens may come. Engine-neutral, as `sampling`.

A thin side of llguidance, which is imported when a request first asks for a constraint. Engines own one `Grammars`,
their requests one `Matcher` each, and `sampling` calls `mask`. What the grammars say is decided by whoever makes a
`Constraint`.
"""

import asyncio
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from configs.errors import RequestError, TandemError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from llguidance import LLMatcher, LLTokenizer
    from transformers import PreTrainedTokenizerBase


MOST_COMPILED = 32
"""Grammars that are kept: a schema of 200 properties takes 45 ms to compile and 0.01 ms to copy."""


@dataclass(frozen=True)
class Constraint:
    """What a generation may consist of."""

    grammar: str
    """Lark as llguidance reads it, over text and special tokens, stop token included:
    https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md"""
    param: str
    """The parameter that asked for it; errors name it."""


class Grammars:
    """Compiles constraints for one tokenizer, whose model has `vocabulary` logits, padding included. The grammars that
    were asked for last are kept."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", vocabulary: int) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._lock = threading.Lock()
        self._llguidance: LLTokenizer | None = None
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()
        """llguidance's matchers at their grammars' beginnings, to be copied; the one asked for last is at the end."""

    async def matcher(self, constraint: Constraint) -> "Matcher":
        """A matcher at the grammar's beginning, compiled beside the loop and the engine, or copied from an earlier one.

        Raises RequestError, with the constraint's `param`, for a grammar that llguidance refuses.
        """
        return await asyncio.to_thread(self._matcher, constraint)

    def _matcher(self, constraint: Constraint) -> "Matcher":
        try:
            import llguidance
        except ImportError as error:
            raise TandemError(
                f"this engine cannot honour {constraint.param}: {error}", hint="pip install llguidance"
            ) from error
        with self._lock:
            found = self._compiled.get(constraint.grammar)
        if found is None:
            limits = llguidance.LLParserLimits(verbose_errors=False)
            found = llguidance.LLMatcher(self._llguidance_tokenizer(), constraint.grammar, log_level=0, limits=limits)
        if found.is_error():
            raise RequestError(f"{constraint.param}: {_complaint(found)}", param=constraint.param)
        self._keep(constraint.grammar, found)
        return Matcher(found.deep_copy())

    def _keep(self, grammar: str, compiled: "LLMatcher") -> None:
        with self._lock:
            self._compiled[grammar] = compiled
            self._compiled.move_to_end(grammar)
            if len(self._compiled) > MOST_COMPILED:
                self._compiled.popitem(last=False)

    def _llguidance_tokenizer(self) -> "LLTokenizer":
        """Made once: it takes about a second with a vocabulary of 201,088."""
        import llguidance
        from tokenizers import Tokenizer

        with self._lock:
            if self._llguidance is None:
                plain = Tokenizer.from_str(self._tokenizer.backend_tokenizer.to_str())
                plain.no_padding()
                plain.no_truncation()
                self._llguidance = llguidance.LLTokenizer(plain.to_str(), n_vocab=self._vocabulary)
            return self._llguidance


class Matcher:
    """One generation's place in its grammar."""

    def __init__(self, matcher: "LLMatcher") -> None:
        self._matcher = matcher
        self.fault: str | None = None
        """Why the grammar cannot go on: llguidance's limits are used up, or a token was not one of the allowed."""

    @property
    def complete(self) -> bool:
        """Nothing more is allowed."""
        return self._matcher.is_stopped()

    def fill(self, bits: "np.ndarray", row: int) -> None:
        """Write one bit per token, 1 for allowed, into row `row` of the int32 array `bits` [B, vocabulary / 32]."""
        from llguidance.numpy import fill_next_token_bitmask

        fill_next_token_bitmask(self._matcher, bits, row)
        self._check()

    def advance(self, token_id: int) -> None:
        """Take a generated token."""
        self._matcher.consume_token(token_id)
        self._check()

    def _check(self) -> None:
        if self.fault is None and self._matcher.is_error():
            self.fault = f"the answer's grammar failed: {_complaint(self._matcher)}"


def mask(logits: "torch.Tensor", matchers: Mapping[int, Matcher]) -> None:
    """Set to -inf, in place, what each row's grammar forbids: `logits` [B, V] of any float type, matchers by row."""
    import torch
    from llguidance.numpy import allocate_token_bitmask

    vocabulary = logits.shape[-1]
    bits = allocate_token_bitmask(len(matchers), vocabulary)
    for index, matcher in enumerate(matchers.values()):
        matcher.fill(bits, index)
    packed = torch.from_numpy(bits).to(logits.device)
    shifts = torch.arange(32, dtype=torch.int32, device=logits.device)
    allowed = (packed[:, :, None] >> shifts & 1).flatten(1)[:, :vocabulary].bool()
    rows = torch.tensor(list(matchers), device=logits.device)
    logits[rows] = logits[rows].masked_fill(~allowed, float("-inf"))


def _complaint(matcher: "LLMatcher") -> str:
    """What llguidance says is wrong, without the excerpt of the grammar that it appends."""
    said = re.split(r"\n +\d+ \| ", matcher.get_error())[0]
    return re.sub(r"^at \d+\(\d+\): ", "", said).strip()
