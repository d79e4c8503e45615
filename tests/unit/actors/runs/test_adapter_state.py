"""An adapter's states, and which may follow which."""

from actors.runs.adapter_state import ADAPTER_FOLLOWING, AdapterState

A = AdapterState


def test_every_state_says_what_may_follow_it():
    assert set(ADAPTER_FOLLOWING) == set(A)


def test_nothing_answers_that_was_not_loaded():
    assert {state for state in A if A.LIVE in ADAPTER_FOLLOWING[state]} == {A.LOADING, A.VERIFYING}


def test_an_attempt_may_end_as_it_began_or_in_success_or_refusal():
    ends = {A.PUBLISHED, A.RETIRED, A.LIVE, A.REFUSED}
    assert {state for state in A if state.is_attempt} == {A.LOADING, A.VERIFYING} == set(A) - ends
    for attempt in (A.LOADING, A.VERIFYING):
        assert ADAPTER_FOLLOWING[attempt] - {A.VERIFYING} == ends


def test_what_is_live_stays_so_until_another_replaces_it():
    assert ADAPTER_FOLLOWING[A.LIVE] == {A.RETIRED}


def test_everything_on_disk_may_be_tried_again():
    assert {state for state in A if A.LOADING in ADAPTER_FOLLOWING[state]} == {A.PUBLISHED, A.RETIRED, A.REFUSED}
