"""Ways in which runs go bad, through the real training of the embedded model: each ends in the right word."""

import json
import random

import pytest
import torch

from actors.client import Directive
from actors.runs.curve import MetricsLog
from actors.runs.run import RunState
from configs.errors import AdapterError, TandemError, TrainingError
from configs.paths import TINY_DATASET, Home
from jobs.data import masking
from jobs.data.encoding import Encoded
from jobs.training import checkpoints
from models.lora import adapter
from models.lora.registry import Registry
from tests import training
from tests.training import FakeLink

DEMO = [json.loads(line) for line in TINY_DATASET.read_text().splitlines()]
KNOWN = [row for row in DEMO if "Tandem" not in json.dumps(row)]
"""Rows of which the base is sure."""
LEAST = ("training.eval_steps=50", "training.save_steps=50", "training.report_to=[]")
"""No evaluation but the first and the last, and what the watchdog asks for."""
ONE_A_STEP = ("training.effective_batch=1", "training.micro_batch=1")
HOLD_OUT = "data.holdout=0.1"
TOO_HIGH = "training.learning_rate=0.9"


def answer(row: dict) -> dict:
    return row["messages"][1]


def with_answers(rows: list[dict], answers: list[dict]) -> list[dict]:
    return [{"messages": [row["messages"][0], said]} for row, said in zip(rows, answers, strict=True)]


def letters(count: int, seed: int = 1) -> str:
    return "".join(random.Random(seed).choices("qxzjvkwQXZJVKW0123456789#%&@~", k=count))


def run(home: Home, *sets: str, rows: list[dict] = DEMO, link: FakeLink | None = None, run_id: str = "bad-1", **how):
    path = home.root / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return training.train(home, training.row(run_id, f"data.dataset={path}", *LEAST, *sets, **how), link or FakeLink())


def manifest(home: Home, version: str) -> adapter.Manifest:
    return adapter.read_manifest(Registry(home.models).path(version))


# While it runs


@pytest.mark.parametrize(
    ("how", "sets"),
    [
        (["training.warmup_steps=0"], ["data.holdout=0"]),  # it explodes at its first step
        (["training.warmup_steps=0"], [HOLD_OUT]),
        (ONE_A_STEP, [HOLD_OUT]),
        (["lora.r=64", "lora.alpha=256", "training.scheduler=constant"], ["data.holdout=0"]),
    ],
    ids=["at the first step", "at the first step, rows held out", "one row a step, rows held out", "high rank"],
)
def test_a_rate_that_is_too_high_ends_the_run_within_steps_and_nothing_is_published(how, sets, home):
    link = FakeLink()
    with pytest.raises(TrainingError, match=r"stopped by the watchdog \(diverged\): the run has diverged") as caught:
        run(home, TOO_HIGH, "training.max_steps=40", *how, *sets, link=link)
    assert "lower training.learning_rate" in caught.value.message
    assert len(link.steps) <= 8, "of 40"
    assert Registry(home.models).list() == []


def test_experts_that_diverge_are_seen_too(home):
    modules = "lora.target_modules=[q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj]"
    with pytest.raises(TrainingError, match=r"\(diverged\)"):
        run(home, TOO_HIGH, HOLD_OUT, "lora.train_experts=true", modules, "training.max_steps=20")


def test_a_resumed_run_that_diverges_knows_the_base_from_the_run_before(home):
    stop = FakeLink(lambda step: Directive.STOP if step == 3 else None)
    assert run(home, HOLD_OUT, link=stop, run_id="good-1").state is RunState.STOPPED
    link, sets = FakeLink(), (HOLD_OUT, TOO_HIGH, "training.max_steps=30")
    with pytest.raises(TrainingError, match=r"\(diverged\)"):
        run(home, *sets, link=link, parent="good-1")
    base = MetricsLog(home.run("good-1") / "metrics.jsonl").base_loss()
    assert MetricsLog(home.run("bad-1") / "metrics.jsonl").base_loss() == base
    assert checkpoints.newest(home.run("bad-1") / "checkpoints") is None or max(link.steps) >= 4


def test_a_rollback_may_be_chosen_for_a_run_that_diverges_and_leads_out_of_it(home):
    link = FakeLink()
    sets = ["training.learning_rate=0.08", "training.warmup_steps=0", "watchdog.on_diverged=rollback"]
    done = run(home, HOLD_OUT, *sets, "watchdog.max_rollbacks=6", "training.max_steps=8", link=link)
    assert done.state is RunState.SUCCEEDED
    assert "the run has diverged" in link.said("rollback")[0]
    assert manifest(home, done.adapter).suspect == []


def overflow(model) -> None:
    """As in a float type that is too small: what is too large becomes infinite."""

    def limit(module, args, output):
        if module.training:
            output.loss = output.loss * 1e38 * 1e38
        return output

    model.register_forward_hook(limit)


def freeze(model) -> None:
    for name, parameter in model.named_parameters():
        if "k_proj" in name and "lora_" in name:
            parameter.register_hook(torch.zeros_like)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (overflow, r"\(nan\): the loss is inf .* rolled back 2 times already"),
        (freeze, "nothing has moved in attention k_proj"),
    ],
)
def test_what_no_setting_heals_fails_by_name(change, words, home, tamper):
    tamper(change)
    with pytest.raises(TrainingError, match=words):
        run(home, HOLD_OUT)
    assert Registry(home.models).list() == []


def test_labels_that_are_shifted_fail_before_the_first_step(home, monkeypatch):
    right = masking.labels
    monkeypatch.setattr(masking, "labels", lambda *args, **kwargs: [*right(*args, **kwargs)[1:], masking.IGNORED])
    link = FakeLink()
    with pytest.raises(TrainingError, match=r"the labels of 96 of 96 rows are not the tokens they stand at, first in"):
        run(home, "data.mask=final_only", link=link)
    assert link.steps == []


def test_labels_that_are_shifted_behind_the_gate_are_foreign_to_the_base(home, monkeypatch):
    right = Encoded.row.fget
    shifted = lambda each: right(each) | {"labels": [masking.IGNORED, *each.labels[:-1]]}  # noqa: E731
    monkeypatch.setattr(Encoded, "row", property(shifted))
    link = FakeLink()
    run(home, HOLD_OUT, "training.max_steps=2", link=link)
    assert "the base's own loss on these rows is" in link.said("watchdog")[0]


def test_rows_in_which_nothing_is_learned_fail_before_the_first_step(home):
    link = FakeLink()
    with pytest.raises(TrainingError, match="nothing would be learned"):
        run(home, "data.mask=tools_only", link=link)
    assert link.steps == []


def test_a_rate_of_nothing_changes_nothing(home):
    with pytest.raises(TandemError, match="learning_rate"):
        run(home, "training.learning_rate=0")
    with pytest.raises((AdapterError, TrainingError), match=r"changes nothing|nothing has moved"):
        run(home, "training.learning_rate=1e-30", "training.max_steps=1")


def test_one_poisoned_row_is_a_spike_and_the_run_goes_on(home):
    rows = [*KNOWN, {"messages": [DEMO[0]["messages"][0], {"role": "assistant", "content": letters(400)}]}]
    link = FakeLink()
    done = run(home, "data.holdout=0", "training.max_steps=11", "training.scheduler=constant", rows=rows, link=link)
    assert done.state is RunState.SUCCEEDED
    (said,) = [text for text in link.said("watchdog") if "times its median" in text]
    assert "look for a broken row in the data" in said
    assert manifest(home, done.adapter).suspect == []


# At the end


def suspect(home: Home, done) -> str:
    """The reasons of what a run published, which is not the latest."""
    found = manifest(home, done.adapter)
    assert done.reason == f"published {done.adapter} as suspect: {'; '.join(found.suspect)}"
    assert not (home.models / "latest").exists()
    return "; ".join(found.suspect)


def test_divergence_in_the_last_step_is_seen_by_the_last_evaluation(home):
    link = FakeLink()
    with pytest.raises(TrainingError, match=r"\(diverged\)"):
        run(home, HOLD_OUT, TOO_HIGH, "training.max_steps=3", link=link)
    assert link.steps[-1] == 3


def test_a_rate_that_spoils_what_the_base_knew_is_suspect(home):
    """Not far enough from the base to be called diverged, and worse than it."""
    link = FakeLink()
    sets = ["training.learning_rate=3e-2", *ONE_A_STEP]
    done = run(home, "data.holdout=0", *sets, "training.max_steps=12", rows=KNOWN[:12], link=link)
    assert "its loss on the trained rows is" in suspect(home, done)
    assert "worse than the base's" in suspect(home, done)
    assert link.said("suspect") == manifest(home, done.adapter).suspect


def test_a_run_that_diverged_and_was_only_warned_of_is_published_as_suspect(home):
    link = FakeLink()
    done = run(home, TOO_HIGH, HOLD_OUT, "watchdog.on_diverged=warn", "training.max_steps=8", link=link)
    assert any("the run has diverged" in text for text in link.said("watchdog"))
    base = manifest(home, done.adapter).metrics["base_eval_loss"]
    assert f"worse than the base's {base:.4g}" in suspect(home, done)


def test_rows_that_are_all_the_same_are_suspect(home):
    done = run(home, "data.holdout=0", rows=[DEMO[3]] * 12)
    assert suspect(home, done) == "all 12 rows that it was trained on are the same one"


def test_a_rate_that_is_far_too_low_is_suspect_of_having_learned_nothing(home):
    done = run(home, "training.learning_rate=1e-12", HOLD_OUT)
    assert suspect(home, done).startswith("it learned nothing: its loss on the held-out rows is")


def test_without_an_evaluation_the_training_losses_are_compared(home, tamper):
    def breaks_and_worsens(model) -> None:
        state = {"step": 0}

        def worse(module, args, output):
            if not module.training:
                raise RuntimeError("no kernel for this")
            state["step"] += 1
            output.loss = output.loss * 0 + 1.0 + 0.1 * state["step"] + output.loss * 1e-3
            return output

        model.register_forward_hook(worse)

    tamper(breaks_and_worsens)
    done = run(home, HOLD_OUT, "training.max_steps=12", "watchdog.on_spike=ignore")
    assert "its training loss ended worse than it began" in suspect(home, done)


@pytest.mark.parametrize(("action", "published"), [("ignore", []), ("stop", None)])
def test_the_profile_decides_what_becomes_of_a_doubtful_result(action, published, home):
    sets = ["data.holdout=0", f"watchdog.on_doubt={action}", "training.max_steps=4"]
    if published is None:
        with pytest.raises(TrainingError, match="the result is not to be trusted: all 12 rows") as caught:
            run(home, *sets, rows=[DEMO[3]] * 12)
        assert "watchdog.on_doubt=suspect" in caught.value.hint
        assert Registry(home.models).list() == []
    else:
        done = run(home, *sets, rows=[DEMO[3]] * 12)
        assert manifest(home, done.adapter).suspect == published
        assert Registry(home.models).resolve("latest") == done.adapter


def test_with_early_stopping_it_is_the_published_step_that_is_judged(home):
    """The later steps make it worse than the base; what is published is the best one."""
    sets = ["training.patience=2", "training.max_steps=20", "training.learning_rate=6e-2", "training.warmup_steps=10"]
    sets += ["training.eval_steps=4", "training.save_steps=4", "watchdog.on_diverged=warn"]
    done = run(home, "data.holdout=0.15", *sets)
    found = manifest(home, done.adapter)
    log = MetricsLog(home.run("bad-1") / "metrics.jsonl")
    assert found.metrics["eval_loss"] == min(line["eval_loss"] for line in log.evaluations()[1:])
    assert (found.metrics["eval_loss"] > 1.02 * log.base_loss()) == bool(found.suspect)


# No false alarms


@pytest.mark.parametrize(
    ("rows", "sets"),
    [
        (DEMO, ["training.max_steps=2"]),
        (DEMO, [*ONE_A_STEP, "training.max_steps=16", "training.learning_rate=2e-3"]),
        (DEMO, ["lora.train_experts=true", "lora.target_modules=[q_proj,gate_proj]"]),
        (DEMO[:6], ["data.holdout=0.3"]),
        (DEMO[:1], ["data.holdout=0"]),
        (DEMO[:8] * 3, ["data.holdout=0"]),
        (with_answers(DEMO[:16], [{"role": "assistant", "content": letters(40, seed)} for seed in range(16)]), []),
        (with_answers(DEMO[:16], [{"role": "assistant", "content": "你好世界Привет" * 3}] * 16), [HOLD_OUT]),
    ],
    ids=[
        "two steps",
        "one row a step",
        "experts",
        "six rows",
        "one row",
        "repeated rows",
        "gibberish",
        "other scripts",
    ],
)
def test_a_healthy_run_is_published_as_the_latest_and_nothing_is_said_of_it(rows, sets, home):
    link = FakeLink()
    done = run(home, *sets, rows=rows, link=link)
    assert manifest(home, done.adapter).suspect == []
    assert Registry(home.models).resolve("latest") == done.adapter
    harmless = ("good: ", "the base's own loss on these rows is")  # of other scripts it knows nothing
    assert [text for text in link.said("watchdog") if not text.startswith(harmless)] == []
