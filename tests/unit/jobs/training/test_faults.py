"""Each fault of a run ends in the promised state: memory, broken numbers, a full disk, a group that does not move."""

import contextlib
import json
from dataclasses import replace

import pytest
import torch

from actors.client import Directive
from actors.runs.curve import MetricsLog
from actors.runs.run import RunState
from configs.errors import TrainingError
from configs.paths import Home
from jobs.training import checkpoints
from models.lora.registry import Registry
from tests import training
from tests.training import FakeLink


def too_large_above(rows: int, *, tokens: int = 10**9, evaluating: bool = True):
    """A forward hook that runs out of memory above `rows` rows, or rows of more than `tokens` tokens."""

    def check(module, args, kwargs):
        shape = kwargs["input_ids"].shape
        if (shape[0] > rows or shape[1] > tokens) and (module.training or evaluating):
            raise torch.OutOfMemoryError("CUDA out of memory")

    return lambda model: model.register_forward_pre_hook(check, with_kwargs=True)


def published(home: Home) -> list[str]:
    return [manifest.version for manifest in Registry(home.models).list()]


# Memory


def test_out_of_memory_halves_the_micro_batch_and_keeps_the_effective_batch(home, tamper):
    whole = training.train(home, training.row("whole-1", "training.micro_batch=1"))
    tamper(too_large_above(1))
    link = FakeLink()
    done = training.train(home, training.row("tight-1"), link)
    assert done.state is RunState.SUCCEEDED
    steps = [text.split("going on with ")[1].split(",")[0] for text in link.said("memory")]
    assert steps == ["micro-batch 2 x 2", "micro-batch 1 x 4"]
    assert training.curve(home, "tight-1") == training.curve(home, "whole-1")
    assert training.weights(home, done.adapter) == training.weights(home, whole.adapter)


def test_out_of_memory_in_the_middle_goes_on_from_the_last_checkpoint(home, tamper):
    training.train(home, training.row("whole-1", "training.micro_batch=2"))
    seen = {"steps": 0}

    def fails_once(model):
        def count(module, args, kwargs):
            seen["steps"] += module.training
            if seen["steps"] == 12:  # the second half of the sixth step
                seen["steps"] += 1
                raise torch.OutOfMemoryError("CUDA out of memory")

        model.register_forward_pre_hook(count, with_kwargs=True)

    tamper(fails_once)
    link = FakeLink()
    done = training.train(home, training.row("broken-1", "training.micro_batch=2"), link)
    assert done.state is RunState.SUCCEEDED
    assert len(link.said("memory")) == 1
    assert "after step 5" in link.said("memory")[0]
    assert link.steps == [1, 2, 3, 4, 5, 5, 6], "from the checkpoint of step 4"
    pairs = zip(training.curve(home, "broken-1"), training.curve(home, "whole-1"), strict=True)
    assert all(a[0] == b[0] and a[1] == pytest.approx(b[1], rel=1e-5) for a, b in pairs)
    assert done.adapter in published(home)


def test_a_continued_run_that_runs_out_of_memory_at_once_goes_on_from_its_parents_checkpoint(home, tamper):
    training.train(home, training.row("cut-1"), FakeLink(lambda step: Directive.STOP if step == 3 else None))
    tamper(too_large_above(2, evaluating=False))
    link = FakeLink()
    training.train(home, training.row("rest-1", parent="cut-1"), link)
    assert "out of memory in a step after step 3" in link.said("memory")[0]
    assert link.steps == [4, 5, 6]
    assert [step for step, _ in training.curve(home, "rest-1")] == [1, 2, 3, 4, 5, 6]


def too_large_when_evaluating(model) -> None:
    def check(module, args, kwargs):
        if not module.training and kwargs["input_ids"].shape[0] > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    model.register_forward_pre_hook(check, with_kwargs=True)


def test_out_of_memory_in_an_evaluation_lowers_the_evaluation_batch_first(home, tamper):
    tamper(too_large_when_evaluating)
    link = FakeLink()
    run = training.row("eval-1", "training.eval_batch=4", "data.holdout=0.1")
    assert training.train(home, run, link).state is RunState.SUCCEEDED
    (said,) = link.said("memory")
    before = "out of memory in an evaluation after step 0 with micro-batch 4 x 1, evaluation batch 4,"
    assert said.startswith(before)
    assert "going on with micro-batch 4 x 1, evaluation batch 1," in said


def test_out_of_memory_in_the_last_evaluation_repeats_steps_that_count_as_movement(home, tamper):
    seen = {"evaluations": 0}

    def fails_at_the_second(model):
        def count(module, args, kwargs):
            if not module.training and kwargs["input_ids"].shape[0] > 1:
                seen["evaluations"] += 1
                if seen["evaluations"] > 2:  # the base's takes two batches
                    raise torch.OutOfMemoryError("CUDA out of memory")

        model.register_forward_pre_hook(count, with_kwargs=True)

    tamper(fails_at_the_second)
    link = FakeLink()
    run = training.row("eval-1", "training.eval_batch=4", "training.eval_steps=50", "data.holdout=0.1")
    assert training.train(home, run, link).state is RunState.SUCCEEDED
    assert "in an evaluation after step 6" in link.said("memory")[0]
    assert link.steps == [1, 2, 3, 4, 5, 6, 5, 6]
    losses = MetricsLog(home.run("eval-1") / "metrics.jsonl")
    assert losses.base_loss() is None, "of batches of four it is another mean than of single rows"
    assert losses.loss_at(6) is not None


@pytest.mark.parametrize("consent", [True, False])
def test_rows_are_shortened_with_consent_only(consent, home, tamper):
    tamper(too_large_above(8, tokens=256))
    sets = ["model.max_seq_length=512", "training.micro_batch=1", "data.max_cut_share=1", "data.holdout=0"]
    sets += ["training.max_steps=2"]
    link = FakeLink()
    run = training.row("long-1", *sets, f"training.allow_shorter_rows={json.dumps(consent)}")
    run.config["data"]["dataset"] = str(_long_rows(home))
    if consent:
        assert training.train(home, run, link).state is RunState.SUCCEEDED
        assert "rows up to 256 tokens" in link.said("memory")[-1]
    else:
        with pytest.raises(TrainingError, match="out of memory at the last rung: micro-batch 1 x 4") as caught:
            training.train(home, run, link)
        assert "training.allow_shorter_rows=true" in caught.value.hint
        assert published(home) == []


def _long_rows(home: Home):
    said = " ".join(["The capital of Italy is Rome."] * 40)
    row = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": said}]}
    short = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}
    path = home.root / "long.jsonl"
    path.write_text("".join(f"{json.dumps(each)}\n" for each in [row, short] * 8))
    return path


def test_an_evaluation_that_breaks_is_said_and_the_run_goes_on_without(home, tamper):
    def breaks(model):
        def check(module, args, kwargs):
            if not module.training:
                raise RuntimeError("no kernel for this")

        model.register_forward_pre_hook(check, with_kwargs=True)

    tamper(breaks)
    said = "the evaluation after step {} broke: RuntimeError: no kernel for this; going on without evaluations"
    for run_id, holdout in (("eval-1", 0.05), ("eval-2", 0)):
        link = FakeLink()
        run = training.row(run_id, f"data.holdout={holdout}")
        assert training.train(home, run, link).state is RunState.SUCCEEDED
        assert link.said("evaluation") == [said.format(0)], "once, and before the first step"
    with pytest.raises(TrainingError, match="no kernel for this"):
        training.train(home, training.row("eval-3", "training.patience=2"))
    assert len(published(home)) == 2


def test_an_evaluation_that_does_not_fit_by_single_rows_costs_no_rung(home, tamper):
    def breaks(model):
        def check(module, args, kwargs):
            if not module.training:
                raise torch.OutOfMemoryError("CUDA out of memory")

        model.register_forward_pre_hook(check, with_kwargs=True)

    tamper(breaks)
    link = FakeLink()
    assert training.train(home, training.row("eval-1"), link).state is RunState.SUCCEEDED
    assert link.said("memory") == []
    assert link.said("evaluation")[0].endswith("CUDA out of memory; going on without evaluations")
    assert link.steps == [1, 2, 3, 4, 5, 6]


# Broken numbers


def broken_loss(at: int, value: float, *, times: int = 1):
    """The loss is multiplied by `value` at optimiser step `at`, the first `times` times that it comes."""
    state = {"forward": 0, "left": times}

    def change(model):
        def spoil(module, args, output):
            if module.training:
                state["forward"] += 1
                if state["forward"] >= at and state["left"]:
                    state["left"] -= 1
                    output.loss = output.loss * value
            return output

        model.register_forward_hook(spoil)

    return change


def test_a_loss_that_is_no_number_goes_back_to_the_last_checkpoint_with_half_the_rate(home, tamper):
    tamper(broken_loss(5, float("nan")))
    link = FakeLink()
    done = training.train(home, training.row("nan-1"), link)
    assert done.state is RunState.SUCCEEDED
    (said,) = link.said("rollback")
    assert said.startswith("back to step 4 with the learning rate 0.0025, because the loss is nan")
    assert [step for step, _ in training.curve(home, "nan-1")] == [1, 2, 3, 4, 5, 6]
    assert learning_rates(home, "nan-1") == pytest.approx({1: 0, 2: 1e-3, 3: 2e-3, 4: 3e-3, 5: 2e-3, 6: 2.5e-3})
    scheduler = torch.load(home.run("nan-1") / "checkpoints" / "checkpoint-6" / "scheduler.pt", weights_only=False)
    assert set(scheduler["base_lrs"]) == {0.0025}


def learning_rates(home: Home, run_id: str) -> dict[int, float]:
    lines = map(json.loads, (home.run(run_id) / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["learning_rate"] for line in lines if "loss" in line}


def test_before_the_first_checkpoint_a_rollback_begins_anew(home, tamper):
    tamper(broken_loss(2, float("nan")))
    link = FakeLink()
    assert training.train(home, training.row("nan-1"), link).state is RunState.SUCCEEDED
    assert link.said("rollback")[0].startswith("back to step 0 ")
    assert [step for step, _ in training.curve(home, "nan-1")] == [1, 2, 3, 4, 5, 6]
    assert all(loss == loss for _, loss in training.curve(home, "nan-1"))


def test_a_loss_that_stays_no_number_stops_the_run_and_nothing_is_published(home, tamper):
    tamper(broken_loss(3, float("nan"), times=99))
    with pytest.raises(TrainingError, match=r"stopped by the watchdog \(nan\).*rolled back 2 times already"):
        training.train(home, training.row("nan-1"))
    assert published(home) == []
    assert checkpoints.newest(home.run("nan-1") / "checkpoints").step == 2


def test_a_loss_of_zero_stops_the_run_because_nothing_is_learned(home, tamper):
    tamper(broken_loss(2, 0.0, times=99))
    with pytest.raises(TrainingError, match=r"stopped by the watchdog \(zero\).*the template or the mask"):
        training.train(home, training.row("zero-1"))
    assert published(home) == []


def test_a_warning_is_an_event_and_the_run_goes_on(home, tamper):
    tamper(broken_loss(6, 50.0))
    link = FakeLink()
    run = training.row("spike-1", "watchdog.window=3", "watchdog.target_loss=0")
    assert training.train(home, run, link).state is RunState.SUCCEEDED
    assert any("times its median" in text for text in link.said("watchdog"))


def test_a_rollback_is_remembered_when_the_run_is_killed_and_starts_again(home, tamper):
    tamper(broken_loss(5, float("nan")))

    def die(step: int) -> None:
        if step == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.train(home, training.row("nan-1"), FakeLink(die))
    link = FakeLink()
    again = training.train(home, training.row("nan-1", attempt=2), link)
    assert again.state is RunState.SUCCEEDED
    assert link.said("rollback") == [], "the loss is a number this time"
    assert learning_rates(home, "nan-1") == pytest.approx({1: 0, 2: 1e-3, 3: 2e-3, 4: 3e-3, 5: 2e-3, 6: 2.5e-3})


# The surface contract


def test_a_group_that_does_not_move_stops_the_run_by_name(home, tamper):
    def freeze_values(model):
        for name, parameter in model.named_parameters():
            if "v_proj" in name and "lora_" in name:
                parameter.register_hook(torch.zeros_like)

    tamper(freeze_values)
    with pytest.raises(TrainingError, match="after 3 steps nothing has moved in attention v_proj"):
        training.train(home, training.row("still-1", "training.movement_steps=3"))
    assert published(home) == []


# Early stopping


def test_patience_publishes_the_best_checkpoint_and_says_so(home):
    sets = ["training.max_steps=40", "training.patience=2", "data.holdout=0.15", "training.learning_rate=3e-2"]
    link = FakeLink()
    done = training.train(home, training.row("early-1", *sets), link)
    assert done.state is RunState.SUCCEEDED
    lines = [json.loads(text) for text in (home.run("early-1") / "metrics.jsonl").read_text().splitlines()]
    evaluations = {line["step"]: line["eval_loss"] for line in lines if "eval_loss" in line}
    best = min(evaluations, key=evaluations.get)
    assert max(evaluations) == best + 2 * 2 < 40, "two evaluations without a lower loss, two steps apart"
    assert "no lower evaluation loss in 2 evaluations" in done.reason
    from safetensors.torch import load_file

    saved = load_file(home.run("early-1") / "checkpoints" / f"checkpoint-{best}" / "adapter_model.safetensors")
    out = load_file(home.models / done.adapter / "adapter_model.safetensors")
    assert saved.keys() == out.keys()
    assert all(torch.equal(saved[key], out[key]) for key in saved)


def test_the_best_step_may_be_the_parents(home):
    worse = ["training.patience=9", "data.holdout=0.15", "training.learning_rate=0.3", "watchdog.on_diverged=warn"]
    stop = FakeLink(lambda step: Directive.STOP if step == 3 else None)
    training.train(home, training.row("cut-1", *worse, "training.learning_rate=5e-3"), stop)
    link = FakeLink()
    done = training.train(home, training.row("rest-1", *worse, parent="cut-1"), link)
    assert done.state is RunState.SUCCEEDED
    assert link.said("best")[0].startswith("publishing step 2, whose evaluation loss")


# A full disk


def test_a_full_disk_loses_only_the_work_since_the_last_checkpoint(home, small_disk):
    small_disk(home.run("full-1"), "3m")
    filler = home.run("full-1") / "filler"

    def fill(step: int) -> None:
        if step == 3:
            with contextlib.suppress(OSError), filler.open("wb") as handle:
                while True:
                    handle.write(bytes(4096))
                    handle.flush()
            filler.open("r+b").truncate(filler.stat().st_size - 65536)

    run = training.row("full-1", "training.keep_checkpoints=1", "training.report_to=[]")
    with pytest.raises(TrainingError, match=r"checkpoint 4 could not be written \(.* MiB free") as caught:
        training.train(home, run, FakeLink(fill))
    assert "runs resume" in caught.value.hint
    folder = home.run("full-1") / "checkpoints"
    assert [each.step for each in checkpoints.complete(folder)] == [2]
    assert checkpoints.newest(folder).step == 2
    assert not (folder / checkpoints.ASIDE).exists()
    assert published(home) == []
    filler.unlink()
    assert training.train(home, replace(run, attempt=2)).state is RunState.SUCCEEDED
    assert [step for step, _ in training.curve(home, "full-1")] == [1, 2, 3, 4, 5, 6]
