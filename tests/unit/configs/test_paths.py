"""All state lives under TANDEM_HOME."""

from pathlib import Path

import pytest

from configs import paths
from configs.errors import ConfigError

PARTS = ("ledger", "runs", "models", "bases", "cluster", "token", "ray", "logs", "cache")


def test_tandem_home_moves_all_state(monkeypatch):
    monkeypatch.setenv("TANDEM_HOME", "/tmp/elsewhere")
    home = paths.home()
    assert home.root == Path("/tmp/elsewhere")
    for part in PARTS:
        assert getattr(home, part).parent == home.root, part
    assert home.run("tiny-1") == Path("/tmp/elsewhere/runs/tiny-1")


@pytest.mark.parametrize("value", [None, ""])
def test_without_tandem_home_state_is_in_the_users_home(value, monkeypatch):
    monkeypatch.setenv("HOME", "/tmp/somebody")
    monkeypatch.delenv("TANDEM_HOME") if value is None else monkeypatch.setenv("TANDEM_HOME", value)
    assert paths.home().root == Path("/tmp/somebody/.tandem")


def test_a_tilde_and_a_relative_path_become_absolute(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/tmp/somebody")
    monkeypatch.setenv("TANDEM_HOME", "~/t")
    assert paths.home().root == Path("/tmp/somebody/t")
    monkeypatch.chdir("/tmp")
    monkeypatch.setenv("TANDEM_HOME", "here")
    assert paths.home().root == Path("/tmp/here")


def test_a_path_too_long_for_rays_sockets_is_refused_with_both_numbers(monkeypatch):
    longest = "/tmp/" + "x" * (paths.LONGEST_HOME - len("/tmp/"))
    monkeypatch.setenv("TANDEM_HOME", longest)
    assert paths.home().root == Path(longest)
    monkeypatch.setenv("TANDEM_HOME", longest + "x")
    with pytest.raises(ConfigError) as caught:
        paths.home()
    assert str(paths.LONGEST_HOME + 1) in caught.value.message
    assert str(paths.LONGEST_HOME) in caught.value.message
    assert "shorter" in caught.value.hint


def test_the_longest_home_leaves_room_for_rays_longest_socket():
    below = "/ray/session_2026-01-01_00-00-00_000000_4194303/sockets/dash_MetricsHead"
    assert paths.LONGEST_HOME + len(below) <= 107


def test_the_length_counts_bytes_not_letters(monkeypatch):
    monkeypatch.setenv("TANDEM_HOME", "/tmp/" + "ä" * 20)
    with pytest.raises(ConfigError, match="45 bytes"):
        paths.home()


def test_a_user_who_does_not_exist_is_refused(monkeypatch):
    monkeypatch.setenv("TANDEM_HOME", "~nobody_of_this_name/t")
    with pytest.raises(ConfigError, match="no such user"):
        paths.home()


def test_a_user_whom_the_system_does_not_know_is_told_to_set_tandem_home(monkeypatch):
    monkeypatch.delenv("TANDEM_HOME")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("os.getuid", lambda: 987_654)
    with pytest.raises(ConfigError, match="user 987654 has no home folder") as error:
        paths.home()
    assert "set TANDEM_HOME" in error.value.hint


def test_asking_for_the_paths_creates_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("TANDEM_HOME", "/tmp/tandem-not-made")
    assert paths.home().ledger == Path("/tmp/tandem-not-made/ledger.db")
    assert not Path("/tmp/tandem-not-made").exists()


@pytest.mark.parametrize("path", [paths.PROFILES, paths.CLUSTER_CONFIG, paths.SERVE_CONFIG, paths.TINY_DATASET])
def test_what_the_source_tree_ships_is_where_the_paths_say(path):
    assert path.exists()
    assert path.is_relative_to(paths.SOURCE)
