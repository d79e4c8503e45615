"""Judging an adapter on the endpoint that will answer with it: losses on rows that it never saw, answers side by side.

Knows an OpenAI-compatible endpoint's URL and the names that models have there, not that serving is ours. What it finds
is an `Evaluation`, plain values; `jobs.evaluation.report` writes it down. Called by `tandem evaluate`.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

from configs.errors import DataError, RequestError
from configs.schema import DataConfig
from jobs.data.encoding import Encoded, Encoder
from jobs.data.masking import Marks, Part
from jobs.evaluation.answers import Answer, Question, assess
from jobs.evaluation.endpoint import Endpoint, Score
from jobs.evaluation.judged import EvaluationRows
from models import harmony

LEARNED = "learned"
"""All that the run's mask learns: what `parts` of an evaluation has beside the channels."""
ADAPTER, BASE = "adapter", "base"


@dataclass(frozen=True)
class Loss:
    """Of some tokens, each given those before it."""

    tokens: int
    loss: float
    """Mean negative log-probability, natural logarithm."""
    perplexity: float
    top1: float
    """Share of tokens that were the most likely one."""


@dataclass(frozen=True)
class RowLoss:
    """One row's learned tokens."""

    where: str
    fingerprint: str
    tokens: int
    losses: dict[str, float]
    """By model: adapter and perhaps base."""


@dataclass(frozen=True)
class Exchange:
    """One question and each model's answer to it."""

    source: str
    where: str
    question: str
    expect: dict[str, Any]
    answers: dict[str, Answer]


@dataclass(frozen=True)
class Tally:
    """How many of the answers to one source's questions are right in form and as expected."""

    asked: int
    valid: int
    expected: int
    """Questions whose answer is known."""
    matched: int


@dataclass(frozen=True)
class Evaluation:
    """All that was found, plain values; `asdict` makes the JSON report."""

    adapter: str
    base: str
    run: str
    dataset: str
    split: str
    mask: str
    current_date: str
    reasoning_effort: str
    max_seq_length: int
    rows: int
    """Rows judged."""
    trained_rows: int
    """Rows left out because the adapter was trained on them."""
    cut_rows: int
    """Of `rows`, those that were cut to max_seq_length, as training cuts them."""
    losses: dict[str, dict[str, Loss]]
    """By model, then by channel and `learned`."""
    row_losses: list[RowLoss]
    tallies: dict[str, dict[str, Tally]]
    """By source of the questions, then by model."""
    exchanges: list[Exchange]
    notes: list[str]
    created_at: float
    """Unix seconds."""
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


Progress = Callable[[int, int], None]
"""Called with (requests done, requests in all)."""


async def judge(
    judged: EvaluationRows,
    questions: Sequence[Question],
    tokenizer,
    models: Mapping[str, str],
    endpoint: Endpoint,
    *,
    max_tokens: int,
    progress: Progress = lambda done, total: None,
    **about: str,
) -> Evaluation:
    """Score the rows and ask the questions, all of `models` (adapter, perhaps base; to their names at the endpoint).

    `about` are the evaluation's adapter, base and run. Raises DataError for rows that cannot be rendered or leave
    nothing to score, RequestError for what the endpoint refuses (a row longer than its context), ClusterError.
    """
    started = time.time()
    marks = Marks.of(tokenizer)
    rows = _encoded(judged, tokenizer)
    prompts = [(question, _prompt(question, tokenizer, judged.data)) for question in questions]
    count = _Counter((len(rows) + len(prompts)) * len(models), progress)

    async def score(row: Encoded, name: str) -> list[Score | None]:
        return await _naming(row.dialogue.where, count.counted(endpoint.score(models[name], row.input_ids)))

    async def answer(question: Question, prompt: list[int], name: str) -> Answer:
        work = endpoint.generate(models[name], prompt, max_tokens=max_tokens, stop=marks.stop)
        given = await _naming(question.where, count.counted(work))
        return assess(question, given.ids, given.finish_reason, tokenizer, marks)

    try:
        async with asyncio.TaskGroup() as group:
            scoring = {name: [group.create_task(score(row, name)) for row in rows] for name in models}
            answering = {name: [group.create_task(answer(*each, name)) for each in prompts] for name in models}
    except ExceptionGroup as several:
        raise several.exceptions[0] from None
    scores = {name: [task.result() for task in tasks] for name, tasks in scoring.items()}
    answers = {name: [task.result() for task in tasks] for name, tasks in answering.items()}
    return Evaluation(
        dataset=judged.data.dataset,
        split=judged.data.split,
        mask=judged.data.mask,
        current_date=judged.data.current_date,
        reasoning_effort=judged.data.reasoning_effort,
        max_seq_length=judged.max_seq_length,
        rows=len(rows),
        trained_rows=judged.trained,
        cut_rows=sum(row.cut > 0 for row in rows),
        losses={name: _losses(rows, scores[name], marks) for name in models},
        row_losses=_row_losses(rows, scores),
        tallies=_tallies(questions, answers),
        exchanges=[
            Exchange(each.source, each.where, each.text, each.expect, {name: answers[name][at] for name in models})
            for at, each in enumerate(questions)
        ],
        notes=judged.notes,
        created_at=started,
        seconds=time.time() - started,
        **about,
    )


def scored_positions(row: Encoded, marks: Marks) -> dict[str, list[int]]:
    """Positions in `row.input_ids` by channel, and all that is learned: what the assistant has to generate.

    Left out is the end of an earlier answer: the template closes it with `<|end|>`, but what is learned there, and has
    to come, is `<|return|>`.
    """
    ids, found = row.input_ids, {part.value: [] for part in Part}
    for span in row.spans:
        stop = min(span.stop, len(ids))
        if span.part is Part.FINAL and span.ended and stop == span.stop and ids[stop - 1] != marks.stop[0]:
            stop -= 1
        found[span.part.value] += range(span.begin, stop)
    return found | {LEARNED: _learned(row)}


def _learned(row: Encoded) -> list[int]:
    return [at for at, (token, label) in enumerate(zip(row.input_ids, row.labels, strict=True)) if token == label]


def _encoded(judged: EvaluationRows, tokenizer) -> list[Encoded]:
    """Rows with something to score, longest first, so that what is too long for the endpoint is known at once."""
    encoder = Encoder(tokenizer, judged.data, judged.max_seq_length)
    rows = [encoder.encode(row) for row in judged.rows]
    rows = [row for row in rows if _learned(row)]
    if not rows:
        raise DataError(
            f"none of the {len(judged.rows)} rows has a token that mask '{judged.data.mask}' learns",
            hint="judge on other data: --dataset",
        )
    return sorted(rows, key=lambda row: len(row.input_ids), reverse=True)


def _prompt(question: Question, tokenizer, data: DataConfig) -> list[int]:
    try:
        return harmony.render(
            tokenizer,
            question.messages,
            tools=question.tools,
            reasoning_effort=data.reasoning_effort,
            current_date=date.fromisoformat(data.current_date),
        )
    except RequestError as error:
        raise DataError(f"{question.where}: {error.message}", hint="fix or remove this prompt") from None


async def _naming(where: str, work: Awaitable[Any]) -> Any:
    """What the work gives; a refusal says what it was about."""
    try:
        return await work
    except RequestError as error:
        raise RequestError(f"{where}: {error.message}", hint=error.hint) from None


class _Counter:
    """Counts requests that are done."""

    def __init__(self, total: int, progress: Progress) -> None:
        self._done, self._total, self._progress = 0, total, progress
        progress(0, total)

    async def counted(self, work: Awaitable[Any]) -> Any:
        result = await work
        self._done += 1
        self._progress(self._done, self._total)
        return result


def _loss(scores: Iterable[Score]) -> Loss | None:
    scores = list(scores)
    if not scores:
        return None
    mean = -math.fsum(score.logprob for score in scores) / len(scores)
    top1 = sum(score.rank == 1 for score in scores) / len(scores)
    return Loss(len(scores), mean, math.exp(min(mean, 700)), top1)


def _losses(rows: Sequence[Encoded], scores: Sequence[list[Score | None]], marks: Marks) -> dict[str, Loss]:
    """By channel and `learned`, in the order of Part, over the tokens of all rows; absent where there are none."""
    by_part: dict[str, list[Score]] = {}
    for row, of_row in zip(rows, scores, strict=True):
        for part, positions in scored_positions(row, marks).items():
            by_part.setdefault(part, []).extend(of_row[at] for at in positions)
    return {part: loss for part, found in by_part.items() if (loss := _loss(found))}


def _row_losses(rows: Sequence[Encoded], scores: Mapping[str, Sequence[list[Score | None]]]) -> list[RowLoss]:
    found = []
    for at, row in enumerate(rows):
        learned = [
            at for at, (token, label) in enumerate(zip(row.input_ids, row.labels, strict=True)) if token == label
        ]
        losses = {name: _loss(of_model[at][each] for each in learned).loss for name, of_model in scores.items()}
        found.append(RowLoss(row.dialogue.where, row.dialogue.fingerprint, len(learned), losses))
    return found


def _tallies(questions: Sequence[Question], answers: Mapping[str, Sequence[Answer]]) -> dict[str, dict[str, Tally]]:
    found: dict[str, dict[str, Tally]] = {}
    for source in dict.fromkeys(question.source for question in questions):
        for name, given in answers.items():
            own = [answer for question, answer in zip(questions, given, strict=True) if question.source == source]
            known = [answer.matched for answer in own if answer.matched is not None]
            valid = sum(not answer.problems for answer in own)
            found.setdefault(source, {})[name] = Tally(len(own), valid, len(known), sum(known))
    return found
