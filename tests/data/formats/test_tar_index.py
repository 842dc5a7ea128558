from __future__ import annotations

import gzip
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from frtrain.data.formats.tar import TarShardWriter
from frtrain.data.formats.tar_index import index_shard, walk
from frtrain.errors import DataError

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def pack(path: Path, members: dict[str, bytes], form: int = tarfile.GNU_FORMAT, mtime: float = 0) -> Path:
    with tarfile.open(path, "w", format=form) as shard:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), mtime
            shard.addfile(info, io.BytesIO(data))
    return path


def pack_info(path: Path, kind: bytes, name: str, link: str = "") -> Path:
    with tarfile.open(path, "w") as shard:
        info = tarfile.TarInfo("0.jpg")
        info.size = 4
        shard.addfile(info, io.BytesIO(b"face"))
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, link
        shard.addfile(info)
    return path


def contents(path: Path) -> dict[str, bytes]:
    index, raw = index_shard(path), path.read_bytes()
    return {
        name: raw[offset : offset + size]
        for name, offset, size in zip(index.names, index.offsets.tolist(), index.sizes.tolist(), strict=True)
    }


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("mtime", [0, 1234567.25], ids=["whole_seconds", "fractions"])
def test_the_index_finds_what_tarfile_wrote(tmp_path: Path, form: str, mtime: float):
    members = {f"folder/{number:06d}.jpg": bytes([number % 256]) * (number * 37) for number in range(300)}
    assert contents(pack(tmp_path / "a.tar", members, FORMATS[form], mtime)) == members


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_long_and_foreign_names_come_back_as_they_were(tmp_path: Path, form: str):
    members = {name: name.encode("utf-8", "surrogateescape") for name in (
        "short.jpg", "x" * 100, "y" * 101, "山田/" * 60 + "1.jpg", "z" * 3000 + ".jpg", "after.jpg", "b\udce9.jpg"
    )}  # fmt: skip
    assert contents(pack(tmp_path / "a.tar", members, FORMATS[form])) == members


def test_a_name_split_over_the_prefix_of_ustar_is_put_together(tmp_path: Path):
    members = {"p" * 120 + "/" + "n" * 90: b"face"}
    assert contents(pack(tmp_path / "a.tar", members, tarfile.USTAR_FORMAT)) == members


def test_more_members_than_are_verified_at_once_come_in_order(tmp_path: Path):
    members = {f"{number:09d}.cls": str(number).encode() for number in range(5000)}
    with TarShardWriter(tmp_path / "a.tar") as writer:
        places = [writer.add(name, data) for name, data in members.items()]
    index = index_shard(tmp_path / "a.tar")
    assert index.names == list(members)
    assert np.array_equal(np.column_stack([index.offsets, index.sizes]), places)


def test_contents_come_with_the_members_that_were_asked_for(tmp_path: Path):
    members = {"1.jpg": b"x" * 3000, "1.cls": b"7", "2.json": b"{}" * 4000, "2.jpg": b"cls"}
    found = next(walk(pack(tmp_path / "a.tar", members), content_of=(".cls", ".json")))
    assert dict(zip(found.names, found.contents, strict=True)) == {**members, "1.jpg": None, "2.jpg": None}


def test_folders_are_passed_over(tmp_path: Path):
    path = pack_info(tmp_path / "a.tar", tarfile.DIRTYPE, "folder")
    assert index_shard(path).names == ["0.jpg"]


def test_a_long_named_folder_does_not_name_the_file_behind_it(tmp_path: Path):
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT) as shard:
        folder = tarfile.TarInfo("f" * 150)
        folder.type = tarfile.DIRTYPE
        shard.addfile(folder)
        shard.addfile(tarfile.TarInfo("empty.jpg"))
    assert index_shard(tmp_path / "a.tar").names == ["empty.jpg"]


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (tarfile.SYMTYPE, "a symbolic link"),
        (tarfile.LNKTYPE, "a hard link"),
        (tarfile.CHRTYPE, "a character device"),
        (tarfile.BLKTYPE, "a block device"),
        (tarfile.FIFOTYPE, "a pipe"),
        (b"V", "of the unknown type b'V'"),
    ],
)
def test_what_is_no_plain_file_is_refused_by_name(tmp_path: Path, kind: bytes, what: str):
    path = pack_info(tmp_path / "a.tar", kind, "1.jpg", "/etc/passwd")
    with pytest.raises(DataError, match=rf"a\.tar: byte 1024: member '1\.jpg' is {what}"):
        index_shard(path)


def test_a_link_with_a_long_target_is_refused_too(tmp_path: Path):
    path = pack_info(tmp_path / "a.tar", tarfile.SYMTYPE, "l" * 150, "t" * 150)
    with pytest.raises(DataError, match=r"member 'l{150}' is a symbolic link"):
        index_shard(path)


@pytest.mark.parametrize("name", ["/abs/1.jpg", "../1.jpg", "a/../../1.jpg", "a/.."])
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str):
    path = pack(tmp_path / "a.tar", {"0.jpg": b"face", name: b"face"})
    with pytest.raises(DataError, match=r"byte 1024: member '.*' has a name that leads out"):
        index_shard(path)


def test_dots_inside_a_name_are_no_way_out(tmp_path: Path):
    members = {"a..b.jpg": b"1", "./c.jpg": b"2", "..d/e.jpg": b"3"}
    assert contents(pack(tmp_path / "a.tar", members)) == members


def test_an_empty_file_is_told(tmp_path: Path):
    (tmp_path / "a.tar").touch()
    with pytest.raises(DataError, match=r"a\.tar: is empty \(0 bytes\)"):
        index_shard(tmp_path / "a.tar")


def test_an_archive_without_members_is_told(tmp_path: Path):
    with pytest.raises(DataError, match=r"a\.tar: holds no files"):
        index_shard(pack(tmp_path / "a.tar", {}))


def test_a_missing_file_is_told(tmp_path: Path):
    with pytest.raises(DataError, match=r"a\.tar: cannot be read \(No such file"):
        index_shard(tmp_path / "a.tar")


def test_a_pipe_is_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "a.tar")
    with pytest.raises(DataError, match=r"a\.tar: is not a regular file"):
        index_shard(tmp_path / "a.tar")


def test_a_compressed_shard_is_refused_with_the_reason_and_the_remedy(tmp_path: Path):
    path = pack(tmp_path / "a.tar", {"1.jpg": b"face"})
    (tmp_path / "b.tar").write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(DataError, match=r"is compressed: no image .* without unpacking all before it\. .*`gunzip`"):
        index_shard(tmp_path / "b.tar")


@pytest.mark.parametrize("kept", [300, 512, 1000, 2048, 2560, 2600])
def test_a_shard_that_was_cut_off_is_told_with_the_byte(tmp_path: Path, kept: int):
    path = pack(tmp_path / "a.tar", {"1.jpg": b"x" * 1000, "2.jpg": b"y" * 500})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"a\.tar: byte \d+: .*cut off"):
        index_shard(path)


def test_a_flipped_bit_in_a_header_is_told_with_its_byte(tmp_path: Path):
    path = pack(tmp_path / "a.tar", {f"{number}.jpg": b"x" * 1000 for number in range(5)})
    raw = bytearray(path.read_bytes())
    raw[3 * 1536 + 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(DataError, match="byte 4608: the header's checksum does not fit"):
        index_shard(path)


def test_a_damaged_size_is_blamed_where_it_stands_and_not_where_it_leads(tmp_path: Path):
    path = pack(tmp_path / "a.tar", {f"{number}.jpg": b"x" * 1000 for number in range(9)})
    raw = bytearray(path.read_bytes())
    raw[1536 + 130] ^= 4
    path.write_bytes(raw)
    with pytest.raises(DataError, match="byte 1536: the header's checksum does not fit"):
        index_shard(path)


def sealed(header: bytes) -> bytes:
    blank = header[:148] + b" " * 8 + header[156:]
    return header[:148] + f"{sum(blank):06o}\0 ".encode() + header[156:]


@pytest.mark.parametrize("kind", [b"0", b"\0", b"x", b"g", b"L", b"K"])
@pytest.mark.parametrize(
    "size",
    [b"77777777777\0", b"\x80" + b"\xff" * 11, b"\xff" * 12, b"-0000001000\0", b"0x000001000\0", b"            "],
    ids=["octal", "base_256", "negative", "signed", "hexadecimal", "blank"],
)
def test_a_hostile_size_is_refused_before_anything_is_read(tmp_path: Path, kind: bytes, size: bytes):
    header = tarfile.TarInfo("1.jpg").tobuf(tarfile.GNU_FORMAT)
    hostile = sealed(header[:124] + size + kind + header[157:])
    (tmp_path / "a.tar").write_bytes(hostile + bytes(10240))
    with pytest.raises(DataError, match=r"a\.tar: byte 0: "):
        index_shard(tmp_path / "a.tar")


def test_a_size_in_base_256_is_read(tmp_path: Path):
    header = tarfile.TarInfo("1.jpg").tobuf(tarfile.GNU_FORMAT)
    head = sealed(header[:124] + b"\x80" + (3).to_bytes(11, "big") + header[136:])
    (tmp_path / "a.tar").write_bytes(head + b"abc".ljust(512, b"\0") + bytes(1024))
    assert contents(tmp_path / "a.tar") == {"1.jpg": b"abc"}


def test_a_size_in_a_pax_record_is_read(tmp_path: Path):
    info = tarfile.TarInfo("1.jpg")
    info.pax_headers = {"size": "3"}
    head = info.tobuf(tarfile.PAX_FORMAT)
    (tmp_path / "a.tar").write_bytes(head + b"abc".ljust(512, b"\0") + bytes(1024))
    assert contents(tmp_path / "a.tar") == {"1.jpg": b"abc"}


def test_a_name_of_a_megabyte_and_more_is_refused(tmp_path: Path):
    path = pack(tmp_path / "a.tar", {"n" * 1_100_000: b"face"})
    with pytest.raises(DataError, match="byte 0: a record of 1100001 bytes for a name"):
        index_shard(path)


def test_a_label_of_a_megabyte_and_more_is_refused(tmp_path: Path):
    path = pack(tmp_path / "a.tar", {"1.cls": bytes(1_100_000)})
    with pytest.raises(DataError, match=r"member '1\.cls' has 1100000 bytes; as a label it can have 1048576 at most"):
        list(walk(path, content_of=(".cls",)))


def test_archives_that_were_joined_by_cat_are_told(tmp_path: Path):
    raw = pack(tmp_path / "a.tar", {"1.jpg": b"face"}).read_bytes()
    (tmp_path / "b.tar").write_bytes(raw + raw)
    with pytest.raises(DataError, match="data follow the archive's end blocks"):
        index_shard(tmp_path / "b.tar")
