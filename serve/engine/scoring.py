"""How likely given tokens are under given logits. Engine-neutral, as `sampling` is: tensors in, numbers out."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from configs.errors import TandemError
from serve.engine.protocol import TokenLogprob

if TYPE_CHECKING:
    import torch

SCORED_CHUNK = 256
"""Prompt tokens whose logits are held together for scoring: 103 MB in bfloat16 with a vocabulary of 201,088."""

POSITIONS_AT_ONCE = 32
"""Positions that are in float32 together: 26 MB with a vocabulary of 201,088."""


def score(logits: "torch.Tensor", tokens: Sequence[int], likeliest: int) -> list[dict[int, TokenLogprob]]:
    """For each of Q positions its token and the `likeliest` most likely ones, from logits [>= Q, V] of any float type.

    Raises TandemError for logits that are not numbers.
    """
    found: list[dict[int, TokenLogprob]] = []
    for begin in range(0, len(tokens), POSITIONS_AT_ONCE):
        part = tokens[begin : begin + POSITIONS_AT_ONCE]
        found += _score(logits[begin : begin + len(part)], part, likeliest)
    return found


def score_sampled(
    logits: "torch.Tensor", tokens: Sequence[int], likeliest: Sequence[int | None]
) -> list[dict[int, TokenLogprob] | None]:
    """What `score` gives for each of B rows of logits [B, V]; None where `likeliest` is None or `tokens` INVALID."""
    found: list[dict[int, TokenLogprob] | None] = [None] * len(tokens)
    wanted = {row: most for row, most in enumerate(likeliest) if most is not None and tokens[row] >= 0}
    if wanted:
        rows = list(wanted)
        scores = score(logits[rows], [tokens[row] for row in rows], max(wanted.values()))
        for row, at in zip(rows, scores, strict=True):
            own, most = tokens[row], wanted[row]
            found[row] = {token: each for token, each in at.items() if token == own or each.rank <= most}
    return found


def _score(logits: "torch.Tensor", tokens: Sequence[int], likeliest: int) -> list[dict[int, TokenLogprob]]:
    import torch

    logprobs = logits.float().log_softmax(-1)
    at = torch.tensor(tokens, device=logits.device)[:, None]
    own = logprobs.gather(-1, at)
    if own.isnan().any():
        raise TandemError("the model's logits are not numbers")
    ranks = (logprobs > own).sum(-1) + 1
    values, ids = logprobs.topk(likeliest, dim=-1)
    rows = zip(tokens, own[:, 0].tolist(), ranks.tolist(), ids.tolist(), values.tolist(), strict=True)
    return [
        {token: TokenLogprob(logprob, rank)}
        | {
            each: TokenLogprob(value, place)
            for place, (each, value) in enumerate(zip(top, best, strict=True), 1)
            if each != token
        }
        for token, logprob, rank, top, best in rows
    ]
