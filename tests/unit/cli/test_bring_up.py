"""The waits of `tandem up`: each ends when what it waits for is gone."""

import time

import pytest

from actors import cluster
from cli import bring_up
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
    started = time.monotonic()
    with pytest.raises(ClusterError, match="Ray ended while it was asked: raylet is gone"):
        bring_up.while_alive(None, "it was asked", lambda: time.sleep(5))
    assert time.monotonic() - started < 4
