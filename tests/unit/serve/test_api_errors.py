"""What the commands and the dashboard raise when the gateway refuses: the error that it was, with its hint."""

import asyncio

import pytest

from cli.api import Api
from configs import paths
from configs.errors import NotFoundError, RequestError, StateError
from serve.ui.dashboard import actions
from serve.ui.dashboard.actions import Action
from tests.samples import RUN_CONFIG


@pytest.fixture
def api(running, monkeypatch) -> Api:
    monkeypatch.setenv("TANDEM_HOME", str(running.home.root))
    assert paths.home().root == running.home.root
    return Api()


def test_an_adapter_that_does_not_exist_is_not_found(api, running):
    with pytest.raises(NotFoundError) as local:
        running.registry.resolve("no-such")
    with pytest.raises(NotFoundError) as caught:
        api.post("/api/aliases/prod", {"adapter": "no-such", "force": False})
    for name in ("message", "hint", "param", "sentence"):
        assert getattr(caught.value, name) == getattr(local.value, name)
    with pytest.raises(NotFoundError):
        asyncio.run(actions.do(running.home, Action("swap", "no-such")))


def test_a_run_that_has_ended_cannot_be_stopped_and_a_wrong_body_is_a_request(api):
    api.post("/api/runs", {"run_id": "tiny-1", "config": RUN_CONFIG})
    api.post("/api/runs/tiny-1/stop")
    with pytest.raises(StateError):
        api.post("/api/runs/tiny-1/stop")
    with pytest.raises(RequestError) as caught:
        api.post("/api/runs", {"run_id": "tiny-2", "config": RUN_CONFIG, "priority": "high"})
    assert caught.value.param == "priority"
