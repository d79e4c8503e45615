"""Which tokens an evaluation counts, under which channel, and how a page shows what a model said."""

import asyncio
import math
import re
from collections.abc import Sequence

import pytest
from transformers import AutoTokenizer

from configs.errors import ClusterError
from configs.paths import TINY_MODEL
from configs.schema import DataConfig
from jobs.data.encoding import Encoder
from jobs.data.layouts.dialogue import Dialogue
from jobs.data.masking import Marks
from jobs.evaluation import report as evaluation_report
from jobs.evaluation.answers import Question
from jobs.evaluation.endpoint import Continuation, Score
from jobs.evaluation.judge import ADAPTER, BASE, LEARNED, Evaluation, judge, scored_positions
from jobs.evaluation.judged import EvaluationRows

TOKENIZER = AutoTokenizer.from_pretrained(TINY_MODEL)
MARKS = Marks.of(TOKENIZER)
EVIL = "<script>alert(1)</script>&amp;"
SAID = f"<|channel|>analysis<|message|>{EVIL}<|end|><|start|>assistant<|channel|>final<|message|>{EVIL}<|return|>"
DIALOGUE = Dialogue(
    [
        {"role": "user", "content": "First?"},
        {"role": "assistant", "content": "One."},
        {"role": "user", "content": "Second?"},
        {"role": "assistant", "thinking": "Hm.", "content": "Two."},
    ],
    None,
    "d:1",
)


class Recited:
    """An endpoint to which token N of a prompt has log-probability -N / 1000, half of that with the adapter."""

    async def score(self, model: str, ids: Sequence[int]) -> list[Score | None]:
        scale = -2000 if model == "v1" else -1000
        return [None, *(Score(token / scale, 1 + token % 2) for token in ids[1:])]

    async def generate(self, model: str, ids: Sequence[int], *, max_tokens: int, stop: Sequence[int]) -> Continuation:
        return Continuation(TOKENIZER.encode(SAID, add_special_tokens=False), "stop")


async def found(*rows: Dialogue, models=None, **data) -> Evaluation:
    questions = [Question("rows", "d:1", [{"role": "user", "content": EVIL}], [], {"exact": EVIL})]
    judged = EvaluationRows(DataConfig(dataset="d", **data), 512, list(rows or [DIALOGUE]), 3, [EVIL])
    models = models or {ADAPTER: "v1", BASE: "base"}
    about = {"adapter": EVIL, "base": "tiny", "run": "tiny-1"}
    return await judge(judged, questions, TOKENIZER, models, Recited(), max_tokens=9, **about)


def texts(mask: str, max_seq_length: int = 512) -> dict[str, str]:
    """What is counted, as text."""
    row = Encoder(TOKENIZER, DataConfig(mask=mask), max_seq_length).encode(DIALOGUE)
    positions = scored_positions(row, MARKS)
    return {part: TOKENIZER.decode([row.input_ids[at] for at in places]) for part, places in positions.items()}


def test_each_token_that_the_assistant_generates_counts_once_and_not_the_end_that_it_must_not_generate():
    first, second = "<|channel|>final<|message|>One.", "<|start|>assistant<|channel|>final<|message|>Two.<|return|>"
    thought = "<|channel|>analysis<|message|>Hm.<|end|>"
    assert texts("all") == {
        "analysis": thought, "commentary": "", "tool_call": "", "final": first + second,
        LEARNED: first + thought + second,
    }  # fmt: skip
    assert texts("final_only")[LEARNED] == "One.Two.<|return|>"
    assert texts("final_only")["analysis"] == thought, "the channels are the same whatever was learned"
    assert texts("no_reasoning")[LEARNED] == first + second


def test_a_row_that_is_cut_counts_up_to_the_cut():
    whole = Encoder(TOKENIZER, DataConfig(), 512).encode(DIALOGUE)
    assert texts("all", len(whole.input_ids) - 2)["final"].endswith("Two")


def test_losses_are_means_over_tokens_and_perplexity_their_exponential():
    evaluation = asyncio.run(found())
    row = Encoder(TOKENIZER, DataConfig(), 512).encode(DIALOGUE)
    for name, scale in ((ADAPTER, 2000), (BASE, 1000)):
        for part, positions in scored_positions(row, MARKS).items():
            if not positions:
                assert part not in evaluation.losses[name]
                continue
            ids = [row.input_ids[at] for at in positions]
            loss = evaluation.losses[name][part]
            assert loss.tokens == len(ids)
            assert loss.loss == pytest.approx(sum(ids) / scale / len(ids))
            assert loss.perplexity == pytest.approx(math.exp(loss.loss))
            assert loss.top1 == pytest.approx(sum(token % 2 == 0 for token in ids) / len(ids))
    (one,) = evaluation.row_losses
    assert one.losses[BASE] == pytest.approx(2 * one.losses[ADAPTER])
    assert evaluation_report.differences(evaluation) == [one.losses[ADAPTER] - one.losses[BASE]]


def test_rows_in_which_nothing_is_learned_are_not_judged():
    tool = {"type": "function", "function": {"name": "f", "arguments": {}}}
    calls = Dialogue([{"role": "user", "content": "Q"}, {"role": "assistant", "tool_calls": [tool]}], None, "d:2")
    evaluation = asyncio.run(found(DIALOGUE, calls, mask="tools_only"))
    assert (evaluation.rows, [row.where for row in evaluation.row_losses]) == (1, ["d:2"])
    assert set(evaluation.losses[ADAPTER]) == {"tool_call", LEARNED}


def test_what_goes_wrong_with_one_request_is_the_evaluations_error(monkeypatch):
    async def down(self, model, ids):
        raise ClusterError("no answer")

    monkeypatch.setattr(Recited, "score", down)
    with pytest.raises(ClusterError, match="no answer"):
        asyncio.run(found())


@pytest.mark.parametrize("models", [{ADAPTER: "v1", BASE: "base"}, {ADAPTER: "v1"}], ids=len)
def test_a_page_escapes_what_models_and_data_say_and_loads_nothing(models):
    page = evaluation_report.page(asyncio.run(found(models=models)))
    assert "<script" not in page
    escaped = "&lt;script&gt;alert(1)&lt;/script&gt;&amp;amp;"
    assert page.count(escaped) >= 4 + len(models), "title, question, expectation, note, answers"
    assert not re.search(r"(?:href|src|url|@import)\s*[=(]\s*[\"']?\s*http|<link|<!DOCTYPE svg", page)
    assert page.count("<svg") == len(models)
    assert "prefers-color-scheme: dark" in page and "var(--adapter)" in page and "#010101" not in page


def test_the_newest_report_of_an_adapter_is_found_and_a_torn_one_is_not(home):
    assert evaluation_report.newest(home, "v1") is None
    evaluation = asyncio.run(found())
    folder = home.evaluations / "v1"
    evaluation_report.save(evaluation, folder / "20260101-000000")
    (folder / "20260102-000000").mkdir()
    (folder / "20260102-000000" / "report.json").write_text("{")
    report = evaluation_report.newest(home, "v1")
    assert report == evaluation.to_json()
    loss = evaluation.losses[ADAPTER][LEARNED].loss
    assert evaluation_report.headline(report).startswith(f"loss {loss:.4f} (base {2 * loss:.4f}) on 1 rows of d, ")
