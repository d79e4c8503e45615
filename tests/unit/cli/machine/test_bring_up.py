"""The waits of `tandem up`: each ends when what it waits for is gone."""

import threading

import pytest

from actors import cluster
from cli.machine import bring_up
from configs.errors import ClusterError


def test_an_answer_is_handed_on_while_ray_lives(monkeypatch):
    monkeypatch.setattr(cluster, "require_alive", lambda running, doing: None)
    assert bring_up.while_alive(None, "it was asked", lambda: 42) == 42


def test_what_the_call_raises_is_raised(monkeypatch):
    monkeypatch.setattr(cluster, "require_alive", lambda running, doing: None)
    with pytest.raises(ValueError, match="no"):
        bring_up.while_alive(None, "it was asked", lambda: int("no"))


def test_a_call_that_would_never_be_answered_is_given_up_when_ray_is_gone(monkeypatch):
    def gone(running: object, doing: str) -> None:
        raise ClusterError(f"Ray ended while {doing}: raylet is gone")

    monkeypatch.setattr(cluster, "require_alive", gone)
    never = threading.Event()
    with pytest.raises(ClusterError, match="Ray ended while it was asked: raylet is gone"):
        bring_up.while_alive(None, "it was asked", never.wait)
    never.set()


@pytest.fixture
def front(home, monkeypatch):
    """A Front, a list with the time that it sees, and one with what HAProxy complains of."""
    clock, complaint = [0.0], [""]
    monkeypatch.setattr(bring_up.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(bring_up.proxy, "failure", lambda home: complaint[0])
    return bring_up.Front(home), clock, complaint


def test_haproxy_may_fail_once_and_is_given_up_with_its_own_words_when_it_goes_on(front):
    watch, clock, complaint = front
    complaint[0] = "Cannot raise FD limit to 10270, limit is 1024."
    for clock[0] in (1, 4, 6):
        watch.check("DEPLOYING")
    complaint[0] = ""
    clock[0] = 7
    watch.check("DEPLOYING")
    complaint[0] = "cannot bind socket (Address already in use)"
    for clock[0] in (8, 13):
        watch.check("DEPLOYING")
    clock[0] = 13.5
    with pytest.raises(ClusterError, match=r"cannot listen on the endpoint's port: cannot bind socket \(Address"):
        watch.check("DEPLOYING")


def test_an_endpoint_that_runs_and_never_answers_is_given_up_and_loading_is_not(front):
    watch, clock, _ = front
    for clock[0] in (1, 1000):
        watch.check("DEPLOYING")
    for clock[0] in (1001, 1001 + bring_up.PATIENCE_S):
        watch.check("RUNNING")
    clock[0] += 1
    with pytest.raises(ClusterError, match="the endpoint runs, but its port does not answer after 180 s"):
        watch.check("RUNNING")
