"""What is given up for memory, in order; the effective batch never is."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.errors import TrainingError
from configs.load import load_run
from jobs.training.memory import ladder
from jobs.training.memory.ladder import Plan, first_plan, one_rung_down

PLAN = Plan(16, 8, 4, False, 1024)
ASKED = {"evaluating": False, "may_shorten": True}


def rungs(plan: Plan, **how) -> list[Plan]:
    """All plans below `plan`, to the bottom."""
    found = []
    with pytest.raises(TrainingError):
        while True:
            plan = one_rung_down(plan, **(ASKED | how))
            found.append(plan)
    return found


def test_the_micro_batch_goes_first_then_evaluation_then_time_then_row_length():
    assert rungs(PLAN) == [
        replace(PLAN, micro_batch=4),
        replace(PLAN, micro_batch=2),
        replace(PLAN, micro_batch=1),
        replace(PLAN, micro_batch=1, eval_batch=1),
        replace(PLAN, micro_batch=1, eval_batch=1, gradient_checkpointing=True),
        Plan(16, 1, 1, True, 512),
        Plan(16, 1, 1, True, 256),
    ]


def test_an_evaluation_that_does_not_fit_costs_no_training_speed():
    assert one_rung_down(PLAN, evaluating=True, may_shorten=False) == replace(PLAN, eval_batch=1)


def test_rows_are_never_shortened_without_consent_and_the_error_says_how_to_give_it():
    last = rungs(PLAN, may_shorten=False)[-1]
    assert last.max_seq_length == 1024
    with pytest.raises(TrainingError) as caught:
        one_rung_down(last, evaluating=False, may_shorten=False)
    assert "training.allow_shorter_rows=true" in caught.value.hint


@given(st.integers(1, 200), st.data())
def test_on_every_rung_the_micro_batch_divides_the_effective_batch(effective, data):
    micro = data.draw(st.sampled_from(ladder.divisors(effective, effective)))
    for plan in rungs(replace(PLAN, effective_batch=effective, micro_batch=micro)):
        assert plan.effective_batch == effective
        assert plan.micro_batch * plan.accumulation == effective


def test_the_first_plan_is_the_profiles():
    config = load_run("memory_efficient")
    assert first_plan(config, 1) == Plan(16, 1, 1, True, 512)
    assert str(first_plan(config, 1)) == (
        "micro-batch 1 x 16, evaluation batch 1, rows up to 512 tokens, activations recomputed"
    )
