from __future__ import annotations

import os
from pathlib import Path

import pytest

from frtrain.files import atomic_file, read_text_file, write_atomically


def test_nothing_is_left_of_a_file_that_failed(tmp_path: Path):
    write_atomically(tmp_path / "a.txt", "before")
    with pytest.raises(TypeError), atomic_file(tmp_path / "a.txt") as file:
        file.writelines([b"half", None])  # type: ignore[list-item]
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "before"


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_atomically(tmp_path / "pipe", "text")
        assert os.read(reader, 100) == b"text"
    finally:
        os.close(reader)
    assert not (tmp_path / "pipe").is_file()


def test_a_link_stays_one(tmp_path: Path):
    (tmp_path / "link").symlink_to("real")
    write_atomically(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "text"


def test_text_is_read_with_or_without_a_byte_order_mark_and_any_bytes(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfAna\xff\n")
    assert read_text_file(tmp_path / "a.txt") == "Ana\udcff\n"


def test_a_pipe_is_no_text_file(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="Not a regular file"):
        read_text_file(tmp_path / "pipe")
