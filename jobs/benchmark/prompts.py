"""What is asked: prompts of a length that the server itself counts, or the questions of a data set.

A synthetic prompt is a line of common words that are one token each to this server; which they are is found out by
asking for `usage.prompt_tokens`, so no tokenizer is needed here. No two prompts are alike, so that prefix caches do not
flatter: they share the server's own template and OPENING, no more.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from configs.errors import DataError, RequestError
from configs.schema import DataConfig
from jobs.benchmark.endpoint import Endpoint

OPENING = "Go on:"
GROUP = 8
"""Words that are tried with one request."""
ENOUGH_WORDS = 64
_COMMON = (
    "the of and to a in is it you that was for on are with as he his they be at one have this from or had by hot but "
    "some what there we can out other were all your when up use word how said an each she which do their time if will "
    "way about many then them would write like so these her long make thing see him two has look more day could go "
    "come did my sound no most number who over know water than call first people may down side been now find any new "
    "work part take get place made live where after back little only round man year came show every good me give our"
)
COMMON = tuple(_COMMON.split())

Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class Synthetic:
    """Makes prompts of `tokens` tokens each, the server's template included."""

    tokens: int
    words: tuple[str, ...]
    count: int
    """Words of a prompt."""
    seed: int

    def prompts(self, part: str) -> Iterator[Messages]:
        """Prompts without end; those of another `part` of the same benchmark are others."""
        draw = random.Random(f"{self.seed} {self.tokens} {part}")
        while True:
            yield asked(" ".join((OPENING, *draw.choices(self.words, k=self.count))))


@dataclass(frozen=True)
class Questions:
    """The questions of a data set, in an order drawn by `seed`; after the last one they begin again."""

    messages: tuple[Messages, ...]
    seed: int
    tokens: None = None

    def prompts(self, part: str) -> Iterator[Messages]:
        draw = random.Random(f"{self.seed} {part}")
        while True:
            yield from draw.sample(self.messages, len(self.messages))


Prompts = Synthetic | Questions


@dataclass(frozen=True)
class Vocabulary:
    """Words that are one token each to a server; `base` is what a prompt of none of them has."""

    words: tuple[str, ...]
    base: int
    exact: bool = True
    """False where the server counts no tokens, or no word is one token to it: words then stand for tokens."""

    def prompts(self, tokens: int, seed: int) -> Synthetic:
        """Raises RequestError for fewer tokens than the template alone has."""
        if tokens <= self.base:
            raise RequestError(
                f"a prompt of {tokens} tokens is not possible: the server's chat template alone takes {self.base}",
                hint=f"--prompt-tokens {self.base + 1} or more",
            )
        return Synthetic(tokens, self.words, tokens - self.base, seed)


async def calibrate(endpoint: Endpoint) -> Vocabulary:
    """Find out how this server counts. Raises what `endpoint.probe` raises."""
    base = (await endpoint.probe(asked(OPENING), 1)).prompt_tokens
    if base is None:
        return Vocabulary(tuple(COMMON), 0, exact=False)
    words: list[str] = []
    for first in range(0, len(COMMON), GROUP):
        group = COMMON[first : first + GROUP]
        counted = (await endpoint.probe(asked(" ".join((OPENING, *group))), 1)).prompt_tokens
        if counted == base + len(group):
            words += group
        if len(words) >= ENOUGH_WORDS:
            break
    return Vocabulary(tuple(words or COMMON), base, exact=bool(words))


def asked(text: str) -> Messages:
    return [{"role": "user", "content": text}]


def of_dataset(name: str, split: str, seed: int) -> Questions:
    """What each row asks before its last answer. Raises DataError for data that cannot be read or asks nothing."""
    from jobs.data import dataset  # pyarrow

    rows = dataset.read(DataConfig(dataset=name, split=split)).dialogues
    questions = [question for row in rows if (question := _question(row.messages))]
    if not questions:
        raise DataError(f"no row of '{name}' asks anything", hint="a row needs a message before its last answer")
    return Questions(tuple(questions), seed)


def _question(messages: Sequence[dict[str, Any]]) -> Messages:
    """What stands before the last answer, or before the first tool call: tools are not offered here."""
    plain = list(takewhile(lambda each: each["role"] != "tool" and not each.get("tool_calls"), messages))
    if len(plain) == len(messages):
        plain = plain[: max(index for index, each in enumerate(messages) if each["role"] == "assistant")]
    return [{key: value for key, value in each.items() if key not in ("thinking", "weight")} for each in plain]
