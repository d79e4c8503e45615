"""A state folder in which no cluster could live is refused in words before anything is started."""

import errno
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from actors.home import folder
from configs.errors import ClusterError, ConfigError
from configs.paths import Home


def test_a_folder_that_is_missing_is_made_and_one_that_is_open_to_others_is_closed(tmp_path):
    new = Home(tmp_path / "a b" / "c")
    folder.check(new)
    assert [path.stat().st_mode & 0o777 for path in (new.root.parent, new.root)] == [0o700, 0o700]
    old = Home(tmp_path / "old")
    old.root.mkdir(mode=0o755)
    folder.check(old)
    assert old.root.stat().st_mode & 0o777 == 0o700
    assert list(old.root.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "shown"),
    [("é", r"'\xe9'"), ("a$b", "'$'"), ("a\nb", r"'\n'"), ("\udcff", r"'\udcff'"), ("日", r"'\u65e5'")],
)
def test_a_path_with_which_ray_or_haproxy_cannot_work_is_refused_and_nothing_made(tmp_path, name, shown):
    home = Home(tmp_path / name)
    with pytest.raises(ConfigError) as error:
        folder.check(home)
    assert f"with {shown} in its path" in error.value.message
    assert error.value.message.isascii() and not home.root.exists()


def test_an_environment_from_which_ray_cannot_start_is_refused_before_the_home_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "prefix", "/home/anna/two cards/.venv")
    home = Home(tmp_path / "new")
    with pytest.raises(ConfigError, match=r"'/home/anna/two cards/.venv', and Ray cannot start its programs") as error:
        folder.check(home)
    assert "./setup.sh" in error.value.hint and not home.root.exists()


@pytest.mark.parametrize(
    ("number", "words", "next_step"),
    [
        (errno.EROFS, "Read-only file system", "that may be written"),
        (errno.EACCES, "Permission denied", "that may be written"),
        (errno.ENOSPC, "No space left on device", "free some space"),
    ],
)
def test_a_folder_that_cannot_be_written_is_refused_with_the_systems_words(home, monkeypatch, number, words, next_step):
    def refuse(*how: object, **more: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(folder.durable, "write_text", refuse)
    with pytest.raises(ClusterError, match=f"^{home.root} cannot be written: {words}$") as error:
        folder.check(home)
    assert next_step in error.value.hint


def test_a_disk_that_is_nearly_full_is_refused_with_both_figures(home, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=20 * 2**20))
    with pytest.raises(ClusterError, match=f"the disk of {home.root} has 20 MiB free, and a cluster needs 100"):
        folder.check(home)


def test_the_folders_and_the_secret_are_their_owners_alone_whatever_the_umask_is(home):
    before = os.umask(0)
    try:
        folder.check(home)
        folder.prepare(home)
        assert len(home.token.read_text()) == 64
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in [home.root, *home.root.iterdir()]}
    assert modes.pop("ray_token") == 0o600
    assert set(modes.values()) == {0o700} and {"ray", "logs", "runs", "models", "cache", "tmp"} < set(modes)


def test_of_rays_old_sessions_the_newest_stays(home):
    for number in range(3):
        (home.ray / f"session_2026-01-0{number}").mkdir(parents=True)
    Path(home.ray / "session_latest").symlink_to(home.ray / "session_2026-01-02")
    folder.prepare(home)
    assert sorted(path.name for path in home.ray.iterdir()) == ["session_2026-01-02", "session_latest"]
