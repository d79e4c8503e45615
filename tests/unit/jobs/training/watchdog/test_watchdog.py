"""The rules over curves written by hand, and what must hold for every curve."""

import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs import load
from configs.schema import WatchdogConfig
from jobs.training.watchdog.watchdog import EarlyStopping, Rule, Verdict, Watchdog

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
    assert "the loss is 3.5, 3.5 times its median of 1 over the steps before, at step 5" in verdicts[0].text


def test_a_spike_of_the_gradient_alone_is_told():
    (verdict,) = watch([1.0] * 5, norms=[0.5, 0.5, 0.5, 0.5, 2.0])
    assert "the gradient's norm is 2, 4.0 times its median of 0.5" in verdict.text
    assert "loss is" not in verdict.text


def test_a_spike_is_seen_as_soon_as_five_steps_tell_what_is_usual_and_not_below_the_target():
    first = [1.0, 1.2, 0.9, 1.0, 1.4]
    assert said(watch([*first, 4.0, 4.0, 1.0, 4.0], WatchdogConfig())) == [(Rule.SPIKE, 6), (Rule.SPIKE, 9)]
    assert watch([*first[1:], 4.0], WatchdogConfig()) == []
    assert Rule.SPIKE not in {verdict.rule for verdict in watch([0.02] * 4 + [0.2, 0.4])}


def test_losses_that_always_scatter_are_no_spikes():
    """Rows that the base knows beside rows that it does not, one at a time (embedded model, batches of one row)."""
    losses = [0.0003, 4.42, 4.49, 0.0002, 4.02, 0.0004, 0.001, 3.67, 3.64, 0.03, 0.0, 4.41, 0.0, 5.03, 0.0, 4.99]
    norms = [0.003, 2.6, 2.8, 0.004, 2.5, 0.003, 0.01, 1.8, 1.9, 0.3, 0.0, 2.7, 0.0, 3.9, 0.0, 4.0]
    assert watch([loss + 1e-6 for loss in losses], WatchdogConfig(), norms=norms) == []


def test_a_loss_that_stays_high_does_not_become_the_usual():
    verdicts = watch([1.0] * 10 + [8.0] * 30 + [1.0, 8.0], WatchdogConfig(on_plateau="ignore"))
    assert said(verdicts) == [(Rule.SPIKE, 11), (Rule.SPIKE, 42)]
    assert "8.0 times its median of 1 over the steps before" in verdicts[1].text


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


# Diverging


def diverging(base: float, losses, looks: dict[int, float], config=None, norms=None, vocabulary=None) -> list:
    """What is said of a run whose base has the loss `base`, and at which steps it wanted to be looked at; there `looks`
    has what was found."""
    watchdog, said, wanted = Watchdog(config or WatchdogConfig(), vocabulary=vocabulary), [], []
    watchdog.see_evaluation(0, base)
    for step, loss in enumerate(losses, 1):
        said += watchdog.see(step, loss, norms[step - 1] if norms else 1.0)
        if watchdog.wants_check:
            wanted.append(step)
            said += watchdog.see_check(step, looks[step])
    return [wanted, said]


def test_a_run_whose_loss_jumps_is_looked_at_and_ends_if_it_knows_far_less_than_the_base():
    wanted, (verdict,) = diverging(0.99, [2.3, 13.0], {2: 12.0})
    assert wanted == [2]
    assert (verdict.rule, verdict.action, verdict.step) == (Rule.DIVERGED, "stop", 2)
    assert verdict.text.startswith("the run has diverged: its loss is 12 at step 2 on rows of which the base's is 0.99")
    assert "began at 2.3 and was up to 13" in verdict.text
    assert "lower training.learning_rate" in verdict.text


def test_a_gradient_far_above_its_start_is_a_reason_to_look_even_before_the_loss_is():
    wanted, (verdict,) = diverging(0.99, [2.3, 2.2, 2.3], {3: 14.0}, norms=[1.4, 1.3, 8.9])
    assert wanted == [3]
    assert (verdict.rule, verdict.step) == (Rule.DIVERGED, 3)
    assert "the gradient's norm at 1.4 and up to 8.9" in verdict.text


def test_a_jump_that_a_look_finds_harmless_is_not_looked_at_again():
    wanted, verdicts = diverging(0.99, [0.001, 4.4, 4.5, 0.2, 4.9, 6.5, 6.8, 4.0], {2: 1.0, 7: 1.1})
    assert (wanted, verdicts) == ([2, 7], [])


def test_a_slow_climb_is_looked_at_too():
    wanted, verdicts = diverging(1.0, [1.0 + step / 20 for step in range(28)], {12: 2.0, 28: 2.8})
    assert (wanted, said(verdicts)) == ([12, 28], [(Rule.DIVERGED, 28)])


@pytest.mark.parametrize(
    ("base", "loss", "vocabulary", "diverged"),
    [
        (0.99, 1.9, None, False),  # not twice the base's
        (0.01, 1.0, None, False),  # a hundred times, and still little
        (0.01, 2.0, None, True),
        (5.2, 7.4, 1024, True),  # not twice, but worse than guessing, which is 6.9
        (5.2, 6.8, 1024, False),
    ],
)
def test_how_far_is_too_far(base, loss, vocabulary, diverged):
    _, verdicts = diverging(base, [base, 99.0], {2: loss}, vocabulary=vocabulary)
    assert said(verdicts) == ([(Rule.DIVERGED, 2)] if diverged else [])


def test_rows_learned_by_heart_are_not_divergence_however_bad_the_held_out_rows_become():
    watchdog = Watchdog(WatchdogConfig(on_target="ignore", on_overfit="ignore"))
    watchdog.see_evaluation(0, 1.0)
    watch([2.0, 1.0, 0.5, 0.1, 0.05, 0.05], watchdog=watchdog)
    assert watchdog.see_evaluation(6, 3.5) == []


def test_a_planned_evaluation_sees_divergence_without_a_jump_and_also_at_the_last_step():
    watchdog = Watchdog(WatchdogConfig())
    watchdog.see_evaluation(0, 1.0)
    watch([1.2, 1.3, 1.4, 1.4], watchdog=watchdog)
    assert not watchdog.wants_check
    assert said(watchdog.see_evaluation(4, 5.0)) == [(Rule.DIVERGED, 4)]


def test_a_base_that_knows_less_than_a_guess_is_told_before_the_first_step():
    (verdict,) = Watchdog(CONFIG, vocabulary=1024).see_check(0, 10.7)
    assert (verdict.rule, verdict.action, verdict.step) == (Rule.FOREIGN, "warn", 0)
    assert verdict.text.startswith("the base's own loss on these rows is 10.7, worse than the 6.931 of a guess")
    assert Watchdog(CONFIG, vocabulary=1024).see_check(0, 6.9) == []


def test_without_the_bases_loss_nobody_looks():
    watchdog = Watchdog(WatchdogConfig(on_spike="ignore"))
    assert watch([1.0, 9.0, 9.0], watchdog=watchdog) == []
    assert not watchdog.wants_check
    assert watchdog.see_check(3, 9.0) == []


@given(st.integers(0, 10**6), st.floats(0.1, 5), st.floats(0, 0.6))
def test_a_healthy_run_is_looked_at_a_few_times_at_most_and_nothing_is_said_of_it(seed, base, noise):
    chance = random.Random(seed)
    watchdog, looks = Watchdog(WatchdogConfig(on_plateau="ignore", on_target="ignore", on_overfit="ignore")), 0
    watchdog.see_evaluation(0, base)
    for step in range(1, 301):
        level = base * (0.3 + 0.7 * 0.99**step)
        assert watchdog.see(step, level * (1 + chance.uniform(-noise, noise)), chance.uniform(0.5, 1.5)) == []
        if watchdog.wants_check:
            looks += 1
            assert watchdog.see_check(step, level) == []
    assert looks <= 2


# Actions and resuming


def test_the_profile_decides_what_is_done():
    config = CONFIG.model_copy(update={"on_zero": "ignore", "on_target": "stop"})
    assert [(v.rule, v.action) for v in watch([0.5, 0.5, 0.5, 0.5, 0.0], config)] == [(Rule.TARGET, "stop")]


def test_a_resumed_run_goes_on_as_the_uninterrupted_one():
    losses = falling(20) + [1.0] * 20 + [0.3] * 10 + [math.nan, 4.0, 0.0]
    lines = [{"step": 0, "eval_loss": 1.0}]
    for step, loss in enumerate(losses, 1):
        lines.append({"step": step, "loss": loss, "grad_norm": 1.0})
        lines += [{"step": step, "check_loss": 9.0 if step > 50 else 1.0}] if step % 6 == 0 or step > 50 else []
    lines = [json.loads(json.dumps(line)) for line in lines]
    whole = replay(Watchdog(CONFIG), lines)
    assert {verdict.rule for verdict, _ in whole if verdict} == {*Rule} - {Rule.OVERFIT, Rule.FOREIGN}
    for cut in range(len(lines)):
        assert replay(Watchdog(CONFIG, lines[:cut]), lines[cut:]) == whole[len(replay(Watchdog(CONFIG), lines[:cut])) :]


def replay(watchdog: Watchdog, lines: list[dict]) -> list[tuple[Verdict | None, bool]]:
    """What is said line by line, and whether a look is wanted after it."""
    found = []
    for line in lines:
        if "loss" in line:
            said = watchdog.see(line["step"], line["loss"], line["grad_norm"])
        else:
            said = (watchdog.see_check if "check_loss" in line else watchdog.see_evaluation)(*list(line.values())[:2])
        found += [(verdict, watchdog.wants_check) for verdict in said or [None]]
    return found


def test_a_resumed_run_remembers_its_evaluations():
    history = [line for i in (1, 2) for line in [{"step": 4 * i - k, "loss": 2.0 - i / 4} for k in (3, 2, 1, 0)]
               + [{"step": 4 * i, "eval_loss": 1.0 + i / 10}]]  # fmt: skip
    watchdog = Watchdog(CONFIG, history)
    watch([1.0] * 4, watchdog=watchdog, first=9)
    assert [verdict.rule for verdict in watchdog.see_evaluation(12, 1.3)] == [Rule.OVERFIT]


def test_after_the_allowed_rollbacks_the_next_one_is_a_stop():
    config = CONFIG.model_copy(update={"max_rollbacks": 2})
    verdicts = [watch([1.0, 1.0, math.nan], watchdog=Watchdog(config, rollbacks=done))[0] for done in range(3)]
    assert [verdict.action for verdict in verdicts] == ["rollback", "rollback", "stop"]
    assert "it was rolled back 2 times already" in verdicts[-1].text


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


# Early stopping


def stops(losses, evaluations: int | None) -> list[tuple[int, str]]:
    patience = EarlyStopping(evaluations)
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
    whole, resumed = EarlyStopping(evaluations, lines), EarlyStopping(evaluations, lines[:cut])
    for line in lines[cut:]:
        resumed.see(line["step"], line["eval_loss"])
    assert (whole.best, whole.see(99, 11.0)) == (resumed.best, resumed.see(99, 11.0))
