"""The rules over curves written by hand, and what must hold for every curve."""

import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs import load
from configs.schema import WatchdogConfig
from jobs.training.watchdog import Patience, Rule, Verdict, Watchdog

CONFIG = WatchdogConfig(window=4, plateau_steps=8)
BROKEN = (math.nan, math.inf, -math.inf)


def watch(losses, config: WatchdogConfig = CONFIG, *, norms=None, watchdog: Watchdog | None = None, first: int = 1):
    """All verdicts of a curve that begins at step `first`."""
    watchdog = watchdog or Watchdog(config)
    norms = norms or [1.0] * len(losses)
    return [
        verdict
        for step, (loss, norm) in enumerate(zip(losses, norms, strict=True), first)
        for verdict in watchdog.see(step, loss, norm)
    ]


def said(verdicts: list[Verdict]) -> list[tuple[Rule, int]]:
    return [(verdict.rule, verdict.step) for verdict in verdicts]


def falling(steps: int, seed: int = 0, noise: float = 0.1) -> list[float]:
    """A healthy curve: from 3 down to 1, each step off by up to `noise` of it."""
    chance = random.Random(seed)
    return [(3 - 2 * step / steps) * (1 + chance.uniform(-noise, noise)) for step in range(steps)]


# Each rule


def test_the_target_is_told_once_as_good_news_with_both_values():
    (verdict,) = watch([1.0, 0.9, 0.6, 0.5, 0.4, 0.4, 0.4])
    assert (verdict.rule, verdict.action, verdict.step) == (Rule.TARGET, "warn", 6)
    assert verdict.text.startswith("good: the mean loss of the last 4 steps is 0.475 at step 6, the target is 0.5")


def test_a_mean_that_wavers_around_the_target_is_told_once_and_again_after_it_has_left():
    wavering = [0.5] * 4 + [0.51, 0.49] * 10
    assert said(watch(wavering)) == [(Rule.TARGET, 4)]
    left = [verdict for verdict in watch([0.5] * 4 + [0.6] * 4 + [0.5] * 4) if verdict.rule is Rule.TARGET]
    assert said(left) == [(Rule.TARGET, 4), (Rule.TARGET, 12)]


def test_overfitting_is_a_mean_below_its_limit_and_says_what_to_change():
    verdicts = watch([0.4] * 4 + [0.1] * 4)
    assert said(verdicts) == [(Rule.TARGET, 4), (Rule.OVERFIT, 7)]
    assert "is 0.175 at step 7, below 0.2" in verdicts[1].text
    assert "lora.dropout=0.1" in verdicts[1].text


@pytest.mark.parametrize("loss", [0.0, 1e-8])
def test_a_loss_of_zero_stops_at_once_and_names_the_template_and_the_mask(loss):
    (verdict,) = watch([1.0, loss, loss])
    assert (verdict.rule, verdict.action, verdict.step) == (Rule.ZERO, "stop", 2)
    assert "the template or the mask is wrong" in verdict.text


def test_rows_learned_by_heart_are_no_loss_of_zero():
    assert Rule.ZERO not in {verdict.rule for verdict in watch([3.3e-6] * 10)}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_loss_or_a_gradient_that_is_no_number_rolls_back(broken):
    (by_loss,) = watch([1.0, broken, 1.0])
    (by_norm,) = watch([1.0, 1.0, 1.0], norms=[1.0, broken, 1.0])
    assert said([by_loss, by_norm]) == [(Rule.NAN, 2)] * 2
    assert by_loss.action == by_norm.action == "rollback"
    assert f"the loss is {broken} and the gradient's norm 1 at step 2" in by_loss.text
    assert f"the loss is 1 and the gradient's norm {broken} at step 2" in by_norm.text


def test_a_spike_is_measured_against_the_median_so_that_one_does_not_hide_the_next():
    verdicts = watch([1.0, 1.0, 1.0, 1.0, 3.5, 1.0, 3.5])
    assert said(verdicts) == [(Rule.SPIKE, 5), (Rule.SPIKE, 7)]
    assert "the loss is 3.5, 3.5 times its median of 1 over the last 4 steps" in verdicts[0].text


def test_a_spike_of_the_gradient_alone_is_told():
    (verdict,) = watch([1.0] * 5, norms=[0.5, 0.5, 0.5, 0.5, 2.0])
    assert "the gradient's norm is 2, 4.0 times its median of 0.5" in verdict.text
    assert "loss is" not in verdict.text


def test_there_are_no_spikes_during_the_first_window_nor_below_the_target():
    assert watch([1.0, 9.0, 1.0, 9.0]) == []
    assert Rule.SPIKE not in {verdict.rule for verdict in watch([0.02] * 4 + [0.2, 0.4])}


def test_a_loss_that_stays_high_is_one_spike():
    assert said(watch([1.0] * 5 + [8.0] * 2, CONFIG.model_copy(update={"plateau_steps": 50}))) == [(Rule.SPIKE, 6)]


def test_a_plateau_is_told_once_and_again_only_after_the_loss_has_fallen():
    verdicts = watch([2.0] * 20 + [1.0] * 30)
    assert said(verdicts) == [(Rule.PLATEAU, 8), (Rule.PLATEAU, 28)]
    assert "the mean loss no longer falls: 2 at step 8, it was 2 over the 4 steps before" in verdicts[0].text


def test_a_fall_of_more_than_a_hundredth_is_no_plateau_and_of_less_is_one():
    assert watch([2.0] * 4 + [1.97] * 4) == []
    assert said(watch([2.0] * 4 + [1.99] * 4)) == [(Rule.PLATEAU, 8)]


def test_standing_still_at_the_target_is_no_plateau():
    assert said(watch([0.5] * 40)) == [(Rule.TARGET, 4)]


# Evaluations


def evaluate(watchdog: Watchdog, pairs) -> list[Verdict]:
    """Four steps at a training loss, then an evaluation, for each (training loss, evaluation loss)."""
    found = []
    for round_, (training, held_out) in enumerate(pairs, 1):
        watch([training] * 4, watchdog=watchdog, first=round_ * 4 - 3)
        found += watchdog.see_evaluation(round_ * 4, held_out)
    return found


def test_an_evaluation_loss_that_rises_twice_while_training_falls_is_overfitting():
    (verdict,) = evaluate(Watchdog(CONFIG), [(2.0, 2.0), (1.5, 1.8), (1.2, 1.9), (1.0, 2.0), (0.8, 2.1)])
    assert (verdict.rule, verdict.step) == (Rule.OVERFIT, 16)
    assert "rose from 1.8 at step 8 to 2 at step 16 while the training loss fell from 1.5 to 1" in verdict.text
    assert "training.patience" in verdict.text


def test_an_evaluation_loss_that_rises_with_the_training_loss_is_not_overfitting():
    assert evaluate(Watchdog(CONFIG), [(1.0, 1.0), (1.1, 1.1), (1.2, 1.2)]) == []


def test_an_evaluation_loss_that_is_no_number_is_told():
    (verdict,) = evaluate(Watchdog(CONFIG), [(2.0, math.nan), (1.5, math.nan), (1.0, 1.0)])
    assert (verdict.rule, verdict.step) == (Rule.NAN, 4)


# Actions, resuming and rolling back


def test_the_profile_decides_what_is_done():
    config = CONFIG.model_copy(update={"on_zero": "ignore", "on_target": "stop"})
    assert [(v.rule, v.action) for v in watch([0.5, 0.5, 0.5, 0.5, 0.0], config)] == [(Rule.TARGET, "stop")]


def test_a_resumed_run_goes_on_as_the_uninterrupted_one():
    losses = falling(20) + [1.0] * 20 + [0.3] * 10 + [math.nan, 4.0, 0.0]
    whole = watch(losses)
    lines = [json.loads(json.dumps({"step": i, "loss": x, "grad_norm": 1.0})) for i, x in enumerate(losses, 1)]
    assert {verdict.rule for verdict in whole} == {*Rule} - {Rule.OVERFIT}
    for cut in range(len(losses)):
        rest = watch(losses[cut:], watchdog=Watchdog(CONFIG, lines[:cut]), first=cut + 1)
        assert rest == [verdict for verdict in whole if verdict.step > cut]


def test_a_resumed_run_remembers_its_evaluations():
    history = [line for i in (1, 2) for line in [{"step": 4 * i - k, "loss": 2.0 - i / 4} for k in (3, 2, 1, 0)]
               + [{"step": 4 * i, "eval_loss": 1.0 + i / 10}]]  # fmt: skip
    watchdog = Watchdog(CONFIG, history)
    watch([1.0] * 4, watchdog=watchdog, first=9)
    assert [verdict.rule for verdict in watchdog.see_evaluation(12, 1.3)] == [Rule.OVERFIT]


def test_after_the_allowed_rollbacks_the_next_one_is_a_stop():
    watchdog = Watchdog(CONFIG.model_copy(update={"max_rollbacks": 2}))
    actions = []
    for _ in range(3):
        actions += [verdict.action for verdict in watch([1.0, 1.0, math.nan], watchdog=watchdog)]
        watchdog.rolled_back(2)
    assert actions == ["rollback", "rollback", "stop"]
    (verdict,) = watch([math.nan], watchdog=Watchdog(CONFIG, rollbacks=2))
    assert verdict.action == "stop"
    assert "it was rolled back 2 times already" in verdict.text


def test_what_came_after_the_checkpoint_has_not_happened():
    watchdog = Watchdog(CONFIG)
    watch([1.0] * 4 + [0.1] * 4, watchdog=watchdog)
    watchdog.rolled_back(4)
    assert said(watch([0.1] * 4, watchdog=watchdog, first=5)) == [(Rule.TARGET, 7), (Rule.OVERFIT, 8)]


def test_the_shipped_profiles_never_stop_for_success():
    for name in load.profiles():
        config = load.load_run(name).watchdog
        assert {"stop", "rollback"}.isdisjoint({config.on_target, config.on_overfit, config.on_plateau})


def test_the_embedded_models_steep_curve_stops_nothing():
    """The shape of `profiles/tiny.yaml`: 3 to 0.02 in 60 steps, each step off by up to 80 %."""
    chance = random.Random(3)
    losses = [max(3 * 0.9**step, 0.03) * (1 + chance.uniform(-0.8, 0.8)) for step in range(60)]
    verdicts = watch(losses, load.load_run("tiny").watchdog)
    assert {verdict.action for verdict in verdicts} == {"warn"}
    assert [verdict.rule for verdict in verdicts] == [Rule.TARGET, Rule.OVERFIT]


# What holds for every curve


@given(st.integers(0, 10**6), st.integers(1, 300))
def test_a_healthy_noisy_curve_says_nothing(seed, steps):
    assert watch(falling(steps, seed), WatchdogConfig(plateau_steps=max(steps, 2) // 2 + 2)) == []


@given(st.integers(0, 10**6))
def test_constant_noise_above_the_target_is_one_plateau_and_nothing_else(seed):
    chance = random.Random(seed)
    losses = [2.0 * (1 + chance.uniform(-0.05, 0.05)) for _ in range(400)]
    assert [verdict.rule for verdict in watch(losses, WatchdogConfig())] in ([], [Rule.PLATEAU])


@given(st.lists(st.sampled_from([*BROKEN, 1.0, 0.7, 1.3]), max_size=60))
def test_every_first_broken_number_is_told_and_poisons_nothing(losses):
    config = CONFIG.model_copy(update={"on_plateau": "ignore"})
    begins = [i for i, x in enumerate(losses, 1) if not math.isfinite(x) and (i == 1 or math.isfinite(losses[i - 2]))]
    verdicts = watch(losses, config)
    assert said(verdicts) == [(Rule.NAN, step) for step in begins]


@given(
    st.lists(st.floats(0, 10), max_size=80),
    st.sampled_from([Rule.TARGET, Rule.OVERFIT, Rule.ZERO, Rule.SPIKE, Rule.PLATEAU]),
)
def test_a_rule_that_is_ignored_says_nothing_and_the_others_what_they_said(losses, rule):
    others = [verdict for verdict in watch(losses) if verdict.rule is not rule]
    assert watch(losses, CONFIG.model_copy(update={f"on_{rule}": "ignore"})) == others


@given(st.lists(st.floats(0, 10), min_size=8, max_size=60), st.integers(0, 60))
def test_rolling_back_leads_to_where_the_checkpoint_was(losses, step):
    returned, straight = Watchdog(CONFIG), Watchdog(CONFIG, rollbacks=1)
    watch(losses, watchdog=returned)
    watch(losses[:step], watchdog=straight)
    returned.rolled_back(step)
    rest = [*losses, 0.1, 5.0, 5.0, 0.0, math.nan]
    assert watch(rest, watchdog=returned, first=step + 1) == watch(rest, watchdog=straight, first=step + 1)


# Early stopping


def stops(losses, evaluations: int | None) -> list[tuple[int, str]]:
    patience = Patience(evaluations)
    return [(step, text) for step, loss in enumerate(losses, 1) if (text := patience.see(step, loss))]


def test_patience_ends_with_the_best_step_and_loss():
    ((step, text),) = stops([2.0, 1.0, 1.1, 1.05], 2)
    assert step == 4
    assert text == (
        "no lower evaluation loss in 2 evaluations: 1.05 at step 4, the best was 1 at step 2 (training.patience is 2)"
    )


@pytest.mark.parametrize(
    ("losses", "evaluations"),
    [([2.0, 2.1, 1.9, 2.0, 1.8], 2), ([1.0, 2.0, 3.0], None), ([3.0, 2.0, 1.0], 1), ([], 1)],
)
def test_patience_waits_while_there_is_progress_and_without_a_limit_for_ever(losses, evaluations):
    assert stops(losses, evaluations) == []


def test_no_progress_is_also_the_same_loss_and_no_number():
    assert [step for step, _ in stops([1.0, 1.0, math.nan], 2)] == [3]
    assert "the best was none that is a number" in stops([math.nan, math.nan], 2)[0][1]


@given(st.lists(st.floats(0, 10), max_size=30), st.integers(1, 5), st.integers(0, 30))
def test_patience_goes_on_after_a_resume(losses, evaluations, cut):
    lines = [{"step": step, "eval_loss": loss} for step, loss in enumerate(losses, 1)]
    whole, resumed = Patience(evaluations, lines), Patience(evaluations, lines[:cut])
    for line in lines[cut:]:
        resumed.see(line["step"], line["eval_loss"])
    assert (whole.best, whole.see(99, 11.0)) == (resumed.best, resumed.see(99, 11.0))
