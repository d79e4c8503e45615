"""A hub that cannot be reached is one sentence within seconds; what is in the local cache needs none."""

import socket
import time
from collections.abc import Iterator

import pytest
from huggingface_hub import constants

from configs.errors import CheckpointError, ConfigError, DataError
from jobs.data.files import arrow
from models.base import hub


@pytest.fixture(params=["closed", "silent", "unknown"])
def away(request, monkeypatch, tmp_path) -> Iterator[str]:
    """The address of a hub that refuses connections, takes them and says nothing, or whose name nobody knows."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        if request.param == "silent":
            listening.listen()
        address = f"127.0.0.1:{listening.getsockname()[1]}" if request.param != "unknown" else "hub.invalid"
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", f"http://{address}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        yield address


def test_a_base_that_cannot_be_fetched_is_said_within_five_seconds(away, capfd):
    started = time.monotonic()
    with pytest.raises(CheckpointError, match=f"the hub did not give it: {away} cannot be reached") as error:
        hub.obtain("owner/model", lambda folder: None)
    assert time.monotonic() - started < 5
    assert "a local folder can be the base" in error.value.hint
    assert capfd.readouterr().err == ""


def test_a_data_set_that_cannot_be_fetched_is_said_within_seconds(away, capfd):
    import datasets  # takes seconds on a busy machine, and is not what is timed  # noqa: F401

    started = time.monotonic()
    with pytest.raises(DataError, match=rf"'owner/data' \(train\) is not in the local cache, and {away} cannot be"):
        arrow.hub("owner/data", "train")
    assert time.monotonic() - started < 8
    assert capfd.readouterr().err == ""


def test_being_offline_for_a_while_ends_with_it(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with hub.offline():
        assert constants.is_offline_mode()
    assert not constants.is_offline_mode()


def test_a_proxy_that_cannot_be_used_is_named_before_the_hub_is_asked(monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "socks://127.0.0.1:9")
    with pytest.raises(ConfigError, match="ALL_PROXY names a proxy of the kind socks://"):
        hub.is_reachable()
