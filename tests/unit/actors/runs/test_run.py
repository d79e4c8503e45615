"""A run's states and its id."""

import re

import pytest

from actors.runs.run import FOLLOWING, RunState, check_run_id, new_run_id
from configs.errors import NotFoundError

S = RunState


def test_every_state_says_what_may_follow_it():
    assert set(FOLLOWING) == set(RunState)


def test_nothing_follows_a_terminal_state():
    assert {state for state in RunState if state.is_terminal} == {S.SUCCEEDED, S.FAILED, S.STOPPED}
    for state in RunState:
        assert bool(FOLLOWING[state]) != state.is_terminal


def test_the_states_between_grant_and_end_hold_a_slot():
    assert {state for state in RunState if state.holds_slot} == {S.STARTING, S.RUNNING, S.STOPPING}


def test_only_an_interrupted_run_goes_back_to_the_queue():
    assert {state for state in RunState if S.QUEUED in FOLLOWING[state]} == {S.INTERRUPTED}


def test_success_comes_only_from_work():
    assert {state for state in RunState if S.SUCCEEDED in FOLLOWING[state]} == {S.RUNNING, S.STOPPING}


def test_every_state_can_reach_an_end():
    ends = {state for state in RunState if state.is_terminal}
    while True:
        more = {state for state in RunState if FOLLOWING[state] & ends} - ends
        if not more:
            break
        ends |= more
    assert ends == set(RunState)


@pytest.mark.parametrize("profile", ["tiny", "memory_efficient", "My Profile (2)!", "ünï", "", "x" * 200])
def test_a_new_run_id_is_always_a_valid_one(profile):
    run_id = new_run_id(profile)
    assert check_run_id(run_id) == run_id
    assert re.fullmatch(r"[a-z0-9-]+-\d{8}-\d{6}-[0-9a-f]{4}", run_id)


def test_run_ids_made_in_the_same_second_differ():
    assert len({new_run_id("tiny") for _ in range(20)}) > 15


@pytest.mark.parametrize(
    "text", ["", "../x", "a/b", "a b", "A", "-x", "a;rm -rf /", "$(id)", "a\n", "a" * 81, "ä", "a\0", ".", "`id`"]
)
def test_what_a_shell_or_a_path_could_mistake_is_no_run_id(text):
    with pytest.raises(NotFoundError) as caught:
        check_run_id(text)
    assert "is not a run id" in caught.value.message
    assert len(caught.value.message) < 120
