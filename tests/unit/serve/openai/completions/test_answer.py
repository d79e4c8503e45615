"""Names of tokens in a completion's log-probabilities: a dictionary's keys, so no two tokens may share one."""

import pytest

from models.base import checkpoint
from serve.engine.protocol import TokenChunk, TokenLogprob
from serve.openai.completions.answer import ChoiceWriter
from serve.openai.completions.request import CompletionRequest


@pytest.fixture(scope="module")
def tokenizer():
    return checkpoint.tokenizer_of("tiny")


def names(tokenizer, *tokens: int) -> list[str]:
    request = CompletionRequest(model="base", prompt="a", logprobs=len(tokens))
    writer = ChoiceWriter(tokenizer, request, 0, [1])
    scores = {token: TokenLogprob(-1.0 - rank, rank) for rank, token in enumerate(tokens, 1)}
    choice = writer.write(TokenChunk([tokens[0]], "length", logprobs=[scores]))
    return list(choice.logprobs.top_logprobs[0])


def test_pieces_of_a_character_are_named_by_their_bytes(tokenizer):
    begin, follow = (tokenizer.convert_tokens_to_ids(token) for token in ("Ã", "©"))
    assert names(tokenizer, begin, follow) == ["bytes:\\xc3", "bytes:\\xa9"]


def test_ids_that_the_tokenizer_does_not_know_are_named_by_their_number(tokenizer):
    unknown = len(tokenizer) + 5
    assert names(tokenizer, unknown, unknown + 1) == [f"token_id:{unknown}", f"token_id:{unknown + 1}"]
