from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from frtrain.data.formats.tar import RECORD, TarShardWriter


def test_members_have_no_times_and_no_owners(tmp_path: Path):
    with TarShardWriter(tmp_path / "a.tar") as writer:
        writer.add("000000000.jpg", b"face")
    with tarfile.open(tmp_path / "a.tar") as shard:
        member = shard.getmembers()[0]
    assert (member.mtime, member.uid, member.gid, member.mode, member.type) == (0, 0, 0, 0o644, tarfile.REGTYPE)
    assert (member.uname, member.gname) == ("", "")


def test_the_same_members_give_the_same_bytes(tmp_path: Path):
    for name in ("a.tar", "b.tar"):
        with TarShardWriter(tmp_path / name) as writer:
            writer.add("1.jpg", b"x" * 700)
            writer.add("1.cls", b"3")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_a_place_is_where_the_data_stand_in_the_file(tmp_path: Path):
    contents = {"1.jpg": b"x" * 700, "é" * 90 + ".jpg": b"", "folder/" * 40 + "2.jpg": b"y" * 512, "2.cls": b"17"}
    with TarShardWriter(tmp_path / "a.tar") as writer:
        places = {name: writer.add(name, data) for name, data in contents.items()}
    raw = (tmp_path / "a.tar").read_bytes()
    for name, (offset, size) in places.items():
        assert raw[offset : offset + size] == contents[name]


def test_tarfile_reads_names_of_any_length_and_any_bytes(tmp_path: Path):
    names = ["1.jpg", "山" * 80 + ".jpg", "a/" * 200 + "b.jpg", "latin-\udce9.jpg"]
    with TarShardWriter(tmp_path / "a.tar") as writer:
        for name in names:
            writer.add(name, name.encode("utf-8", "surrogateescape"))
    with tarfile.open(tmp_path / "a.tar") as shard:
        assert shard.getnames() == names


def test_a_closed_shard_ends_with_end_blocks_in_a_whole_record(tmp_path: Path):
    with TarShardWriter(tmp_path / "a.tar") as writer:
        writer.add("1.jpg", b"x")
    raw = (tmp_path / "a.tar").read_bytes()
    assert len(raw) % RECORD == 0
    assert not any(raw[-1024:])


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../1.jpg", "a/../../1.jpg", "a\0b"])
def test_names_that_lead_out_of_the_archive_are_not_written(tmp_path: Path, name: str):
    with (
        TarShardWriter(tmp_path / "a.tar") as writer,
        pytest.raises(ValueError, match="cannot be the name of a member"),
    ):
        writer.add(name, b"x")


def test_an_abandoned_shard_goes_on_where_it_was_flushed(tmp_path: Path):
    with TarShardWriter(tmp_path / "whole.tar") as writer:
        for number in range(4):
            writer.add(f"{number}.jpg", bytes([number]) * 900)
    writer = TarShardWriter(tmp_path / "part.tar")
    writer.add("0.jpg", bytes([0]) * 900)
    writer.add("1.jpg", bytes([1]) * 900)
    writer.flush()
    position = writer.position
    writer.add("2.jpg", b"never noted")
    writer.abandon()
    with TarShardWriter(tmp_path / "part.tar", resume_at=position) as writer:
        for number in (2, 3):
            writer.add(f"{number}.jpg", bytes([number]) * 900)
    assert (tmp_path / "part.tar").read_bytes() == (tmp_path / "whole.tar").read_bytes()


@pytest.mark.parametrize("position", [100, 5120])
def test_a_shard_cannot_go_on_inside_a_block_or_behind_its_end(tmp_path: Path, position: int):
    writer = TarShardWriter(tmp_path / "a.tar")
    writer.add("0.jpg", b"x")
    writer.abandon()
    with pytest.raises(ValueError, match="no block boundary inside the file"):
        TarShardWriter(tmp_path / "a.tar", resume_at=position)


def interrupted(writer: TarShardWriter) -> None:
    with writer:
        writer.add("0.jpg", b"x")
        raise KeyboardInterrupt


def test_an_exception_leaves_the_shard_without_end_blocks(tmp_path: Path):
    writer = TarShardWriter(tmp_path / "a.tar")
    with pytest.raises(KeyboardInterrupt):
        interrupted(writer)
    assert (tmp_path / "a.tar").stat().st_size == writer.position
