"""A file that others write to: whole lines only, each once, whatever becomes of the file."""

import os

import pytest

from actors.logs.growing import GrowingFile, end_of


def test_a_line_comes_once_and_when_it_is_whole(tmp_path):
    path = tmp_path / "log"
    file = GrowingFile(path)
    assert file.new_lines() == [], "it need not exist yet"
    with path.open("ab", buffering=0) as out:
        out.write(b"one\ntw")
        assert (file.new_lines(), file.rest) == ([b"one"], b"tw")
        out.write("o\nthree \xff".encode("latin-1"))
        assert (file.new_lines(), file.rest) == ([b"two"], b"three \xff")
    assert file.new_lines() == []
    file.close()


def test_a_file_that_was_emptied_or_replaced_begins_anew_without_what_was_half_written(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"old\nhalf a")
    file = GrowingFile(path)
    assert list(file.new_parts()) == [(True, [b"old"])]
    os.truncate(path, 0)
    with path.open("ab") as out:
        out.write(b"new\n")
    assert list(file.new_parts()) == [(True, [b"new"])]
    (tmp_path / "aside").write_bytes(b"other\n")
    with path.open("ab") as out:
        out.write(b"more\nhalf")
    (tmp_path / "aside").rename(path)
    parts = [(begins, lines) for begins, lines in file.new_parts() if lines]
    assert parts == [(False, [b"more"]), (True, [b"other"])]
    path.unlink()
    assert file.new_lines() == []
    file.close()


def test_rotated_files_come_in_their_order(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"1\n")
    file = GrowingFile(path)
    assert [*file.backwards()] == [b"", b"1"]
    for number in (2, 3):
        for older in (2, 1):
            if (tmp_path / f"log.{older}").exists():
                (tmp_path / f"log.{older}").rename(tmp_path / f"log.{older + 1}")
        path.rename(tmp_path / "log.1")
        path.write_bytes(b"%d\n" % number)
    assert file.new_lines() == [b"2", b"3"]
    file.close()


@pytest.mark.parametrize(
    ("size", "found"), [(3, (b"cd\n", True)), (6, (b"ab\ncd\n", False)), (99, (b"ab\ncd\n", False))]
)
def test_the_end_of_a_file_says_whether_there_is_more(size, found, tmp_path):
    (tmp_path / "log").write_bytes(b"ab\ncd\n")
    assert end_of(tmp_path / "log", size) == found


def test_a_file_that_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(IsADirectoryError):
        GrowingFile(tmp_path).new_lines()
